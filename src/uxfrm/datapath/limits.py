"""Byte and packet limits, judged before each packet is counted.

Follows: xfrm_state_check_expire.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.tables.rows import ROWS

# What Python must attend to: a limit, the first use of a state whose lifetime counts from it, an aevent. Of
# limits and aevents it is told before the next packet.
NOTICE_NONE, NOTICE_SOFT, NOTICE_HARD, NOTICE_USED, NOTICE_AEVENT, NOTICE_MAPPING = 0, 1, 2, 3, 4, 5

_EXPIRED = 4
_SEQ_MASK = 0xFFFFFFFF


@compiled(numba.void(ROWS, int64))
def keep_told(rows: Any, row: int) -> None:
    """Keep the counters as they are before the packet at hand is counted: events tell those."""
    x = rows[row]
    x["told_bytes"] = x["bytes"]
    x["told_packets"] = x["packets"]


@compiled(int64(ROWS, int64))
def check_aevent(rows: Any, row: int) -> int:
    """A notice if the numbers have moved far enough since they were told, or the timer left it to us.

    Follows: xfrm_replay_notify.
    """
    x = rows[row]
    apart = x["ae_maxdiff"]
    far = (x["seq"] - x["pre_seq"]) & _SEQ_MASK >= apart or (x["oseq"] - x["pre_oseq"]) & _SEQ_MASK >= apart
    if not (apart and far) and not x["ae_deferred"]:
        return NOTICE_NONE
    keep_told(rows, row)
    return NOTICE_AEVENT


@compiled(int64(ROWS, int64, int64))
def check_limits(rows: Any, row: int, now: int) -> int:
    """Return a notice; NOTICE_HARD also means that the packet is refused and the state has expired."""
    x = rows[row]
    first = x["use_time"] == 0
    if first:
        x["use_time"] = now
    if x["bytes"] >= x["hard_byte"] or x["packets"] >= x["hard_packet"]:
        x["life"] = _EXPIRED
        return NOTICE_HARD
    if not x["dying"] and (x["bytes"] >= x["soft_byte"] or x["packets"] >= x["soft_packet"]):
        x["dying"] = 1
        keep_told(rows, row)
        return NOTICE_SOFT
    return NOTICE_USED if first and x["watch_use"] else NOTICE_NONE


@compiled(numba.boolean(ROWS, int64))
def near_hard(rows: Any, row: int) -> bool:
    """True when the packets of this run already counted on the row may have used up a hard limit."""
    x = rows[row]
    return bool(
        x["packets"] + x["run_packets"] >= x["hard_packet"] or x["bytes"] + x["run_bytes"] >= x["hard_byte"]
    )


@compiled(numba.boolean(ROWS, int64))
def near_limit(rows: Any, row: int) -> bool:
    """The same of the next limit that matters: a soft one, unless the state is dying."""
    x = rows[row]
    if near_hard(rows, row):
        return True
    packets, octets = x["packets"] + x["run_packets"], x["bytes"] + x["run_bytes"]
    return bool(not x["dying"] and (packets >= x["soft_packet"] or octets >= x["soft_byte"]))
