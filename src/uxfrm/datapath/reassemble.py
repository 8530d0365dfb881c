"""Fragments for this host become whole packets before anything looks into them, layer by layer.

Follows: ip_local_deliver, ipv6_frag_rcv. The fragment that completes a packet becomes the packet; those
before it have ended as kept. Fragments for others are left as they are. Where nobody knows the host's
addresses, those that may carry IPsec are taken as its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from uxfrm.datapath import icmp, output
from uxfrm.datapath import input as layer
from uxfrm.datapath.batch import Batch, Int64s
from uxfrm.datapath.context import Context
from uxfrm.datapath.fragments import Fragments, Refused, Whole, read
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_ESP, PROTO_IPIP, PROTO_IPV6, PROTO_UDP
from uxfrm.model.outcome import Outcome

_IPSEC = (PROTO_ESP, PROTO_AH, PROTO_COMP)
_COMPANIONS = (PROTO_IPIP, PROTO_IPV6)
# Behind these IPv6 extension headers there may be IPsec.
_EXTENSIONS = (0, 43, 60)
NO_PORTS: Int64s = np.zeros(0, np.int64)
# What a whole packet has from its first fragment.
_OF_FIRST = ("depth", "path", "pathgen", "mark")


def collect(
    context: Context, batch: Batch, active: Int64s, count: int, ports: Int64s, sent: bool = False
) -> int:
    """Keep the batch's undecided fragments, make of them what is whole; return how many are active then.

    Packets that are whole now and carry IPsec, or UDP for one of `ports`, join active[:count]. `sent` ones
    are the host's own, that are only looked at.
    """
    for i in _join(context, batch, lambda i: _ours(context, batch, i, sent), sent):
        if _classify(batch, i, ports):
            active[count] = i
            count += 1
    active[:count].sort()
    return count


def collect_own(context: Context, batch: Batch) -> list[int]:
    """On the way out, keep the fragments of the host's own datagrams; return which packets are whole now.

    Linux cuts its own datagrams behind XFRM. Where somebody has cut them before, this makes up for it.
    """
    whole = _join(context, batch, lambda i: bool(_is_own(context, batch, i, 12, 8)), sent=True)
    for i in whole:
        output.classify(batch.data, batch.packets[i : i + 1])
        batch.packets[i]["origin"] = i
    return whole


def _join(context: Context, batch: Batch, ours: Callable[[int], bool], sent: bool) -> list[int]:
    """Keep fragments that are `ours`; return which packets are whole now."""
    packets, fragments = batch.packets, context.sent_fragments if sent else context.fragments
    undecided = (packets["fragment"] > 0) & (packets["outcome"] == Outcome.PENDING)
    whole: list[tuple[int, Whole]] = []
    for i in np.flatnonzero(undecided).tolist():
        if not ours(i):
            continue
        now = max(context.now, int(packets[i]["time"]))
        _expire(context, fragments, now, sent)
        found = _keep(context, fragments, batch, i, now, sent)
        if isinstance(found, Whole):
            whole.append((i, found))
        else:
            packets[i]["outcome"] = found
    _become(batch, whole)
    return [i for i, _ in whole]


def _ours(context: Context, batch: Batch, i: int, sent: bool) -> bool:
    """True for fragments of packets that this host is to put together."""
    packet = batch.packets[i]
    local = None if sent else is_local(context, batch, i)
    if local is not None:
        return local
    proto = int(packet["proto"])
    if proto == PROTO_UDP:
        return bool(context.encap_ports.shape[0])
    if proto in _COMPANIONS:
        return bool(context.companions)
    return proto in _IPSEC or (packet["family"] != 2 and proto in _EXTENSIONS)


def is_local(context: Context, batch: Batch, i: int) -> bool | None:
    """Whether packet i is for this host; None where nobody knows."""
    return _is_own(context, batch, i, 16, 24)


def _is_own(context: Context, batch: Batch, i: int, at4: int, at6: int) -> bool | None:
    """Whether an address of packet i is this host's, given where it is in both families; None: unknown."""
    if context.is_local is None:
        return None
    packet = batch.packets[i]
    at, size = (at4, 4) if packet["family"] == 2 else (at6, 16)
    at += int(packet["offset"])
    return context.is_local(batch.data[at : at + size].tobytes())


def _keep(
    context: Context, fragments: Fragments, batch: Batch, i: int, now_s: float, sent: bool
) -> Whole | Outcome:
    packet, record = batch.packet(i), batch.packets[i]
    try:
        return fragments.add(read(packet, int(record["ifindex"])), record.copy(), now_s)
    except Refused as refused:
        fragments.figures.required += 1
        if refused.pointer >= 0 and not sent:
            error = icmp.parameter_problem(refused.pointer, refused.incomplete)
            _answer(context, packet, error)
        return refused.outcome


def _become(batch: Batch, whole: list[tuple[int, Whole]]) -> None:
    """Put whole packets in the places of the fragments that completed them."""
    if not whole:
        return
    made = Batch.pack([found.packet for _, found in whole])
    at = batch.lay(made.data)
    for (i, found), laid in zip(whole, made.packets, strict=True):
        packet = batch.packets[i]
        for name in ("offset", "low", "high"):
            packet[name] = laid[name] + at
        packet["length"] = laid["length"]
        for name in _OF_FIRST:
            packet[name] = found.record[name]


def _classify(batch: Batch, i: int, ports: Int64s) -> bool:
    """Read the headers of a packet that is whole now; True where it may carry IPsec."""
    packet = batch.packets[i]
    outer, listed = int(packet["wire_proto"]), np.zeros(1, np.int64)
    count, _, _ = layer.classify(batch.data, batch.packets[i : i + 1], ports, listed)
    packet["origin"] = i
    if packet["depth"]:
        packet["wire_proto"] = outer
    return bool(count)


# -- ICMP errors about fragments


def expire(context: Context, now_s: float) -> None:
    """End the packets whose fragments did not come in time, and tell who sent them."""
    _expire(context, context.fragments, now_s, False)


def _expire(context: Context, fragments: Fragments, now_s: float, sent: bool) -> None:
    for packet in fragments.expire(now_s):
        if not sent:
            error = icmp.reassembly_time(4 if packet[0] >> 4 == 4 else 16)
            _answer(context, packet, error)


def _answer(context: Context, packet: bytes, error: icmp.Error) -> None:
    """Have an error go out about a packet for this host, if its addresses are known."""
    here = icmp.destination_of(packet)
    if context.is_local is None or not context.is_local(here):
        return
    made = icmp.answer(packet, error, here)
    if made is not None and context.icmp_allowance.allows(context.now):
        context.answers.append(made)
