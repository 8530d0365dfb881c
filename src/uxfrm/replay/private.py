"""Files that hold keys or clear text: their owner alone may read them."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def create(path: Path) -> BinaryIO:
    """Open a new or emptied file for writing, whose mode becomes 0600. OSError where that cannot be.

    What is no file, /dev/null or a pipe, keeps its mode.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.fchmod(descriptor, 0o600)
    return open(descriptor, "wb", buffering=1 << 20)


def write(path: Path, text: str) -> None:
    """Write `text` as such a file."""
    with create(path) as file:
        file.write(text.encode())
