"""Network namespaces whose names tell whose they are: those of a lab that is no more can be found.

A name is PREFIX.PID.STARTED.NODE; STARTED is when the process began (clock ticks since boot), for a process
id is given out again.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyroute2 import netns

_PREFIX = "uxfrm-lab"
_FOLDER = Path("/run/netns")
_NEW_NET = 0x40000000  # CLONE_NEWNET


def started(pid: int) -> int | None:
    """When a process began, None where there is none. Source: proc(5), stat's field 22."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rsplit(")", 1)[1].split()[19])


def name(node: str) -> str:
    """The name of this process's namespace for a node."""
    return f"{_PREFIX}.{os.getpid()}.{started(os.getpid())}.{node}"


def path(namespace: str) -> Path:
    """Where a namespace is."""
    return _FOLDER / namespace


def stale() -> list[str]:
    """The namespaces of labs whose process is no more."""
    found = []
    for entry in sorted(_FOLDER.glob(f"{_PREFIX}.*")) if _FOLDER.is_dir() else []:
        words = entry.name.split(".")
        if len(words) == 4 and words[1].isdigit() and str(started(int(words[1]))) != words[2]:
            found.append(entry.name)
    return found


def remove(namespace: str) -> None:
    """Remove a namespace and end what still runs in it."""
    for pid in inhabitants(namespace):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with suppress(OSError):
        netns.remove(namespace)


def inhabitants(namespace: str) -> Iterator[int]:
    """The processes in a namespace."""
    try:
        wanted = path(namespace).stat()
    except OSError:
        return
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                found = (entry / "ns/net").stat()
                if (found.st_ino, found.st_dev) == (wanted.st_ino, wanted.st_dev):
                    yield int(entry.name)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Be in a namespace: what this thread opens meanwhile stays there. Raises OSError."""
    with Path("/proc/thread-self/ns/net").open() as here, path(namespace).open() as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(here.fileno())


def _enter(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _NEW_NET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
