"""Start a program under the filter: fork, filter, hand the listener to the parent, exec."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import NoReturn

from uxfrm.intercept import notify
from uxfrm.intercept.filter import program
from uxfrm.intercept.machine import Machine, this_machine
from uxfrm.intercept.signals import Signals

NOT_INTERCEPTED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127
_OLDEST_LINUX = (5, 14)  # the first that gives a file and answers in one step


class StartError(Exception):
    """The command was not started: why, and the exit status for it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def start(command: Sequence[str], strict: bool, signals: Signals) -> tuple[int, int, Machine]:
    """Start the command; its process, the listener, the processor. Raises StartError."""
    machine = this_machine()
    if machine is None:
        raise StartError(NOT_INTERCEPTED, f"can't intercept on {os.uname().machine}: only x86_64 and aarch64")
    if _release() < _OLDEST_LINUX:
        raise StartError(NOT_INTERCEPTED, f"can't intercept on Linux {os.uname().release}: 5.14 is needed")
    code = program(machine, strict)
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here:
        child = os.fork()
        if not child:
            _become(command, there, signals, lambda: notify.install(machine, code, interruptible=strict))
        there.close()
        try:
            return child, _listener(here, command[0]), machine
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise


def _become(
    command: Sequence[str], parent: socket.socket, signals: Signals, install: Callable[[], int]
) -> NoReturn:
    """In the child: never return. From the filter on, nothing that the filter takes: nobody answers yet."""
    try:
        try:
            listener = install()
        except OSError as error:
            parent.send(b"filter %d" % (error.errno or errno.EIO))
            os._exit(NOT_INTERCEPTED)
        socket.send_fds(parent, [b"listener"], [listener])
        os.close(listener)
        signals.in_child()
        try:
            os.execvp(command[0], list(command))
        except OSError as error:
            parent.send(b"exec %d" % (error.errno or errno.EIO))
    finally:
        os._exit(NOT_INTERCEPTED)


def _listener(child: socket.socket, name: str) -> int:
    """The listener, once exec has closed the child's end."""
    said, fds, _, _ = socket.recv_fds(child, 64, 1)
    if not fds:
        _raise(said or b"filter %d" % errno.ECHILD, name)
    failed = child.recv(64)
    if failed:
        os.close(fds[0])
        _raise(failed, name)
    return fds[0]


def _raise(said: bytes, name: str) -> NoReturn:
    step, number = said.decode().split()
    code = int(number)
    if step == "exec":
        raise StartError(
            NOT_FOUND if code == errno.ENOENT else NOT_EXECUTABLE, f"{name}: {os.strerror(code)}"
        )
    if code == errno.EBUSY:
        raise StartError(
            NOT_INTERCEPTED,
            "this already runs under uxfrm, or another supervisor that takes system calls: they do not nest",
        )
    raise StartError(
        NOT_INTERCEPTED,
        f"can't intercept system calls here, the kernel or a sandbox refuses seccomp's user notification: "
        f"{os.strerror(code)}",
    )


def _release() -> tuple[int, ...]:
    numbers = os.uname().release.replace("-", ".").split(".")
    return tuple(int(part) for part in numbers[:2] if part.isdecimal())
