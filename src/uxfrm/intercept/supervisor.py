"""The loop that answers intercepted calls until the command has ended.

Rule 1: a call that is not for uxfrm proceeds; one that fails here fails in its caller, never the supervisor.
Rule 2: one call at a time. What the engine does with it takes its time from all others.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable

from uxfrm.intercept import addresses, options
from uxfrm.intercept.caller import Caller, Later, Result, Service
from uxfrm.intercept.engine import Engine
from uxfrm.intercept.machine import Machine
from uxfrm.intercept.notify import Gone, Listener
from uxfrm.intercept.receive import Receiver
from uxfrm.intercept.signals import Signals, stop_with
from uxfrm.intercept.sockets import Sockets

Handler = Callable[[Caller], Result]

_SWEEP_MS = 100


class Supervisor:
    """Serves the calls of one command and all its descendants."""

    def __init__(self, listener: Listener, engine: Engine, machine: Machine, strict: bool) -> None:
        self._poll = select.poll()
        self._service = Service(listener, engine, Sockets(), strict)
        self._receiver = Receiver(self._poll)
        handlers: dict[str, Handler] = {
            "socket": addresses.create,
            "bind": addresses.bind,
            "connect": addresses.connect,
            "getsockname": addresses.own_address,
            "getpeername": addresses.peer_address,
            "setsockopt": options.set_option,
            "getsockopt": options.get_option,
            "recvfrom": self._receiver.receive_from,
            "recvmsg": self._receiver.receive_message,
        }
        self._handlers = {machine.calls[name]: handler for name, handler in handlers.items()}

    def serve(self, child: int, signals: Signals, linger: bool) -> int:
        """Serve until the command has ended, and its descendants too if `linger`. The exit status."""
        ended = os.pidfd_open(child)
        try:
            return self._serve(child, ended, signals, linger)
        finally:
            os.close(ended)

    def _serve(self, child: int, ended: int, signals: Signals, linger: bool) -> int:
        listener, status, more = self._service.listener, None, True
        for fd in (listener.fd, *signals.fds, ended):
            self._poll.register(fd, select.POLLIN)
        while status is None or (more and linger):
            for fd, event in self._poll.poll(_SWEEP_MS if self._receiver else None):
                if fd in signals.fds:
                    if signals.pass_on(child if status is None else None) and status is None:
                        stop_with(child)
                elif fd == ended:
                    self._poll.unregister(fd)
                    status = _status(child)
                elif fd == listener.fd:
                    if event & select.POLLIN:
                        self._answer()
                    elif event & select.POLLHUP:
                        # The last filtered process has ended.
                        self._poll.unregister(fd)
                        more = False
                elif fd in self._receiver:
                    self._receiver.ready(fd)
            self._receiver.expire()
        return status

    def close(self) -> None:
        """Stop serving."""
        self._receiver.close()
        self._service.listener.close()

    def _answer(self) -> None:
        listener = self._service.listener
        call = listener.receive()
        if call is None:
            return
        try:
            result = self._handlers[call.number](Caller(call, self._service))
        except Gone:
            return
        except OSError as problem:
            listener.fail(call, problem.errno or errno.EIO)
            return
        if result is None:
            listener.proceed(call)
        elif not isinstance(result, Later):
            listener.answer(call, result)


def _status(child: int) -> int:
    """The exit status of a child that has ended: 128 and the signal's number if one ended it."""
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
