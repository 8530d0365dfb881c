"""What a node sees pass: ESP, ESP in UDP, IKE, and what is in clear, by address.

Rule 1: a packet is counted where it comes in; what the node itself sends is not counted.
Rule 2: nothing that is not IPsec may go uncounted: it has a socket of its own with a large buffer, and what
        the kernel could not put there is told.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple

from uxfrm.lab import names, sieve

_ALL = 0x0003  # ETH_P_ALL
_PACKET, _STATISTICS, _ATTACH, _BUFFER_FORCE = 263, 6, 26, 33
_BUFFER = 64 << 20
_ICMPV6_DISCOVERY = range(130, 144)  # multicast listeners, neighbours, routers: not a packet of anybody's
_IKE = 500
_ICMPV6 = 58
_ICMP = {1: (3, 4, 5, 11, 12), _ICMPV6: (1, 2, 3, 4)}
"""The types that are errors, by protocol."""


class Kind(Enum):
    """What a packet looks like from outside."""

    ESP = "ESP"
    AH = "AH"
    IPCOMP = "IPComp"
    UDP = "ESP in UDP"
    IKE = "IKE"
    ABOUT = "ICMP error about IPsec"
    CLEAR = "clear"


class Passed(NamedTuple):
    """A kind of packet, from where, to where."""

    kind: Kind
    source: str
    destination: str


@dataclass
class Seen:
    """How many packets passed; super-packets count once. `clear` shows the first of those in clear.

    `unread` is how much more IPsec there was than could be looked at, `missed` how much of the rest.
    """

    packets: Counter[Passed] = field(default_factory=Counter)
    clear: list[bytes] = field(default_factory=list)
    unread: int = 0
    missed: int = 0

    def total(self, *kinds: Kind) -> int:
        """How many there were of these kinds."""
        return sum(count for passed, count in self.packets.items() if passed.kind in kinds)


_CLEAR_KEPT = 16
_FRAGMENTS_MAX = 1 << 16
_PROTOCOLS = {sieve.ESP: Kind.ESP, sieve.AH: Kind.AH, sieve.IPCOMP: Kind.IPCOMP}


class Watch:
    """An observer on all interfaces of a namespace, until closed. Raises OSError."""

    def __init__(self, namespace: str) -> None:
        with names.inside(namespace):
            self._ipsec = _listening("ipsec")
            self._other = _listening("other")
        self._seen = Seen()
        self._fragments: dict[bytes, Kind] = {}

    def seen(self) -> Seen:
        """What passed since this was last asked."""
        self._read(self._ipsec)
        self._read(self._other)
        self._seen.unread, self._seen.missed = _missed(self._ipsec), _missed(self._other)
        seen, self._seen = self._seen, Seen()
        return seen

    def close(self) -> None:
        """Look no more."""
        self._ipsec.close()
        self._other.close()

    def _read(self, listening: socket.socket) -> None:
        while True:
            try:
                packet = listening.recv(256)
            except BlockingIOError:
                return
            self._note(packet)

    def _note(self, packet: bytes) -> None:
        kind = self._kind(packet)
        if kind is None:
            return
        four = packet[0] >> 4 == 4
        ends = (packet[12:16], packet[16:20]) if four else (packet[8:24], packet[24:40])
        self._seen.packets[Passed(kind, *(str(ip_address(end)) for end in ends))] += 1
        if kind is Kind.CLEAR and len(self._seen.clear) < _CLEAR_KEPT:
            self._seen.clear.append(packet)

    def _kind(self, packet: bytes) -> Kind | None:
        """1. the header  2. of fragments, what the first one was  3. the protocol, and its ports."""
        found = _upper(packet)
        if found.fragment and found.offset:
            return self._fragments.get(found.fragment, Kind.CLEAR)
        kind = _of_protocol(found.proto, packet[found.at :])
        if found.fragment and kind is not None:
            if len(self._fragments) >= _FRAGMENTS_MAX:
                self._fragments.clear()
            self._fragments[found.fragment] = kind
        return kind


class _Upper(NamedTuple):
    """The upper protocol, where it begins, and whose fragment it is (empty: none), from which offset on."""

    proto: int
    at: int
    fragment: bytes
    offset: int


def _upper(packet: bytes) -> _Upper:
    if packet[0] >> 4 == 4:
        (where,) = struct.unpack_from("!H", packet, 6)
        identity = packet[4:6] + packet[9:10] + packet[12:20] if where & 0x3FFF else b""
        return _Upper(packet[9], (packet[0] & 15) * 4, identity, where & 0x1FFF)
    if packet[6] == sieve.FRAGMENT and len(packet) >= 48:
        (where,) = struct.unpack_from("!H", packet, 42)
        return _Upper(packet[40], 48, packet[44:48] + packet[8:40], where & 0xFFF8)
    if packet[6] == 0 and len(packet) >= 48:  # hop-by-hop options, of multicast listeners' reports
        return _Upper(packet[40], 40 + 8 * (packet[41] + 1), b"", 0)
    return _Upper(packet[6], 40, b"", 0)


def _of_protocol(proto: int, upper: bytes) -> Kind | None:
    """The kind of a packet, None for what keeps a link going."""
    if proto in _PROTOCOLS:
        return _PROTOCOLS[proto]
    if proto in _ICMP and upper:
        return _of_icmp(proto, upper)
    if proto != sieve.UDP or len(upper) < 8:
        return Kind.CLEAR
    ports = struct.unpack_from("!HH", upper)
    if _IKE in ports:
        return Kind.IKE
    if sieve.NAT_T not in ports:
        return Kind.CLEAR
    # A marker of four zero bytes is IKE; one byte alone keeps a mapping of NAT alive.
    return Kind.IKE if upper[8:12] == b"\0\0\0\0" or len(upper) < 12 else Kind.UDP


def _of_icmp(proto: int, upper: bytes) -> Kind | None:
    """An error quotes the packet that it is about."""
    if proto == _ICMPV6 and upper[0] in _ICMPV6_DISCOVERY:
        return None
    quoted = upper[8:]
    if upper[0] not in _ICMP[proto] or len(quoted) < 20 or (len(quoted) < 40 and quoted[0] >> 4 == 6):
        return Kind.CLEAR
    inner = _upper(quoted)
    if inner.proto in _ICMP:
        return Kind.CLEAR
    kind = _of_protocol(inner.proto, quoted[inner.at :])
    return Kind.CLEAR if kind is Kind.CLEAR else Kind.ABOUT


def _listening(wanted: str) -> socket.socket:
    """A socket that gets the received packets of a kind, from their IP header on."""
    code = sieve.program(wanted)
    buffer = ctypes.create_string_buffer(code)
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    listening = socket.socket(socket.AF_PACKET, kind, socket.htons(_ALL))
    program = struct.pack("HL", len(code) // 8, ctypes.addressof(buffer))
    listening.setsockopt(socket.SOL_SOCKET, _ATTACH, program)
    try:
        listening.setsockopt(socket.SOL_SOCKET, _BUFFER_FORCE, _BUFFER)
    except PermissionError:  # a user namespace's root may not: as much as anybody gets
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    with suppress(BlockingIOError):
        while True:  # what came before the filter did
            listening.recv(1)
    return listening


def _missed(listening: socket.socket) -> int:
    """How many packets the kernel had no room for since this was last asked. Source: packet(7)."""
    _, dropped = struct.unpack("II", listening.getsockopt(_PACKET, _STATISTICS, 8))
    return int(dropped)
