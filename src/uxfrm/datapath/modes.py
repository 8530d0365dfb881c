"""Transport and tunnel mode: what happens to the IP headers around a transform.

Follows: xfrm4_transport_output, xfrm4_tunnel_encap_add and their IPv6 twins in net/xfrm/xfrm_output.c;
xfrm4_remove_tunnel_encap, xfrm4_transport_input and theirs in xfrm_input.c; RFC 4301 5.1.2.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath import beet, udp
from uxfrm.datapath.batch import DATA, I64S, PACKETS, Bytes, Int64s
from uxfrm.datapath.carriers import before
from uxfrm.datapath.headers import (
    AF_INET,
    AF_INET6,
    dsfield,
    parse,
    set_dsfield,
    write_checksum,
)
from uxfrm.datapath.wire import copy, read16, write16, write32
from uxfrm.model.outcome import Outcome
from uxfrm.model.template import Mode
from uxfrm.tables.rows import ROWS

_MODE = int(Outcome.IN_MODE)
_ROUTE_OPTIMISATION = int(Outcome.IN_ROUTE_OPTIMISATION)
_AGGFRAG = int(Outcome.IN_IPTFS)

TRANSPORT, TUNNEL, BEET, IPTFS = int(Mode.TRANSPORT), int(Mode.TUNNEL), int(Mode.BEET), int(Mode.IPTFS)

_NOECN, _DECAP_DSCP, _NOPMTUDISC = 1, 2, 4
_DONT_ENCAP_DSCP = 1
_CE, _ECT0 = 3, 2
_HOP_LIMIT = 64
# Of an outer packet: DF whatever the state says.
ALWAYS_WHOLE = 2
_PROTO_IPIP, _PROTO_IPV6 = 4, 41
_EXTENSIONS_MAX = 8


# -- input


@compiled(numba.void(DATA, PACKETS, int64, int64, int64, int64))
def remove_transport(data: Bytes, packets: Any, i: int, start: int, length: int, proto: int) -> None:
    """Move the IP headers up to the payload, and mend protocol, length and checksum."""
    p = packets[i]
    p["header"] -= before(p["encap"])
    header = p["header"]
    shift = start - header - p["offset"]
    data[p["nexthdr"]] = proto
    copy(data, p["offset"] + shift, data, p["offset"], header)
    p["offset"] += shift
    p["nexthdr"] += shift
    p["length"] = header + length
    p["proto"] = proto
    if p["family"] == AF_INET:
        write16(data, p["offset"] + 2, header + length)
        write_checksum(data, p["offset"], header)
    else:
        write16(data, p["offset"] + 4, header + length - 40)
    if p["encap"]:
        udp.mend_checksum(data, packets, i)


@compiled(int64(ROWS, DATA, PACKETS, *[int64] * 5))
def remove_tunnel(
    rows: Any, data: Bytes, packets: Any, i: int, row: int, start: int, length: int, proto: int
) -> int:
    """Make the inner packet the packet; return 0, or the outcome where it is none.

    1. kind and room  2. become it  3. DSCP inwards if asked for  4. congestion inwards unless told not to
    """
    p = packets[i]
    outer = dsfield(data, packets, i)
    if proto == _PROTO_IPIP:
        if length < 20:
            return _MODE
    elif proto == _PROTO_IPV6:
        if length < 40:
            return _MODE
    else:
        return _MODE
    p["offset"] = start
    p["length"] = length
    if (int(data[start]) >> 4) != (4 if proto == _PROTO_IPIP else 6):
        return parse(data, packets, i) or _MODE
    refused = parse(data, packets, i)
    if refused:
        return refused
    inner = dsfield(data, packets, i)
    wanted = inner
    flags = int64(rows[row]["flags"])
    if flags & _DECAP_DSCP:
        wanted = (outer & 0xFC) | (inner & 3)
    if not flags & _NOECN and outer & 3 == _CE and inner & 3:
        wanted |= _CE
    if wanted != inner:
        set_dsfield(data, packets, i, wanted)
    return 0


@compiled(int64(ROWS, DATA, PACKETS, int64, int64, I64S))
def remove(rows: Any, data: Bytes, packets: Any, i: int, row: int, found: Int64s) -> int:
    """Undo the mode of state `row`; found = (offset, length, next header) of what it carried.

    Returns 0, or the outcome. Follows: xfrm_inner_mode_input.
    """
    mode = rows[row]["mode"]
    if mode == TUNNEL:
        return int(remove_tunnel(rows, data, packets, i, row, found[0], found[1], found[2]))
    if mode == BEET:
        return int(beet.remove(rows, data, packets, i, row, found))
    if mode == IPTFS:
        # Linux asks for no particular next header. datapath.aggfrag takes the payload apart.
        packets[i]["offset"] = found[0]
        packets[i]["length"] = found[1]
        return _AGGFRAG
    if mode != TRANSPORT:
        return _ROUTE_OPTIMISATION
    remove_transport(data, packets, i, found[0], found[1], found[2])
    return 0


# -- output


@compiled(numba.types.UniTuple(int64, 2)(DATA, PACKETS, int64))
def _unfragmentable(data: Bytes, packets: Any, i: int) -> tuple[int, int]:
    """The IPv6 headers that stay in front of ESP: their length, and where the next header is named.

    Follows: ip6_find_1stfragopt.
    """
    p = packets[i]
    at = p["offset"]
    nexthdr, header, routed = at + 6, 40, False
    for _ in range(_EXTENSIONS_MAX):
        proto = int(data[nexthdr])
        if proto not in (0, 43, 60) or (proto == 60 and routed) or header + 8 > p["length"]:
            break
        routed = routed or proto == 43
        nexthdr = at + header
        header += (int(data[at + header + 1]) + 1) * 8
    return min(header, p["length"]), nexthdr


@compiled(int64(DATA, PACKETS, int64))
def transport_header(data: Bytes, packets: Any, i: int) -> int:
    """Bytes of IP header that stay in clear in transport mode; also settles where `nexthdr` is."""
    p = packets[i]
    if p["family"] == AF_INET6:
        header, nexthdr = _unfragmentable(data, packets, i)
        p["header"] = header
        p["nexthdr"] = nexthdr
        p["proto"] = int(data[nexthdr])
    return int64(p["header"])


@compiled(numba.void(DATA, PACKETS, int64, int64, int64))
def add_transport(data: Bytes, packets: Any, i: int, room: int, proto: int) -> None:
    """Move the IP headers `room` bytes to the front and name `proto` in them; the length comes later."""
    p = packets[i]
    at = p["offset"] - room
    copy(data, at, data, at + room, p["header"])
    p["offset"] = at
    p["nexthdr"] -= room
    p["proto"] = proto
    data[p["nexthdr"]] = proto


@compiled(int64(int64, int64, int64))
def outer_dsfield(inner: int, flags: int, extra: int) -> int:
    """DSCP and ECN of the outer header. Follows: INET_ECN_encapsulate (RFC 3168 9.1, limited)."""
    dscp = 0 if extra & _DONT_ENCAP_DSCP else inner & 0xFC
    if flags & _NOECN:
        return dscp
    ecn = inner & 3
    return dscp | (_ECT0 if ecn == _CE else ecn)


@compiled(int64(DATA, PACKETS, int64))
def dont_fragment(data: Bytes, packets: Any, i: int) -> int:
    """1 when the packet must not be fragmented on its way, as every IPv6 packet."""
    p = packets[i]
    if p["family"] == AF_INET:
        return 1 if data[p["offset"] + 6] & 0x40 else 0
    return 1


@compiled(numba.void(ROWS, DATA, *[int64] * 5))
def _write_outer4(rows: Any, data: Bytes, row: int, at: int, tos: int, whole: int, proto: int) -> None:
    x = rows[row]
    keep_whole = whole and (whole == ALWAYS_WHOLE or not int64(x["flags"]) & _NOPMTUDISC)
    data[at] = 0x45
    data[at + 1] = tos
    if keep_whole:
        # What is never fragmented is not numbered. Follows: ip_select_ident_segs, without ignore_df.
        write32(data, at + 4, 0x4000)
    else:
        x["ip_id"] = (x["ip_id"] + 1) & 0xFFFF
        write32(data, at + 4, int64(x["ip_id"]) << 16)
    data[at + 8] = _HOP_LIMIT
    data[at + 9] = proto
    write32(data, at + 12, x["saddr"][0])
    write32(data, at + 16, x["daddr"][0])


@compiled(numba.void(ROWS, DATA, *[int64] * 5))
def _write_outer6(rows: Any, data: Bytes, row: int, at: int, tos: int, label: int, proto: int) -> None:
    x = rows[row]
    write32(data, at, 0x60000000 | (tos << 20) | label)
    data[at + 6] = proto
    data[at + 7] = _HOP_LIMIT
    for k in range(4):
        write32(data, at + 8 + 4 * k, x["saddr"][k])
        write32(data, at + 24 + 4 * k, x["daddr"][k])


@compiled(int64(ROWS, DATA, PACKETS, int64, int64, int64, int64))
def add_tunnel(rows: Any, data: Bytes, packets: Any, i: int, row: int, room: int, proto: int) -> int:
    """Write the outer header `room` bytes before the inner packet; return the ESP next header (4 or 41).

    The length comes later. `room` includes the outer IP header itself.
    """
    p = packets[i]
    x = rows[row]
    inner_family = p["family"]
    tos = outer_dsfield(dsfield(data, packets, i), int64(x["flags"]), int64(x["extra_flags"]))
    whole = dont_fragment(data, packets, i)
    label = 0
    if inner_family == AF_INET6:
        label = (read16(data, p["offset"]) & 0xF) << 16 | read16(data, p["offset"] + 2)
    at = p["offset"] - room
    p["offset"] = at
    p["family"] = int64(x["family"])
    p["proto"] = proto
    p["fragment"] = 0
    if x["family"] == AF_INET:
        p["header"] = 20
        p["nexthdr"] = at + 9
        _write_outer4(rows, data, row, at, tos, whole, proto)
    else:
        p["header"] = 40
        p["nexthdr"] = at + 6
        _write_outer6(rows, data, row, at, tos, label, proto)
    return _PROTO_IPIP if inner_family == AF_INET else _PROTO_IPV6


@compiled(numba.void(ROWS, DATA, PACKETS, int64, int64, int64, int64))
def add_aggfrag(rows: Any, data: Bytes, packets: Any, i: int, row: int, room: int, proto: int) -> None:
    """Write the outer header of a payload of IP-TFS, as `add_tunnel`: no DSCP, no ECN, never fragmented.

    Follows: iptfs_encap_add_ipv4, iptfs_encap_add_ipv6.
    """
    p = packets[i]
    x = rows[row]
    at = p["offset"] - room
    p["offset"] = at
    p["family"] = int64(x["family"])
    p["proto"] = proto
    if x["family"] == AF_INET:
        p["header"] = 20
        p["nexthdr"] = at + 9
        _write_outer4(rows, data, row, at, 0, ALWAYS_WHOLE, proto)
    else:
        p["header"] = 40
        p["nexthdr"] = at + 6
        _write_outer6(rows, data, row, at, 0, 0, proto)


@compiled(numba.void(DATA, PACKETS, int64))
def write_length(data: Bytes, packets: Any, i: int) -> None:
    """Set the length (and IPv4's checksum) of the outermost header from the packet's length."""
    p = packets[i]
    if p["family"] == AF_INET:
        write16(data, p["offset"] + 2, p["length"])
        write_checksum(data, p["offset"], p["header"])
    else:
        write16(data, p["offset"] + 4, p["length"] - 40)
