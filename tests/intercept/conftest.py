"""How the tests start a command under the supervisor: in a process of its own, which owns its signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SERVED = Path(__file__).with_name("served.py")
CLIENT_C = Path(__file__).with_name("client.c")


@dataclass(frozen=True)
class Run:
    """What a command did, and what the engine was told."""

    status: int
    out: str
    err: str
    log: list[str]

    def said(self, word: str) -> list[list[str]]:
        """The log's lines that begin with a word, as words."""
        return [line.split()[1:] for line in self.log if line.split()[0] == word]


def serve_words(*words: str, command: Sequence[str]) -> list[str]:
    """The command line of a served command."""
    return [sys.executable, str(SERVED), *filter(None, words), "--", *command]


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., Run]:
    """Run a command to its end: `serve("ip", "link", mode="strict", words=("linger",))`."""

    def run(*command: str, mode: str = "plain", words: Sequence[str] = (), **how: Any) -> Run:
        log = tmp_path / "log"
        line = serve_words(mode, *words, f"log={log}", command=command)
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, **how)
        return Run(done.returncode, done.stdout, done.stderr, log.read_text().splitlines())

    return run


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A static program: no loader, no library that could be replaced."""
    program = tmp_path_factory.mktemp("static") / "client"
    subprocess.run(["gcc", "-static", "-pthread", "-O1", "-o", program, CLIENT_C], check=True)
    return str(program)


# Whoever runs the tests may ignore these (a background job of sh does), and tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
for _number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    signal.signal(_number, signal.SIG_DFL)
