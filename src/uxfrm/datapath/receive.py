"""The way in: layers are opened until an inner packet is left, and the policies have their say.

Follows: xfrm_input, then __xfrm_policy_check.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from uxfrm.datapath import input as layer
from uxfrm.datapath import ipcomp, iptfs_input, pathmtu, policycheck, udp
from uxfrm.datapath.aggfrag import AS_THEY_ARE
from uxfrm.datapath.batch import Batch, Int64s
from uxfrm.datapath.carriers import ESPINTCP, ESPINUDP
from uxfrm.datapath.companions import enlist
from uxfrm.datapath.context import Context, flow_of
from uxfrm.datapath.crypto.batch import open_
from uxfrm.datapath.embedded import embedded_flow
from uxfrm.datapath.flowtable import ANY_GENERATION, INPUT, flow_key, look_up
from uxfrm.datapath.policycheck import Decision, Embedded
from uxfrm.datapath.reassemble import NO_PORTS, collect, is_local
from uxfrm.model.flow import PROTO_ICMP, PROTO_ICMPV6, Flow
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.policy import Direction, PolicyType
from uxfrm.tables.states import State

# By an outcome's number, whether it lets the packet in.
_LET_IN = np.array([o.verdict in (Verdict.DELIVERED, Verdict.FORWARDED, Verdict.CLEAR) for o in Outcome])


def receive(context: Context, batch: Batch) -> None:
    """Take packets in, in place: afterwards each has its outcome, and those let in are the inner packets.

    1. IP headers, fragments  2. ESP out of UDP  3. layers  4. IPsec for others is forwarded
    5. xfrm interfaces  6. policy check  7. counters  8. path MTUs out of ICMP errors
    """
    context.start(batch)
    count, fragments, messages = layer.classify(
        batch.data, batch.packets, context.encap_ports, context.active
    )
    if fragments:
        count = collect(context, batch, context.active, count, context.encap_ports)
    if context.encap_ports.shape[0]:
        count = _unwrap(context, batch, count)
    count = enlist(context, batch, context.active, count)
    _go_on(context, batch, count)
    if messages:
        _learn(context, batch)


def let_in(context: Context, slot: int) -> list[Batch]:
    """Let in what an IP-TFS state kept and keeps no longer: its drop timer ran out."""
    batch, count = iptfs_input.timed_out(context, slot)
    if not len(batch):
        return []
    context.start(batch)
    context.found[layer.FRAGMENTS] = 0
    first = context.every[:count].copy()
    agains = iptfs_input.take_apart(context, batch, first, count, 0, AS_THEY_ARE)
    context.active, context.again = context.again, context.active
    if context.found[layer.FRAGMENTS]:
        agains = collect(context, batch, context.active, agains, NO_PORTS)
    _go_on(context, batch, enlist(context, batch, context.active, agains))
    return [batch]


def _go_on(context: Context, batch: Batch, count: int) -> None:
    """Open what is left to open, and settle all packets."""
    while count:
        count = _open_layer(context, batch, count)
    _pass_on_others(context, batch)
    _appear(context, batch)
    _check_policies(context, batch, context.every[: len(batch)])
    context.finish(batch)


def _unwrap(context: Context, batch: Batch, count: int) -> int:
    """Take ESP out of UDP; the datagram around it must pass its socket's policy check first.

    Follows: udp_queue_rcv_one_skb.
    """
    packets = batch.packets
    listed = context.active[:count]
    claimed = listed[packets["encap"][listed] == ESPINUDP]
    if len(claimed):
        _check_policies(context, batch, claimed)
        let_in = claimed[_LET_IN[packets["outcome"][claimed]]]
        packets["outcome"][let_in], packets["policy"][let_in] = Outcome.PENDING, -1
    return int(udp.unwrap(batch.data, packets, context.active, count))


def _open_layer(context: Context, batch: Batch, count: int) -> int:
    """Open the outermost layer of every active packet; return how many carry IPsec again."""
    states, keyring = context.states, context.keyring
    index = states.by_spi
    start, agains = 0, 0
    context.found[layer.FRAGMENTS] = 0
    while start < count:
        context.run += 1
        stop, made = layer.begin(
            states.rows, index.heads, index.links, index.hashes, states.seed, states.words,
            batch.data, batch.packets, context.active, start, count, context.jobs, context.run,
        )  # fmt: skip
        if made:
            open_(keyring.functions, keyring.rows, keyring.scratch, batch.data, context.jobs, made)
        if made and context.without_key:
            ipcomp.decompress(states.rows, batch, context.jobs[:made])
        if made and context.authenticated:
            context.authenticator.verify(keyring, states.rows, batch, context.jobs[:made])
        while start < stop:
            start, agains, noted = layer.commit(
                states.rows, states.words, batch.data, batch.packets, context.active, start, stop,
                context.jobs, context.again, agains, context.notices, context.monitored | context.mapped,
                context.found,
            )  # fmt: skip
            if noted:
                context.attend(context.notices[:noted])
    if len(context.iptfs):
        agains = iptfs_input.take_apart(context, batch, context.active, count, agains)
    context.active, context.again = context.again, context.active
    if context.found[layer.FRAGMENTS]:
        agains = collect(context, batch, context.active, agains, NO_PORTS)
    return enlist(context, batch, context.active, agains)


def _learn(context: Context, batch: Batch) -> None:
    """Believe ICMP errors that let-in packets for this host are: a path carries less than this host sends.

    Follows: esp4_err and its siblings.
    """
    packets = batch.packets
    messages = np.isin(packets["proto"], (PROTO_ICMP, PROTO_ICMPV6)) & _LET_IN[packets["outcome"]]
    for i in np.flatnonzero(messages & (packets["depth"] == 0) & (packets["fragment"] == 0)).tolist():
        packet, told = packets[i], pathmtu.read(batch.packet(i))
        if told is None or is_local(context, batch, i) is False:
            continue
        mtu = told.mtu if packet["family"] != 2 else context.believed_mtu(told.mtu)
        known = context.states.find(
            told.daddr, told.spi, told.proto, int(packet["family"]), int(packet["mark"])
        )
        if known is not None and mtu is not None:
            context.mtus.learn(told.daddr, mtu, max(context.now, int(packet["time"])))


def _pass_on_others(context: Context, batch: Batch) -> None:
    """IPsec packets for somebody else are ordinary packets: no state of ours is missing for them."""
    packets = batch.packets
    if context.is_local is None:
        return
    missing = (packets["outcome"] == Outcome.IN_NO_STATE) & (packets["encap"] != ESPINTCP)
    for i in np.flatnonzero(missing).tolist():
        if is_local(context, batch, i) is False:
            packets[i]["outcome"] = Outcome.PENDING
            udp.wrap_again(packets, i)


def _appear(context: Context, batch: Batch) -> None:
    """Let opened packets appear on the xfrm interfaces of their states. Follows: xfrmi_rcv_cb."""
    packets = batch.packets
    if not context.devices.has_interfaces:
        return
    for depth in range(int(packets["depth"].max(initial=0))):
        opened = (packets["depth"] > depth) & (packets["outcome"] == Outcome.PENDING)
        passed = packets["pathgen"][:, depth]
        for genid in np.unique(passed[opened]).tolist():
            _appear_of(context, batch, np.flatnonzero(opened & (passed == genid)), depth)


def _appear_of(context: Context, batch: Batch, those: npt.NDArray[np.intp], depth: int) -> None:
    """Move packets that one state opened to its interface; one with collect_md notes where they came from."""
    packets, first = batch.packets, batch.packets[those[0]]
    state = context.state_at(int(first["path"][depth]), int(first["pathgen"][depth]))
    device = None if state is None else context.devices.arrival(state.config.if_id)
    if state is None or device is None or device.xfrmi is None:
        return
    if device.xfrmi.collect_md:
        packets["link"][those] = packets["ifindex"][those]
        packets["if_id"][those] = state.config.if_id
    packets["ifindex"][those] = device.ifindex


def _check_policies(context: Context, batch: Batch, candidates: Int64s) -> None:
    """Settle every candidate that is still pending: by its flow, or by walking the policies."""
    flows, count = context.flows, len(candidates)
    missed = _look_up(context, batch, candidates, count, context.missed)
    flows.hits += count - missed
    flows.misses += missed
    again = np.zeros(1, np.int64)
    for i in context.missed[:missed].copy():
        # An earlier miss of this batch may have been the same flow.
        if _look_up(context, batch, np.array([i]), 1, again):
            _decide(context, batch, int(i))


def _look_up(context: Context, batch: Batch, candidates: Int64s, count: int, missed: Int64s) -> int:
    flows = context.flows
    return int(
        look_up(
            batch.data, batch.packets, candidates, count, INPUT, flows.keys, flows.values, flows.seed,
            context.policies.generation, 0, context.used, missed, context.key,
        )
    )  # fmt: skip


def _decide(context: Context, batch: Batch, i: int) -> None:
    """Walk the policies for packet i; remember the answer for its flow, if it is not for this packet only."""
    packet, asked = batch.packets[i], False

    def embedded() -> Flow | None:
        nonlocal asked
        asked = True
        return embedded_flow(batch.packet(i), flow)

    flow_key(batch.data, batch.packets, i, INPUT, context.key)
    flow = flow_of(context.key)
    decision = decide(context, flow, context.path(packet), embedded, int(packet["socket"]))
    slot, detail = context.slot(decision.policy), context.detail(decision.detail)
    packet["outcome"], packet["policy"], packet["detail"] = decision.outcome, slot, detail
    if slot >= 0:
        context.used[slot] = packet["time"]
    value = (int(decision.outcome), slot, -1, detail, context.policies.generation, ANY_GENERATION)
    if not asked:
        context.flows.insert(context.key, value)


def decide(
    context: Context,
    flow: Flow,
    path: list[State],
    embedded: Embedded = policycheck.nothing_embedded,
    socket: int = 0,
) -> Decision:
    """Check a received flow as local delivery, which it is if it has a socket, or as forwarding.

    `flow.oif` is the device it appeared on; selectors do not see that. An ICMP message for the host itself
    that is refused may be let in for the packet inside. Linux counts the refusal all the same.
    Follows: xfrm4_policy_check, xfrmi_decode_session, icmp_rcv.
    """
    ifindex, flow = flow.oif, flow._replace(oif=0)
    if_id = _if_id(context, ifindex, path)
    direction = Direction.IN if socket else _direction(context, flow, if_id)
    if context.devices.disable_policy(ifindex, flow.family):
        return Decision(_unchecked(path, direction))
    own = context.sockets.lookup(socket, Direction.IN, flow, if_id)
    decision = policycheck.check(context.policies, flow, path, direction, if_id, embedded, own)
    if decision.outcome.verdict != Verdict.DROPPED or direction == Direction.FWD:
        return decision
    if not policycheck.lets_icmp_in(path, flow) or (inner := embedded()) is None:
        return decision
    second = policycheck.check(context.policies, inner, path, direction, if_id)
    return decision if second.outcome.verdict == Verdict.DROPPED else second


def _if_id(context: Context, ifindex: int, path: list[State]) -> int:
    """The if_id that policies are looked up by: the interface's, with collect_md the last state's."""
    xfrmi = context.devices.xfrmi(ifindex)
    if xfrmi is None or not path:
        return 0
    return path[-1].config.if_id if xfrmi.collect_md else xfrmi.if_id


def _unchecked(path: list[State], direction: Direction) -> Outcome:
    if not path:
        return Outcome.CLEAR
    return Outcome.DELIVERED_UNCHECKED if direction == Direction.IN else Outcome.FORWARDED_UNCHECKED


def _direction(context: Context, flow: Flow, if_id: int) -> Direction:
    """Local or forwarded: as the host's addresses say; where nobody knows them, as policies suggest."""
    local = context.is_local(flow.daddr) if context.is_local else None
    if local is None:
        policed = _has_policy(context, Direction.IN, flow, if_id)
        local = policed or not _has_policy(context, Direction.FWD, flow, if_id)
    return Direction.IN if local else Direction.FWD


def _has_policy(context: Context, direction: Direction, flow: Flow, if_id: int) -> bool:
    lookup = context.policies.lookup
    return any(lookup(kind, direction, flow, if_id) for kind in (PolicyType.MAIN, PolicyType.SUB))
