"""What the daemon may do: told at its start if it is too little, given up once everything is open.

Rule 1: nothing is served while there are more rights than `give_up` leaves. What is left is what following
        policies takes.
Rule 2: rights are a thread's, not a process's. A thread that others start has theirs; one that is there
        already gives them up itself.
Rule 3: programs that are executed get what is left and never more: as ambient capabilities, so that it holds
        for root and for others alike, and by no_new_privs, which makes bits of files and root's uid mean
        nothing. So securebits have nothing to add.

Follows: capabilities(7), prctl(2).
"""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from uxfrm.intercept.libc import Capabilities, capget, capset, no_new_privileges, prctl

_PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_CAP_AMBIENT = 4, 24, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_MOST = 64
_PERMITTED = re.compile(r"^Cap(?:Prm|Eff):\s*([0-9a-f]+)$", re.MULTILINE)


class Capability(IntEnum):
    """The capabilities that the daemon has a use for, with the kernel's numbers."""

    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_PTRACE = 19

    def __str__(self) -> str:
        return f"CAP_{self.name}"


@dataclass(frozen=True)
class Need:
    """A capability that something can't be opened without, and what that is."""

    capability: Capability
    what: str


def lacking(needs: Iterable[Need]) -> str:
    """The capabilities that are needed and not there, with what for; empty if there are all."""
    effective = capget().effective
    missing: dict[Capability, list[str]] = {}
    for need in needs:
        if not effective >> need.capability & 1:
            missing.setdefault(need.capability, []).append(need.what)
    return ", ".join(f"{capability} ({'; '.join(what)})" for capability, what in sorted(missing.items()))


def give_up(keep: Collection[Capability]) -> None:
    """Give up all rights of the calling thread but some, for good, and for what it executes.

    1. what executing could give  2. what it has  3. what programs that it starts get  4. exec gives nothing
    5. nobody reads its memory: neither who is not privileged himself, nor a core dump. Raises OSError.
    """
    for number in range(_MOST):
        if number not in keep:
            # EPERM without CAP_SETPCAP, where no_new_privs must do; EINVAL for what the kernel does not know.
            with suppress(OSError):
                prctl(_PR_CAPBSET_DROP, number)
    prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    left = capget().permitted & sum(1 << capability for capability in keep)
    capset(Capabilities(left, left, left))
    for capability in keep:
        if left >> capability & 1:
            prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, capability)
    no_new_privileges()
    prctl(_PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def threads_beyond(keep: Collection[Capability]) -> int:
    """How many threads of this process have rights beyond these."""
    mask = sum(1 << capability for capability in keep)
    return sum(_beyond(thread, mask) for thread in Path("/proc/self/task").iterdir())


def _beyond(thread: Path, mask: int) -> bool:
    try:
        said = (thread / "status").read_text("ascii", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(int(found, 16) & ~mask for found in _PERMITTED.findall(said))


def show(capabilities: Collection[Capability]) -> str:
    """For people: names, or "none"."""
    return ",".join(map(str, sorted(capabilities))) or "none"


def check_writable(directory: Path) -> None:
    """PermissionError where no file can be made in a directory, with the rights that there are now."""
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        why = "no writing there without root's rights over others' files, which the daemon gives up"
        raise PermissionError(errno.EACCES, why, str(directory))
