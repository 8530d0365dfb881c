"""Sequence numbers and replay windows: legacy, bitmap and ESN (RFC 4303 3.4.3, Appendix A).

Follows: net/xfrm/xfrm_replay.c. Two operations on a row: `check` says whether a received number may pass,
`advance` records it. The engine was chosen when the state was installed (column "replay").
The bitmap of the legacy engine has bit 0 for the newest number; the others are circular, number s at bit
(s-1) mod window, in words of 32 bits, because user space sees them so.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import I64S, Int64s
from uxfrm.model.outcome import Outcome
from uxfrm.tables.rows import REPLAY_ESN, REPLAY_LEGACY, REPLAY_OFF, ROWS

SEQ_MASK = 0xFFFFFFFF

_ZERO = int(Outcome.IN_SEQ_ZERO)
_OLD = int(Outcome.IN_SEQ_OLD)
_REPLAYED = int(Outcome.IN_SEQ_REPLAYED)


@compiled(int64(int64, int64, int64, int64))
def infer_high(seq: int, top: int, top_hi: int, window: int) -> int:
    """The high half that a received low half must have meant. Follows: xfrm_replay_seqhi."""
    bottom = (top - window + 1) & SEQ_MASK
    if top >= window - 1:
        return (top_hi + 1) & SEQ_MASK if seq < bottom else top_hi
    return (top_hi - 1) & SEQ_MASK if seq >= bottom else top_hi


@compiled(int64(ROWS, int64, int64))
def seq_high(rows: Any, row: int, seq: int) -> int:
    """The high half to authenticate a received packet with; 0 without ESN."""
    x = rows[row]
    if x["replay"] != REPLAY_ESN:
        return 0
    return int(infer_high(seq, x["seq"], x["seq_hi"], int64(x["window"])))


@compiled(int64(int64, int64, int64))
def _position(top: int, window: int, behind: int) -> int:
    """The bit of the number `behind` below `top`, in the kernel's 32-bit arithmetic (top may be 0)."""
    at = ((top - 1) & SEQ_MASK) % window
    return at - behind if at >= behind else window - (behind - at)


@compiled(int64(I64S, int64, int64))
def _test(words: Int64s, at: int, position: int) -> int:
    return (words[at + (position >> 5)] >> (position & 31)) & 1


@compiled(numba.void(I64S, int64, int64))
def _set(words: Int64s, at: int, position: int) -> None:
    words[at + (position >> 5)] |= 1 << (position & 31)


@compiled(int64(ROWS, I64S, int64, int64))
def _check_esn(rows: Any, words: Int64s, row: int, seq: int) -> int:
    x = rows[row]
    window, top = int64(x["window"]), x["seq"]
    if seq == 0 and x["seq_hi"] == 0 and top < window - 1:
        return _ZERO
    bottom = (top - window + 1) & SEQ_MASK
    if top >= window - 1:
        # The window lies in one subspace: a smaller number belongs to the next one and is new.
        if seq > top or seq < bottom:
            return 0
    elif top < seq < bottom:
        # The window straddles two: what is between its ends is new.
        return 0
    behind = (top - seq) & SEQ_MASK
    if behind >= window:
        return _OLD
    return _REPLAYED if _test(words, x["words_at"], _position(top, window, behind)) else 0


@compiled(int64(ROWS, I64S, int64, int64))
def check(rows: Any, words: Int64s, row: int, seq: int) -> int:
    """Return 0 when a packet numbered `seq` (low half) may pass, else the outcome that ends it.

    Counters of the state are not touched: `blame` does that, once.
    Follows: xfrm_replay_check_legacy, _bmp, _esn.
    """
    x = rows[row]
    kind = x["replay"]
    if kind == REPLAY_OFF:
        return 0
    window, top = int64(x["window"]), x["seq"]
    if kind == REPLAY_LEGACY:
        if seq == 0:
            return _ZERO
        if seq > top:
            return 0
        if top - seq >= window:
            return _OLD
        return _REPLAYED if (x["bitmap"] >> (top - seq)) & 1 else 0
    if window == 0:
        return 0
    if kind == REPLAY_ESN:
        return _check_esn(rows, words, row, seq)
    if seq == 0:
        return _ZERO
    if seq > top:
        return 0
    if top - seq >= window:
        return _OLD
    return _REPLAYED if _test(words, x["words_at"], _position(top, window, top - seq)) else 0


@compiled(numba.void(ROWS, int64, int64))
def blame(rows: Any, row: int, outcome: int) -> None:
    """Count a refused number in the state's own statistics (struct xfrm_stats)."""
    if outcome == _OLD:
        rows[row]["stat_window"] += 1
    elif outcome == _REPLAYED:
        rows[row]["stat_replay"] += 1


@compiled(numba.void(I64S, int64, int64, int64, int64))
def _slide(words: Int64s, at: int, window: int, top: int, ahead: int) -> None:
    """Move the window up: forget the numbers that leave it, record its new top."""
    position = _position(top, window, 0)
    if ahead >= window:
        for word in range((window + 31) >> 5):
            words[at + word] = 0
    else:
        for step in range(1, ahead):
            gone = (position + step) % window
            words[at + (gone >> 5)] &= ~(1 << (gone & 31))
    _set(words, at, (position + ahead) % window)


@compiled(numba.void(ROWS, I64S, int64, int64))
def advance(rows: Any, words: Int64s, row: int, seq: int) -> None:
    """Record that a packet numbered `seq` (low half) was authentic.

    Follows: xfrm_replay_advance_legacy, _bmp, _esn.
    """
    x = rows[row]
    kind = x["replay"]
    window = int64(x["window"])
    if kind == REPLAY_OFF or window == 0:
        return
    if kind == REPLAY_LEGACY:
        if seq > x["seq"]:
            shift = seq - x["seq"]
            kept = (x["bitmap"] << shift) & SEQ_MASK if shift < window else 0
            x["bitmap"] = kept | 1
            x["seq"] = seq
        else:
            x["bitmap"] |= 1 << (x["seq"] - seq)
        return
    top = x["seq"]
    ahead = seq - top
    if kind == REPLAY_ESN:
        high = infer_high(seq, top, x["seq_hi"], window)
        ahead += (high - x["seq_hi"]) << 32
        if ahead > 0:
            x["seq_hi"] = high
    if ahead > 0:
        _slide(words, x["words_at"], window, top, ahead)
        x["seq"] = seq
    else:
        _set(words, x["words_at"], _position(top, window, -ahead))
