"""What paths carry: by device where somebody knows, and less where a router said so of our own packets.

Follows: esp4_err, ah4_err, ipcomp4_err and their IPv6 twins, __ip_rt_update_pmtu, __ip6_rt_update_pmtu. Who
says so must quote a packet with the SPI of a live state; it is believed for ten minutes, and only that a path
carries less than was known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from uxfrm.datapath.checksums import summed
from uxfrm.model.address import Address
from uxfrm.model.flow import (
    PROTO_AH,
    PROTO_COMP,
    PROTO_ESP,
    PROTO_FRAGMENT,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_UDP,
)
from uxfrm.tables.deadlines import Timers

LEARNED_MAX = 4096
"""Destinations of which something was learned; the oldest makes room."""

_EXPIRES_S = 600
_LEAST4, _LEAST6 = 552, 1280
_LARGEST = 65535
_EXTENSIONS = (0, 43, 44, 60)


class Quoted(NamedTuple):
    """What a router says: the MTU, and of the packet that was too big, its state."""

    mtu: int
    daddr: Address
    spi: int
    proto: int


class PathMtus:
    """The MTU of each path. `default` is that of all, 0 where nobody knows any.

    `of_device` gives that of the device by which an address is reached, None for the default.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.of_device: Callable[[Address], int | None] = lambda _: None
        self.timers: Timers[Address] = Timers()
        self._changed = changed
        self._default = 0
        self._learned: dict[Address, int] = {}

    def __len__(self) -> int:
        return len(self._learned)

    @property
    def default(self) -> int:
        """The MTU of paths of which nothing else is known, 0 for none."""
        return self._default

    @default.setter
    def default(self, value: int) -> None:
        self._default = value
        self._changed()

    def of(self, daddr: Address) -> int:
        """How large packets to `daddr` may be; 0 where nobody knows."""
        device, learned = self.of_device(daddr), self._learned.get(daddr, 0)
        known = self._default if device is None else device
        return min(known, learned) if known and learned else known or learned

    def learn(self, daddr: Address, mtu: int, now_s: float) -> None:
        """Believe that the path to `daddr` carries no more than `mtu`, for ten minutes."""
        known = self.of(daddr) or _LARGEST
        if len(daddr) == 16 and not _LEAST6 <= mtu < known:
            return
        mtu = max(mtu, min(known, _LEAST4))
        if mtu > known:
            return
        if daddr not in self._learned and len(self._learned) >= LEARNED_MAX:
            self._forget(next(iter(self._learned)))
        self._learned.pop(daddr, None)
        self._learned[daddr] = mtu
        self.timers.forget(daddr)
        self.timers.plan(daddr, now_s + _EXPIRES_S)
        if mtu != known:
            self._changed()

    def expire(self, now_s: float) -> None:
        """Forget what was learned too long ago."""
        for _, daddr in self.timers.due(now_s):
            self._forget(daddr)

    def _forget(self, daddr: Address) -> None:
        self.timers.forget(daddr)
        del self._learned[daddr]
        self._changed()


def read(packet: bytes) -> Quoted | None:
    """What an ICMP message says about an IPsec packet that was too big; None where it is no such message."""
    if packet[0] >> 4 == 4:
        return _read4(packet[(packet[0] & 15) * 4 :]) if packet[9] == PROTO_ICMP else None
    at, proto = _upper(packet)
    return _read6(packet, packet[at:]) if proto == PROTO_ICMPV6 else None


def _read4(icmp: bytes) -> Quoted | None:
    quoted = icmp[8:]
    if len(quoted) < 20 or (icmp[0], icmp[1]) != (3, 4) or summed(icmp):
        return None
    header = (quoted[0] & 15) * 4
    if header < 20 or len(quoted) < header + 8:
        return None
    spi = _spi(quoted[9], quoted[header:])
    return None if spi is None else Quoted(int.from_bytes(icmp[6:8]), quoted[16:20], *spi)


def _read6(packet: bytes, icmp: bytes) -> Quoted | None:
    quoted = icmp[8:]
    if len(quoted) < 48 or icmp[0] != 2:
        return None
    if summed(packet[8:40] + len(icmp).to_bytes(4) + PROTO_ICMPV6.to_bytes(4) + icmp):
        return None
    at, proto = _upper(quoted)
    spi = _spi(proto, quoted[at:])
    return None if spi is None else Quoted(int.from_bytes(icmp[4:8]), quoted[24:40], *spi)


def _upper(packet: bytes) -> tuple[int, int]:
    """Where an IPv6 packet's upper header is, and its protocol.

    As Linux sees it, AH is passed over like other extension headers: what routers say of it is not heard.
    """
    at, proto = 40, packet[6]
    while (proto in _EXTENSIONS or proto == PROTO_AH) and at + 8 <= len(packet):
        if proto == PROTO_FRAGMENT and int.from_bytes(packet[at + 2 : at + 4]) & 0xFFF8:
            break
        unit, fixed = (4, 2) if proto == PROTO_AH else (8, 1)
        size = 8 if proto == PROTO_FRAGMENT else (packet[at + 1] + fixed) * unit
        proto, at = packet[at], at + size
    return at, proto


def _spi(proto: int, upper: bytes) -> tuple[int, int] | None:
    """The SPI that a quoted header has, and of which protocol it is. ESP in UDP must be quoted that far."""
    if len(upper) < 8:
        return None
    if proto == PROTO_UDP:
        return (int.from_bytes(upper[8:12]), PROTO_ESP) if len(upper) >= 12 else None
    if proto == PROTO_ESP:
        return int.from_bytes(upper[:4]), proto
    if proto == PROTO_AH:
        return int.from_bytes(upper[4:8]), proto
    return (int.from_bytes(upper[2:4]), proto) if proto == PROTO_COMP else None
