"""A command under `run` with the small engine, as a process of its own.

python served.py [strict|plain|auto] [linger] [remote] [log=FILE] -- COMMAND...
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from intercept.small_engine import SmallEngine
from uxfrm.intercept.engine import Engine
from uxfrm.intercept.remote import RemoteEngine, serve_control
from uxfrm.intercept.run import run
from uxfrm.intercept.signals import Signals


def main() -> int:
    split = sys.argv.index("--")
    words, command = sys.argv[1:split], sys.argv[split + 1 :]
    strict = True if "strict" in words else None if "auto" in words else False
    if "threads" in words:
        # As numpy does: a thread from before, which takes any signal.
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    with Signals() as signals:
        return serve(words, command, strict, signals)


def serve(words: list[str], command: list[str], strict: bool | None, signals: Signals) -> int:
    engine = SmallEngine()
    served: Engine = remote(engine) if "remote" in words else engine
    before = len(os.listdir("/proc/self/fd"))
    try:
        return run(command, served, strict, linger="linger" in words, signals=signals)
    finally:
        logs = [word[4:] for word in words if word.startswith("log=")]
        # The engine notices the last closes by itself; what is left then is a leak.
        deadline = time.monotonic() + 3
        while engine.alive() and time.monotonic() < deadline and "linger" not in words:
            time.sleep(0.005)
        left = len(os.listdir("/proc/self/fd")) - before
        if logs:
            Path(logs[0]).write_text("\n".join([*engine.log, f"fds {left}", ""]))


def remote(engine: SmallEngine) -> RemoteEngine:
    """The same engine, over a connection."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def serve_all() -> None:
        with there:
            while serve_control(there, engine):
                pass

    threading.Thread(target=serve_all, daemon=True).start()
    return RemoteEngine(here)


if __name__ == "__main__":
    sys.exit(main())
