"""Output: from inner packet to protected packet, one transform at a time, a run of packets at a time.

Follows: xfrm_output_one, esp_output. The state decides nothing here that was not decided when its bundle
was made; a bundle is a list of rows with the genids they had.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath import aggregate, ah, beet, esp, espintcp, ipcomp, udp
from uxfrm.datapath.aggfrag import SIDES
from uxfrm.datapath.batch import DATA, I64S, JOBS, PACKETS, Bytes, Int64s
from uxfrm.datapath.carriers import ESPINTCP, ESPINUDP, added
from uxfrm.datapath.headers import AF_INET6, parse
from uxfrm.datapath.limits import (
    NOTICE_AEVENT,
    NOTICE_HARD,
    NOTICE_USED,
    check_aevent,
    check_limits,
)
from uxfrm.datapath.modes import (
    BEET,
    IPTFS,
    TUNNEL,
    add_aggfrag,
    add_transport,
    add_tunnel,
    dont_fragment,
    transport_header,
    write_length,
)
from uxfrm.datapath.runs import DEPTH, GENID, MTU, PATH, ROW, TCP
from uxfrm.model.outcome import Outcome
from uxfrm.tables.rows import REPLAY_ESN, ROWS, TRANSFORM_AH, TRANSFORM_COMP, TRANSFORM_ESP

_SENT = int(Outcome.SENT)
_STREAMED = int(Outcome.STREAMED)
_INVALID = int(Outcome.OUT_STATE_INVALID)
_EXPIRED = int(Outcome.OUT_EXPIRED)
_OVERFLOW = int(Outcome.OUT_SEQ_OVERFLOW)
_BEET_FRAGMENT = int(Outcome.OUT_BEET_FRAGMENT)
_TOO_BIG = int(Outcome.OUT_TOO_BIG)
_INTERFACE = int(Outcome.OUT_INTERFACE_TOO_BIG)
_ROOM = int(Outcome.OUT_ROOM)
_ENGINE = int(Outcome.OUT_ENGINE)
_BAD = int(Outcome.OUT_IP_HEADER)
_FRAGMENTED = int(Outcome.OUT_FRAGMENTED)
_OUTER_TOO_BIG = int(Outcome.OUT_OUTER_TOO_BIG)

_VALID = 1
_ESP, _TCP = 50, 6
_SEQ_MASK = 0xFFFFFFFF
_OSEQ_MAY_WRAP = 2
IPV6_MIN_MTU = 1280


@compiled(int64(DATA, PACKETS))
def classify(data: Bytes, packets: Any) -> int:
    """Read every packet's IP header; a malformed one ends here. Returns how many are left."""
    left = 0
    for i in range(packets.shape[0]):
        p = packets[i]
        p["policy"] = -1
        p["bundle"] = -1
        p["unsettled"] = 0
        p["origin"] = i
        p["outcome"] = _BAD if parse(data, packets, i) else 0
        left += 0 if p["outcome"] else 1
    return left


@compiled(int64(ROWS, PACKETS, int64, int64))
def _next_seq(rows: Any, packets: Any, i: int, row: int) -> int:
    """Give packet i the next sequence number; return 0, or the outcome where there is none left.

    Follows: xfrm_replay_overflow_legacy, _esn.
    """
    x, p = rows[row], packets[i]
    if x["oseq"] == _SEQ_MASK:
        if x["replay"] == REPLAY_ESN:
            if x["oseq_hi"] == _SEQ_MASK:
                return _OVERFLOW
            x["oseq_hi"] += 1
        elif int64(x["extra_flags"]) & _OSEQ_MAY_WRAP:
            x["wraps"] += 1
        else:
            return _OVERFLOW
    x["oseq"] = (x["oseq"] + 1) & _SEQ_MASK
    p["seq"] = x["oseq"]
    p["seq_hi"] = x["oseq_hi"]
    return 0


@compiled(int64(ROWS, DATA, PACKETS, int64, int64, int64, DATA, JOBS, int64, I64S))
def _encapsulate(
    rows: Any,
    data: Bytes,
    packets: Any,
    i: int,
    row: int,
    mtu: int,
    pool: Bytes,
    jobs: Int64s,
    number: int,
    notice: Int64s,
) -> int:
    """Wrap packet i for state `row` up to encryption; return 0 or the outcome.

    notice[0] becomes a notice of limits, notice[1], if set, one of aevents.
    1. mark  2. size  3. room  4. mode  5. life and limits  6. sequence number  7. counters
    8. lengths  9. ESP and UDP, AH, or what IPComp is to compress
    """
    p, x = packets[i], rows[row]
    p["mark"] = (p["mark"] & ~x["set_m"]) | x["set_v"]
    mode, kept = x["mode"], 0
    outer = 20 if x["family"] == 2 else 40
    if mode in (TUNNEL, BEET):
        if mode == BEET:
            if p["fragment"] and p["family"] == 2:
                return _BEET_FRAGMENT
            kept = beet.kept(packets, i)
        # Follows: __xfrm6_output for a packet's first tunnel, xfrm6_tunnel_check_size for the others: there
        # passes what every IPv6 link carries.
        least = p["family"] == AF_INET6 and (mode == BEET or p["depth"] > 1)
        limit = max(mtu, IPV6_MIN_MTU) if least else mtu
        if mtu and p["length"] > limit and dont_fragment(data, packets, i):
            # States with an if_id are behind an interface, which looks first. Follows: xfrmi_xmit2.
            return _INTERFACE if x["if_id"] and p["depth"] == 1 else _TOO_BIG
    elif mode != IPTFS:
        kept = outer = transport_header(data, packets, i)
        if mtu and p["family"] != AF_INET6 and p["length"] > mtu and dont_fragment(data, packets, i):
            return _TOO_BIG
    transform, icv_bytes = x["transform"], int64(x["icv_bytes"])
    length = p["length"] - kept
    around = tfc = trailer = 0
    if transform == TRANSFORM_ESP:
        around = added(x["encap"])
        proto = udp.PROTO if x["encap"] == ESPINUDP else _ESP
        front = around + esp.HEADER + int64(x["iv_bytes"])
        tfc = esp.tfc_padding(rows, row, length, mtu) if x["tfcpad"] else 0
        trailer = esp.trailer(rows, row, length + tfc) + icv_bytes
    elif transform == TRANSFORM_AH:
        proto, front = ah.PROTO, ah.header_bytes(rows, row, icv_bytes)
    else:
        proto, front = ipcomp.uncompressed(packets, i, mode), 0
    start = p["offset"] + kept
    if start - front - outer < p["low"]:
        return _ROOM
    if start + length + tfc + trailer > p["high"]:
        return _ROOM
    if mode == TUNNEL:
        next_header = add_tunnel(rows, data, packets, i, row, front + outer, proto)
    elif mode == IPTFS:
        next_header = aggregate.PROTO
        add_aggfrag(rows, data, packets, i, row, front + outer, proto)
    elif mode == BEET:
        next_header = beet.add(rows, data, packets, i, row, front + outer, proto)
    else:
        next_header = p["proto"]
        add_transport(data, packets, i, front, proto)
    notice[0] = check_limits(rows, row, p["time"])
    if notice[0] == NOTICE_HARD:
        return _EXPIRED
    if transform != TRANSFORM_COMP:
        refused = _next_seq(rows, packets, i, row)
        if refused:
            return refused
        if notice[1]:
            notice[1] = check_aevent(rows, row)
    x["bytes"] += length
    x["packets"] += 1
    x["lastused"] = p["time"]
    p["spi"] = x["spi"]
    p["length"] = start + length + tfc + trailer - p["offset"]
    write_length(data, packets, i)
    if transform == TRANSFORM_COMP:
        ipcomp.seal(packets, i, start, length, jobs, number)
        return 0
    if transform == TRANSFORM_AH:
        ah.seal(rows, data, packets, i, row, start - front, next_header, jobs, number)
        return 0
    at, trailer = start - front + around, trailer - icv_bytes
    esp.write_header(rows, data, packets, i, row, pool, at)
    esp.write_trailer(data, start + length, tfc, trailer, next_header)
    esp.seal(rows, packets, i, row, at, length + tfc + trailer, jobs, number)
    if x["encap"] == ESPINTCP:
        return int(espintcp.write_length(data, packets, i, start - front))
    return int(udp.write_header(rows, data, packets, i, row, start - front)) if around else 0


@compiled(
    numba.types.UniTuple(int64, 3)(
        ROWS,
        JOBS,
        DATA,
        PACKETS,
        I64S,
        int64,
        int64,
        int64,
        DATA,
        JOBS,
        JOBS,
        int64,
        int64,
        I64S,
        SIDES,
        I64S,
    )
)
def begin(
    rows: Any,
    bundles: Int64s,
    data: Bytes,
    packets: Any,
    active: Int64s,
    start: int,
    count: int,
    depth: int,
    pool: Bytes,
    jobs: Int64s,
    notices: Int64s,
    noted: int,
    monitored: int,
    notice: Int64s,
    sides: Any,
    links: Int64s,
) -> tuple[int, int, int]:
    """Wrap active[start:count] in their bundle's transform `depth`; return (where it stopped, jobs, noted).

    It stops behind a packet that took a state to a limit, so that this has its effect before the next packet,
    and, where aevents are `monitored`, behind one that causes one. `notice` is scratch.
    What an IP-TFS state is to put together stays behind, in its queue.
    """
    made = 0
    for k in range(start, count):
        i = active[k]
        p = packets[i]
        b = p["bundle"]
        if p["outcome"] or depth >= bundles[b, DEPTH]:
            continue
        row = bundles[b, ROW + depth]
        if rows[row]["genid"] != bundles[b, GENID + depth] or rows[row]["life"] != _VALID:
            p["outcome"] = _INVALID
            continue
        p["path"][depth] = row
        p["pathgen"][depth] = rows[row]["genid"]
        p["depth"] = depth + 1
        mtu = bundles[b, MTU + depth]
        tcp = bundles[b, TCP]
        if tcp and p["length"] > tcp and p["proto"] == _TCP and p["family"] == AF_INET6 and not depth:
            p["outcome"] = _TOO_BIG
            continue
        if rows[row]["mode"] == IPTFS and p["family"]:
            slot = int64(rows[row]["iptfs"])
            p["outcome"] = aggregate.enqueue(sides, links, data, packets, i, slot, mtu, depth)
            continue
        p["job"] = made
        notice[0], notice[1] = 0, monitored
        p["outcome"] = _encapsulate(rows, data, packets, i, row, mtu, pool, jobs, made, notice)
        if not p["outcome"]:
            made += 1
        if notice[0]:
            notices[noted, 0] = row
            notices[noted, 1] = notice[0]
            noted += 1
        if notice[1] == NOTICE_AEVENT:
            notices[noted, 0] = row
            notices[noted, 1] = NOTICE_AEVENT
            noted += 1
        if notice[1] == NOTICE_AEVENT or notice[0] not in (0, NOTICE_USED):
            return k + 1, made, noted
    return count, made, noted


@compiled(int64(DATA, PACKETS, int64))
def _oversized(data: Bytes, packets: Any, i: int) -> int:
    """What becomes of a protected packet that is larger than its path's MTU. Follows: ip_fragment."""
    if packets[i]["family"] != AF_INET6 and dont_fragment(data, packets, i):
        return _OUTER_TOO_BIG
    return _FRAGMENTED


@compiled(numba.void(ROWS, JOBS, DATA, PACKETS, I64S, int64, int64, JOBS, int64))
def commit(
    rows: Any,
    bundles: Int64s,
    data: Bytes,
    packets: Any,
    active: Int64s,
    start: int,
    stop: int,
    jobs: Int64s,
    depth: int,
) -> None:
    """Mark the packets whose last transform is done as sent; a refused job never leaves as clear text.

    What goes into a TCP stream is done with the transform that says so.
    """
    for k in range(start, stop):
        p = packets[active[k]]
        b = p["bundle"]
        if p["outcome"] or depth >= bundles[b, DEPTH]:
            continue
        if jobs[p["job"], esp.RESULT] != 1:
            p["outcome"] = _ENGINE
            continue
        if rows[bundles[b, ROW + depth]]["encap"] == ESPINTCP:
            p["outcome"] = _STREAMED
            continue
        udp.write_checksum6(data, packets, active[k])
        if depth + 1 == bundles[b, DEPTH]:
            p["outcome"] = _SENT
            if bundles[b, PATH] and p["length"] > bundles[b, PATH]:
                p["outcome"] = _oversized(data, packets, active[k])
