"""Signals that the supervisor takes for its command, and the command's end.

A signal from the terminal went to the whole foreground group, the command has it already; what came from
another process is passed on. When the command is stopped, so is the supervisor: the shell then sees what it
would see without it, and wakes both.

Rule 1: only blocked signals can be read, and threads block what the thread that made them blocked. So threads
        (an engine's, those that numpy starts) are to be started inside `with Signals()`: the kernel gives a
        signal to any thread that takes it, and the whole process would end by it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct

from uxfrm.intercept.libc import signalfd

# Not these: SIGKILL and SIGSTOP can't be taken, the others are a program's own faults.
_OWN = frozenset(
    getattr(signal, name)
    for name in ("SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS")
)
_OWN_TOO = frozenset((signal.SIGTRAP, signal.SIGABRT, signal.SIGPIPE, signal.SIGXCPU, signal.SIGXFSZ))
TAKEN = frozenset(int(number) for number in signal.valid_signals()) - _OWN - _OWN_TOO

_FROM_KERNEL = 0x80
_INFO = struct.Struct("=Iii116x")  # struct signalfd_siginfo: signal, errno, code
_READ_AT_ONCE = 16


class Signals:
    """Signals of this process, in a `with`. To be entered in the main thread, before there are others."""

    def __enter__(self) -> Signals:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
        # Were it ignored, the kernel would throw away how the command ended.
        self._child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.fd = signalfd(TAKEN)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        signal.signal(signal.SIGCHLD, self._child or signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def in_child(self) -> None:
        """Give the command the signals that this process was started with."""
        signal.signal(signal.SIGCHLD, self._child or signal.SIG_DFL)
        # Python ignores these; programs do not expect it.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def pass_on(self, child: int | None) -> bool:
        """Pass on what has come, if there is a command yet. Whether a child's state may have changed."""
        changed = False
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.fd, _READ_AT_ONCE * _INFO.size)
            for number, _, code in _INFO.iter_unpack(data):
                if number == signal.SIGCHLD:
                    changed = True
                elif child is not None and code != _FROM_KERNEL:
                    # Not reaped yet, so the number is still this child's.
                    os.kill(child, number)
        return changed


def stop_with(child: int) -> None:
    """Stop if the command was stopped and there is a terminal, so somebody who wakes both."""
    try:
        if os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOHANG) is None:
            return
    except ChildProcessError:
        # It has ended.
        return
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGSTOP)
