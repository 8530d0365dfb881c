"""libreswan's pluto on a host of the laboratory, driven by whack.

Debian's libreswan and strongSwan cannot both be installed; this one runs from where it was unpacked.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

from daemon.laboratory import ADDRESS, NET, OTHER, SECRET, Laboratory, wait
from linux.fetch import unpacked

_LIBEXEC = "/usr/libexec"
_IPSEC_CONF = """
config setup

conn %default
    ikev2=insist
    authby=secret
    left={me}
    leftid=@{host}
    right={peer}
    rightid=@{other}
    ike=aes128-sha2_256-modp2048
    esp=aes_gcm128,aes128-sha2_256
    pfs=no
    leftupdown=/bin/true

conn tunnel
    leftsubnet={net}
    rightsubnet={other_net}
    auto=add

conn transport
    type=transport
    auto=add
"""


def libreswan() -> Path:
    """What stands in libreswan's /usr/libexec; downloaded when the cache has none."""
    return unpacked("libreswan", ["libreswan"]) / "usr/libexec"


def install(laboratory: Laboratory, libexec: str) -> None:
    """Lay libreswan's /usr/libexec over the machine's, where pluto looks for its other programs."""
    laboratory.on("a", "mount", "-t", "overlay", "none", "-o", f"lowerdir={libexec}:{_LIBEXEC}", _LIBEXEC)


class Pluto:
    """A pluto that listens and has loaded its connections; libreswan is installed.

    Under `uxfrm run`, or with `served` false on the machine's own kernel. Leaving the context ends it.
    """

    def __init__(self, laboratory: Laboratory, host: str, served: bool = True) -> None:
        self._here = laboratory.root / f"{host}-{'served' if served else 'kernel'}"
        self._here.mkdir()
        self._control = str(self._here / "pluto.ctl")
        self._conf = self._here / "ipsec.conf"
        self._configure(host)
        subprocess.run(
            ["certutil", "-N", "--empty-password", "-d", f"sql:{self._here}"], check=True, capture_output=True
        )
        start = laboratory.serve if served else laboratory.start
        self._started = start(host, *self._line())
        wait(self._loaded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.whack("--shutdown")
        self._started.wait()

    def _loaded(self) -> bool:
        said = "\n".join(self.log())
        return all(f'"{name}": added IKEv2 connection' in said for name in ("tunnel", "transport"))

    def _configure(self, host: str) -> None:
        other = OTHER[host]
        conf = _IPSEC_CONF.format(
            me=ADDRESS[host],
            peer=ADDRESS[other],
            host=host,
            other=other,
            net=NET[host],
            other_net=NET[other],
        )
        self._conf.write_text(conf)
        (self._here / "ipsec.secrets").write_text(f'@{host} @{other} : PSK "{SECRET}"\n')

    def _line(self) -> list[str]:
        here = str(self._here)
        files = ["--config", str(self._conf), "--secretsfile", f"{here}/ipsec.secrets"]
        folders = ["--ipsecdir", here, "--nssdir", here, "--rundir", here]
        return [f"{_LIBEXEC}/ipsec/pluto", "--nofork", "--logfile", f"{here}/log", *files, *folders]

    def whack(self, *words: str) -> str:
        """What whack says. SystemExit when it fails."""
        line = [f"{_LIBEXEC}/ipsec/whack", "--ctlsocket", self._control, *words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise SystemExit(f"{line}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return done.stdout

    def log(self) -> list[str]:
        """What it has written, line by line."""
        log = self._here / "log"
        return log.read_text().splitlines() if log.exists() else []

    def complaints(self) -> list[str]:
        """What it did not like about the kernel."""
        bad = ("ERROR", "netlink response", "kernel: ")
        return [line for line in self.log() if any(word in line for word in bad)]
