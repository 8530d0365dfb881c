"""Packets in pieces: what a router or a host makes of a packet that is larger than its path's MTU.

Follows: ip_do_fragment, ip_options_fragment, ip6_fragment, ip6_find_1stfragopt.
"""

from __future__ import annotations

from uxfrm.datapath.checksums import summed
from uxfrm.model.flow import PROTO_FRAGMENT

_HEADER4, _HEADER6, _FRAGMENT_HEADER = 20, 40, 8
_HOP_BY_HOP, _ROUTING, _DESTINATION = 0, 43, 60
_EXTENSIONS_MAX = 8
_COPIED, _NOP, _END = 0x80, 1, 0


def divide(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """The fragments of a packet, each as long as `mtu` allows. `identification` is for IPv6 ones."""
    return _divide4(packet, mtu) if packet[0] >> 4 == 4 else _divide6(packet, mtu, identification)


def _room(mtu: int, header: int) -> int:
    """Bytes of payload in all fragments but the last."""
    return max((mtu - header) & ~7, 8)


def _divide4(packet: bytes, mtu: int) -> list[bytes]:
    """One that is a fragment already is divided further."""
    header, before = (packet[0] & 15) * 4, int.from_bytes(packet[6:8])
    payload, size = packet[header:], _room(mtu, header)
    first, made = packet[:header], []
    later = first[:_HEADER4] + _for_all(first[_HEADER4:])
    for start in range(0, len(payload), size):
        piece = payload[start : start + size]
        more = start + size < len(payload) or before & 0x2000
        head = bytearray(later if start else first)
        head[2:4] = (header + len(piece)).to_bytes(2)
        place = (before & 0x1FFF) + start // 8
        head[6:8] = (before & 0xC000 | (0x2000 if more else 0) | place).to_bytes(2)
        head[10:12] = bytes(2)
        head[10:12] = summed(head).to_bytes(2)
        made.append(bytes(head) + piece)
    return made


def _for_all(options: bytes) -> bytes:
    """Options as fragments but the first have them: those without the copied bit are blank."""
    found, at = bytearray(options), 0
    while at < len(found) and found[at] != _END:
        size = 1 if found[at] == _NOP else found[at + 1] if at + 1 < len(found) else 0
        if size < 1 or at + size > len(found) or (size == 1 and found[at] != _NOP):
            break
        if not found[at] & _COPIED:
            found[at : at + size] = bytes([_NOP]) * size
        at += size
    return bytes(found)


def _divide6(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    header, named = unfragmentable(packet)
    payload, size = packet[header:], _room(mtu, header + _FRAGMENT_HEADER)
    head, made = bytearray(packet[:header]), []
    proto, head[named] = head[named], PROTO_FRAGMENT
    for start in range(0, len(payload), size):
        piece = payload[start : start + size]
        more = start + size < len(payload)
        head[4:6] = (header - _HEADER6 + _FRAGMENT_HEADER + len(piece)).to_bytes(2)
        place = bytes([proto, 0]) + (start | more).to_bytes(2) + identification.to_bytes(4)
        made.append(bytes(head) + place + piece)
    return made


def unfragmentable(packet: bytes) -> tuple[int, int]:
    """The length of the IPv6 headers that all fragments have, and where these name what follows."""
    at, named, routed = _HEADER6, 6, False
    for _ in range(_EXTENSIONS_MAX):
        proto = packet[named]
        if proto not in (_HOP_BY_HOP, _ROUTING, _DESTINATION) or at + 8 > len(packet):
            break
        if proto == _DESTINATION and routed:
            break
        routed = routed or proto == _ROUTING
        named, at = at, at + (packet[at + 1] + 1) * 8
    return (at, named) if at <= len(packet) else (_HEADER6, 6)
