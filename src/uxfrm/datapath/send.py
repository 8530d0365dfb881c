"""The way out: a flow's policies name its states, and the states wrap its packets.

Follows: xfrm_lookup_with_ifid, then xfrm_output.
"""

from __future__ import annotations

import numpy as np

from uxfrm.datapath import output as layer
from uxfrm.datapath import satable
from uxfrm.datapath.batch import HEADROOM, TAILROOM, Batch, Bytes, Int64s
from uxfrm.datapath.context import Context, flow_of
from uxfrm.datapath.crypto.batch import seal
from uxfrm.datapath.flowtable import ANY_GENERATION, OUTPUT, flow_key, look_up
from uxfrm.datapath.held import Queue
from uxfrm.datapath.limits import NOTICE_AEVENT
from uxfrm.datapath.resolve import Resolution
from uxfrm.datapath.routed import route
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.template import MAX_DEPTH
from uxfrm.tables.policies import Policy
from uxfrm.tables.rows import TRANSFORM_ESP
from uxfrm.tables.states import State

_BUNDLES_START = 64
_DEFAULT_MTU = 1500


class Bundles:
    """The state combinations in use, as rows of an array that the compiled path reads."""

    def __init__(self) -> None:
        self.rows: Int64s = np.zeros((_BUNDLES_START, layer.BUNDLE_COLUMNS), np.int64)
        self._of: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self._of)

    def clear(self) -> None:
        """Forget all bundles; flows that name one must go too."""
        self._of.clear()

    def number(self, states: tuple[State, ...], path_mtu: int) -> int:
        """The bundle of these states (innermost first), made if need be. Follows: xfrm_bundle_create."""
        key = tuple(state.genid for state in states)
        found = self._of.get(key)
        if found is None:
            found = len(self._of)
            if found == self.rows.shape[0]:
                self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
            self._write(self.rows[found], states, path_mtu)
            self._of[key] = found
        return found

    @staticmethod
    def _write(row: Int64s, states: tuple[State, ...], path_mtu: int) -> None:
        row[:] = 0
        row[layer.DEPTH] = len(states)
        row[layer.HEAD] = sum(satable.header_bytes(state) for state in states)
        row[layer.TAIL] = sum(satable.trailer_bytes(state) for state in states)
        limit = path_mtu
        for depth in range(len(states) - 1, -1, -1):
            state = states[depth]
            row[layer.ROW + depth] = state.row
            row[layer.GENID + depth] = state.genid
            if limit or state.record["tfcpad"]:
                limit = satable.mtu(state, limit or _DEFAULT_MTU)
                row[layer.MTU + depth] = limit


def send(context: Context, bundles: Bundles, batch: Batch, hold: bool = True) -> None:
    """Take packets out, in place: afterwards each has its outcome, and those sent are what goes on the wire.

    With `hold` some may be kept for later; see `release`.

    1. IP headers  2. flows to bundles  3. room  4. transforms, innermost first  5. counters
    """
    context.start(batch)
    if len(bundles) > 2 * len(context.states) + _BUNDLES_START:
        bundles.clear()
        context.forget()
    layer.classify(batch.data, batch.packets)
    _settle(context, bundles, batch, context.every, len(batch))
    _hold(context, batch, context.every[: len(batch)], hold)
    if layer.cramped(batch.packets, bundles.rows):
        _make_room(bundles, batch)
    count = layer.gather(batch.packets, context.active)
    depth = 0
    while depth < MAX_DEPTH and count:
        _wrap(context, bundles, batch, context.active[:count], depth, hold)
        depth += 1
        count = layer.gather(batch.packets, context.active)
    context.finish(batch)


def _settle(context: Context, bundles: Bundles, batch: Batch, candidates: Int64s, count: int) -> None:
    """Give every pending packet its outcome or its bundle."""
    flows = context.flows
    missed = _look_up(context, batch, candidates, count, context.missed)
    flows.hits += count - missed
    flows.misses += missed
    for i in context.missed[:missed].copy():
        _decide(context, bundles, batch, int(i))
    for i in _stale(context, bundles, batch, candidates[:count]):
        _decide(context, bundles, batch, int(i))


def _look_up(context: Context, batch: Batch, candidates: Int64s, count: int, missed: Int64s) -> int:
    flows = context.flows
    return int(
        look_up(
            batch.data, batch.packets, candidates, count, OUTPUT, flows.keys, flows.values, flows.seed,
            context.policies.generation, context.states.generation, context.used, missed, context.key,
        )
    )  # fmt: skip


def _stale(context: Context, bundles: Bundles, batch: Batch, candidates: Int64s) -> list[int]:
    """Packets whose flow names a bundle of which a state has changed."""
    if not layer.any_stale(context.states.rows, bundles.rows, batch.packets):
        return []
    named = np.unique(batch.packets["bundle"][candidates])
    old = [b for b in named if b >= 0 and not layer.fresh(context.states.rows, bundles.rows, int(b))]
    if not old:
        return []
    return [int(i) for i in candidates if batch.packets[i]["bundle"] in old]


def _decide(context: Context, bundles: Bundles, batch: Batch, i: int) -> None:
    """Walk policies and states for packet i and remember the answer for its flow."""
    again = np.zeros(1, np.int64)
    packet = batch.packets[i]
    if not _look_up(context, batch, np.array([i]), 1, again):
        bundle = int(packet["bundle"])
        if bundle < 0 or layer.fresh(context.states.rows, bundles.rows, bundle):
            return
    flow_key(batch.data, batch.packets, i, OUTPUT, context.key)
    flow = flow_of(context.key)
    found = route(context, flow, int(packet["if_id"]), int(packet["link"]))
    outcome, bundle = _outcome(context, bundles, found)
    decision = found.decision
    waits = not context.larval_drop and context.devices.xfrmi(flow.oif) is None
    if outcome == Outcome.OUT_NO_STATE and waits:
        outcome = Outcome.HELD
    slot, detail = context.slot(decision.policy), context.detail(decision.detail)
    packet["outcome"], packet["policy"] = outcome, slot
    packet["bundle"], packet["detail"] = bundle, detail
    if slot >= 0:
        context.used[slot] = packet["time"]
    states = ANY_GENERATION if found.settled else context.states.generation
    value = (int(outcome), slot, bundle, detail, context.policies.generation, states)
    context.flows.insert(context.key, value)


def _outcome(context: Context, bundles: Bundles, found: Resolution) -> tuple[Outcome, int]:
    """The outcome of a resolution and its bundle; states this version cannot run end the packet."""
    if not found.states:
        return found.decision.outcome, -1
    for state in found.states:
        if state.record["transform"] != TRANSFORM_ESP:
            return satable.unsupported(state), -1
    return Outcome.PENDING, bundles.number(found.states, context.path_mtu)


def _hold(context: Context, batch: Batch, candidates: Int64s, hold: bool) -> None:
    """Keep the packets that must wait for a state, or drop them where waiting is over."""
    if context.larval_drop:
        return
    for i in candidates[batch.packets["outcome"][candidates] == Outcome.HELD]:
        packet, policy = batch.packets[i], context.policy_at(int(batch.packets[i]["policy"]))
        if not hold or policy is None:
            packet["outcome"] = Outcome.OUT_NO_STATE
        elif not context.held.hold(policy, batch.packet(int(i)), packet.copy(), context.now):
            packet["outcome"] = Outcome.OUT_HELD_FULL


def release(context: Context, bundles: Bundles) -> list[Batch]:
    """Look at the queues of held packets whose time has come; return the packets whose waiting ended.

    The first packet of a queue tells whether its states are there, and then all go, in order.
    Follows: xfrm_policy_queue_process.
    """
    ended = []
    for policy, queue in context.held.due(context.now):
        outcome = _outlook(context, bundles, queue)
        if outcome == Outcome.HELD and context.held.wait(policy, context.now):
            continue
        if outcome.verdict in (Verdict.HELD, Verdict.DROPPED):
            ended += give_up(context, policy)
            continue
        batch = context.held.take(policy, int(context.now))
        if batch is not None:
            send(context, bundles, batch, hold=False)
            ended.append(batch)
    return ended


def _outlook(context: Context, bundles: Bundles, queue: Queue) -> Outcome:
    """What the policies say now of a queue's first packet; a refusal counts."""
    first = queue.batch(1, int(context.now))
    context.start(first)
    layer.classify(first.data, first.packets)
    _settle(context, bundles, first, context.every, 1)
    outcome = Outcome.of(int(first.packets[0]["outcome"]))
    if outcome.verdict == Verdict.DROPPED:
        context.finish(first)
    return outcome


def give_up(context: Context, policy: Policy) -> list[Batch]:
    """Drop what waits at a policy. Follows: the end of xfrm_policy_queue_process, xfrm_policy_kill."""
    batch = context.held.take(policy, int(context.now))
    if batch is None:
        return []
    batch.packets["outcome"] = Outcome.OUT_HELD_GIVEN_UP
    context.held.given_up += len(batch)
    context.finish(batch)
    return [batch]


def _make_room(bundles: Bundles, batch: Batch) -> None:
    """Lay all packets out anew with the room that the hungriest bundle needs. Follows: pskb_expand_head."""
    packets = batch.packets
    named = packets["bundle"][packets["bundle"] >= 0]
    head = max(HEADROOM, int(bundles.rows[named, layer.HEAD].max()))
    tail = max(TAILROOM, int(bundles.rows[named, layer.TAIL].max()))
    highs = np.cumsum(packets["length"] + head + tail)
    data = np.zeros(int(highs[-1]), np.uint8)
    lows = highs - packets["length"] - head - tail
    for i in range(len(batch)):
        length, old, new = int(packets[i]["length"]), int(packets[i]["offset"]), int(lows[i]) + head
        data[new : new + length] = batch.data[old : old + length]
    packets["nexthdr"] += lows + head - packets["offset"]
    packets["offset"], packets["low"], packets["high"] = lows + head, lows, highs
    batch.data = data


def _wrap(context: Context, bundles: Bundles, batch: Batch, active: Int64s, depth: int, hold: bool) -> None:
    """Apply transform number `depth` of each packet's bundle."""
    states, keyring = context.states, context.keyring
    start, count = 0, active.shape[0]
    while start < count:
        pool = _random_ivs(context, len(batch))
        stop, made, noted = layer.begin(
            states.rows, bundles.rows, batch.data, batch.packets, active, start, count, depth,
            pool, context.jobs, context.notices, 0, context.monitored, context.found,
        )  # fmt: skip
        if made:
            seal(keyring.functions, keyring.rows, keyring.scratch, batch.data, context.jobs, made)
        layer.commit(bundles.rows, batch.packets, active, start, stop, context.jobs, depth)
        if noted:
            context.attend(context.notices[:noted])
            limits = (context.notices[:noted, 1] != NOTICE_AEVENT).any()
            if depth == 0 and stop < count and limits:
                rest = active[stop:count].copy()
                _settle(context, bundles, batch, rest, count - stop)
                _hold(context, batch, rest, hold)
        start = stop


def _random_ivs(context: Context, count: int) -> Bytes:
    """16 unpredictable bytes for each packet, where any state wants them; never the same twice."""
    drawn = context.randbytes(16 * count) if context.random_ivs else b""
    return np.frombuffer(bytearray(drawn), np.uint8)
