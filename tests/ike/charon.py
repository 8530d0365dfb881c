"""strongSwan's charon, driven by swanctl."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ike.connection import SECRET, Connection, Start
from waiting import until

CHARON = "/usr/lib/ipsec/charon"
_STRONGSWAN_CONF = """
charon {{
  load = random nonce openssl aes sha1 sha2 hmac pem kernel-netlink socket-default vici kdf
  install_routes = no
  interfaces_ignore = lan,uxfrm0
  retransmit_timeout = 1
  retransmit_base = 1
  retransmit_tries = 3
  delete_rekeyed_delay = {linger}
  filelog {{ f {{
    path = {dir}/charon.log
    default = 1
    knl = 1
    flush_line = yes
  }} }}
  plugins {{ vici {{ socket = unix://{dir}/vici }} }}
}}
"""
_SWANCTL_CONF = """
connections {{ c {{
  local_addrs = {c.me}
  remote_addrs = {c.peer}
  version = 2
  proposals = aes128-sha256-modp2048
  dpd_delay = {s.dpd_delay}
  keyingtries = 0
  local {{
    auth = psk
    id = {c.name}
  }}
  remote {{
    auth = psk
    id = {c.other}
  }}
  children {{
    tunnel {{
      mode = tunnel
      local_ts = {c.net}
      remote_ts = {c.other_net}
      esp_proposals = aes128gcm16
      dpd_action = {s.dpd_action}
    }}
    transport {{
      mode = transport
      esp_proposals = aes128-sha256
    }}
  }}
}} }}
secrets {{ ike {{ secret = "{secret}" }} }}
"""


@dataclass(frozen=True)
class Settings:
    """What it does about a peer that is silent for `dpd_delay` seconds (0: it does not ask).

    `linger`: seconds for which a CHILD_SA that was rekeyed still takes what is under way.
    """

    dpd_delay: int = 0
    dpd_action: str = "clear"
    linger: int = 1


def configure(folder: Path, own: Path, connection: Connection, settings: Settings) -> None:
    """Write a charon's files to `folder`; `own` is the folder where it writes itself."""
    (folder / "strongswan.conf").write_text(_STRONGSWAN_CONF.format(dir=own, linger=settings.linger))
    connections = _SWANCTL_CONF.format(c=connection, s=settings, secret=SECRET)
    (folder / "swanctl.conf").write_text(connections)


class Charon:
    """A charon that is ready, with its files in `folder`."""

    def __init__(
        self, folder: Path, start: Start, connection: Connection, settings: Settings | None = None
    ) -> None:
        self._here = folder
        self._start = start
        configure(folder, folder, connection, settings or Settings())
        self.begin()

    def begin(self) -> None:
        """Start it, for the first time or again."""
        (self._here / "vici").unlink(missing_ok=True)
        self._started = self._start(CHARON, STRONGSWAN_CONF=str(self._here / "strongswan.conf"))
        until((self._here / "vici").exists)
        self.swanctl("--load-all", "--file", str(self._here / "swanctl.conf"))

    def swanctl(self, *words: str) -> str:
        """What swanctl says. SystemExit when it fails."""
        line = ["swanctl", *words, "--uri", f"unix://{self._here / 'vici'}"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            said = (done.stdout, done.stderr, "\n".join(self.log()))
            raise SystemExit(f"{line}: {' '.join(text[-2000:] for text in said)}")
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
        return (self._here / "charon.log").read_text().splitlines()

    def complaints(self) -> list[str]:
        """What it did not like about the kernel."""
        bad = [line for line in self.log() if "[KNL]" in line and ("unable" in line or "fail" in line)]
        # without CAP_NET_ADMIN it may not touch routing, which is the real kernel's
        return [line for line in bad if "routing table rule" not in line]
