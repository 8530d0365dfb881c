"""One intercepted call, with what its handler needs: arguments, memory, sockets, the engine.

A handler returns what the call returns, None to let the kernel execute it, or one of `Later`; it raises
OSError for the call to fail with.
"""

from __future__ import annotations

import enum
import errno
import os
import struct
from dataclasses import dataclass
from socket import socket as Endpoint

from uxfrm.intercept import memory
from uxfrm.intercept.engine import Engine
from uxfrm.intercept.notify import Gone, Listener, Notification
from uxfrm.intercept.process import Process, duplicate, process, socket_inode
from uxfrm.intercept.sockets import Socket, Sockets

_INT = struct.Struct("=i")


class Later(enum.Enum):
    """There is nothing to return: the call was answered already, or it waits."""

    ANSWERED = 1
    WAITS = 2


Result = int | None | Later


def error(number: int) -> OSError:
    """An error that the call fails with."""
    return OSError(number, os.strerror(number))


@dataclass(frozen=True)
class Service:
    """What all calls share."""

    listener: Listener
    engine: Engine
    sockets: Sockets
    strict: bool


@dataclass(frozen=True)
class Caller:
    """A call that waits."""

    call: Notification
    service: Service

    def integer(self, index: int) -> int:
        """An argument of type int."""
        return self.call.integer(index)

    def pointer(self, index: int) -> int:
        """An argument that points somewhere."""
        return self.call.arguments[index]

    def read(self, address: int, size: int) -> bytes:
        """The caller's memory. Raises Gone: what was read may be another's."""
        data = memory.read(self.call.pid, address, size)
        self._check()
        return data

    def write(self, address: int, data: bytes) -> None:
        """Write to the caller's memory."""
        self._check()
        memory.write(self.call.pid, address, data)

    def read_int(self, address: int) -> int:
        """An int in the caller's memory."""
        return int(_INT.unpack(self.read(address, _INT.size))[0])

    def write_int(self, address: int, value: int) -> None:
        """Store an int."""
        self.write(address, _INT.pack(value))

    def write_address(self, address: int, length_at: int, data: bytes) -> None:
        """Store a socket address as far as there is room, and its full length. Follows: move_addr_to_user."""
        room = self.read_int(length_at)
        if room < 0:
            raise error(errno.EINVAL)
        self.write(address, data[:room])
        self.write_int(length_at, len(data))

    def socket(self) -> Socket | None:
        """The socket of argument 0, if it is one that was given out."""
        return self.service.sockets.find(socket_inode(self.call.pid, self.integer(0)))

    def process(self) -> Process:
        """The calling process."""
        found = process(self.call.pid)
        self._check()
        return found

    def duplicate(self) -> Endpoint:
        """A duplicate of the socket of argument 0. Raises OSError, ENOTSOCK too."""
        fd = duplicate(self.call.pid, self.integer(0))
        try:
            self._check()
            return Endpoint(fileno=fd)
        except (OSError, Gone):
            os.close(fd)
            raise

    def _check(self) -> None:
        if not self.service.listener.valid(self.call):
            raise Gone
