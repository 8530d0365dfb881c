"""libreswan's pluto, driven by whack.

Debian's libreswan and strongSwan cannot both be installed; this one runs from where it was unpacked.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

from ike.connection import SECRET, Connection, Start
from linux.fetch import unpacked
from waiting import until

_LIBEXEC = "/usr/libexec"
_OVERLAID = ("sh", "-c", f'mount -t overlay none -o "lowerdir=$0:{_LIBEXEC}" {_LIBEXEC} && exec "$@"')
"""Starts a command with the folder that is named before it laid over /usr/libexec."""
_IPSEC_CONF = """
config setup

conn %default
    ikev2=insist
    authby=secret
    left={c.me}
    leftid=@{c.name}
    right={c.peer}
    rightid=@{c.other}
    ike=aes128-sha2_256-modp2048
    esp=aes_gcm128,aes128-sha2_256
    pfs=no
    leftupdown=/bin/true

conn tunnel
    leftsubnet={c.net}
    rightsubnet={c.other_net}
    auto=add

conn transport
    type=transport
    auto=add
"""
_MORE = """
conn in-udp
    leftsubnet={c.net}
    rightsubnet={c.other_net}
    encapsulation=yes
    auto=add

conn mobile
    left=%defaultroute
    leftsubnet={c.net}
    rightsubnet={c.other_net}
    mobike=yes
    auto=add
"""


def libreswan() -> Path:
    """What stands in libreswan's /usr/libexec; downloaded when the cache has none."""
    return unpacked("libreswan", ["libreswan"]) / "usr/libexec"


class Pluto:
    """A pluto that listens and has loaded its connections, with its files in `folder`.

    With `more` it has a connection that wants ESP in UDP, NAT or not, and one that may move to another
    address. Leaving the context ends it.
    """

    def __init__(self, folder: Path, start: Start, connection: Connection, more: bool = False) -> None:
        self._here = folder
        folder.mkdir(exist_ok=True)
        text = _IPSEC_CONF + (_MORE if more else "")
        self._connections = text.count("auto=add")
        (folder / "ipsec.conf").write_text(text.format(c=connection))
        secret = f'@{connection.name} @{connection.other} : PSK "{SECRET}"\n'
        (folder / "ipsec.secrets").write_text(secret)
        database = ["certutil", "-N", "--empty-password", "-d", f"sql:{folder}"]
        subprocess.run(database, check=True, capture_output=True)
        self._libexec = str(libreswan())
        self._started = start(*_OVERLAID, self._libexec, *self._line())
        until(self._loaded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.whack("--shutdown")
        self._started.wait()

    def _loaded(self) -> bool:
        return "\n".join(self.log()).count(": added IKEv2 connection") == self._connections

    def _line(self) -> list[str]:
        """The command: pluto looks for its other programs in /usr/libexec."""
        here = str(self._here)
        files = ["--config", f"{here}/ipsec.conf", "--secretsfile", f"{here}/ipsec.secrets"]
        folders = ["--ipsecdir", here, "--nssdir", here, "--rundir", here]
        return [f"{_LIBEXEC}/ipsec/pluto", "--nofork", "--logfile", f"{here}/pluto.log", *files, *folders]

    def whack(self, *words: str) -> str:
        """What whack says. SystemExit when it fails."""
        line = [f"{self._libexec}/ipsec/whack", "--ctlsocket", f"{self._here}/pluto.ctl", *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise SystemExit(f"{line}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return done.stdout

    def log(self) -> list[str]:
        """What it has written, line by line."""
        log = self._here / "pluto.log"
        return log.read_text().splitlines() if log.exists() else []

    def complaints(self) -> list[str]:
        """What it did not like about the kernel."""
        bad = ("ERROR", "netlink response", "kernel: ")
        return [line for line in self.log() if any(word in line for word in bad)]
