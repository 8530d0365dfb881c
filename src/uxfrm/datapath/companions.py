"""Input of packets that an IPComp peer did not compress: IP in IP, through the state that goes with IPComp's.

Follows: xfrm4_tunnel.c, xfrm6_tunnel.c. IP in IP between other ends stays an ordinary packet; Linux, once the
module is loaded, gives it to other tunnels first and then counts it under XfrmInNoStates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from uxfrm.datapath.batch import Batch, Int64s
from uxfrm.datapath.context import Context
from uxfrm.model.address import AF_INET
from uxfrm.model.flow import PROTO_IPIP, PROTO_IPV6
from uxfrm.model.outcome import Outcome
from uxfrm.tables.states import State

_ADDRESSES = 32


def enlist(context: Context, batch: Batch, active: Int64s, count: int) -> int:
    """Add to active[:count] the packets that a companion takes, in the batch's order; return how many are."""
    if not context.companions:
        return count
    packets = batch.packets
    inside = (packets["proto"] == PROTO_IPIP) | (packets["proto"] == PROTO_IPV6)
    those = np.flatnonzero(inside & (packets["outcome"] == Outcome.PENDING) & (packets["fragment"] == 0))
    for group in _by_ends(batch, those):
        state = _companion(context, batch, packets[group[0]])
        if state is not None:
            _address(packets, group, state.config.spi)
            active[count : count + len(group)] = group
            count += len(group)
    active[:count].sort()
    return count


def _by_ends(batch: Batch, those: Int64s) -> list[Int64s]:
    """Group packets by what their companion is found by: addresses, family and mark."""
    if len(those) < 2:
        return [those] if len(those) else []
    packets = batch.packets[those]
    four = packets["family"] == AF_INET
    start = packets["offset"] + np.where(four, 12, 8)
    # IPv4 has 8 bytes of addresses, behind which the buffer may end.
    ends = batch.data[np.minimum(start[:, None] + np.arange(_ADDRESSES), batch.data.shape[0] - 1)]
    ends[four, 8:] = 0
    columns = [ends.view(np.int64), packets["family"][:, None], packets["mark"][:, None]]
    _, number = np.unique(np.hstack(columns), axis=0, return_inverse=True)
    return [those[number == n] for n in range(int(number.max()) + 1)]


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
