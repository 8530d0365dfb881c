"""What user-mode Linux needs on processors with AMX: see xstate.c. Built once, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from linux.fetch import cache, do

_SOURCE = Path(__file__).with_suffix(".c")


def preloaded() -> Path:
    """The library for LD_PRELOAD. It appears whole or not at all."""
    where = cache() / f"xstate-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]}.so"
    if not where.is_file():
        made, name = tempfile.mkstemp(dir=cache(), suffix=".so")
        os.close(made)
        do("gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", name, str(_SOURCE), cwd=cache())
        Path(name).rename(where)
    return where
