"""NETLINK_XFRM of the machine's own kernel, as a transport of `uxfrm.netlink.Client`.

Everything but its methods' meaning is the kernel's: rights (CAP_NET_ADMIN), answers, limits of its buffers.
"""

from __future__ import annotations

import errno
import select
import socket

from uxfrm.netlink.client import Client, EventsLost
from uxfrm.netlink.constants import NETLINK_XFRM

_SOL_NETLINK, _ADD_MEMBERSHIP, _EXT_ACK = 270, 1, 11
_DATAGRAM_MAX = 1 << 16
_BUFFER = 1 << 20


class KernelTransport:
    """An AF_NETLINK socket. Raises OSError where the kernel has no XFRM (EPROTONOSUPPORT)."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_XFRM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.bind((0, 0))

    def send(self, datagram: bytes) -> None:
        """Send a request."""
        self._socket.send(datagram)

    def receive(self, timeout_s: float | None = None) -> bytes | None:
        """The next datagram; None when none came in time. EventsLost for ENOBUFS."""
        if timeout_s is not None and not select.select([self._socket], [], [], timeout_s)[0]:
            return None
        try:
            return self._socket.recv(_DATAGRAM_MAX)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise EventsLost from None
            raise

    def join(self, group: int) -> None:
        """NETLINK_ADD_MEMBERSHIP."""
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def connect() -> Client:
    """A client of this machine's kernel. Raises OSError."""
    return Client(KernelTransport())
