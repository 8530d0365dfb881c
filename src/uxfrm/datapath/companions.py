"""Input of packets that an IPComp peer did not compress: IP in IP, through the state that goes with IPComp's.

Follows: xfrm4_tunnel.c, xfrm6_tunnel.c. IP in IP between other ends stays an ordinary packet; Linux, once the
module is loaded, gives it to other tunnels first and then counts it under XfrmInNoStates.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, I64S, PACKETS, Batch, Bytes, Int64s
from uxfrm.datapath.context import Context
from uxfrm.datapath.wire import read32
from uxfrm.model.address import AF_INET
from uxfrm.model.flow import PROTO_IPIP, PROTO_IPV6
from uxfrm.model.outcome import Outcome
from uxfrm.tables.states import State


@compiled(numba.boolean(DATA, PACKETS, int64, int64))
def _same_ends(data: Bytes, packets: Any, i: int, j: int) -> bool:
    """True where one companion takes both packets: addresses, family and mark are the same."""
    p, q = packets[i], packets[j]
    if p["family"] != q["family"] or p["mark"] != q["mark"]:
        return False
    start, size = (12, 8) if p["family"] == AF_INET else (8, 32)
    for k in range(start, start + size, 4):
        if read32(data, p["offset"] + k) != read32(data, q["offset"] + k):
            return False
    return True


@compiled(int64(DATA, PACKETS, I64S, I64S, I64S))
def group(data: Bytes, packets: Any, those: Int64s, firsts: Int64s, numbers: Int64s) -> int:
    """Number `those` packets by their ends: numbers[k], firsts[number] the first such; return how many."""
    groups = 0
    for k in range(those.shape[0]):
        number = 0
        while number < groups and not _same_ends(data, packets, those[k], firsts[number]):
            number += 1
        if number == groups:
            firsts[number] = those[k]
            groups += 1
        numbers[k] = number
    return groups


def enlist(context: Context, batch: Batch, active: Int64s, count: int) -> int:
    """Add to active[:count] the packets that a companion takes, in the batch's order; return how many are."""
    if not context.companions:
        return count
    packets = batch.packets
    inside = (packets["proto"] == PROTO_IPIP) | (packets["proto"] == PROTO_IPV6)
    those = np.flatnonzero(inside & (packets["outcome"] == Outcome.PENDING) & (packets["fragment"] == 0))
    firsts, numbers = np.zeros_like(those), np.zeros_like(those)
    for number in range(group(batch.data, packets, those, firsts, numbers)):
        state = _companion(context, batch, packets[firsts[number]])
        if state is not None:
            alike = those[numbers == number]
            _address(packets, alike, state.config.spi)
            active[count : count + len(alike)] = alike
            count += len(alike)
    active[:count].sort()
    return count


def _companion(context: Context, batch: Batch, packet: Any) -> State | None:
    """The companion between the ends of a packet's outer header, whatever is inside."""
    four, at = packet["family"] == AF_INET, int(packet["offset"])
    source, size = (at + 12, 4) if four else (at + 8, 16)
    saddr, daddr = (batch.data[k : k + size].tobytes() for k in (source, source + size))
    proto, family = PROTO_IPIP if four else PROTO_IPV6, int(packet["family"])
    return context.states.find_by_addresses(daddr, saddr, proto, family, int(packet["mark"]))


def _address(packets: Any, those: Int64s, spi: int) -> None:
    """The SPI stands for the source address; there is no sequence number."""
    packets["spi"][those], packets["seq"][those] = spi, 0
    outermost = those[packets["depth"][those] == 0]
    packets["wire_spi"][outermost], packets["wire_seq"][outermost] = spi, 0
