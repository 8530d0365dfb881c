"""A command under `run` with the small engine, as a process of its own.

python served.py [strict|plain|auto] [linger] [remote] [log=FILE] -- COMMAND...
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from intercept.small_engine import SmallEngine
from uxfrm.intercept.run import run
from uxfrm.intercept.signals import Signals


def main() -> int:
    split = sys.argv.index("--")
    words, command = sys.argv[1:split], sys.argv[split + 1 :]
    strict = True if "strict" in words else None if "auto" in words else False
    with Signals() as signals:
        return serve(words, command, strict, signals)


def serve(words: list[str], command: list[str], strict: bool | None, signals: Signals) -> int:
    engine = SmallEngine()
    before = len(os.listdir("/proc/self/fd"))
    try:
        return run(command, engine, strict, linger="linger" in words, signals=signals)
    finally:
        logs = [word[4:] for word in words if word.startswith("log=")]
        left = len(os.listdir("/proc/self/fd")) - before
        if logs:
            Path(logs[0]).write_text("\n".join([*engine.log, f"fds {left}", ""]))


if __name__ == "__main__":
    sys.exit(main())
