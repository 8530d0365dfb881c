"""Memory of another process: what its system calls point at.

Follows: process_vm_readv(2). It keeps to the pages' own protection, as the kernel does for the process
itself; /proc/PID/mem would write to read-only pages too.
"""

from __future__ import annotations

import ctypes
import errno
import os

from uxfrm.intercept.libc import LIBC, IoVector, failed

_ADDRESS_MASK = (1 << 64) - 1


def read(pid: int, address: int, size: int) -> bytes:
    """`size` bytes. Raises OSError: EFAULT where nothing is mapped, EPERM where the process is not ours to
    read."""
    buffer = ctypes.create_string_buffer(size)
    _move(LIBC.process_vm_readv, pid, address, buffer, size)
    return buffer.raw


def write(pid: int, address: int, data: bytes) -> None:
    """Write `data`. Raises OSError as `read` does."""
    _move(LIBC.process_vm_writev, pid, address, ctypes.create_string_buffer(data, len(data)), len(data))


def _move(
    call: ctypes._NamedFuncPointer, pid: int, address: int, buffer: ctypes.Array[ctypes.c_char], size: int
) -> None:
    if not size:
        return
    here = IoVector(ctypes.addressof(buffer), size)
    there = IoVector(address & _ADDRESS_MASK, size)
    moved = call(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
    if moved < 0:
        raise failed()
    if moved < size:
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
