"""Calls of the C library and the kernel that Python has no function for."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from typing import NamedTuple

LIBC = ctypes.CDLL(None, use_errno=True)

_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, the calling thread
_PIDFD_GETFD = 438  # the same on all processors
_SFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_SIGSET_BYTES = 128


class IoVector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class FilterProgram(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_VECTOR = (
    ctypes.c_int,
    ctypes.POINTER(IoVector),
    ctypes.c_ulong,
    ctypes.POINTER(IoVector),
    ctypes.c_ulong,
    ctypes.c_ulong,
)
for _name in ("process_vm_readv", "process_vm_writev"):
    _function = getattr(LIBC, _name)
    _function.argtypes, _function.restype = _VECTOR, ctypes.c_ssize_t
LIBC.syscall.restype = ctypes.c_long


def failed() -> OSError:
    """The error of the call that just returned -1."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def prctl(option: int, value: int, argument: int = 0) -> int:
    """prctl(2), all of whose arguments the kernel takes as long ones. Raises OSError."""
    found = int(LIBC.prctl(option, *map(ctypes.c_ulong, (value, argument, 0, 0))))
    if found < 0:
        raise failed()
    return found


def no_new_privileges() -> None:
    """What seccomp asks of a process that is not privileged: exec gives no rights any more."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


class Capabilities(NamedTuple):
    """A thread's capability sets, bit n for capability n."""

    effective: int
    permitted: int
    inheritable: int


def capget() -> Capabilities:
    """The calling thread's capabilities. Raises OSError."""
    data = ctypes.create_string_buffer(24)
    if LIBC.capget(_CAPABILITIES, data):
        raise failed()
    words = struct.unpack("=6I", data.raw[:24])
    return Capabilities(*(low | high << 32 for low, high in zip(words[:3], words[3:], strict=True)))


def capset(sets: Capabilities) -> None:
    """Change the calling thread's capabilities, and those of no other. Raises OSError."""
    words = [part >> shift & 0xFFFFFFFF for shift in (0, 32) for part in sets]
    if LIBC.capset(_CAPABILITIES, struct.pack("=6I", *words)):
        raise failed()


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A duplicate of another process's file descriptor."""
    found = int(LIBC.syscall(ctypes.c_long(_PIDFD_GETFD), pidfd, fd, 0))
    if found < 0:
        raise failed()
    return found


def signalfd(signals: Iterable[int]) -> int:
    """A file descriptor that blocked signals can be read from (struct signalfd_siginfo)."""
    mask = sum(1 << (number - 1) for number in signals)
    fd = int(LIBC.signalfd(-1, mask.to_bytes(_SIGSET_BYTES, "little"), _SFD_FLAGS))
    if fd < 0:
        raise failed()
    return fd
