"""strongSwan's charon on a host of the laboratory, driven by swanctl."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from daemon.laboratory import ADDRESS, NET, OTHER, SECRET, Laboratory, wait

_CHARON = "/usr/lib/ipsec/charon"
_STRONGSWAN_CONF = """
charon {{
  load = random nonce openssl aes sha1 sha2 hmac pem kernel-netlink socket-default vici kdf
  install_routes = no
  retransmit_timeout = 1
  retransmit_base = 1
  retransmit_tries = 3
  delete_rekeyed_delay = 1
  filelog {{ f {{
    path = {dir}/log
    default = 1
    knl = 1
    flush_line = yes
  }} }}
  plugins {{ vici {{ socket = unix://{dir}/vici }} }}
}}
"""
_SWANCTL_CONF = """
connections {{ c {{
  local_addrs = {me}
  remote_addrs = {peer}
  version = 2
  proposals = aes128-sha256-modp2048
  dpd_delay = {dpd_delay}
  local {{
    auth = psk
    id = {host}
  }}
  remote {{ auth = psk }}
  children {{
    tunnel {{
      mode = tunnel
      local_ts = {net}
      remote_ts = {other}
      esp_proposals = aes128gcm16
      dpd_action = clear
    }}
    transport {{
      mode = transport
      esp_proposals = aes128-sha256
    }}
  }}
}} }}
secrets {{ ike {{ secret = "{secret}" }} }}
"""


class Charon:
    """A charon that is ready; `before` is what starts it, `dpd_delay` in seconds or 0. `served`: not by the
    machine's kernel."""

    def __init__(
        self,
        laboratory: Laboratory,
        host: str,
        before: Sequence[str] = (),
        dpd_delay: int = 0,
        served: bool = True,
    ) -> None:
        self._here = laboratory.root / host
        conf = self._here / "strongswan.conf"
        conf.write_text(_STRONGSWAN_CONF.format(dir=self._here))
        begin = laboratory.serve if served else laboratory.start
        self._started = begin(host, *before, _CHARON, STRONGSWAN_CONF=str(conf))
        wait((self._here / "vici").exists)
        other = OTHER[host]
        connections = _SWANCTL_CONF.format(
            me=ADDRESS[host],
            peer=ADDRESS[other],
            host=host,
            net=NET[host],
            other=NET[other],
            dpd_delay=dpd_delay,
            secret=SECRET,
        )
        (self._here / "swanctl.conf").write_text(connections)
        self.swanctl("--load-all", "--file", str(self._here / "swanctl.conf"))

    def swanctl(self, *words: str) -> str:
        """What swanctl says. SystemExit when it fails."""
        line = ["swanctl", *words, "--uri", f"unix://{self._here / 'vici'}"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise SystemExit(f"{line}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return done.stdout

    def stop(self) -> None:
        """Have it end as it should; only for one that is not served."""
        self._started.terminate()
        self._started.wait()

    def kill(self) -> None:
        """Have it end without a word to its peer."""
        pid = self._started.pid
        (charon,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(charon), signal.SIGKILL)
        self._started.wait()

    def log(self) -> list[str]:
        """What it has written, line by line."""
        return (self._here / "log").read_text().splitlines()

    def complaints(self) -> list[str]:
        """What it did not like about the kernel."""
        bad = [line for line in self.log() if "[KNL]" in line and ("unable" in line or "fail" in line)]
        # without CAP_NET_ADMIN it may not touch routing, which is the real kernel's
        return [line for line in bad if "routing table rule" not in line]
