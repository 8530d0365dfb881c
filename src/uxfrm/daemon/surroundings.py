"""What a namespace has to know of the host: its addresses, the ways to others, when they change.

Rule 1: netlink is asked on a thread of its own, for pyroute2 may not wait inside the event loop's. The loop
        waits for the answer: it is the kernel's, and comes at once.
Rule 2: routes are asked for as uxfrm's own packets take them, with its mark.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TypeVar

from pyroute2 import IPRoute

from uxfrm.attach.attachment import OWN_MARK
from uxfrm.attach.routes import PROTOCOL
from uxfrm.attach.rtnetlink import DELROUTE, NEWROUTE, PROTOCOL_AT, RouteSocket
from uxfrm.model.address import Address, parse
from uxfrm.namespace import Namespace
from uxfrm.netlink.wire import messages

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_MULTICAST4, _MULTICAST6 = 0xE0, 0xFF
_WAYS_MAX = 4096
_PAUSE_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Way:
    """A route to an address: the source address that packets get, the device, how large they may be."""

    source: Address | None
    device: int | None
    mtu: int | None


class Surroundings:
    """The network namespace that this process is in. Raises OSError."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "netlink")
        self._ip = self.ask(IPRoute)
        self._routes = RouteSocket()
        self._ways: dict[Address, _Way] = {}
        self._mtus: dict[int, int | None] = {}
        self._local = self.ask(self._addresses)
        self._news = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._news.bind((0, _GROUPS))
        self._changed: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awaited = False

    def ask(self, question: Callable[[], T]) -> T:
        """Do something on the thread that may use pyroute2, and wait for it."""
        return self._thread.submit(question).result()

    def tell(self, namespace: Namespace) -> None:
        """Let a namespace know, now and when something changes."""
        path = namespace.path
        path.is_local, path.source_of, path.device_of = self.is_local, self.source, self.device
        path.mtus.of_device = self.mtu
        self._changed.append(path.forget)

    def watch(self, loop: asyncio.AbstractEventLoop, changed: Callable[[], None]) -> None:
        """Notice changes from now on; `changed` is told of them, after all namespaces."""
        self._changed.append(changed)
        self._loop = loop
        loop.add_reader(self._news, self._read)

    def close(self) -> None:
        """Ask no more."""
        if self._loop is not None:
            self._loop.remove_reader(self._news)
        self._news.close()
        self._routes.close()
        self.ask(self._ip.close)
        self._thread.shutdown()

    def is_local(self, address: Address) -> bool:
        """Whether packets to an address are for this host."""
        if len(address) == 4:
            return address in self._local or address[0] == 127 or address[0] & 0xF0 == _MULTICAST4
        return address in self._local or address[0] == _MULTICAST6

    def source(self, address: Address) -> Address | None:
        """The address that the host's own packets to another get, None where there is no way to it."""
        return self._way(address).source

    def device(self, address: Address) -> int | None:
        """The index of the device by which an address is reached."""
        return self._way(address).device

    def mtu(self, address: Address) -> int | None:
        """How large packets may be on the device by which an address is reached."""
        return self._way(address).mtu

    def _way(self, address: Address) -> _Way:
        if address not in self._ways:
            if len(self._ways) >= _WAYS_MAX:
                self._ways.clear()
            way = self._routes.way(address, OWN_MARK)
            device = None if way is None else way.device
            self._ways[address] = _Way(way and way.source, device, self._mtu(device) if device else None)
        return self._ways[address]

    def _mtu(self, device: int) -> int | None:
        if device not in self._mtus:
            self._mtus[device] = self.ask(lambda: self._ip.get_links(device)[0].get_attr("IFLA_MTU"))
        return self._mtus[device]

    def _addresses(self) -> frozenset[Address]:
        """This host's addresses, and those of IPv4 by which it is one of all."""
        found = set()
        for message in self._ip.get_addr():
            # Of a point-to-point link IFA_ADDRESS is the other end's.
            own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            found.add(parse(own))
            if ":" not in own:
                network = ip_network((own, message["prefixlen"]), strict=False)
                found.add(network.broadcast_address.packed)
        return frozenset(found)

    def _read(self) -> None:
        """Something changed; more of it may be on its way."""
        if self._drain() and self._loop is not None and not self._awaited:
            self._awaited = True
            self._loop.call_later(_PAUSE_S, self._renew)

    def _drain(self) -> bool:
        """Read what there is; whether any of it is news, and not of routes that we have made ourselves."""
        news = False
        while True:
            try:
                news |= not _of_ours(self._news.recv(1 << 16))
            except BlockingIOError:
                return news
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some were lost, which is news enough
                    raise
                news = True

    def _renew(self) -> None:
        """What is known is asked for anew."""
        self._awaited = False
        if self._news.fileno() < 0:
            return
        self._ways.clear()
        self._mtus.clear()
        self._local = self.ask(self._addresses)
        for changed in self._changed:
            changed()


def _of_ours(datagram: bytes) -> bool:
    """Whether all messages of a datagram are about routes of uxfrm's own. Source: rtnetlink(7)."""
    return all(
        message.type in (NEWROUTE, DELROUTE) and message.payload[PROTOCOL_AT] == PROTOCOL
        for message in messages(datagram)
    )
