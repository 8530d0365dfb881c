"""uxfrm on the two ends of a lab, as `uxfrm up` would start it: with a file of its own and a socket."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

from uxfrm.lab.network import Lab
from uxfrm.lab.setup import Setup

_UXFRM = (sys.executable, "-m", "uxfrm.cli.main")
_END_S = 20


class EndError(Exception):
    """An end that does not come up; the text is what it said."""


class End:
    """One end: `socket` is its daemon's, for `uxfrm state --socket`. `wait` waits until packets flow."""

    def __init__(self, lab: Lab, number: int, setup: Setup, folder: Path) -> None:
        node = lab.plan.ends[number]
        self.node, self.socket = node, folder / f"{node}.sock"
        self._file, self._log = folder / f"{node}.toml", folder / f"{node}.log"
        for path in (self._file, self._log):
            path.touch(0o600)
        self._file.write_text(setup.host_file(lab.plan, number))
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(folder / f"{node}.ready"))
        command = [*_UXFRM, "up", "--foreground", "--socket", str(self.socket)]
        command += ["--state-dir", str(folder / f"{node}.state"), str(self._file)]
        with self._log.open("wb") as said:
            environment = os.environ | {"NOTIFY_SOCKET": str(folder / f"{node}.ready")}
            self.process = lab.start(node, *command, said=said, env=environment)

    def wait(self) -> None:
        """Wait until packets flow. Raises EndError."""
        ended = os.pidfd_open(self.process.pid)
        with self._ready:
            readable, _, _ = select.select([self._ready.fileno(), ended], [], [])
            os.close(ended)
            if self._ready.fileno() not in readable:
                raise EndError(self._log.read_text())

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
