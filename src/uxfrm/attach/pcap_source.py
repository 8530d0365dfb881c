"""Where a capture's bytes come from: a file, a pipe, standard input, any of them gzipped.

Knows: how to open, to count what was read, and to see through gzip. Knows nothing of captures.
It never seeks and never maps, so that `tcpdump -w - | uxfrm` works as a file does.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
from collections.abc import Callable
from typing import BinaryIO, cast

_Read = Callable[[memoryview], int | None]

GZIP_MAGIC = b"\x1f\x8b"


def _reading(file: BinaryIO) -> _Read:
    """How to get from `file` what it has now: its buffered bytes, else one read of what is below.

    Not readinto1: BufferedReader's asks the pipe for more although it has bytes to give, and blocks.
    """
    if not hasattr(file, "read1"):
        return cast(_Read, file.readinto)  # type: ignore[attr-defined]
    read1: Callable[[int], bytes] = file.read1

    def into_memory(into: memoryview) -> int:
        data = read1(len(into))
        into[: len(data)] = data
        return len(data)

    return into_memory


class _Counted(io.RawIOBase):
    """A file's bytes, with those that were already taken from it in front, counted as they pass."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._read = _reading(file)
        self._front = b""
        self.count = 0

    def readable(self) -> bool:
        return True

    def unread(self, data: bytes) -> None:
        """Put `data` back in front."""
        self._front = data + self._front
        self.count -= len(data)

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        if self._front:
            number = min(len(self._front), len(into))
            into[:number] = self._front[:number]
            self._front = self._front[number:]
        else:
            number = self._read(into) or 0
        self.count += number
        return number


class Source:
    """Bytes in order. `name` is what messages call it, `total` its size on disk or None for a pipe."""

    def __init__(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        """Open `source`: a path, "-" for standard input, or a binary file. Raises OSError."""
        self._own: BinaryIO | None = None
        file: BinaryIO
        if not isinstance(source, str | os.PathLike):
            file, self.name = source, str(getattr(source, "name", "capture"))
        elif os.fspath(source) == "-":
            file, self.name = sys.stdin.buffer, "standard input"
        else:
            file = self._own = cast(BinaryIO, io.FileIO(source))
            self.name = os.fspath(source)
        self.total = _size(file)
        self._counted = _Counted(file)
        self._read: _Read = self._counted.readinto

    @property
    def count(self) -> int:
        """Bytes taken from the file itself: of a gzipped one, compressed bytes."""
        return self._counted.count

    def begin(self, number: int) -> bytes:
        """Read the first `number` bytes (fewer at the end of the file), unzipping from here on if need be."""
        magic = self._exactly(len(GZIP_MAGIC))
        if magic != GZIP_MAGIC:
            return magic + self._exactly(number - len(magic))
        self._counted.unread(magic)
        unzipped = gzip.GzipFile(fileobj=io.BufferedReader(self._counted, 1 << 18), mode="rb")
        self._read = _reading(cast(BinaryIO, unzipped))
        return self._exactly(number)

    def _exactly(self, number: int) -> bytes:
        data = bytearray(number)
        have = 0
        while have < number:
            got = self.read_into(memoryview(data)[have:])
            if not got:
                break
            have += got
        return bytes(data[:have])

    def read_into(self, into: memoryview) -> int:
        """Read what is there, at most `len(into)` bytes; 0 at the end.

        Raises OSError, and EOFError or zlib.error where a gzipped file is cut short or damaged.
        """
        return self._read(into) or 0

    def close(self) -> None:
        """Close the file if this opened it."""
        if self._own is not None:
            self._own.close()


def _size(file: BinaryIO) -> int | None:
    """The size of a regular file, None for everything else."""
    try:
        info = os.fstat(file.fileno())
    except (OSError, AttributeError, ValueError):
        return None
    return info.st_size if stat.S_ISREG(info.st_mode) else None
