"""recvfrom and recvmsg in strict mode: the sender's family is AF_NETLINK, and a reply follows its request at
once.

Follows: netlink_recvmsg, ___sys_recvmsg.

1. Nothing there: the engine answers what it was asked so far.
2. Still nothing: EAGAIN for those who do not wait. The others wait here, each with a duplicate of its socket.
3. A message: it is peeked at, written to the caller's memory, and taken off the queue once the call has
   returned with it. So a call that a signal interrupts loses nothing.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from socket import MSG_DONTWAIT, MSG_OOB, MSG_PEEK, MSG_TRUNC, SO_RCVTIMEO, SOL_SOCKET
from socket import socket as Endpoint

from uxfrm.intercept.caller import Caller, Later, Result, error
from uxfrm.intercept.notify import Gone
from uxfrm.intercept.numbers import AF_NETLINK

_KERNEL = struct.pack("=HHII", AF_NETLINK, 0, 0, 0)
_MESSAGE = struct.Struct("=QiIQQQQiI")  # struct msghdr
_NAME_LENGTH_AT, _CONTROL_LENGTH_AT, _FLAGS_AT = 8, 40, 48
_VECTOR = struct.Struct("=QQ")  # struct iovec
_VECTORS_MAX = 1024
_TIME = struct.Struct("=qq")  # struct timeval
_DATAGRAM_MAX = 1 << 20

# Copies a message (its bytes, its whole length) to the caller and returns what the call returns.
Copy = Callable[[memoryview, int], int]


@dataclass
class Wait:
    """A call that waits for a message: `deadline` on the monotonic clock, None if it waits for ever."""

    caller: Caller
    client: Endpoint
    port: int
    flags: int
    copy: Copy
    deadline: float | None


class Receiver:
    """All calls that wait for messages. `poll` watches their sockets."""

    def __init__(self, poll: select.poll) -> None:
        self._poll = poll
        self._waits: dict[int, Wait] = {}
        self._buffer = bytearray(_DATAGRAM_MAX)

    def __contains__(self, fd: int) -> bool:
        return fd in self._waits

    def __len__(self) -> int:
        return len(self._waits)

    def receive_from(self, caller: Caller) -> Result:
        """recvfrom()."""
        buffer, size, address, length_at = (caller.pointer(i) for i in (1, 2, 4, 5))

        def copy(data: memoryview, whole: int) -> int:
            caller.write(buffer, bytes(data[: min(size, whole)]))
            if address:
                caller.write_address(address, length_at, _KERNEL)
            return min(size, whole)

        return self._receive(caller, caller.integer(3), copy)

    def receive_message(self, caller: Caller) -> Result:
        """recvmsg()."""

        def copy(data: memoryview, whole: int) -> int:
            at = caller.pointer(1)
            name, _, _, vectors, count, *_ = _MESSAGE.unpack(caller.read(at, _MESSAGE.size))
            if count > _VECTORS_MAX:
                raise error(errno.EMSGSIZE)
            done = 0
            for base, size in _vectors(caller, vectors, count):
                part = data[done : min(done + size, whole)]
                caller.write(base, bytes(part))
                done += len(part)
            if name:
                caller.write_address(name, at + _NAME_LENGTH_AT, _KERNEL)
            caller.write(at + _CONTROL_LENGTH_AT, bytes(8))
            caller.write_int(at + _FLAGS_AT, MSG_TRUNC if whole > done else 0)
            return done

        return self._receive(caller, caller.integer(2), copy)

    def _receive(self, caller: Caller, flags: int, copy: Copy) -> Result:
        known = caller.socket()
        if known is None:
            return None
        if flags & MSG_OOB:
            raise error(errno.EOPNOTSUPP)
        client = caller.duplicate()
        wait = Wait(caller, client, known.port, flags, copy, _deadline(client))
        try:
            if self._deliver(wait):
                client.close()
                return Later.ANSWERED
            if flags & MSG_DONTWAIT or not os.get_blocking(client.fileno()):
                raise error(errno.EAGAIN)
        except BaseException:
            client.close()
            raise
        self._forget_interrupted(caller.call.pid)
        self._waits[client.fileno()] = wait
        self._poll.register(client, select.POLLIN)
        return Later.WAITS

    def ready(self, fd: int) -> None:
        """A socket that somebody waits for has a message, or its engine is gone."""
        wait = self._waits[fd]
        try:
            done = self._deliver(wait)
        except Gone:
            # The message stays for whoever calls next.
            done = True
        except OSError as problem:
            wait.caller.service.listener.fail(wait.caller.call, problem.errno or errno.EIO)
            done = True
        if done:
            self._forget(fd)

    def expire(self) -> None:
        """Forget calls that are no more; answer those that have waited long enough."""
        now = time.monotonic()
        for fd, wait in list(self._waits.items()):
            listener, call = wait.caller.service.listener, wait.caller.call
            late = wait.deadline is not None and now >= wait.deadline
            if late:
                listener.fail(call, errno.EAGAIN)
            if late or not listener.valid(call):
                self._forget(fd)

    def close(self) -> None:
        """Forget all."""
        for fd in list(self._waits):
            self._forget(fd)

    def _deliver(self, wait: Wait) -> bool:
        """Give the next message to the caller, if there is one. Raises OSError for the call to fail with."""
        whole = self._peek(wait.client)
        if whole is None:
            wait.caller.service.engine.drain(wait.port)
            whole = self._peek(wait.client)
        if whole is None:
            return False
        data = memoryview(self._buffer)[: min(whole, _DATAGRAM_MAX)]
        listener, call = wait.caller.service.listener, wait.caller.call
        try:
            copied = wait.copy(data, whole)
        except OSError:
            self._take(wait)
            raise
        if listener.answer(call, whole if wait.flags & MSG_TRUNC else copied):
            self._take(wait)
        return True

    def _peek(self, client: Endpoint) -> int | None:
        try:
            return client.recv_into(self._buffer, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def _take(self, wait: Wait) -> None:
        if not wait.flags & MSG_PEEK:
            wait.client.recv_into(self._buffer, 1, MSG_DONTWAIT)

    def _forget_interrupted(self, thread: int) -> None:
        """A thread that calls again does not wait any more."""
        for fd, wait in list(self._waits.items()):
            if wait.caller.call.pid == thread:
                self._forget(fd)

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._waits.pop(fd).client.close()


def _vectors(caller: Caller, at: int, count: int) -> Iterator[tuple[int, int]]:
    return _VECTOR.iter_unpack(caller.read(at, _VECTOR.size * count)) if count else iter(())


def _deadline(client: Endpoint) -> float | None:
    seconds, microseconds = _TIME.unpack(client.getsockopt(SOL_SOCKET, SO_RCVTIMEO, _TIME.size))
    wait = seconds + microseconds / 1e6
    return time.monotonic() + wait if wait else None
