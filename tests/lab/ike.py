"""strongSwan's charon under `uxfrm run` on an end of a lab, driven by swanctl."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from lab.ends import UXFRM, End
from uxfrm.lab.network import Lab

_CHARON = "/usr/lib/ipsec/charon"
_OWN_RUN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run; exec "$@"', "sh")
_STRONGSWAN_CONF = """
charon {{
  load = random nonce openssl aes sha1 sha2 hmac pem kernel-netlink socket-default vici kdf
  install_routes = no
  delete_rekeyed_delay = 2
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
  local_addrs = {me}
  remote_addrs = {peer}
  version = 2
  mobike = no
  proposals = aes128-sha256-modp2048
  local {{
    auth = psk
    id = {node}
  }}
  remote {{
    auth = psk
    id = {other}
  }}
  children {{ net {{
    mode = tunnel
    local_ts = {own_net}
    remote_ts = {other_net}
    esp_proposals = aes128gcm16
  }} }}
}} }}
secrets {{ ike {{ secret = "not a secret, a test" }} }}
"""
_BOUND_S = 60.0


class Charon:
    """A charon that is ready, with the other end as its peer at `peer`."""

    def __init__(self, lab: Lab, number: int, end: End, peer: str) -> None:
        self._here = end.folder
        plan, node = lab.plan, end.node
        conf = self._here / "strongswan.conf"
        conf.write_text(_STRONGSWAN_CONF.format(dir=self._here))
        run = [*UXFRM, "run", "--daemon", str(end.path), "--", _CHARON]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "STRONGSWAN_CONF": str(conf)}
        with (self._here / "charon.err").open("wb") as said:
            self.process = lab.start(node, *_OWN_RUN, *run, said=said, env=environment)
        wait(self._here / "vici")
        connections = _SWANCTL_CONF.format(
            me=plan.address(node),
            peer=peer,
            node=node,
            other=plan.ends[1 - number],
            own_net=plan.network(plan.hosts[number]),
            other_net=plan.network(plan.hosts[1 - number]),
        )
        (self._here / "swanctl.conf").write_text(connections)
        self.swanctl("--load-all", "--file", str(self._here / "swanctl.conf"))

    def swanctl(self, *words: str) -> str:
        """What swanctl says; the log with it when it fails."""
        line = ["swanctl", *words, "--uri", f"unix://{self._here / 'vici'}"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}{self.log()[-3000:]}"
        return done.stdout

    def log(self) -> str:
        """What it has written."""
        return (self._here / "charon.log").read_text()


def wait(path: Path) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + _BOUND_S
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.05)
