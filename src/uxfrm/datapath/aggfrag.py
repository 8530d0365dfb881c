"""AGGFRAG payloads taken apart: what IP-TFS put together, cut to pieces, or padded (RFC 9347 2.2, 6.1).

Follows: iptfs_input_ordered, iptfs_reassem_cont, __input_process_payload in net/xfrm/xfrm_iptfs.c.
Inner packets that lie whole in a payload stay where they are; those that came in pieces are put together in
`store`, of which each state has its own part, and then copied to `extra`. Which payload comes next is decided
here only where it is the one that is waited for; datapath.iptfs_input keeps the reorder window.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, I64S, JOBS, PACKETS, Bytes, Int64s
from uxfrm.datapath.headers import parse
from uxfrm.datapath.wire import copy, read16
from uxfrm.model.outcome import Outcome
from uxfrm.tables.rows import ROWS

SIDE_DTYPE = np.dtype(
    [
        # input: whether a number was seen, the one waited for, how many places of the reorder window are in
        # use, and how wide it is
        ("seen", np.int64),
        ("wanted", np.int64),
        ("saved", np.int64),
        ("window", np.int64),
        # the inner packet that is not whole: bytes that came, bytes that it will have (0: not known yet), the
        # number that goes on with it, where in `store` it lies, and how much room there is
        ("came", np.int64),
        ("whole", np.int64),
        ("following", np.int64),
        ("at", np.int64),
        ("room", np.int64),
        # output: the first and the last packet that waits,
        # counted from 1, bytes that wait, the most that may, from
        # how many on packets are marked, whether none is cut, the most payload of a packet (0: what the path
        # takes)
        ("head", np.int64),
        ("tail", np.int64),
        ("queued", np.int64),
        ("limit", np.int64),
        ("marked", np.int64),
        ("uncut", np.int64),
        ("payload", np.int64),
        # the timer of either: when it runs out, and how long it runs, in s
        ("due", np.float64),
        ("delay", np.float64),
    ],
    align=True,
)
"""What IP-TFS keeps of a state: its options, and what is under way."""

SIDES: Any = numba.from_dtype(SIDE_DTYPE)[::1]

NUMBERS = 2**62 - 1
HALF = 2**61

NEVER = 1e300
"""When a timer runs out that does not run."""

# Columns of what was made: where it lies, 1 if that is in `extra`, its length, the packet that brought it,
# and its outcome.
MADE_AT, MADE_EXTRA, MADE_LENGTH, MADE_OF, MADE_OUTCOME = range(5)
MADE_COLUMNS = 5

# Columns of a payload that is planned: its length without the header, the block offset, the packet that
# began it, the last packet in it, and its pieces.
LENGTH, BLOCK, FIRST, LAST, PIECES, PIECES_END = range(6)
OUTER_COLUMNS = 6
# Columns of a piece: packet, where in it, how long.
OF, FROM, SIZE = range(3)
PIECE_COLUMNS = 3

# Why `take` stopped: it is through; the payload is not the next one; there is no room in a state's part of
# `store`, in `extra`, for what is made.
DONE, ORDER, NO_STORE, NO_EXTRA, NO_MADE = range(5)

# How `take` looks at the order of payloads.
BY_NUMBER, AS_THEY_ARE, UNTIMED = 0, 1, 2

# What the drop timer of a state is to do: (bits of) start, unless it runs; stop.
START, STOP = 1, 2

_TAKEN = int(Outcome.IN_IPTFS)
_PART = int(Outcome.IN_IPTFS_PART)
_PAD = int(Outcome.IN_IPTFS_PAD)
_REST = int(Outcome.IN_IPTFS_REST)
_LATE = int(Outcome.IN_IPTFS_LATE)
_SHORT = int(Outcome.IN_IPTFS_SHORT)
_HEADER = int(Outcome.IN_IPTFS_HEADER)
_BLOCK = int(Outcome.IN_IPTFS_BLOCK)
_LENGTH = int(Outcome.IN_IPTFS_LENGTH)
_LOST = int(Outcome.IN_IPTFS_LOST)
_INVALID = int(Outcome.IN_STATE_INVALID)

_BASIC, _CONGESTION = 0, 1
_BASIC_BYTES, _CONGESTION_BYTES = 4, 24
_HEADER_BYTES_MIN = (20, 40)
# With so many bytes of a header, the length is known.
_RUNT = 6
_ESP, _AH, _COMP = 50, 51, 108


@compiled(int64(int64, int64))
def whole_number(high: int, low: int) -> int:
    """A sequence number with its ESN half: 62 bits, counted in a circle."""
    return (high << 32 | low) & NUMBERS


@compiled(int64(int64, int64))
def distance(number: int, wanted: int) -> int:
    """How far `number` is ahead of the one that is waited for."""
    return ((number - wanted + HALF) & NUMBERS) - HALF


@compiled(int64(DATA, int64))
def _inner_length(data: Bytes, at: int) -> int:
    """What the IP header at `at`, of which six bytes are there, says of its packet's length."""
    return read16(data, at + 2) if int(data[at]) >> 4 == 4 else 40 + read16(data, at + 4)


@compiled(int64(DATA, int64, int64, I64S))
def _header(data: Bytes, start: int, length: int, found: Int64s) -> int:
    """Read the AGGFRAG header: found = (its length, the block offset); return 0 or the outcome."""
    if length < _BASIC_BYTES:
        return _SHORT
    subtype, found[0] = int(data[start]), _BASIC_BYTES
    if subtype == _CONGESTION:
        if length < _CONGESTION_BYTES:
            return _SHORT
        found[0] = _CONGESTION_BYTES
    elif subtype != _BASIC:
        return _HEADER
    if data[start + 1]:
        return _HEADER
    found[1] = read16(data, start + 2)
    return 0


@compiled(numba.void(JOBS, int64, int64, int64, int64, int64, int64))
def _make(made: Int64s, number: int, at: int, extra: int, length: int, of: int, outcome: int) -> None:
    made[number, MADE_AT] = at
    made[number, MADE_EXTRA] = extra
    made[number, MADE_LENGTH] = length
    made[number, MADE_OF] = of
    made[number, MADE_OUTCOME] = outcome


@compiled(int64(DATA, int64, int64, int64, DATA, SIDES, int64, I64S))
def _go_on(
    data: Bytes, at: int, left: int, block: int, store: Bytes, sides: Any, slot: int, found: Int64s
) -> int:
    """Add what is at `at` to the inner packet that is not whole: found[2], found[3] = its (bytes, length).

    `left` bytes are there, of which `block` belong to it, or would. Returns bytes passed over, -1 where it
    does not fit.
    """
    x = sides[slot]
    came, whole = x["came"], x["whole"]
    if not whole:
        rest = _RUNT - came
        if left < rest or block < rest:
            return -1
        copy(store, x["at"] + came, data, at, rest)
        whole = _inner_length(store, x["at"])
        if whole < (20 if int(store[x["at"]]) >> 4 == 4 else 40):
            return -1
    if block < whole - came:
        return -1
    passed = min(block, left)
    taken = min(passed, whole - came)
    copy(store, x["at"] + came, data, at, taken)
    found[2], found[3] = came + taken, whole
    return passed


@compiled(
    numba.types.UniTuple(int64, 5)(
        DATA, int64, int64, int64, int64, SIDES, int64, DATA, DATA, int64, JOBS, int64, I64S
    )
)
def _payload(
    data: Bytes,
    i: int,
    start: int,
    length: int,
    seq: int,
    sides: Any,
    slot: int,
    store: Bytes,
    extra: Bytes,
    used: int,
    made: Int64s,
    count: int,
    found: Int64s,
) -> tuple[int, int, int, int, int]:
    """Take the payload of packet i apart, of the state with `slot`; nothing is changed unless DONE.

    Returns (why it stopped, bytes of `extra` used, number of what is made, outcome of i, timer).
    1. header  2. the rest of an inner packet  3. data blocks  4. the beginning of an inner packet
    """
    x = sides[slot]
    outcome = _header(data, start, length, found)
    if outcome:
        return DONE, used, count, outcome, 0
    at, tail, block = start + found[0], start + length, found[1]
    came, whole, following, timer = x["came"], x["whole"], x["following"], 0
    first, outcome, number, fill = count, _PAD, count, used
    if block or came:
        left = tail - at
        passed = min(block, left)
        if not came:
            outcome = _REST if left else _PAD
        elif distance(seq, following) < 0:
            outcome, passed = _LATE, left
        elif seq == following and not block:
            # A payload of padding may stand between the pieces (RFC 9347 2.2.3).
            following, passed = (following + 1) & NUMBERS, left
        else:
            if fill + max(came, whole, _RUNT) > extra.shape[0]:
                return NO_EXTRA, used, count, 0, 0
            if x["room"] < max(came, _RUNT) + left:
                return NO_STORE, used, count, 0, 0
            found[2] = found[3] = 0
            gone = -1 if seq != following else _go_on(data, at, left, block, store, sides, slot, found)
            if gone < 0:
                if number >= made.shape[0]:
                    return NO_MADE, used, count, 0, 0
                copy(extra, fill, store, x["at"], came)
                _make(made, number, fill, 1, came, i, _LOST)
                number, fill, first = number + 1, fill + came, first + 1
                came = whole = 0
                timer, outcome = STOP, _REST if passed else _PAD
            else:
                passed, outcome = gone, _PART
                came, whole, following = found[2], found[3], (following + 1) & NUMBERS
                if came == whole:
                    if number >= made.shape[0]:
                        return NO_MADE, used, count, 0, 0
                    if fill + whole > extra.shape[0]:
                        return NO_EXTRA, used, count, 0, 0
                    copy(extra, fill, store, x["at"], whole)
                    _make(made, number, fill, 1, whole, i, 0)
                    number, fill, came, whole, timer = number + 1, fill + whole, 0, 0, STOP
        at += passed
    while at < tail:
        left, version = tail - at, int(data[at]) >> 4
        if version == 4 and left >= 4:
            size, header = read16(data, at + 2), (int(data[at]) & 15) * 4
            if size < header or header < 20:
                number, outcome, came, whole = first, _LENGTH, 0, 0
                break
        elif version == 6 and left >= _RUNT:
            size = 40 + read16(data, at + 4)
        elif version in (4, 6):
            size = 0
        else:
            if version:
                number, outcome, came, whole = first, _BLOCK, 0, 0
            break
        if number >= made.shape[0]:
            return NO_MADE, used, count, 0, 0
        if size == 0 or size > left:
            if x["room"] < left:
                return NO_STORE, used, count, 0, 0
            copy(store, x["at"], data, at, left)
            came, whole, following, outcome = left, size, (seq + 1) & NUMBERS, _PART
            # Linux gives no time to a beginning that does not tell the length.
            timer |= START if size else 0
            break
        _make(made, number, at, 0, size, i, 0)
        number += 1
        at += size
    if number > first:
        outcome = _TAKEN
    x["came"] = came
    x["whole"] = whole
    x["following"] = following
    return DONE, fill, number, outcome, timer


@compiled(numba.void(SIDES, int64, int64, numba.float64))
def keep_time(sides: Any, slot: int, timer: int, now: float) -> None:
    """Stop and start the timer of a state; one that runs is not started anew."""
    x = sides[slot]
    if timer & STOP:
        x["due"] = NEVER
    if timer & START and x["due"] == NEVER:
        x["due"] = now + x["delay"]


@compiled(
    numba.types.UniTuple(int64, 4)(
        ROWS, DATA, PACKETS, I64S, int64, int64, int64, SIDES, numba.float64, DATA, DATA, int64, JOBS,
        int64, I64S,
    )
)  # fmt: skip
def take(
    rows: Any,
    data: Bytes,
    packets: Any,
    active: Int64s,
    start: int,
    count: int,
    ordered: int,
    sides: Any,
    now: float,
    store: Bytes,
    extra: Bytes,
    used: int,
    made: Int64s,
    number: int,
    found: Int64s,
) -> tuple[int, int, int, int]:
    """Take apart the payloads among active[start:count] that state after state came in their order.

    With `ordered` AS_THEY_ARE the reorder window has let them out; UNTIMED, nobody waits for anything.
    Returns (why it stopped, where, bytes of `extra` used, number of what is made). `found` is scratch.
    """
    for k in range(start, count):
        i = active[k]
        p = packets[i]
        if p["outcome"] != _TAKEN:
            continue
        row = p["path"][p["depth"] - 1]
        if not 0 < rows[row]["serial"] <= p["pathgen"][p["depth"] - 1] or not rows[row]["iptfs"]:
            # A packet before this one ended the state.
            p["outcome"] = _INVALID
            continue
        slot = int64(rows[row]["iptfs"])
        x = sides[slot]
        seq = whole_number(p["seq_hi"], p["seq"])
        if not ordered and x["window"]:
            if not x["seen"]:
                x["seen"] = 1
                x["wanted"] = seq
            if seq != x["wanted"] or x["saved"]:
                return ORDER, k, used, number
        why, used, number, outcome, timer = _payload(
            data, i, p["offset"], p["length"], seq, sides, slot, store, extra, used, made, number, found
        )
        if why != DONE:
            return why, k, used, number
        if not ordered and x["window"]:
            x["wanted"] = (seq + 1) & NUMBERS
        p["outcome"] = outcome
        if timer and ordered != UNTIMED:
            keep_time(sides, slot, timer, now)
    return DONE, count, used, number


@compiled(numba.types.UniTuple(int64, 2)(DATA, PACKETS, int64, JOBS, int64, int64, I64S, int64))
def describe(
    data: Bytes, packets: Any, first: int, made: Int64s, count: int, extra: int, again: Int64s, agains: int
) -> tuple[int, int]:
    """Make the records from `first` on those of made[:count]; list those that carry IPsec.

    What came in `extra` lies from there on in `data`. An inner packet is what its header says, or ends here.
    Returns how many are listed then, and how many are fragments.
    """
    fragments = 0
    for k in range(count):
        of, i = made[k, MADE_OF], first + k
        packets[i] = packets[of]
        p = packets[i]
        p["offset"] = made[k, MADE_AT] + (extra if made[k, MADE_EXTRA] else 0)
        p["length"] = made[k, MADE_LENGTH]
        p["low"] = p["offset"]
        p["high"] = p["offset"] + p["length"]
        p["outcome"] = made[k, MADE_OUTCOME]
        p["fragment"] = 0
        p["encap"] = 0
        if p["outcome"]:
            p["family"] = 0
            continue
        p["outcome"] = parse(data, packets, i)
        if not p["outcome"] and p["fragment"]:
            fragments += 1
        elif not p["outcome"] and p["proto"] in (_ESP, _AH, _COMP):
            again[agains] = i
            agains += 1
    return agains, fragments
