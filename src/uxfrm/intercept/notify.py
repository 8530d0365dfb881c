"""Seccomp user notification: a filter's calls arrive at a file descriptor, and are answered there.

Follows: linux/seccomp.h, seccomp_unotify(2).

Rule 1: what was read of a process counts only if its notification is still valid afterwards
        (`Listener.valid`): it may have died, and its number may be another's.
Rule 2: "proceed" lets the kernel read the arguments again. Interception is for programs that want to be
        served; it is no sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from uxfrm.intercept.libc import LIBC, FilterProgram, failed, no_new_privileges
from uxfrm.intercept.machine import Machine

_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE = 1 << 5

_RECV, _SEND, _ID_VALID = 0xC0502100, 0xC0182101, 0x40082102
_ADDFD, _SET_FLAGS = 0x40182103, 0x40082104
_SYNC_WAKE_UP = 1
_PROCEED = 1
_ADDFD_SETFD, _ADDFD_SEND = 1, 2

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")
_ADD = struct.Struct("=QIIII")
_ID = struct.Struct("=Q")


class Gone(Exception):
    """The call is no more: its process died, or a signal interrupted it."""


@dataclass(slots=True)
class Notification:
    """One call that waits: `pid` is the calling thread's, `number` the system call's."""

    id: int
    pid: int
    number: int
    arguments: tuple[int, ...]

    def integer(self, index: int) -> int:
        """An argument of C type int."""
        return ctypes.c_int32(self.arguments[index] & 0xFFFFFFFF).value


def install(machine: Machine, program: bytes, interruptible: bool) -> int:
    """Filter this process and its children from now on; return the listener.

    Not interruptible: once a call was received, only a deadly signal interrupts it. So nothing is done twice.
    Raises OSError: EBUSY inside another listener's filter, ENOSYS, EINVAL, EPERM or EACCES where there is
    none.
    """
    no_new_privileges()
    code = ctypes.create_string_buffer(program, len(program))
    prog = FilterProgram(len(program) // 8, ctypes.addressof(code))
    choices = [_NEW_LISTENER] if interruptible else [_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER]
    for flags in choices:
        arguments = (ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(flags), ctypes.byref(prog))
        listener = int(LIBC.syscall(ctypes.c_long(machine.seccomp), *arguments))
        if listener >= 0:
            return listener
        # Linux before 5.19 has no WAIT_KILLABLE.
        if ctypes.get_errno() != errno.EINVAL:
            break
    raise failed()


class Listener:
    """The supervisor's end of the filter."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        # The caller waits for the answer anyway: wake it on this processor. Linux 6.6.
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _SET_FLAGS, _SYNC_WAKE_UP)

    def close(self) -> None:
        """Calls that wait, and all later ones, fail with ENOSYS."""
        os.close(self.fd)

    def receive(self) -> Notification | None:
        """The next call, or None if it went away before it was read."""
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self.fd, _RECV, buffer, True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        id_, pid, _flags, number, _arch, _ip, *arguments = _NOTIFICATION.unpack(buffer)
        return Notification(id_, pid, number, tuple(arguments))

    def valid(self, call: Notification) -> bool:
        """Whether the call still waits."""
        try:
            fcntl.ioctl(self.fd, _ID_VALID, _ID.pack(call.id))
        except OSError:
            return False
        return True

    def proceed(self, call: Notification) -> bool:
        """Let the kernel execute the call."""
        return self._send(_RESPONSE.pack(call.id, 0, 0, _PROCEED))

    def answer(self, call: Notification, value: int) -> bool:
        """Return `value`. False if nobody waited for it any more."""
        return self._send(_RESPONSE.pack(call.id, value, 0, 0))

    def fail(self, call: Notification, number: int) -> bool:
        """Return -1 with this errno."""
        return self._send(_RESPONSE.pack(call.id, 0, -number, 0))

    def answer_with_file(self, call: Notification, fd: int, cloexec: bool, at: int | None = None) -> int:
        """Put a file into the process, as number `at` or the lowest free one, and return that number, in one
        step.

        Raises OSError as the kernel would: EMFILE, or EBADF for `at` over the limit; Gone.
        """
        flags = _ADDFD_SEND | (_ADDFD_SETFD if at is not None else 0)
        request = _ADD.pack(call.id, flags, fd, at or 0, os.O_CLOEXEC if cloexec else 0)
        try:
            return int(fcntl.ioctl(self.fd, _ADDFD, bytearray(request), True))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESRCH, errno.EINPROGRESS, errno.EINTR):
                raise Gone from None
            raise

    def _send(self, response: bytes) -> bool:
        try:
            fcntl.ioctl(self.fd, _SEND, bytearray(response), True)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                return False
            raise
        return True
