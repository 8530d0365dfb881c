"""Files that are there whole or as they were, whatever crashes, in a directory that is the daemon's alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def own_directory(directory: Path) -> Path:
    """Make the directory if it is not there. OSError where it is not ours, or others may write to it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = directory.stat()
    if info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise OSError(errno.EPERM, "not this user's alone", str(directory))
    return directory


def replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, whatever crashes: a new one, flushed, takes the old one's name."""
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
