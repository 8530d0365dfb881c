"""Signals that the supervisor takes for its command.

A signal from the terminal went to the whole foreground group, the command has it already; what came from
another process is passed on. When the command is stopped, so is the supervisor: the shell then sees what it
would see without it, and wakes both.

Two ways in, as the kernel gives a signal to any thread that does not block it:
1. Threads that were started inside `with Signals()` block all: the signal is read, with its origin.
2. A thread from before (numpy starts some) takes it: a handler tells, without the origin. What a terminal may
   have sent is then taken to come from there, if this is the terminal's foreground group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Iterator

from uxfrm.intercept.libc import signalfd

# Not these: SIGKILL and SIGSTOP can't be taken, the others are a program's own faults.
_OWN = frozenset(
    getattr(signal, f"SIG{name}")
    for name in ["KILL", "STOP", "SEGV", "BUS", "FPE", "ILL", "SYS", "TRAP", "ABRT", "PIPE", "XCPU", "XFSZ"]
)
TAKEN = frozenset(int(number) for number in signal.valid_signals() - _OWN)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH)

_FROM_KERNEL = 0x80
_INFO = struct.Struct("=Iii116x")  # struct signalfd_siginfo: signal, errno, code
_READ_AT_ONCE = 16


class Signals:
    """Signals of this process, in a `with`. To be entered in the main thread."""

    def __enter__(self) -> Signals:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
        self._fd = signalfd(TAKEN)
        self._told, self._tell = socket.socketpair()
        for end in (self._told, self._tell):
            end.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._tell.fileno(), warn_on_full_buffer=False)
        # A handler that is not Python's (None) stays; what is ignored stays so. But were SIGCHLD ignored, the
        # kernel would throw away how the command ended.
        found = {number: signal.getsignal(number) for number in TAKEN}
        self._handlers = {
            number: handler
            for number, handler in found.items()
            if handler is not None and (handler != signal.SIG_IGN or number == signal.SIGCHLD)
        }
        for number in self._handlers:
            signal.signal(number, _nothing)
        self.fds = (self._fd, self._told.fileno())
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._told.close()
        self._tell.close()
        os.close(self._fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def in_child(self) -> None:
        """Give the command the signals that this process was started with."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_IGN if handler == signal.SIG_IGN else signal.SIG_DFL)
        # Python ignores these; programs do not expect it.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def pass_on(self, child: int | None) -> bool:
        """Pass on what has come, if there is a command yet. Whether a child's state may have changed."""
        changed = False
        for number, of_group in self._come():
            if number == signal.SIGCHLD:
                changed = True
            elif child is not None and not of_group:
                # Not reaped yet, so the number is still this child's.
                os.kill(child, number)
        return changed

    def _come(self) -> Iterator[tuple[int, bool]]:
        """Signals, and whether they went to the whole group."""
        with contextlib.suppress(BlockingIOError):
            for number, _, code in _INFO.iter_unpack(os.read(self._fd, _READ_AT_ONCE * _INFO.size)):
                yield number, code == _FROM_KERNEL
        with contextlib.suppress(BlockingIOError):
            for number in self._told.recv(_READ_AT_ONCE):
                yield number, number in _FROM_TERMINAL and _in_foreground()


def _nothing(*_: object) -> None:
    """The number is written to the wake-up file; there is nothing else to do."""


def _in_foreground() -> bool:
    """Whether the terminal's signals go to this process's group."""
    with _terminal() as terminal:
        return terminal is not None and os.tcgetpgrp(terminal) == os.getpgrp()


@contextlib.contextmanager
def _terminal() -> Iterator[int | None]:
    """The controlling terminal, if there is one."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield None
        return
    try:
        yield terminal
    finally:
        os.close(terminal)


def stop_with(child: int) -> None:
    """Stop if the command was stopped and there is a terminal, so somebody who wakes both."""
    try:
        stopped = os.waitid(os.P_PID, child, os.WSTOPPED | os.WNOHANG) is not None
    except ChildProcessError:
        # It has ended.
        return
    with _terminal() as terminal:
        if not stopped or terminal is None:
            return
    os.kill(os.getpid(), signal.SIGSTOP)
