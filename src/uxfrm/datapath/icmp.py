"""ICMP errors that a host makes about packets: what is said, to whom it is not said, and how often.

Follows: icmp_send, icmp6_send, icmp_global_allow. As in Linux messages that a packet is too big are not
limited: there is one for each such packet. IPv4 options are not echoed.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from uxfrm.datapath.checksums import summed
from uxfrm.model.address import Address

_ICMP, _ICMPV6 = 1, 58
_HOP_LIMIT = 64
_QUOTED4, _QUOTED6 = 576 - 28, 1280 - 48
_MOST4 = 18
_ERRORS4 = frozenset({3, 4, 5, 11, 12})
_EXTENSIONS, _EXTENSIONS_MAX = (0, 43, 44, 60), 8
_INTERNET_CONTROL, _TOS_BITS = 0xC0, 0x1E


class Error(NamedTuple):
    """Type, code and the 32 bits behind the checksum."""

    type: int
    code: int
    info: int = 0


def too_big(family_bytes: int, mtu: int) -> Error:
    """A packet is larger than `mtu`. `family_bytes` is the size of an address (4 or 16)."""
    return Error(3, 4, min(mtu, 0xFFFF)) if family_bytes == 4 else Error(2, 0, mtu)


def reassembly_time(family_bytes: int) -> Error:
    """A packet's fragments did not come in time."""
    return Error(11, 1) if family_bytes == 4 else Error(3, 1)


def parameter_problem(pointer: int, incomplete: bool) -> Error:
    """ICMPv6: something is wrong at `pointer`, or the first fragment has not all headers (RFC 8200 4.5)."""
    return Error(4, 3 if incomplete else 0, pointer)


def source_of(packet: bytes) -> Address:
    """Who sent a packet."""
    return packet[12:16] if packet[0] >> 4 == 4 else packet[8:24]


def destination_of(packet: bytes) -> Address:
    """Whom a packet is for."""
    return packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]


def answer(packet: bytes, error: Error, source: Address) -> bytes | None:
    """The ICMP error about `packet`, from `source` to who sent it; None where there must be none.

    None is made about ICMP errors, fragments but the first, packets to many, and packets from nobody.
    """
    if packet[0] >> 4 == 4:
        return _answer4(packet, error, source) if _answerable4(packet) else None
    return _answer6(packet, error, source) if _answerable6(packet, error) else None


def _nobody4(address: bytes) -> bool:
    """True for multicast, broadcast, unspecified and loopback addresses."""
    return address[0] >= 0xE0 or address[0] in (0, 127)


def _answerable4(packet: bytes) -> bool:
    if _nobody4(packet[12:16]) or packet[16] >= 0xE0 or int.from_bytes(packet[6:8]) & 0x1FFF:
        return False
    kind = packet[(packet[0] & 15) * 4 :][:1]
    return packet[9] != _ICMP or (bool(kind) and kind[0] <= _MOST4 and kind[0] not in _ERRORS4)


def _answerable6(packet: bytes, error: Error) -> bool:
    if packet[8] == 0xFF or not any(packet[8:24]) or (packet[24] == 0xFF and error.type != 2):
        return False
    at, named, fragment = 40, 6, 0
    for _ in range(_EXTENSIONS_MAX):
        if packet[named] not in _EXTENSIONS or at + 8 > len(packet):
            break
        if packet[named] == 44:
            fragment = int.from_bytes(packet[at + 2 : at + 4]) & 0xFFF8
            named, at = at, at + 8
            if fragment:
                break
        else:
            named, at = at, at + (packet[at + 1] + 1) * 8
    if packet[named] != _ICMPV6:
        return True
    if at >= len(packet):
        return bool(fragment)
    return packet[at] >= 128


def _answer4(packet: bytes, error: Error, source: Address) -> bytes:
    body = bytearray(struct.pack(">BBHI", error.type, error.code, 0, error.info) + packet[:_QUOTED4])
    body[2:4] = summed(body).to_bytes(2)
    tos = packet[1] & _TOS_BITS | _INTERNET_CONTROL
    head = bytearray(struct.pack(">BBHIBBH", 0x45, tos, 20 + len(body), 0, _HOP_LIMIT, _ICMP, 0))
    head += source + packet[12:16]
    head[10:12] = summed(head).to_bytes(2)
    return bytes(head + body)


def _answer6(packet: bytes, error: Error, source: Address) -> bytes:
    body = bytearray(struct.pack(">BBHI", error.type, error.code, 0, error.info) + packet[:_QUOTED6])
    ends = source + packet[8:24]
    body[2:4] = summed(ends + struct.pack(">II", len(body), _ICMPV6) + body).to_bytes(2)
    return struct.pack(">IHBB", 6 << 28, len(body), _ICMPV6, _HOP_LIMIT) + ends + body


class Allowance:
    """How many limited messages may go: the token bucket of net.ipv4.icmp_msgs_per_sec and _burst."""

    def __init__(self) -> None:
        self.per_second, self.burst = 1000, 50
        self._credit, self._stamp = 50.0, 0.0

    def allows(self, now_s: float) -> bool:
        """Take one, if there is one at `now_s`. Follows: icmp_global_allow, without its randomness."""
        passed = now_s - self._stamp
        if passed < 0 or passed >= 0.02:
            self._stamp = now_s
            earned = self.per_second * min(max(passed, 0), 1)
            self._credit = min(self._credit + earned, self.burst)
        if self._credit < 1:
            return False
        self._credit -= 1
        return True
