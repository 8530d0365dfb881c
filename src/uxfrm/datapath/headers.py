"""Reading and writing IPv4 and IPv6 headers inside a batch's buffer.

Follows: ip_rcv_core, ipv6_rcv_core (what is dropped before XFRM), __xfrm_decode_session (what a flow is).
All functions take the buffer and absolute offsets; reads outside it raise IndexError (boundscheck).
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, PACKETS, Bytes
from uxfrm.datapath.wire import read16, read32, write16
from uxfrm.model.outcome import Outcome

AF_INET, AF_INET6 = 2, 10

_BAD = int(Outcome.IN_IP_HEADER)
_CUT = int(Outcome.IN_IP_TRUNCATED)
_SUM = int(Outcome.IN_IP_CHECKSUM)
_NOT_IP = int(Outcome.IN_NOT_IP)

_EXTENSIONS_MAX = 8


@compiled(int64(DATA, int64, int64))
def checksum(data: Bytes, at: int, length: int) -> int:
    """The Internet checksum of a header, a multiple of 4 bytes (RFC 1071); 0 over a correct one."""
    total = 0
    for i in range(at, at + length, 4):
        word = read32(data, i)
        total += (word >> 16) + (word & 0xFFFF)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


@compiled(numba.void(DATA, int64, int64))
def write_checksum(data: Bytes, at: int, header: int) -> None:
    """Set the checksum of the IPv4 header of `header` bytes at `at`."""
    write16(data, at + 10, 0)
    write16(data, at + 10, checksum(data, at, header))


@compiled(int64(DATA, PACKETS, int64))
def _parse4(data: Bytes, packets: Any, i: int) -> int:
    """1. header length  2. checksum  3. total length  4. trim link-layer padding."""
    p = packets[i]
    at = p["offset"]
    header = (int(data[at]) & 15) * 4
    if header < 20 or header > p["length"]:
        return _BAD
    if checksum(data, at, header) != 0:
        return _SUM
    total = read16(data, at + 2)
    if total > p["length"]:
        return _CUT
    if total < header:
        return _BAD
    p["length"] = total
    p["family"] = AF_INET
    p["header"] = header
    p["proto"] = int(data[at + 9])
    p["nexthdr"] = at + 9
    p["fragment"] = 1 if read16(data, at + 6) & 0x3FFF else 0
    return 0


@compiled(int64(DATA, PACKETS, int64))
def _parse6(data: Bytes, packets: Any, i: int) -> int:
    """1. payload length  2. trim  3. walk hop-by-hop, routing, destination options and fragment headers."""
    p = packets[i]
    at = p["offset"]
    if p["length"] < 40:
        return _BAD
    total = 40 + read16(data, at + 4)
    if total > p["length"]:
        return _CUT
    p["length"] = total
    p["family"] = AF_INET6
    p["fragment"] = 0
    nexthdr, header = at + 6, 40
    for _ in range(_EXTENSIONS_MAX):
        proto = int(data[nexthdr])
        if proto not in (0, 43, 44, 60) or header + 8 > total:
            break
        nexthdr = at + header
        if proto == 44:
            # One that says neither "more" nor "further on" stands before a whole packet (RFC 6946).
            if read16(data, nexthdr + 2) & 0xFFF9:
                p["fragment"] = 1
            header += 8
            if read16(data, nexthdr + 2) & 0xFFF8:
                # What follows is from the middle of the packet.
                break
        else:
            header += (int(data[at + header + 1]) + 1) * 8
    if header > total:
        return _BAD
    p["header"] = header
    p["proto"] = int(data[nexthdr])
    p["nexthdr"] = nexthdr
    return 0


@compiled(int64(DATA, PACKETS, int64))
def parse(data: Bytes, packets: Any, i: int) -> int:
    """Fill packet i's header fields and trim it to its own length; return 0, or the outcome that ends it."""
    p = packets[i]
    if p["length"] < 20:
        return _NOT_IP if p["length"] < 1 else _BAD
    version = int(data[p["offset"]]) >> 4
    if version == 4:
        return _parse4(data, packets, i)
    if version == 6:
        return _parse6(data, packets, i)
    return _NOT_IP


@compiled(int64(DATA, int64, int64))
def _gre_key(data: Bytes, at: int, room: int) -> int:
    """The 32-bit key of a GRE header (RFC 2890), 0 without one."""
    flags = int(data[at])
    where = 8 if flags & 0x80 else 4
    if not flags & 0x20 or room < where + 4:
        return 0
    return read32(data, at + where)


@compiled(int64(DATA, PACKETS, int64))
def _only_proto(data: Bytes, packets: Any, i: int) -> int:
    """1 for fragments, and behind any IPv6 fragment header. Follows: `onlyproto` of decode_session6."""
    p = packets[i]
    at = p["offset"]
    if p["fragment"]:
        return 1
    if p["family"] == AF_INET:
        return 0
    nexthdr, header = at + 6, 40
    while header < p["header"]:
        if data[nexthdr] == 44:
            return 1
        nexthdr = at + header
        header += (int(data[nexthdr + 1]) + 1) * 8
    return 0


@compiled(int64(DATA, PACKETS, int64))
def ports(data: Bytes, packets: Any, i: int) -> int:
    """What Linux takes for ports, as sport << 16 | dport; 0 for fragments and where nothing can be read."""
    p = packets[i]
    proto = p["proto"]
    at = p["offset"] + p["header"]
    room = p["length"] - p["header"]
    if _only_proto(data, packets, i):
        return 0
    if proto in (6, 17, 132, 136):
        return read32(data, at) if room >= 4 else 0
    if (proto == 1 and p["family"] == AF_INET) or (proto == 58 and p["family"] == AF_INET6):
        return (int(data[at]) << 16) | int(data[at + 1]) if room >= 2 else 0
    if proto == 47 and room >= 4:
        return _gre_key(data, at, room)
    if proto == 135 and p["family"] == AF_INET6:
        return int(data[at + 2]) << 16 if room >= 3 else 0
    return 0


@compiled(int64(DATA, PACKETS, int64))
def dsfield(data: Bytes, packets: Any, i: int) -> int:
    """The TOS byte or traffic class of packet i."""
    p = packets[i]
    at = p["offset"]
    if p["family"] == AF_INET:
        return int(data[at + 1])
    return (read16(data, at) >> 4) & 0xFF


@compiled(numba.void(DATA, PACKETS, int64, int64))
def set_dsfield(data: Bytes, packets: Any, i: int, value: int) -> None:
    """Write the TOS byte or traffic class of packet i; an IPv4 checksum is redone."""
    p = packets[i]
    at = p["offset"]
    if p["family"] == AF_INET:
        data[at + 1] = value & 0xFF
        write_checksum(data, at, p["header"])
    else:
        write16(data, at, (read16(data, at) & 0xF00F) | (value << 4))
