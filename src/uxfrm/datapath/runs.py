"""Output: which packets of a batch may pass their transforms together, and which are to be decided again.

A run is as many packets as may go together and still fare as if they had gone one by one: what a packet does
to a state is over before the packet behind it asks for its way. Follows: xfrm_bundle_ok.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import I64S, JOBS, PACKETS, Int64s
from uxfrm.datapath.limits import near_limit
from uxfrm.model.outcome import Outcome
from uxfrm.tables.rows import ROWS

_NO_STATE = int(Outcome.OUT_NO_STATE)
_SOCKET_NO_STATE = int(Outcome.OUT_SOCKET_NO_STATE)
_POLICY_ERROR = int(Outcome.OUT_POLICY_ERROR)
_STATE_DIR = int(Outcome.OUT_STATE_DIR)

_VALID = 1

# Columns of a bundle: transforms, head and tail room, then per transform row, genid, MTU for the payload and
# whether the state was dying; the path's MTU, 0 where nobody knows; at last the longest IPv6 packet of TCP
# that is not answered, 0 where TCP knows what IPsec adds.
DEPTH, HEAD, TAIL = 0, 1, 2
ROW, GENID, MTU, DYING = 3, 9, 15, 21
PATH = 27
TCP = 28
BUNDLE_COLUMNS = 29


@compiled(numba.boolean(ROWS, JOBS, int64))
def fresh(rows: Any, bundles: Int64s, bundle: int) -> bool:
    """True while every state of the bundle is as it was when the bundle was made. Follows: xfrm_bundle_ok.

    One that is dying since is asked for anew, as Linux asks for every packet that it forwards.
    """
    for depth in range(bundles[bundle, DEPTH]):
        x = rows[bundles[bundle, ROW + depth]]
        if x["genid"] != bundles[bundle, GENID + depth] or x["life"] != _VALID:
            return False
        if x["dying"] != bundles[bundle, DYING + depth]:
            return False
    return True


@compiled(int64(ROWS, JOBS, PACKETS, int64, I64S))
def unsettled(rows: Any, bundles: Int64s, packets: Any, start: int, waiting: Int64s) -> int:
    """List the packets from `start` on without outcome and without a fresh bundle; return how many.

    These have no bundle then. Neighbours with one bundle are asked once.
    """
    count, last, good = 0, -1, False
    for i in range(start, packets.shape[0]):
        p = packets[i]
        if p["outcome"]:
            continue
        b = p["bundle"]
        if b != last:
            last = b
            good = b >= 0 and fresh(rows, bundles, b)
        if not good:
            p["bundle"] = -1
            waiting[count] = i
            count += 1
    return count


@compiled(numba.void(PACKETS, int64, int64, I64S))
def note_use(packets: Any, start: int, stop: int, used: Int64s) -> None:
    """Set the times at which the packets of [start, stop) used their policies.

    Those refused for want of states do not count. Follows: the end of xfrm_lookup_with_ifid.
    """
    for i in range(start, stop):
        p = packets[i]
        if p["policy"] >= 0 and p["outcome"] not in (_NO_STATE, _SOCKET_NO_STATE, _POLICY_ERROR, _STATE_DIR):
            used[p["policy"]] = p["time"]


@compiled(numba.void(PACKETS, int64))
def reopen(packets: Any, start: int) -> None:
    """Undo decisions over packets from `start` on that a change among the states may have made wrong."""
    for i in range(start, packets.shape[0]):
        p = packets[i]
        if p["unsettled"]:
            p["unsettled"] = 0
            p["outcome"] = 0
            p["bundle"] = -1


@compiled(int64(PACKETS, int64))
def first_ready(packets: Any, start: int) -> int:
    """The first packet from `start` on that has a bundle and no outcome yet."""
    for i in range(start, packets.shape[0]):
        if packets[i]["outcome"] == 0 and packets[i]["bundle"] >= 0:
            return i
    return int(packets.shape[0])


@compiled(numba.types.Tuple((int64, numba.boolean))(JOBS, PACKETS, int64, int64, I64S))
def gather(bundles: Int64s, packets: Any, start: int, stop: int, active: Int64s) -> tuple[int, bool]:
    """List the packets of [start, stop) that have a bundle and no outcome yet.

    Returns how many, and whether one has less room around it than its bundle will need.
    """
    count, cramped = 0, False
    for i in range(start, stop):
        p = packets[i]
        b = p["bundle"]
        if p["outcome"] or b < 0:
            continue
        active[count] = i
        count += 1
        cramped = cramped or p["offset"] - p["low"] < bundles[b, HEAD]
        cramped = cramped or p["high"] - p["offset"] - p["length"] < bundles[b, TAIL]
    return count, cramped


@compiled(numba.boolean(ROWS, JOBS, int64, int64))
def _crosses(rows: Any, bundles: Int64s, bundle: int, run: int) -> bool:
    """True when the run has one of the bundle's states at another place: numbers would be out of turn."""
    for depth in range(bundles[bundle, DEPTH]):
        x = rows[bundles[bundle, ROW + depth]]
        if x["run"] == run and x["run_depth"] != depth:
            return True
    return False


@compiled(numba.boolean(ROWS, JOBS, PACKETS, int64, int64))
def _enter(rows: Any, bundles: Int64s, packets: Any, i: int, run: int) -> bool:
    """Count packet i, at its longest, for the run on all its states; True when it may reach a limit."""
    b = packets[i]["bundle"]
    longest = packets[i]["length"] + bundles[b, HEAD] + bundles[b, TAIL]
    near = False
    for depth in range(bundles[b, DEPTH]):
        row = bundles[b, ROW + depth]
        x = rows[row]
        if x["run"] != run:
            x["run"] = run
            x["run_packets"] = 0
            x["run_bytes"] = 0
            x["run_depth"] = depth
        elif x["run_depth"] != depth:
            x["run_depth"] = -1
        x["run_packets"] += 1
        x["run_bytes"] += longest
        near = near or near_limit(rows, row)
    return near


@compiled(numba.types.UniTuple(int64, 2)(ROWS, JOBS, PACKETS, I64S, *[int64] * 4))
def run_end(
    rows: Any,
    bundles: Int64s,
    packets: Any,
    active: Int64s,
    start: int,
    count: int,
    run: int,
    monitored: int,
) -> tuple[int, int]:
    """How far from active[start] on packets may go through all transforms together, and the most transforms.

    With one transform, `begin` stops where it must. With more, a state behind the first transform must not
    reach a limit but by the last packet of the run, and no state be at two places; aevents, where they are
    `monitored`, are told packet by packet.
    """
    deepest, last = 0, -1
    for k in range(start, count):
        b = packets[active[k]]["bundle"]
        if b != last:
            deepest = max(deepest, bundles[b, DEPTH])
        last = b
    if deepest <= 1 or monitored:
        return (count if deepest <= 1 else start + 1), deepest
    for k in range(start, count):
        i = active[k]
        if k > start and _crosses(rows, bundles, packets[i]["bundle"], run):
            return k, deepest
        if _enter(rows, bundles, packets, i, run):
            return k + 1, deepest
    return count, deepest
