"""Numba, in one place: what is compiled, when, and where the machine code is kept.

Every batch function of the project is declared with `@compiled(signature)`. Declaring compiles nothing;
`ready()` compiles all of them once (or loads them from the cache), and from then on no function accepts a
new argument type, so nothing is ever compiled while packets wait.

The cache directory is named by a hash of all sources that declare batch functions, of the libraries'
versions and of the processor: a cached caller keeps the callee it was compiled with, so a cache that
outlives an edit could run old code (see DESIGN, "the function cache can leak cleartext"). Cached code is
unpickled, hence the directory belongs to the user alone.

With NUMBA_DISABLE_JIT=1 the same functions run interpreted, under pdb, coverage and hypothesis.
"""

from __future__ import annotations

import hashlib
import os
import platform
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])

_config: Any = numba.config
JIT: bool = not _config.DISABLE_JIT

_registered: list[tuple[Any, Any, str]] = []
_done = 0


def _digest() -> str:
    """Hash everything that decides what machine code comes out."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for source in sorted(root.rglob("*.py")):
        text = source.read_bytes()
        if b"@compiled(" in text or b"numba" in text or b"_DTYPE" in text:
            digest.update(str(source.relative_to(root)).encode() + b"\0" + text)
    digest.update(" ".join([numba.__version__, llvmlite.__version__, np.__version__]).encode())
    digest.update(platform.python_version().encode())
    digest.update(llvmlite.binding.get_host_cpu_name().encode())
    digest.update(llvmlite.binding.get_host_cpu_features().flatten().encode())
    return digest.hexdigest()[:16]


def _private(path: Path) -> bool:
    """True when nobody else can put machine code into `path`."""
    info = path.lstat()
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not info.st_mode & 0o022


def _cache_directory() -> str:
    """Return the private cache directory, or a throw-away one where none can be had."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "uxfrm"
    path = base / f"compiled-{_digest()}"
    try:
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
        if _private(path):
            return str(path)
    except OSError:
        pass
    return tempfile.mkdtemp(prefix="uxfrm-compiled-")


_directory = _cache_directory() if JIT else ""


def compiled(signature: Any, allocates: bool = False) -> Callable[[F], F]:
    """Declare a batch function: compiled for exactly `signature`, cached, bounds checked.

    Functions that make no arrays are compiled without Numba's reference counting, which around every call
    between functions costs more than most of them do; `allocates` says that one does make arrays.
    """

    def declare(function: F) -> F:
        if not JIT:
            return function
        before = _config.CACHE_DIR
        _config.CACHE_DIR = _directory
        try:
            options: dict[str, Any] = {"cache": True, "boundscheck": True, "nogil": True, "_nrt": allocates}
            # A call passes every array as seven arguments: inlined, a packet costs 190 ns, not 240.
            options["forceinline"] = True
            dispatcher: Any = numba.njit(**options)(function)
            # Until `ready` gives it its signature it must not be compiled, nor cached, for another;
            # disable_compile() would insist on a first signature.
            dispatcher._can_compile = False
        finally:
            _config.CACHE_DIR = before
        _registered.append((dispatcher, signature, function.__qualname__))
        return cast(F, dispatcher)

    return declare


def ready(progress: Callable[[int, int, str], None] | None = None) -> None:
    """Compile or load every declared function; `progress(done, total, name)` is told before each.

    Callees are declared before their callers: a function that is called before it has its signature is a
    TypeError here.
    """
    global _done
    total = len(_registered)
    for number in range(_done, total):
        dispatcher, signature, name = _registered[number]
        if progress is not None:
            progress(number, total, name)
        dispatcher._can_compile = True
        dispatcher.compile(signature)
        dispatcher.disable_compile()
        _done = number + 1


def cold() -> bool:
    """True when `ready()` will compile rather than load: worth a progress line."""
    return JIT and _done < len(_registered) and not any(Path(_directory).rglob("*.nbi"))
