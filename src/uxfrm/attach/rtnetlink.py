"""Routes by the thousand: the requests of rtnetlink that are made for every policy.

pyroute2, which asks for all else, takes a millisecond for each. Here many go in one system call.

Source: rtnetlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from uxfrm.model.address import AF_INET, AF_INET6, Address
from uxfrm.netlink.wire import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Message,
    attribute,
    attributes,
    messages,
    padded,
)

NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
PROTOCOL_AT = 5
"""Where a route's message has its protocol."""

UNICAST, UNREACHABLE = 1, 7
_LINK, _NOWHERE = 253, 255
_DST, _OIF, _PRIORITY, _PREFSRC, _TABLE, _MARK = 1, 4, 6, 7, 15, 16
_ROUTE = struct.Struct("=BBBBBBBBI")
_U32 = struct.Struct("=I")
_AT_ONCE = 64
_DATAGRAM_MAX = 1 << 16


class Route(NamedTuple):
    """A route of IPv4 or IPv6. `device` 0: unreachable; `source`: what the host's own packets get."""

    destination: Address
    length: int
    device: int = 0
    source: Address | None = None
    metric: int = 0


class Way(NamedTuple):
    """What the kernel would do with a packet: the source that it gets, and the device."""

    source: Address | None
    device: int | None


class RouteSocket:
    """A NETLINK_ROUTE socket of the network namespace that the thread is in. Raises OSError."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))

    def change(self, kind: int, routes: Sequence[Route], table: int, protocol: int) -> None:
        """NEWROUTE: have these routes in a table, in the place of others of the same prefix and metric.

        DELROUTE: have them no longer; those that went by themselves are gone. CAP_NET_ADMIN.
        """
        flags = NLM_F_CREATE | NLM_F_REPLACE if kind == NEWROUTE else 0
        gone = () if kind == NEWROUTE else _GONE
        for first in range(0, len(routes), _AT_ONCE):
            some = routes[first : first + _AT_ONCE]
            asked = [_request(kind, flags | NLM_F_ACK, _payload(kind, x, table, protocol)) for x in some]
            self._socket.send(b"".join(asked))
            self._acknowledged(len(some), gone)

    def way(self, address: Address, mark: int) -> Way | None:
        """How a packet of the host's own with a mark would go, None for nowhere."""
        head = _ROUTE.pack(_family(address), len(address) * 8, 0, 0, 0, 0, 0, 0, 0)
        wanted = attribute(_DST, address) + attribute(_MARK, _U32.pack(mark))
        self._socket.send(_request(GETROUTE, 0, head + wanted))
        (answer,) = self._answers()
        if answer.type == NLMSG_ERROR:
            return None
        found = {kind: value for kind, value, _ in attributes(answer.payload, _ROUTE.size)[0]}
        device = found.get(_OIF)
        return Way(found.get(_PREFSRC), None if device is None else _U32.unpack(device)[0])

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _acknowledged(self, count: int, allowed: Collection[int]) -> None:
        """Read as many acknowledgements, all of them; the first error that is not allowed is raised."""
        failed = 0
        while count > 0:
            for answer in self._answers():
                number = -struct.unpack_from("=i", answer.payload)[0]
                failed = failed or (0 if number in allowed else number)
                count -= 1
        if failed:
            raise OSError(failed, os.strerror(failed))

    def _answers(self) -> Iterator[Message]:
        return messages(self._socket.recv(_DATAGRAM_MAX))


_GONE = (2, 3)  # ENOENT, ESRCH


def _family(address: Address) -> int:
    return AF_INET if len(address) == 4 else AF_INET6


def _request(kind: int, flags: int, payload: bytes) -> bytes:
    return padded(Message(kind, NLM_F_REQUEST | flags, 0, 0, payload).pack())


def _payload(kind: int, route: Route, table: int, protocol: int) -> bytes:
    """struct rtmsg and attributes."""
    family = _family(route.destination)
    scope = _LINK if family == AF_INET and route.device else 0
    scope = _NOWHERE if kind == DELROUTE else scope  # of a route to be deleted: whatever it is
    type_ = UNICAST if route.device else UNREACHABLE
    body = _ROUTE.pack(family, route.length, 0, 0, 0, protocol, scope, type_, 0)
    body += attribute(_TABLE, _U32.pack(table)) + attribute(_DST, route.destination)
    body += attribute(_PRIORITY, _U32.pack(route.metric))
    if route.device:
        body += attribute(_OIF, _U32.pack(route.device))
    if route.source is not None and kind == NEWROUTE:
        body += attribute(_PREFSRC, route.source)
    return body
