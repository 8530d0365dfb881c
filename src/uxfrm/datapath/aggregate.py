"""AGGFRAG payloads put together: inner packets one after the other, cut where one is too long.

Follows: iptfs_enqueue, iptfs_output_queued, iptfs_copy_create_frags in xfrm_iptfs.c. The first packet
of a payload is cut if it must be, others join it as long as they fit whole.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.aggfrag import (
    BLOCK,
    FIRST,
    FROM,
    LAST,
    LENGTH,
    OF,
    PIECES,
    PIECES_END,
    SIDES,
    SIZE,
)  # fmt: skip
from uxfrm.datapath.batch import DATA, I64S, JOBS, PACKETS, Bytes, Int64s
from uxfrm.datapath.headers import dsfield, set_dsfield
from uxfrm.datapath.runs import HEAD, MTU, TAIL
from uxfrm.datapath.wire import copy, write32
from uxfrm.model.iptfs import HEADER
from uxfrm.model.outcome import Outcome

PROTO = 144

_QUEUED = int(Outcome.OUT_IPTFS)
_FULL = int(Outcome.OUT_IPTFS_FULL)
_TOO_BIG = int(Outcome.OUT_IPTFS_TOO_BIG)
_CE = 3


@compiled(int64(SIDES, int64, int64))
def room(sides: Any, slot: int, mtu: int) -> int:
    """The most payload of a packet, the header not counted. Follows: iptfs_get_cur_pmtu."""
    said = sides[slot]["payload"]
    return max(min(said, mtu) if said else mtu, 1)


@compiled(numba.void(SIDES, I64S, int64, int64))
def join(sides: Any, links: Int64s, i: int, slot: int) -> None:
    """Put packet i at the end of the queue of a state."""
    x = sides[slot]
    links[i] = 0
    if x["head"]:
        links[x["tail"] - 1] = i + 1
    else:
        x["head"] = i + 1
    x["tail"] = i + 1


@compiled(int64(SIDES, I64S, DATA, PACKETS, int64, int64, int64, int64))
def enqueue(
    sides: Any, links: Int64s, data: Bytes, packets: Any, i: int, slot: int, mtu: int, depth: int
) -> int:
    """Let packet i wait for others of its state; return its outcome. Its state is the bundle's at `depth`."""
    x, p = sides[slot], packets[i]
    if x["uncut"] and p["length"] > room(sides, slot, mtu):
        return _TOO_BIG
    queued = x["queued"] + p["length"]
    if queued > x["limit"]:
        return _FULL
    if queued > x["marked"]:
        field = dsfield(data, packets, i)
        if field & 3 in (1, 2):
            set_dsfield(data, packets, i, field | _CE)
    x["queued"] = queued
    join(sides, links, i, slot)
    p["job"] = depth
    return _QUEUED


@compiled(numba.void(JOBS, int64, JOBS, int64, *[int64] * 5))
def _piece(
    outers: Int64s, number: int, pieces: Int64s, count: int, i: int, at: int, size: int, block: int, new: int
) -> None:
    if new:
        outers[number, LENGTH] = 0
        outers[number, BLOCK] = block
        outers[number, FIRST] = i
        outers[number, PIECES] = count
    outers[number, LENGTH] += size
    outers[number, LAST] = i
    outers[number, PIECES_END] = count + 1
    pieces[count, OF] = i
    pieces[count, FROM] = at
    pieces[count, SIZE] = size


@compiled(int64(SIDES, I64S, JOBS, PACKETS, int64, JOBS, JOBS, int64))
def plan(
    sides: Any,
    links: Int64s,
    bundles: Int64s,
    packets: Any,
    slot: int,
    outers: Int64s,
    pieces: Int64s,
    number: int,
) -> int:
    """Plan the payloads of a state's queue behind outers[:number]; return how many there are, -1 for no room.

    The queue is as it was, but for packets that are too long now and must not be cut.
    """
    x = sides[slot]
    count = outers[number - 1, PIECES_END] if number else 0
    i = x["head"] - 1
    while i >= 0:
        p = packets[i]
        length, space = p["length"], room(sides, slot, bundles[p["bundle"], MTU + p["job"]])
        if length > space and x["uncut"]:
            p["outcome"] = _TOO_BIG
            i = links[i] - 1
            continue
        wanted = (length + space - 1) // space
        if number + wanted > outers.shape[0] or count + wanted > pieces.shape[0]:
            return -1
        at = size = 0
        while at < length:
            size = min(length - at, space)
            _piece(outers, number, pieces, count, i, at, size, length - at if at else 0, 1)
            number, count, at = number + 1, count + 1, at + size
        left = space - size
        i = links[i] - 1
        while i >= 0 and packets[i]["length"] <= left:
            if count >= pieces.shape[0]:
                return -1
            size = packets[i]["length"]
            _piece(outers, number - 1, pieces, count, i, 0, size, 0, 0)
            count, left = count + 1, left - size
            i = links[i] - 1
    return number


@compiled(numba.types.UniTuple(int64, 2)(JOBS, PACKETS, JOBS, int64))
def measure(bundles: Int64s, packets: Any, outers: Int64s, number: int) -> tuple[int, int]:
    """Bytes that the packets of a batch will take without room for those in a queue, and bytes of outers."""
    kept = more = 0
    for i in range(packets.shape[0]):
        p = packets[i]
        kept += p["length"] if p["outcome"] == _QUEUED else p["high"] - p["low"]
    for k in range(number):
        b = packets[outers[k, FIRST]]["bundle"]
        more += bundles[b, HEAD] + HEADER + outers[k, LENGTH] + bundles[b, TAIL]
    return kept, more


@compiled(numba.void(JOBS, DATA, PACKETS, JOBS, JOBS, int64, DATA, int64, PACKETS))
def fill(
    bundles: Int64s,
    data: Bytes,
    packets: Any,
    outers: Int64s,
    pieces: Int64s,
    number: int,
    laid: Bytes,
    at: int,
    records: Any,
) -> None:
    """Write the planned payloads from laid[at] on, with room around; records[:number] are theirs.

    They have no family yet: they are no IP packets.
    """
    for k in range(number):
        first, p = packets[outers[k, FIRST]], records[k]
        records[k] = packets[outers[k, LAST]]
        b = first["bundle"]
        p["bundle"] = b
        p["job"] = first["job"]
        p["mark"] = 0 if outers[k, BLOCK] else first["mark"]
        p["low"] = at
        p["offset"] = at + bundles[b, HEAD]
        p["length"] = HEADER + outers[k, LENGTH]
        p["high"] = p["offset"] + p["length"] + bundles[b, TAIL]
        p["family"] = 0
        p["header"] = 0
        p["fragment"] = 0
        p["unsettled"] = 0
        p["depth"] = 0
        p["proto"] = PROTO
        p["outcome"] = 0
        write32(laid, p["offset"], outers[k, BLOCK] & 0xFFFF)
        to = p["offset"] + HEADER
        for n in range(outers[k, PIECES], outers[k, PIECES_END]):
            size = pieces[n, SIZE]
            copy(laid, to, data, packets[pieces[n, OF]]["offset"] + pieces[n, FROM], size)
            to += size
        at = p["high"]


@compiled(numba.void(DATA, PACKETS, DATA))
def relay(data: Bytes, packets: Any, laid: Bytes) -> None:
    """Lay the packets of a batch out anew at the beginning of `laid`: those in a queue without room."""
    at = 0
    for i in range(packets.shape[0]):
        p = packets[i]
        if p["outcome"] == _QUEUED:
            copy(laid, at, data, p["offset"], p["length"])
            p["nexthdr"] += at - p["offset"]
            p["low"] = at
            p["offset"] = at
            p["high"] = at + p["length"]
        else:
            copy(laid, at, data, p["low"], p["high"] - p["low"])
            moved = at - p["low"]
            p["low"] += moved
            p["offset"] += moved
            p["high"] += moved
            p["nexthdr"] += moved
        at = p["high"]


@compiled(int64(SIDES, I64S, PACKETS, int64, I64S))
def leave(sides: Any, links: Int64s, packets: Any, slot: int, those: Int64s) -> int:
    """List the packets of a state's queue, which is empty then; return how many."""
    x = sides[slot]
    count, i = 0, x["head"] - 1
    while i >= 0:
        those[count] = i
        count += 1
        i = links[i] - 1
    x["head"] = 0
    x["tail"] = 0
    return count
