"""Starts uxfrm again and again without its start-up: a process that has it loaded, and forks.

As a program on a node it reads requests from its standard input, a line of JSON each, and answers each with
the number of the process that is the command now: the same code, with the same end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from uxfrm.lab.network import Lab


class Forked:
    """A started command, with what is needed of subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """None while it runs, then 0: its forker knows how it ended."""
        return 0 if select.select([self._descriptor], [], [], 0)[0] else None

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        signal.pidfd_send_signal(self._descriptor, number)  # type: ignore[attr-defined]

    def kill(self) -> None:
        """Have it end at once."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. subprocess.TimeoutExpired."""
        if not select.select([self._descriptor], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return 0


class Forker:
    """On a node of a lab, until the lab goes."""

    def __init__(self, lab: Lab, node: str) -> None:
        command = lab.command(node, sys.executable, str(Path(__file__)))
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, arguments: list[str], log: Path, environment: dict[str, str]) -> Forked:
        """Start uxfrm with arguments; what it says goes to the end of a file."""
        into, out = self._process.stdin, self._process.stdout
        assert into is not None
        assert out is not None
        print(json.dumps([arguments, str(log), environment]), file=into, flush=True)
        return Forked(int(out.readline()))

    def close(self) -> None:
        """End it, and with it whatever it still has."""
        self._process.kill()
        self._process.communicate()


def _serve(requests: IO[str]) -> None:
    from uxfrm import compiled
    from uxfrm.cli.main import main
    from uxfrm.daemon import attached, serve  # noqa: F401  what the daemon would load

    compiled.ready()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in requests:
        arguments, log, environment = json.loads(line)
        pid = os.fork()
        if not pid:
            _become(main, arguments, log, environment)
        print(pid, flush=True)


def _become(main: Any, arguments: list[str], log: str, environment: dict[str, str]) -> None:
    """Be the command, and nothing behind it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing, said = os.open("/dev/null", os.O_RDWR), os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number, target in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(number, target)
    os.environ |= environment
    sys.argv = ["uxfrm", *arguments]
    try:
        main()
    finally:
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    _serve(sys.stdin)
