"""Packets that are larger than their path: told of to who sent them, or sent in pieces.

Follows: xfrm4_tunnel_check_size, xfrm6_tunnel_check_size, __xfrm6_output, ip_finish_output, ip_forward. As on
Linux an outer packet without DF is fragmented when it is protected; of an inner IPv6 packet through a tunnel
each fragment is protected, if it is the host's own; who else sends it is told the MTU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from uxfrm.datapath import aggregate, icmp, runs
from uxfrm.datapath import output as layer
from uxfrm.datapath.batch import Batch, Int64s, count_outcomes
from uxfrm.datapath.context import Context
from uxfrm.datapath.divide import divide
from uxfrm.datapath.headers import AF_INET6, parse
from uxfrm.model.address import Address
from uxfrm.model.flow import PROTO_TCP
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.template import Mode

# What the fragments of a protected packet have of its record.
_OF_WHOLE = ("policy", "detail", "bundle", "depth", "path", "pathgen", "spi", "seq", "seq_hi")

_CLEAR = {int(outcome) for outcome in Outcome if outcome.verdict is Verdict.CLEAR}


def too_big(context: Context, batch: Batch, refused: Iterable[tuple[int, int]]) -> None:
    """Answer packets that were refused, each with the MTU that it should have had: (index, MTU).

    The ICMP errors stand behind the batch's other packets. None is made where no address is known from which
    it could come, and where Linux makes none.
    """
    made, origins = [], []
    for i, mtu in refused:
        packet = batch.packet(i)
        source = _own_address(context, batch.packets[i], packet)
        answer = source and icmp.answer(packet, icmp.too_big(len(source), mtu), source)
        if answer:
            made.append(answer)
            origins.append(i)
    if not made:
        return
    for i in batch.append(made, origins).tolist():
        parse(batch.data, batch.packets, i)
        record = batch.packets[i]
        record["outcome"], record["policy"], record["bundle"] = Outcome.ICMP_TOO_BIG, -1, -1
        record["ifindex"] = record["socket"] = record["owner"] = 0
    count_outcomes(batch.packets[-len(made) :], context.totals)


def _own_address(context: Context, record: Any, packet: bytes) -> Address | None:
    """The address by which the sender reaches this host; where nobody knows, the state's own end."""
    sender = icmp.source_of(packet)
    found = context.source_of(sender)
    if found is None and record["depth"]:
        state = context.state_at(int(record["path"][0]), int(record["pathgen"][0]))
        own = state.config.saddr if state else b""
        found = own if len(own) == len(sender) and any(own) else None
    return found


Sized = list[tuple[int, int]]
"""Packets by index, each with the MTU that is too small for it."""


def refused(context: Context, bundles: Int64s, batch: Batch) -> tuple[Sized, Sized]:
    """The packets that a tunnel was too small for: those to fragment, and those to answer."""
    packets = batch.packets
    own: Sized = []
    others: Sized = []
    for i in np.flatnonzero((packets["outcome"] == Outcome.OUT_TOO_BIG) & (packets["depth"] == 1)).tolist():
        sized = (i, int(bundles[packets[i]["bundle"], runs.MTU]))
        (own if _may_divide(context, batch, i) else others).append(sized)
    return own, others + _refused_by_interfaces(bundles, packets)


def _refused_by_interfaces(bundles: Int64s, packets: Any) -> Sized:
    """The packets that an xfrm interface answers, with the MTU. Follows: xfrmi_xmit2.

    Nobody is told of IPv6 packets that every link carries.
    """
    found = []
    for i in np.flatnonzero(packets["outcome"] == Outcome.OUT_INTERFACE_TOO_BIG).tolist():
        least = layer.IPV6_MIN_MTU if packets[i]["family"] == AF_INET6 else 0
        mtu = max(int(bundles[packets[i]["bundle"], runs.MTU]), least)
        if packets[i]["length"] > mtu:
            found.append((i, mtu))
    return found


def refused_by_iptfs(context: Context, bundles: Int64s, batch: Batch) -> Sized:
    """The packets that IP-TFS would have had to cut and must not, with the most it takes."""
    found = []
    for i in np.flatnonzero(batch.packets["outcome"] == Outcome.OUT_IPTFS_TOO_BIG).tolist():
        packet = batch.packets[i]
        depth = int(packet["depth"]) - 1
        slot = int(context.states.rows[packet["path"][depth]]["iptfs"])
        mtu = int(bundles[packet["bundle"], runs.MTU + depth])
        found.append((i, int(aggregate.room(context.iptfs.sides, slot, mtu))))
    return found


def _may_divide(context: Context, batch: Batch, i: int) -> bool:
    """True for the host's own IPv6 packets into a tunnel. What TCP sends is never fragmented."""
    packet = batch.packets[i]
    if packet["family"] != AF_INET6 or packet["fragment"] or packet["proto"] == PROTO_TCP:
        return False
    tunnel = context.states.rows[packet["path"][0]]["mode"] == Mode.TUNNEL
    at = int(packet["offset"]) + 8
    return bool(tunnel and context.is_local and context.is_local(batch.data[at : at + 16].tobytes()))


def _append_pieces(context: Context, batch: Batch, sized: Sized) -> Int64s:
    """Append the fragments of packets; return the index of the packet that each was made of."""
    made: list[bytes] = []
    whole: list[int] = []
    for i, mtu in sized:
        pieces = divide(batch.packet(i), mtu, context.identification())
        made += pieces
        whole += [i] * len(pieces)
    batch.append(made, whole)
    return np.array(whole, np.int64)


def divide_inner(context: Context, batch: Batch, own: Sized) -> int:
    """Append the fragments of packets that are to be protected one by one; return the first one's index.

    They go by the bundle of the whole packet, whose ports they do not show.
    """
    first = len(batch)
    whole = _append_pieces(context, batch, own)
    pieces = batch.packets[first:]
    origins = pieces["origin"].copy()
    layer.classify(batch.data, pieces)
    pieces["origin"] = origins
    for name in ("policy", "detail", "bundle"):
        pieces[name] = batch.packets[name][whole]
    batch.packets["outcome"][[i for i, _ in own]] = Outcome.OUT_FRAGMENTED_FIRST
    context.totals[Outcome.OUT_TOO_BIG] -= len(own)
    context.totals[Outcome.OUT_FRAGMENTED_FIRST] += len(own)
    return first


def divide_outer(context: Context, bundles: Int64s, batch: Batch) -> None:
    """Append the fragments of protected packets that are larger than their path's MTU, ready to be sent."""
    packets, first = batch.packets, len(batch)
    those = np.flatnonzero(packets["outcome"] == Outcome.OUT_FRAGMENTED).tolist()
    if not those:
        return
    sized = [(i, int(bundles[packets[i]["bundle"], runs.PATH])) for i in those]
    whole = _append_pieces(context, batch, sized)
    for i in range(first, len(batch)):
        parse(batch.data, batch.packets, i)
    pieces = batch.packets[first:]
    for name in _OF_WHOLE:
        pieces[name] = batch.packets[name][whole]
    pieces["outcome"] = Outcome.SENT
    count_outcomes(pieces, context.totals)


def divide_clear(context: Context, batch: Batch, joined: Iterable[int]) -> None:
    """Append the fragments of packets that came in some, go in clear, and are too large for their path."""
    sized = []
    for i in joined:
        packet = batch.packets[i]
        mtu = context.mtus.of(icmp.destination_of(batch.packet(i)))
        if packet["outcome"] in _CLEAR and 0 < mtu < packet["length"]:
            sized.append((i, mtu))
    if not sized:
        return
    first = len(batch)
    whole = _append_pieces(context, batch, sized)
    for i in range(first, len(batch)):
        parse(batch.data, batch.packets, i)
    pieces = batch.packets[first:]
    for name in ("outcome", "policy", "detail", "bundle"):
        pieces[name] = batch.packets[name][whole]
    for i, _ in sized:
        context.totals[batch.packets[i]["outcome"]] -= 1
        batch.packets[i]["outcome"] = Outcome.CLEAR_FRAGMENTED
        context.totals[Outcome.CLEAR_FRAGMENTED] += 1
    count_outcomes(pieces, context.totals)
