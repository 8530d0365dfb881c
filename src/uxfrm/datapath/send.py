"""The way out: a flow's policies name its states, and the states wrap its packets.

Follows: xfrm_lookup_with_ifid, then xfrm_output.
"""

from __future__ import annotations

import numpy as np

from uxfrm.datapath import aggregate, ipcomp, iptfs_output, oversize, runs, satable
from uxfrm.datapath import output as layer
from uxfrm.datapath.batch import HEADROOM, TAILROOM, Batch, Bytes, Int64s, count_outcomes
from uxfrm.datapath.context import Context, flow_of
from uxfrm.datapath.crypto.batch import seal
from uxfrm.datapath.embedded import embedded_flow
from uxfrm.datapath.flowtable import ANY_GENERATION, OUTPUT, cpu_of, flow_key, look_up
from uxfrm.datapath.held import Queue
from uxfrm.datapath.reassemble import collect_own
from uxfrm.datapath.resolve import MUST_ASK, Acquire, Resolution, takes_icmp
from uxfrm.datapath.routed import Asker, route
from uxfrm.datapath.streams import push
from uxfrm.model.flow import Flow
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.template import Mode
from uxfrm.tables.policies import Policy
from uxfrm.tables.rows import TRANSFORM_AH, TRANSFORM_COMP, TRANSFORM_ESP
from uxfrm.tables.states import State

_BUNDLES_START = 64
_TOO_LARGE = (
    Outcome.OUT_TOO_BIG, Outcome.OUT_INTERFACE_TOO_BIG, Outcome.OUT_FRAGMENTED, Outcome.OUT_IPTFS_TOO_BIG,
)  # fmt: skip
_SIZES = tuple(int(outcome) for outcome in _TOO_LARGE)
_DEFAULT_MTU = 1500


class Bundles:
    """The state combinations in use, as rows of an array that the compiled path reads."""

    def __init__(self) -> None:
        self.rows: Int64s = np.zeros((_BUNDLES_START, runs.BUNDLE_COLUMNS), np.int64)
        self._of: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self._of)

    def clear(self) -> None:
        """Forget all bundles; flows that name one must go too."""
        self._of.clear()

    def number(self, states: tuple[State, ...], path_mtu: int, answers_tcp: bool = False) -> int:
        """The bundle of these states (innermost first), made if need be. Follows: xfrm_bundle_create.

        `answers_tcp`, always the same: see Context.
        """
        key = (path_mtu, *(state.genid * 2 + state.dying for state in states))
        found = self._of.get(key)
        if found is None:
            found = len(self._of)
            if found == self.rows.shape[0]:
                self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
            self._write(self.rows[found], states, path_mtu, answers_tcp)
            self._of[key] = found
        return found

    @staticmethod
    def _write(row: Int64s, states: tuple[State, ...], path_mtu: int, answers_tcp: bool) -> None:
        row[:] = 0
        row[runs.DEPTH] = len(states)
        row[runs.HEAD] = sum(satable.header_bytes(state) for state in states)
        row[runs.TAIL] = sum(satable.trailer_bytes(state) for state in states)
        row[runs.PATH] = limit = path_mtu
        # IP-TFS cuts for a usual path where nobody knows the path.
        if not limit and any(state.config.mode == Mode.IPTFS for state in states):
            limit = _DEFAULT_MTU
        for depth in range(len(states) - 1, -1, -1):
            state = states[depth]
            row[runs.ROW + depth] = state.row
            row[runs.GENID + depth] = state.genid
            row[runs.DYING + depth] = state.dying
            if limit or state.record["tfcpad"]:
                limit = satable.mtu(state, limit or _DEFAULT_MTU)
                row[runs.MTU + depth] = limit
            if state.config.mode == Mode.IPTFS:
                limit = satable.inner_mtu(state, limit)
        if answers_tcp and limit >= layer.IPV6_MIN_MTU and states[0].config.mode == Mode.TRANSPORT:
            row[runs.TCP] = limit


def send(context: Context, bundles: Bundles, batch: Batch, hold: bool = True) -> None:
    """Take packets out, in place: afterwards each has its outcome, and those sent are what goes on the wire.

    With `hold` some may be kept for later; see `release`.

    1. IP headers, fragments of the host's own  2. flows to bundles  3. run by run: what is not decided or
    not valid any more is decided, transforms, innermost first  4. counters
    Packets fare as if each had been a batch of its own: what one does to a state ends its run.
    """
    context.start(batch)
    if len(bundles) > 2 * len(context.states) + _BUNDLES_START:
        bundles.clear()
        context.forget()
    layer.classify(batch.data, batch.packets)
    joined = collect_own(context, batch) if context.cut_before else []
    flows, count = context.flows, len(batch)
    missed = _look_up(context, batch, context.every, count, context.missed)
    flows.hits += count - missed
    flows.misses += missed
    done = 0
    while done < count:
        done = _advance(context, bundles, batch, done, hold)
    if len(context.iptfs):
        _send_queued(context, bundles, batch)
    before = _too_large(context.totals)
    context.finish(batch)
    if _too_large(context.totals) != before:
        _divide(context, bundles, batch, hold)
    if joined:
        oversize.divide_clear(context, batch, joined)


def _too_large(totals: Int64s) -> int:
    """How many packets ever were too large for their path. Cheaper than an index by a list."""
    return sum(map(totals.item, _SIZES))


def _divide(context: Context, bundles: Bundles, batch: Batch, hold: bool) -> None:
    """Send in pieces what is too large for its path, or tell who sent it."""
    own, others = oversize.refused(context, bundles.rows, batch)
    if own:
        done = first = oversize.divide_inner(context, batch, own)
        context.fit(batch)
        while done < len(batch):
            done = _advance(context, bundles, batch, done, hold)
        if len(context.iptfs):
            _send_queued(context, bundles, batch)
        count_outcomes(batch.packets[first:], context.totals)
    oversize.divide_outer(context, bundles.rows, batch)
    oversize.too_big(context, batch, others + oversize.refused_by_iptfs(context, bundles.rows, batch))


def _send_queued(context: Context, bundles: Bundles, batch: Batch, now: bool = False) -> None:
    """Send what waits in the queues of IP-TFS, but with states that have a delay, unless it is over `now`.

    A state's packets may have another IP-TFS state before them: its queue comes then.
    """
    slots = iptfs_output.queued(context)
    while slots:
        if not now:
            slots = iptfs_output.put_by(context, bundles.rows, batch, slots)
        now = False
        active = iptfs_output.put_together(context, bundles.rows, batch, slots)
        nested = bool((bundles.rows[batch.packets["bundle"][active], runs.DEPTH] > 1).any())
        for i in active[batch.packets["job"][active] > 0].tolist() if nested else ():
            states = iptfs_output.states_from(context, bundles.rows, batch.packets[i])
            batch.packets[i]["bundle"] = _bundle(context, bundles, states)
        at = 0
        while at < len(active):
            at, noted = _wrap(context, bundles, batch, active, at)
            if noted:
                context.attend(context.notices[:noted])
        slots = iptfs_output.queued(context) if nested else []


def send_waiting(context: Context, bundles: Bundles, slot: int) -> list[Batch]:
    """Send the packets of an IP-TFS state whose initial delay is over. Follows: iptfs_delay_timer."""
    iptfs = context.iptfs
    batch, states = iptfs_output.waited(context, slot)
    iptfs.sides[slot]["queued"] = 0
    if not len(batch):
        return []
    context.start(batch)
    batch.packets["job"] = 0
    for i, passed in enumerate(states):
        alive = all(state.row >= 0 for state in passed)
        batch.packets[i]["outcome"] = Outcome.OUT_IPTFS if alive else Outcome.OUT_STATE_INVALID
        if alive:
            batch.packets[i]["bundle"] = _bundle(context, bundles, passed)
            aggregate.join(iptfs.sides, iptfs.links, i, slot)
    _send_queued(context, bundles, batch, now=True)
    context.finish(batch)
    return [batch]


def _advance(context: Context, bundles: Bundles, batch: Batch, start: int, hold: bool) -> int:
    """Take a run of packets from `start` on out; return where it ended."""
    states = context.states
    generation = states.generation
    stop = _settle(context, bundles, batch, start)
    count, cramped = runs.gather(bundles.rows, batch.packets, start, stop, context.active)
    if cramped:
        _make_room(bundles, batch)
    active, at = context.active[:count], 0
    while at < count:
        before = states.generation
        at, noted = _wrap(context, bundles, batch, active, at)
        if noted:
            context.attend(context.notices[:noted])
        if states.generation != before:
            stop = int(active[at - 1]) + 1
            break
    _hold(context, batch, context.every[start:stop], hold)
    runs.note_use(batch.packets, start, stop, context.used)
    if states.generation != generation:
        runs.reopen(batch.packets, stop)
    return stop


def _settle(context: Context, bundles: Bundles, batch: Batch, start: int) -> int:
    """Give packets from `start` on their outcome or their bundle; return up to which they may go.

    Key managers are asked for a packet when those before it have gone; the answer may change what follows.
    """
    packets, waiting, states = batch.packets, context.missed, context.states
    count = runs.unsettled(states.rows, bundles.rows, packets, start, waiting)
    ready = runs.first_ready(packets, start) if count else start
    for i in waiting[:count].tolist():
        generation = states.generation
        if i < ready:
            runs.note_use(packets, start, i, context.used)
        if not _decide(context, bundles, batch, i, context.acquire if i < ready else None):
            return int(i)
        if states.generation != generation:
            return int(i) + 1
        if not packets[i]["outcome"]:
            ready = min(ready, i)
    return len(batch)


def _look_up(context: Context, batch: Batch, candidates: Int64s, count: int, missed: Int64s) -> int:
    flows = context.flows
    return int(
        look_up(
            batch.data, batch.packets, candidates, count, OUTPUT, flows.keys, flows.values, flows.seed,
            context.policies.generation, context.states.generation, context.used, missed, context.key,
        )
    )  # fmt: skip


def _decide(context: Context, bundles: Bundles, batch: Batch, i: int, acquire: Acquire | None = None) -> bool:
    """Walk policies and states for packet i and remember the answer for its flow.

    False where key managers have to be asked first, and `acquire` is not given to ask them.
    """
    again = np.zeros(1, np.int64)
    packet = batch.packets[i]
    if not _look_up(context, batch, np.array([i]), 1, again):
        bundle = int(packet["bundle"])
        if bundle < 0 or runs.fresh(context.states.rows, bundles.rows, bundle):
            return True
        packet["bundle"] = -1
    flow_key(batch.data, batch.packets, i, OUTPUT, context.key)
    flow, key = flow_of(context.key), context.key
    asker = Asker(acquire, cpu_of(key), int(packet["socket"]), int(packet["if_id"]), int(packet["link"]))
    found = route(context, flow, asker)
    by_flow = not (flow.is_icmp_error and found.decision.outcome.verdict == Verdict.CLEAR)
    if not by_flow:
        found = _resolve_icmp(context, embedded_flow(batch.packet(i), flow), asker) or found
    if found is MUST_ASK:
        return False
    outcome, bundle = _outcome(context, bundles, found)
    decision = found.decision
    if outcome == Outcome.OUT_NO_STATE and not context.larval_drop and not _of_interface(decision.policy):
        outcome = Outcome.HELD
    slot, detail = context.slot(decision.policy), context.detail(decision.detail)
    packet["outcome"], packet["policy"] = outcome, slot
    packet["bundle"], packet["detail"] = bundle, detail
    lasting = found.settled and (bundle >= 0 or not found.states)
    states = ANY_GENERATION if lasting else context.states.generation
    packet["unsettled"] = not lasting
    value = (int(outcome), slot, bundle, detail, context.policies.generation, states)
    if by_flow:
        context.flows.insert(key, value)
    return True


def _of_interface(policy: Policy | None) -> bool:
    """An xfrm interface holds no packets: it looks up without XFRM_LOOKUP_QUEUE."""
    return policy is not None and bool(policy.config.if_id)


def _resolve_icmp(context: Context, inner: Flow | None, asker: Asker) -> Resolution | None:
    """The way of an ICMP error that would go in clear: that of the packet inside, if its policy says so.

    Follows: icmp_route_lookup, xfrm_out_fwd_icmp (Linux 6.9 and later).
    """
    if inner is None or not takes_icmp(context.policies, inner):
        return None
    found = route(context, inner, asker._replace(socket=0))
    return found if found.states or found is MUST_ASK else None


def _outcome(context: Context, bundles: Bundles, found: Resolution) -> tuple[Outcome, int]:
    """The outcome of a resolution and its bundle; states this version cannot run end the packet."""
    if not found.states:
        return found.decision.outcome, -1
    for state in found.states:
        if state.row < 0:
            return Outcome.OUT_STATE_INVALID, -1
        if state.record["transform"] not in (TRANSFORM_ESP, TRANSFORM_AH, TRANSFORM_COMP):
            return Outcome.UNSUPPORTED_MODE, -1
    return Outcome.PENDING, _bundle(context, bundles, found.states)


def _bundle(context: Context, bundles: Bundles, states: tuple[State, ...]) -> int:
    return bundles.number(states, context.mtus.of(states[-1].config.daddr), context.answers_tcp)


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
    _settle(context, bundles, first, 0)
    runs.note_use(first.packets, 0, 1, context.used)
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
    head = max(HEADROOM, int(bundles.rows[named, runs.HEAD].max()))
    tail = max(TAILROOM, int(bundles.rows[named, runs.TAIL].max()))
    highs = np.cumsum(packets["length"] + head + tail)
    data = np.zeros(int(highs[-1]), np.uint8)
    lows = highs - packets["length"] - head - tail
    for i in range(len(batch)):
        length, old, new = int(packets[i]["length"]), int(packets[i]["offset"]), int(lows[i]) + head
        data[new : new + length] = batch.data[old : old + length]
    packets["nexthdr"] += lows + head - packets["offset"]
    packets["offset"], packets["low"], packets["high"] = lows + head, lows, highs
    batch.relaid(data)


def _wrap(context: Context, bundles: Bundles, batch: Batch, active: Int64s, start: int) -> tuple[int, int]:
    """Apply all transforms to a run of packets from active[start] on; return where it ended, and the notices.

    All of the run pass a transform before any passes the next one; the first transform may end the run early.
    """
    rows, count, noted = context.states.rows, active.shape[0], 0
    context.run += 1
    stop, deepest = runs.run_end(
        rows, bundles.rows, batch.packets, active, start, count, context.run, context.monitored
    )
    for depth in range(deepest):
        at = start
        while at < stop:
            at, noted = _transform(context, bundles, batch, active, at, stop, depth, noted)
            stop = stop if depth else at
    return stop, noted


def _transform(
    context: Context,
    bundles: Bundles,
    batch: Batch,
    active: Int64s,
    start: int,
    stop: int,
    depth: int,
    noted: int,
) -> tuple[int, int]:
    """Apply transform number `depth` of each packet's bundle; return where it stopped and the notices."""
    states, keyring = context.states, context.keyring
    pool = _random_ivs(context, len(batch))
    stop, made, noted = layer.begin(
        states.rows, bundles.rows, batch.data, batch.packets, active, start, stop, depth,
        pool, context.jobs, context.notices, noted, context.monitored, context.found,
        context.iptfs.sides, context.iptfs.links,
    )  # fmt: skip
    if made:
        seal(keyring.functions, keyring.rows, keyring.scratch, batch.data, context.jobs, made)
    if made and context.without_key:
        ipcomp.compress(batch, context.jobs[:made])
    if made and context.authenticated:
        context.authenticator.sign(keyring, states.rows, batch, context.jobs[:made])
    layer.commit(
        states.rows, bundles.rows, batch.data, batch.packets, active, start, stop, context.jobs, depth
    )  # fmt: skip
    if made and context.streamed:
        those = active[start:stop]
        ended = (batch.packets["outcome"] == Outcome.STREAMED) & (batch.packets["depth"] == depth + 1)
        push(context.streams, states, batch, those[ended[those]], depth)
    return stop, noted


def _random_ivs(context: Context, count: int) -> Bytes:
    """16 unpredictable bytes for each packet, where any state wants them; never the same twice."""
    drawn = context.randbytes(16 * count) if context.random_ivs else b""
    return np.frombuffer(bytearray(drawn), np.uint8)
