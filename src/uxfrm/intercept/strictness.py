"""Which programs need strict mode: those that look at the sender's family, as Go's and Python's libraries do.

Only the command itself is looked at: a Go program that a shell script starts is not seen, `strict` is then
to be given.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

_ELF64 = b"\x7fELF\x02\x01"
_HEADER = struct.Struct("<40xQ10xHHH")  # e_shoff, e_shentsize, e_shnum, e_shstrndx
_SECTION = struct.Struct("<I20xQQ24x")  # sh_name, sh_offset, sh_size
_GO_SECTIONS = (b".go.buildinfo", b".note.go.buildid")
_SECTIONS_MAX = 4096
_NAMES_MAX = 1 << 20
_LINE_MAX = 256


def wants_strict(command: str) -> bool:
    """Whether the command is a Go or Python program. What can't be read is neither."""
    path = shutil.which(command)
    if path is None:
        return False
    if _is_python(os.path.realpath(path)):
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(_LINE_MAX)
            if start.startswith(b"#!"):
                return _runs_python(start)
            return start.startswith(_ELF64) and _has_section(Path(path), start)
    except (OSError, ValueError, OverflowError, struct.error):
        # Whatever it is, no linker made it.
        return False


def _is_python(path: str) -> bool:
    return os.path.basename(path).startswith(("python", "pypy"))


def _runs_python(start: bytes) -> bool:
    """Whether a script's first line names Python, by itself or through env(1)."""
    words = start[2:].split(b"\n")[0].decode(errors="replace").split()
    return any(_is_python(word) for word in words)


def _has_section(path: Path, start: bytes) -> bool:
    """Whether an ELF file has one of Go's sections; they survive strip(1)."""
    table, size, count, names = _HEADER.unpack_from(start)
    if size != _SECTION.size or not names < count <= _SECTIONS_MAX:
        return False
    with path.open("rb") as file:
        file.seek(table)
        sections = file.read(size * count)
        if len(sections) < size * count:
            return False
        _, at, length = _SECTION.unpack_from(sections, names * size)
        file.seek(at)
        found = file.read(min(length, _NAMES_MAX)).split(b"\0")
    return any(name in found for name in _GO_SECTIONS)
