"""strongSwan's charon on an end of a lab, under `uxfrm run` or on a real Linux, driven by swanctl."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from lab.ends import UXFRM, End
from lab.linux_node import LinuxNode
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
    """A charon that is ready, with the other end as its peer at `peer`. Its own end's is uxfrm."""

    def __init__(self, lab: Lab, number: int, end: End, peer: str) -> None:
        self._here = end.folder
        conf = configure(lab, number, end.folder, end.folder, peer)
        run = [*UXFRM, "run", "--daemon", str(end.path), "--", _CHARON]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "STRONGSWAN_CONF": str(conf)}
        with (self._here / "charon.err").open("wb") as said:
            self.process = lab.start(end.node, *_OWN_RUN, *run, said=said, env=environment)
        wait((self._here / "vici").exists)
        self.swanctl("--load-all", "--file", str(conf.with_name("swanctl.conf")))

    def swanctl(self, *words: str) -> str:
        """What swanctl says; the log with it when it fails."""
        line = ["swanctl", *words, "--uri", f"unix://{self._here / 'vici'}"]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}{self.log()[-3000:]}"
        return done.stdout

    def log(self) -> str:
        """What it has written."""
        return (self._here / "charon.log").read_text()


class LinuxCharon:
    """The same inside a Linux, whose own XFRM it drives. `folder` is the host's, for its configuration."""

    _RUN = Path("/run")

    def __init__(self, lab: Lab, number: int, node: LinuxNode, folder: Path, peer: str) -> None:
        self._guest = node.guest
        conf = configure(lab, number, folder, self._RUN, peer)
        self._sh(f"STRONGSWAN_CONF={conf} {_CHARON} >/run/charon.err 2>&1 &")
        wait(lambda: not self._guest.run(["test", "-S", "/run/vici"])[0])
        self.swanctl("--load-all", "--file", str(conf.with_name("swanctl.conf")))

    def _sh(self, line: str) -> tuple[int, str, str]:
        return self._guest.run(["sh", "-c", line])

    def swanctl(self, *words: str) -> str:
        """What swanctl says; the log with it when it fails."""
        code, out, err = self._guest.run(["swanctl", *words, "--uri", "unix:///run/vici"])
        assert code == 0, f"{words}: {out}{err}{self.log()[-3000:]}"
        return out

    def log(self) -> str:
        """What it has written."""
        return self._guest.read("/run/charon.log")


def configure(lab: Lab, number: int, folder: Path, own: Path, peer: str) -> Path:
    """Write a charon's files to `folder`; `own` is where it writes. Returns the path of its own."""
    plan, node = lab.plan, lab.plan.ends[number]
    conf = folder / "strongswan.conf"
    conf.write_text(_STRONGSWAN_CONF.format(dir=own))
    connections = _SWANCTL_CONF.format(
        me=plan.address(node),
        peer=peer,
        node=node,
        other=plan.ends[1 - number],
        own_net=plan.network(plan.hosts[number]),
        other_net=plan.network(plan.hosts[1 - number]),
    )
    conf.with_name("swanctl.conf").write_text(connections)
    return conf


def wait(ready: Callable[[], bool]) -> None:
    """Wait until a charon is ready."""
    end = time.monotonic() + _BOUND_S
    while not ready():
        assert time.monotonic() < end, "no charon"
        time.sleep(0.05)
