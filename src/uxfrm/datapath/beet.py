"""BEET mode: the inner addresses are the state's, so that they need not be sent with every packet.

The outer header is the inner one with other addresses; options of an inner IPv4 header travel behind it in
a pseudo header. Follows: draft-nikander-esp-beet-mode; xfrm4_beet_encap_add and xfrm6_beet_encap_add in
net/xfrm/xfrm_output.c; xfrm4_remove_beet_encap and xfrm6_remove_beet_encap in xfrm_input.c.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, I64S, PACKETS, Bytes, Int64s
from uxfrm.datapath.headers import AF_INET, AF_INET6, dsfield, parse, write_checksum
from uxfrm.datapath.wire import copy, read32, write16, write32
from uxfrm.model.outcome import Outcome
from uxfrm.tables.rows import ROWS

_REFUSED = int(Outcome.IN_BEET)

_PROTO_BEETPH = 94
_PSEUDO = 4  # bytes of the pseudo header, without padding
_PSEUDO_MAX = 8  # the same with padding
_OPTIONS_MAX = 250
_NOP = 1
_DF = 0x4000


@compiled(numba.types.UniTuple(int64, 3)(DATA, PACKETS, int64))
def _taken_over(data: Bytes, packets: Any, i: int) -> tuple[int, int, int]:
    """What one header hands to the other: identification with flags, TTL, flow label."""
    p = packets[i]
    at = p["offset"]
    if p["family"] == AF_INET:
        return read32(data, at + 4), int(data[at + 8]), 0
    return _DF, int(data[at + 7]), read32(data, at) & 0xFFFFF


@compiled(numba.void(DATA, *[int64] * 5))
def _write4(data: Bytes, at: int, tos: int, numbers: int, ttl: int, proto: int) -> None:
    data[at] = 0x45
    data[at + 1] = tos
    write32(data, at + 4, numbers)
    data[at + 8] = ttl
    data[at + 9] = proto


@compiled(numba.void(DATA, *[int64] * 5))
def _write6(data: Bytes, at: int, tos: int, label: int, ttl: int, proto: int) -> None:
    write32(data, at, 0x60000000 | (tos << 20) | label)
    data[at + 6] = proto
    data[at + 7] = ttl


# -- input


@compiled(int64(DATA, I64S))
def _options(data: Bytes, found: Int64s) -> int:
    """Step over a pseudo header; return the bytes of options behind it, or -1 where it is malformed.

    `found` is (offset, length, next header), as in esp.payload.
    """
    if found[2] != _PROTO_BEETPH:
        return 0
    at = found[0]
    if found[1] < _PSEUDO:
        return -1
    size = _PSEUDO + int(data[at + 2])
    options = int(data[at + 1]) * 8 + _PSEUDO_MAX - size
    if options < 0 or options & 3 or options > _OPTIONS_MAX or found[1] < size:
        return -1
    found[0] = at + size
    found[1] -= size
    found[2] = int(data[at])
    return options


@compiled(int64(DATA, PACKETS, int64, int64, I64S))
def _make_place(data: Bytes, packets: Any, i: int, size: int, found: Int64s) -> int:
    """Where a header of `size` bytes goes in front of the payload, which moves if need be; -1 for nowhere."""
    p = packets[i]
    short = p["low"] - (found[0] - size)
    if short > 0:
        if found[0] + found[1] + short > p["high"]:
            return -1
        copy(data, found[0] + short, data, found[0], found[1])
        found[0] += short
    return int(found[0] - size)


@compiled(int64(ROWS, DATA, PACKETS, int64, int64, I64S))
def remove(rows: Any, data: Bytes, packets: Any, i: int, row: int, found: Int64s) -> int:
    """Rebuild the inner header from the outer one and the state's selector; return 0 or the outcome.

    `found` is the payload's offset, length and next header.
    1. the outer header's fields  2. options  3. place  4. header, with the selector's addresses  5. check it
    """
    p, x = packets[i], rows[row]
    tos = dsfield(data, packets, i)
    numbers, ttl, label = _taken_over(data, packets, i)
    four = x["sel_family"] == AF_INET
    options = _options(data, found) if four else 0
    if options < 0 or not x["sel_family"]:
        return _REFUSED
    size = 20 if four else 40
    at = _make_place(data, packets, i, size, found)
    if at < 0:
        return _REFUSED
    p["offset"] = at
    p["length"] = size + found[1]
    if four:
        _write4(data, at, tos, numbers, ttl, found[2])
        data[at] = 0x40 | ((5 + options // 4) & 15)
        write16(data, at + 2, p["length"])
        write32(data, at + 12, x["sel_saddr"][0])
        write32(data, at + 16, x["sel_daddr"][0])
        header = (int(data[at]) & 15) * 4
        if 20 <= header <= p["length"]:
            write_checksum(data, at, header)
    else:
        _write6(data, at, tos, label, ttl, found[2])
        write16(data, at + 4, found[1])
        for k in range(4):
            write32(data, at + 8 + 4 * k, x["sel_saddr"][k])
            write32(data, at + 24 + 4 * k, x["sel_daddr"][k])
    return parse(data, packets, i)


# -- output


@compiled(int64(PACKETS, int64))
def _pseudo_bytes(packets: Any, i: int) -> int:
    """Bytes of the pseudo header that packet i's IPv4 options need."""
    options = packets[i]["header"] - 20
    return int(_PSEUDO_MAX - (options & 4)) if options else 0


@compiled(int64(PACKETS, int64))
def kept(packets: Any, i: int) -> int:
    """Bytes from the packet's beginning to the payload for ESP, to which a pseudo header belongs."""
    return 40 if packets[i]["family"] == AF_INET6 else 20 - _pseudo_bytes(packets, i)


@compiled(numba.void(DATA, *[int64] * 3))
def _write_pseudo(data: Bytes, at: int, options: int, proto: int) -> None:
    padding = 4 - (options & 4)
    data[at] = proto
    data[at + 1] = options // 8
    data[at + 2] = padding
    data[at + 3] = 0
    for k in range(padding):
        data[at + _PSEUDO + k] = _NOP


@compiled(int64(ROWS, DATA, PACKETS, *[int64] * 4))
def add(rows: Any, data: Bytes, packets: Any, i: int, row: int, room: int, proto: int) -> int:
    """Write the outer header `room` bytes before the payload for ESP; return its next header.

    The length comes later. `room` includes the outer IP header itself.
    """
    p, x = packets[i], rows[row]
    tos = dsfield(data, packets, i)
    numbers, ttl, label = _taken_over(data, packets, i)
    start = p["offset"] + kept(packets, i)
    if p["family"] == AF_INET:
        next_header = int(data[p["offset"] + 9])
        options = p["header"] - 20
        if options:
            _write_pseudo(data, start, options, next_header)
            next_header = _PROTO_BEETPH
    else:
        next_header = int(data[p["offset"] + 6])
    at = start - room
    p["offset"] = at
    p["family"] = int64(x["family"])
    p["proto"] = proto
    p["fragment"] = 0
    if x["family"] == AF_INET:
        p["header"] = 20
        p["nexthdr"] = at + 9
        _write4(data, at, tos, numbers, ttl, proto)
        write32(data, at + 12, x["saddr"][0])
        write32(data, at + 16, x["daddr"][0])
    else:
        p["header"] = 40
        p["nexthdr"] = at + 6
        _write6(data, at, tos, label, ttl, proto)
        for k in range(4):
            write32(data, at + 8 + 4 * k, x["saddr"][k])
            write32(data, at + 24 + 4 * k, x["daddr"][k])
    return next_header
