"""The row of a state: everything that packets read and change, as one numpy record.

A live state's counters, sequence numbers and replay window exist here and nowhere else; the compiled batch
functions work on this array, and the `State` object reads it. All values are int64 and addresses are four
32-bit words (IPv4: the first, the others 0), so that the same source gives the same results compiled,
where integers wrap, and interpreted, where they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from uxfrm.model.address import AF_INET, Address
from uxfrm.model.lifetime import INF
from uxfrm.model.state import Encap

# A limit that is never reached; the UAPI's INF (2^64-1) does not fit int64.
NEVER = 2**63 - 1

# The most that a request may say was counted already: far from where adding to it would wrap.
COUNTED_MAX = 2**62

# A state that is bound to no CPU (the kernel's UINT_MAX).
NO_CPU = -1

REPLAY_OFF, REPLAY_LEGACY, REPLAY_BITMAP, REPLAY_ESN = 0, 1, 2, 3

# What the data path can do with a state; the unsupported is answered with an outcome. IPIP is what goes with
# IPComp.
TRANSFORM_NONE, TRANSFORM_ESP, TRANSFORM_UNSUPPORTED, TRANSFORM_COMP, TRANSFORM_IPIP, TRANSFORM_AH = range(6)

# Configured figures are small; counters and sequence numbers get all 64 bits. The order is that of use, in
# cache lines of 64 bytes: with many states, what a packet costs is how many lines of its state it touches.
STATE_DTYPE = np.dtype(
    [
        # what a packet's lookup compares
        ("daddr", np.int64, (4,)),
        ("spi", np.int64),
        ("mark_v", np.int64),
        ("mark_m", np.int64),
        ("family", np.int32),
        ("proto", np.int32),
        # whether it is still the same, and alive; the provisional view of one run (datapath.input, output)
        ("genid", np.int64),
        ("serial", np.int64),  # the first genid it had: higher than all that earlier states of the row had
        ("life", np.int32),
        ("direction", np.int32),
        ("run", np.int64),
        ("run_depth", np.int32),
        ("wraps", np.int32),
        ("run_packets", np.int64),
        ("run_bytes", np.int64),
        ("run_top", np.int64),
        # counters and limits
        ("run_top_hi", np.int64),
        ("bytes", np.int64),
        ("packets", np.int64),
        ("use_time", np.int64),
        ("lastused", np.int64),
        ("soft_byte", np.int64),
        ("hard_byte", np.int64),
        ("soft_packet", np.int64),
        # sequence numbers and replay window
        ("hard_packet", np.int64),
        ("dying", np.int32),
        ("watch_use", np.int32),
        ("oseq", np.int64),
        ("oseq_hi", np.int64),
        ("seq", np.int64),
        ("seq_hi", np.int64),
        ("bitmap", np.int64),
        ("words_at", np.int64),
        # the transform, worked out when the state is installed
        ("replay", np.int32),
        ("window", np.int32),
        ("key", np.int32),
        ("transform", np.int32),
        ("mode", np.int32),
        ("encap", np.int32),
        ("flags", np.int32),
        ("extra_flags", np.int32),
        ("esn", np.int32),
        ("iv_bytes", np.int32),
        ("iv_random", np.int32),
        ("icv_bytes", np.int32),
        ("block", np.int32),
        ("tfcpad", np.int32),
        ("ip_id", np.int32),
        ("pcpu", np.int32),
        # what only packets that leave need
        ("saddr", np.int64, (4,)),
        ("iv_salt_hi", np.int64),
        ("iv_salt_lo", np.int64),
        ("set_v", np.int64),
        ("set_m", np.int64),
        # what few packets need
        ("reqid", np.int64),
        ("if_id", np.int64),
        ("add_time", np.int64),
        ("stat_window", np.int64),
        ("stat_replay", np.int64),
        ("stat_failed", np.int64),
        # aevents: thresholds, when the timer runs out (ms, 0: never), the numbers told last
        ("ae_maxdiff", np.int64),
        ("ae_maxage", np.int64),
        ("ae_due", np.int64),
        ("pre_seq", np.int64),
        ("pre_oseq", np.int64),
        # the counters as an event of a packet tells them: before it was counted
        ("told_bytes", np.int64),
        ("told_packets", np.int64),
        ("ae_deferred", np.int32),
        ("icv_whole", np.int32),  # bytes of AH's ICV before it is truncated
        # UDP encapsulation: sport << 16 | dport; for how long a mapping is known, in s; the one told last
        ("encap_ports", np.int64),
        ("mapping_maxage", np.int64),
        ("mapped_at", np.int64),
        ("mapped_port", np.int32),
        ("sel_family", np.int32),
        ("mapped_address", np.uint32, (4,)),
        # the inner addresses of BEET mode
        ("sel_daddr", np.uint32, (4,)),
        ("sel_saddr", np.uint32, (4,)),
        # what IP-TFS keeps of it besides (datapath.iptfs), 0 in other modes
        ("iptfs", np.int64),
    ],
    align=True,
)

CACHE_LINE = 64

ROWS: Any = numba.from_dtype(STATE_DTYPE)[::1]


def table(capacity: int) -> Any:
    """Rows of zeros, shape (capacity,), of which each begins a cache line."""
    size = capacity * STATE_DTYPE.itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    at = -memory.ctypes.data % CACHE_LINE
    return memory[at : at + size].view(STATE_DTYPE)


def words(address: Address) -> tuple[int, int, int, int]:
    """An address as the four 32-bit words of a row."""
    if len(address) == 4:
        return int.from_bytes(address), 0, 0, 0
    value = int.from_bytes(address)
    mask = 0xFFFFFFFF
    return value >> 96, value >> 64 & mask, value >> 32 & mask, value & mask


def address(values: Sequence[int], family: int) -> Address:
    """The address of words as a row keeps them."""
    return b"".join(value.to_bytes(4) for value in values[: 1 if family == AF_INET else 4])


def ports(encap: Encap | None) -> int:
    """The ports of an encapsulation as a row keeps them."""
    return encap.sport << 16 | encap.dport if encap else 0


def limit(value: int) -> int:
    """A byte or packet limit as a row keeps it."""
    return NEVER if value >= NEVER else value


def unlimit(value: int) -> int:
    """The inverse of `limit`."""
    return INF if value == NEVER else value


def counted(value: int) -> int:
    """A counter or a time of a request, 64 bits without sign, as a row keeps it."""
    return min(value, COUNTED_MAX)
