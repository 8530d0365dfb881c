"""A client and a server in one process: no socket, no daemon, no rights."""

from __future__ import annotations

from uxfrm.netlink.client import Client
from uxfrm.netlink.server import Server


class MemoryTransport:
    """A port of `server` as a client's transport; what is sent is answered before `send` returns."""

    def __init__(self, server: Server, capable: bool = True) -> None:
        self._server = server
        self._port = server.open(max(server.ports, default=0) + 1, capable)
        self._port.extended = True

    def send(self, datagram: bytes) -> None:
        """Carry the request out."""
        self._server.receive(self._port, datagram)

    def receive(self, timeout_s: float | None = None) -> bytes | None:
        """The next datagram; None where there is none, for nothing comes by waiting."""
        return self._port.next()

    def join(self, group: int) -> None:
        """Listen to a group."""
        self._port.groups |= 1 << (group - 1)

    def close(self) -> None:
        """Close the port."""
        self._server.close(self._port)


def connect(server: Server, capable: bool = True) -> Client:
    """A client of `server`; without `capable` it is refused what needs CAP_NET_ADMIN."""
    return Client(MemoryTransport(server, capable))
