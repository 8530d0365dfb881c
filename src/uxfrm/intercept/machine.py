"""Processors: what a seccomp filter calls them, and the numbers of their system calls.

Follows: linux/audit.h, asm/unistd.h. Programs for another instruction set of the same machine (i386 and x32
on x86-64, 32-bit ARM on aarch64) have other numbers: they are not intercepted, their calls go to the kernel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One processor: AUDIT_ARCH_*, the number of seccomp(2), and of the calls that are intercepted."""

    audit_arch: int
    seccomp: int
    calls: dict[str, int]


MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        317,
        {
            "socket": 41,
            "connect": 42,
            "recvfrom": 45,
            "recvmsg": 47,
            "bind": 49,
            "getsockname": 51,
            "getpeername": 52,
            "setsockopt": 54,
            "getsockopt": 55,
        },
    ),
    "aarch64": Machine(
        0xC00000B7,
        277,
        {
            "socket": 198,
            "bind": 200,
            "connect": 203,
            "getsockname": 204,
            "getpeername": 205,
            "recvfrom": 207,
            "setsockopt": 208,
            "getsockopt": 209,
            "recvmsg": 212,
        },
    ),
}


def this_machine() -> Machine | None:
    """The processor this runs on, or None where interception does not know it."""
    return MACHINES.get(os.uname().machine)
