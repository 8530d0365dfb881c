"""`uxfrm daemon` on the ends of a lab, with packets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.forker import Forked, Forker
from uxfrm.daemon import client
from uxfrm.iproute2.commands import parse_words
from uxfrm.iproute2.execute import execute
from uxfrm.iproute2.words import split
from uxfrm.lab.network import Lab
from uxfrm.model.dump import StateDump
from uxfrm.model.outcome import Counter

UXFRM = [sys.executable, "-m", "uxfrm.cli.main"]


class End:
    """A daemon on a node. With a forker it starts in a moment, as often as it has to."""

    def __init__(
        self, lab: Lab, node: str, folder: Path, *options: str, forker: Forker | None = None
    ) -> None:
        self.lab, self.node = lab, node
        self.folder = folder / node
        self.folder.mkdir(exist_ok=True)
        self.path = self.folder / "socket"
        self._options = options
        self._forker = forker
        self.process: subprocess.Popen[bytes] | Forked
        self.begin()

    def begin(self) -> None:
        """Start the daemon; `wait` waits until it is ready."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.bind(str(ready))
        self._told.settimeout(180)
        arguments = ["daemon", "--socket", str(self.path), *self._options]
        if self._forker is not None:
            self.process = self._forker.start(arguments, self._log(), {"NOTIFY_SOCKET": str(ready)})
            return
        with self._log().open("ab") as log:
            environment = os.environ | {"NOTIFY_SOCKET": str(ready)}
            self.process = self.lab.start(self.node, *UXFRM, *arguments, said=log, env=environment)

    def wait(self) -> None:
        """Wait until the daemon is ready."""
        with self._told:
            try:
                assert self._told.recv(100) == b"READY=1"
            except TimeoutError:
                raise AssertionError(self.log()) from None

    def _log(self) -> Path:
        return self.folder / "log"

    def log(self) -> str:
        """What it has written."""
        return self._log().read_text()

    def kill(self) -> None:
        """End it without a word."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def xfrm(self, *lines: str) -> str:
        """What `ip xfrm` would print for each line."""
        with client.connect(self.path) as tables:
            return "".join(execute(parse_words(split(f"xfrm {line}")), tables) for line in lines)

    def dump(self) -> list[StateDump]:
        """All its states."""
        with client.connect(self.path) as tables:
            return list(tables.dump_states())

    def moved(self) -> dict[str, int]:
        """The counters that are not 0."""
        return {c.name: n for c, n in zip(Counter, client.counters(self.path), strict=True) if n}


@contextmanager
def ends(lab: Lab, folder: Path, *options: str, **own: tuple[str, ...]) -> Iterator[tuple[End, End]]:
    """Daemons on both ends, the lab's own order; `own`: options of one node's alone."""
    first, second = (End(lab, node, folder, *options, *own.get(node, ())) for node in lab.plan.ends)
    try:
        first.wait()
        second.wait()
        yield first, second
    finally:
        for end in (first, second):
            if end.process.poll() is None:
                end.stop()
        print(first.log(), second.log(), file=sys.stderr)


def answers(lab: Lab, host: str, to: str, *options: str) -> bool:
    """Whether a ping is answered within a while."""
    line = lab.command(host, "ping", "-c1", "-W3", *options, to)
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def silent(lab: Lab, host: str, to: str, *options: str) -> bool:
    """Whether a ping is not answered soon."""
    line = lab.command(host, "ping", "-c1", "-W0.4", *options, to)
    return subprocess.run(line, capture_output=True, check=False).returncode != 0
