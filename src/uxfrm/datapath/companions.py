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


def enlist(context: Context, batch: Batch, active: Int64s, count: int) -> int:
    """Add to active[:count] the packets that a companion takes, in the batch's order; return how many are."""
    if not context.companions:
        return count
    packets = batch.packets
    inside = (packets["proto"] == PROTO_IPIP) | (packets["proto"] == PROTO_IPV6)
    for i in np.flatnonzero(inside & (packets["outcome"] == Outcome.PENDING) & (packets["fragment"] == 0)):
        state = _companion(context, batch, packets[i])
        if state is not None:
            _address(packets[i], state.config.spi)
            active[count] = i
            count += 1
    active[:count].sort()
    return count


def _companion(context: Context, batch: Batch, packet: Any) -> State | None:
    """The companion between the ends of a packet's outer header, whatever is inside."""
    four, at = packet["family"] == AF_INET, int(packet["offset"])
    source, size = (at + 12, 4) if four else (at + 8, 16)
    saddr, daddr = (batch.data[k : k + size].tobytes() for k in (source, source + size))
    proto, family = PROTO_IPIP if four else PROTO_IPV6, int(packet["family"])
    return context.states.find_by_addresses(daddr, saddr, proto, family, int(packet["mark"]))


def _address(packet: Any, spi: int) -> None:
    """The SPI stands for the source address; there is no sequence number."""
    packet["spi"], packet["seq"] = spi, 0
    if packet["depth"] == 0:
        packet["wire_spi"], packet["wire_seq"] = spi, 0
