"""Any sequence of requests, packets and time: two namespaces beside two plain models.

After every step the dumps, the events in their order, the counters and what became of each packet are those
of the model, and what is kept inside agrees with itself: indexes with a scan, key slots with keyed states,
planned checks with limits. UXFRM_MACHINE_EXAMPLES asks for a longer run.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter as Tally
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from machine_host import (
    ADDRESSES,
    ESN_WORDS,
    FAR,
    IN,
    NEAR,
    OUT,
    PRIORITIES,
    SELECTORS,
    Host,
    configured,
    configured_policy,
    told_policy,
    told_state,
)
from plain_tables import Limits, PlainPolicy, PlainState, Sealed
from test_namespace import datagram
from uxfrm.datapath.batch import Batch
from uxfrm.model.address import AF_INET, parse
from uxfrm.model.aevent import AeventUpdate
from uxfrm.model.dump import LarvalConfig, PolicyId, StateId
from uxfrm.model.lifetime import INF, LifetimeCurrent
from uxfrm.model.migrate import MigrateEntry, Migration
from uxfrm.model.outcome import Counter, Outcome
from uxfrm.model.policy import DefaultAction
from uxfrm.model.selector import Selector
from uxfrm.model.state import LifeState, ReplayEsn, ReplayLegacy, StateConfig
from uxfrm.model.template import Mode

hosts = st.sampled_from([NEAR, FAR])
spis = st.integers(0x1000, 0x1004)
remotes = st.sampled_from("BC")
reqids = st.sampled_from([1, 2])
selectors = st.sampled_from([0, 1])
flows = st.lists(st.sampled_from([0, 0, 1]), min_size=1, max_size=6)
windows = st.sampled_from([(0, False), (3, False), (32, False), (64, True)])
state_limits = st.builds(
    Limits,
    soft_byte=st.just(INF),
    hard_byte=st.sampled_from([INF, INF, 200]),
    soft_packet=st.sampled_from([INF, INF, 2]),
    hard_packet=st.sampled_from([INF, INF, 4]),
    soft_add=st.sampled_from([0, 0, 6, 30]),
    hard_add=st.sampled_from([0, 0, 9, 60]),
    soft_use=st.sampled_from([0, 0, 4]),
    hard_use=st.sampled_from([0, 0, 7]),
)
policy_limits = st.builds(
    Limits,
    *[st.just(INF)] * 4,
    soft_add=st.sampled_from([0, 0, 0, 5]),
    hard_add=st.sampled_from([0, 0, 0, 40]),
    soft_use=st.sampled_from([0, 0, 0, 8]),
    hard_use=st.sampled_from([0, 0, 0, 12]),
)


class Machine(RuleBasedStateMachine):
    """Near sends from A, far receives; both are told whatever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts = (Host(), Host())
        self.keys = itertools.count(1)
        self.wire: list[tuple[bytes, Sealed]] = []
        self.used: set[tuple[int, int]] = set()

    # -- states

    def _plain(self, host: int, remote: str, spi: int, reqid: int, window: Any, limits: Limits) -> PlainState:
        return PlainState(remote, "A", spi, reqid, next(self.keys), *window, limits)

    def _add(self, host: int, plain: PlainState) -> bool:
        h, config = self.hosts[host], configured(plain)
        return h.ask(lambda: h.real.add_state(config), lambda: h.model.add(plain))

    @rule(host=hosts, remote=remotes, spi=spis, reqid=reqids, window=windows, limits=state_limits)
    def add_state(self, **what: Any) -> None:
        self._add(what["host"], self._plain(**what))

    @rule(remote=remotes, spi=spis, reqid=reqids, window=windows, limits=state_limits)
    def tunnel(self, remote: str, spi: int, reqid: int, window: Any, limits: Limits) -> None:
        """What an IKE daemon does on both ends, rekeying if the tunnel was there."""
        self._pair(remote, spi, reqid, window, limits)
        for host, direction in ((NEAR, OUT), (FAR, IN)):
            policy = PlainPolicy(
                direction, 0, PRIORITIES[0], reqid, False, Limits(), remote=remote, local="A"
            )
            self._add_policy(host, policy, True)

    def _pair(self, remote: str, spi: int, reqid: int, window: Any, limits: Limits) -> None:
        key = next(self.keys)
        for host in (NEAR, FAR):
            self._add(host, PlainState(remote, "A", spi, reqid, key, *window, limits))

    @precondition(lambda self: any(s.key for s in self.hosts[NEAR].model.states))
    @rule(data=st.data(), spi=spis, soft=st.booleans(), flows=flows)
    def rekey(self, data: st.DataObject, spi: int, soft: bool, flows: list[int]) -> None:
        """A new pair beside an old one, under traffic; the old one is told to be dying, then goes."""
        old = data.draw(st.sampled_from([s for s in self.hosts[NEAR].model.states if s.key]))
        self.send(flows, data)
        if soft:
            self.force_expiry(NEAR, old.daddr, old.spi, False)
        self._pair(old.daddr, spi, old.reqid, (old.window, old.esn), old.limits)
        self.send(flows, data)
        if old.spi != spi:
            for host in (NEAR, FAR):
                self.delete_state(host, old.daddr, old.spi)
        self.send(flows, data)

    @rule(host=hosts, remote=remotes, spi=spis, reqid=reqids, window=windows, limits=state_limits)
    def update_state(self, **what: Any) -> None:
        plain, h = self._plain(**what), self.hosts[what["host"]]
        config = configured(plain)
        h.ask(lambda: h.real.update_state(config), lambda: h.model.update(plain))

    @rule(host=hosts, remote=remotes, spi=spis)
    def delete_state(self, host: int, remote: str, spi: int) -> None:
        h = self.hosts[host]
        h.ask(lambda: h.real.delete_state(_id(remote, spi)), lambda: h.model.delete(remote, spi))

    @rule(host=hosts, remote=remotes, spi=spis)
    def get_state(self, host: int, remote: str, spi: int) -> None:
        h = self.hosts[host]
        h.ask(lambda: h.real.get_state(_id(remote, spi)), lambda: h.model.named(remote, spi))

    @rule(host=hosts)
    def flush_states(self, host: int) -> None:
        h = self.hosts[host]
        h.ask(h.real.flush_states, h.model.flush)

    @rule(host=hosts, remote=remotes, spi=spis, hard=st.booleans())
    def force_expiry(self, host: int, remote: str, spi: int, hard: bool) -> None:
        h = self.hosts[host]
        h.ask(lambda: h.real.expire_state(_id(remote, spi), hard), lambda: h.model.force(remote, spi, hard))

    @rule(host=hosts, remote=remotes, reqid=reqids, low=spis, more=st.integers(0, 2))
    def alloc_spi(self, host: int, remote: str, reqid: int, low: int, more: int) -> None:
        h, drawn = self.hosts[host], [0]
        wanted = LarvalConfig(ADDRESSES[remote], ADDRESSES["A"], 50, mode=Mode.TUNNEL, reqid=reqid)

        def request() -> None:
            drawn[0] = h.real.alloc_spi(wanted, low, low + more).config.spi

        h.ask(request, lambda: h.model.alloc_spi(remote, "A", reqid, low, low + more, drawn[0]))

    @precondition(lambda self: self._larval())
    @rule(data=st.data(), limits=state_limits, update=st.booleans())
    def complete(self, data: st.DataObject, limits: Limits, update: bool) -> None:
        """A larval state gets its keys: by its sequence, or by its SPI."""
        host, larval = data.draw(st.sampled_from(self._larval()))
        spi = larval.spi or data.draw(spis)
        window = data.draw(windows)
        plain = PlainState(
            larval.daddr, "A", spi, larval.reqid, next(self.keys), *window, limits, larval.km_seq
        )
        h, config = self.hosts[host], configured(plain)
        if update and larval.spi:
            h.ask(lambda: h.real.update_state(config), lambda: h.model.update(plain))
        else:
            h.ask(lambda: h.real.add_state(config), lambda: h.model.add(plain))

    def _larval(self) -> list[tuple[int, PlainState]]:
        both = enumerate(self.hosts)
        return [(n, s) for n, host in both for s in host.model.states if s.life == LifeState.ACQ]

    @rule(
        host=hosts, remote=remotes, spi=spis, more=st.integers(0, 40), counted=st.none() | st.integers(0, 5)
    )
    def new_ae(self, host: int, remote: str, spi: int, more: int, counted: int | None) -> None:
        """A standby's figures, never behind what was sent: numbers would come twice under one key."""
        h = self.hosts[host]
        state = h.model.find(remote, spi)
        update = AeventUpdate(replay=ReplayLegacy(), maxdiff=2)
        if state is not None and state.life == LifeState.VALID:
            update = _update(state, more, counted)
        h.ask(
            lambda: h.real.update_aevent(_id(remote, spi), update),
            lambda: h.model.new_ae(remote, spi, more, counted),
        )

    @rule(host=hosts, remote=remotes, spi=spis)
    def get_ae(self, host: int, remote: str, spi: int) -> None:
        h = self.hosts[host]
        h.ask(lambda: h.real.get_aevent(_id(remote, spi)), lambda: h.model.named(remote, spi))

    @rule(flow=st.sampled_from([0, 1]), ends=st.permutations("BC"), reqid=reqids)
    def migrate(self, flow: int, ends: list[str], reqid: int) -> None:
        h, (old, new) = self.hosts[NEAR], ends
        entry = MigrateEntry(
            ADDRESSES[old],
            ADDRESSES["A"],
            ADDRESSES[new],
            ADDRESSES["A"],
            50,
            Mode.TUNNEL,
            reqid,
            AF_INET,
            AF_INET,
        )
        seen = Selector(AF_INET, parse("10.2.0.9"), parse(f"10.1.0.{5 + flow}"), 32, 32, proto=17)
        wanted = Migration(seen, OUT, (entry,))
        h.ask(lambda: h.real.migrate(wanted), lambda: h.model.migrate(flow, old, "A", new, reqid))

    # -- policies

    def _add_policy(self, host: int, plain: PlainPolicy, update: bool) -> None:
        h, config = self.hosts[host], configured_policy(plain)
        request = h.real.update_policy if update else h.real.add_policy
        h.ask(lambda: request(config), lambda: h.model.add_policy(plain, update))

    @rule(
        host=hosts, update=st.booleans(), direction=st.sampled_from([IN, OUT]), selector=selectors,
        remote=remotes, reqid=st.sampled_from([0, 1, 1, 2]), block=st.sampled_from([False, False, True]),
        limits=policy_limits,
    )  # fmt: skip
    def add_policy(
        self, host: int, update: bool, direction: int, selector: int, remote: str, reqid: int, block: bool,
        limits: Limits,
    ) -> None:  # fmt: skip
        ends = (remote, "A") if reqid else ("", "")
        plain = PlainPolicy(
            direction, selector, PRIORITIES[selector], reqid, block, limits, remote=ends[0], local=ends[1]
        )
        self._add_policy(host, plain, update)

    @rule(host=hosts, direction=st.sampled_from([IN, OUT]), selector=selectors)
    def delete_policy(self, host: int, direction: int, selector: int) -> None:
        h, identity = self.hosts[host], PolicyId(direction, SELECTORS[selector])
        h.ask(lambda: h.real.delete_policy(identity), lambda: h.model.delete_policy(direction, selector))

    @rule(host=hosts, direction=st.sampled_from([IN, OUT]), selector=selectors, hard=st.booleans())
    def force_policy_expiry(self, host: int, direction: int, selector: int, hard: bool) -> None:
        h, identity = self.hosts[host], PolicyId(direction, SELECTORS[selector])
        h.ask(
            lambda: h.real.expire_policy(identity, hard),
            lambda: h.model.force_policy(direction, selector, hard),
        )

    @rule(host=hosts)
    def flush_policies(self, host: int) -> None:
        h = self.hosts[host]
        h.ask(h.real.flush_policies, h.model.flush_policies)

    @rule(host=hosts, in_block=st.booleans(), out_block=st.booleans())
    def set_default(self, host: int, in_block: bool, out_block: bool) -> None:
        h = self.hosts[host]
        actions = [DefaultAction.BLOCK if block else DefaultAction.ACCEPT for block in (in_block, out_block)]
        h.ask(
            lambda: h.real.set_default(in_=actions[0], out=actions[1]),
            lambda: h.model.set_default(in_block, out_block),
        )

    # -- listeners

    @rule(host=hosts, acquires=st.booleans(), monitors=st.booleans())
    def listen(self, host: int, acquires: bool, monitors: bool) -> None:
        self.hosts[host].model.acquires_heard = acquires
        self.hosts[host].monitors = monitors

    # -- packets

    @rule(flows=flows, data=st.data())
    def send(self, flows: list[int], data: st.DataObject) -> None:
        """Near sends a batch; far gets it out of order, with old and damaged packets among it."""
        packets = [_inner(flow) for flow in flows]
        batch = Batch.pack(packets, self.hosts[NEAR].real.now_s)
        self.hosts[NEAR].real.output(batch)
        self.hosts[NEAR].model.begin(flows)
        wanted = [
            self.hosts[NEAR].model.output(flow, len(inner), _spi(batch, i))
            for i, (flow, inner) in enumerate(zip(flows, packets, strict=True))
        ]
        assert _outcomes(batch) == [outcome for outcome, _ in wanted]
        self.hosts[NEAR].settle()
        sent = [(batch.packet(i), sealed) for i, (_, sealed) in enumerate(wanted) if sealed is not None]
        for wire, sealed in sent:
            assert wire[20:28] == sealed.spi.to_bytes(4) + sealed.seq.to_bytes(4)
            assert (sealed.key, sealed.seq) not in self.used
            self.used.add((sealed.key, sealed.seq))
        old = data.draw(st.lists(st.sampled_from(self.wire), max_size=3)) if self.wire else []
        self.wire = (self.wire + sent)[-30:]
        self._receive(data.draw(st.permutations(sent + old)), data.draw(st.integers(0, 12)))

    def _receive(self, packets: list[tuple[bytes, Sealed]], damaged: int) -> None:
        if damaged < len(packets):
            bad, sealed = packets[damaged]
            packets[damaged] = bad[:-1] + bytes([bad[-1] ^ 1]), sealed._replace(good=False)
        if not packets:
            return
        far = self.hosts[FAR]
        batch = Batch.pack([data for data, _ in packets], far.real.now_s)
        far.real.input(batch)
        assert _outcomes(batch) == [far.model.input(sealed) for _, sealed in packets]
        far.settle()
        for i, (_, sealed) in enumerate(packets):
            if batch.packets[i]["outcome"] == Outcome.DELIVERED:
                assert batch.packet(i) == _inner(sealed.flow)

    # -- time

    def _advance(self, host: Host, to: float) -> None:
        host.real.advance(to)
        host.model.advance(int(to))
        host.settle(in_order=False)
        deadline = host.real.next_deadline()
        assert deadline is None or deadline > to

    @rule(seconds=st.sampled_from([0, 1, 1, 2, 3, 5, 9, 31, 100]))
    def advance(self, seconds: int) -> None:
        for host in self.hosts:
            self._advance(host, host.real.now_s + seconds)

    @rule(steps=st.integers(1, 6))
    def walk(self, steps: int) -> None:
        """From deadline to deadline, as an event loop goes; all of time passes both hosts."""
        for _ in range(steps):
            ends = [end for end in (host.real.next_deadline() for host in self.hosts) if end is not None]
            if not ends:
                return
            to = max(min(ends), *(host.real.now for host in self.hosts))
            for host in self.hosts:
                self._advance(host, to)

    # -- what must hold at any time

    @invariant()
    def tables_are_the_models(self) -> None:
        for host in self.hosts:
            dumped = [told_state(dump) for dump in host.real.dump_states()]
            assert dumped == [state.told() for state in host.model.states]
            dumped = [told_policy(dump) for dump in host.real.dump_policies()]
            assert dumped == [p.told() for p in host.model.policies]
            moved = Tally({c.name: n for c, n in zip(Counter, host.real.counters(), strict=True) if n})
            assert moved == host.model.counters

    @invariant()
    def indexes_agree_with_a_scan(self) -> None:
        for host in self.hosts:
            table = host.real.states
            states = list(table)
            assert len({s.genid for s in states}) == len(states) == len(table) == host.real.sad_info().sadcnt
            for s in states:
                c = s.config
                same = [o for o in states if (o.config.daddr, o.config.reqid) == (c.daddr, c.reqid)]
                assert list(table.candidates(c.daddr, c.saddr, c.reqid, c.family)) == same
                assert list(table.between(c.daddr, c.saddr, c.family)) == [
                    o for o in states if o.config.daddr == c.daddr
                ]
                assert not c.spi or table.find(c.daddr, c.spi, c.proto, c.family) is s
                assert not c.seq or s in table.find_by_seq(c.seq)
            assert table.by_spi.count == sum(bool(s.config.spi) for s in states)

    @invariant()
    def nothing_is_kept_for_those_who_went(self) -> None:
        for host in self.hosts:
            real = host.real
            keyed = {int(s.record["key"]) for s in real.states if isinstance(s.config, StateConfig)}
            assert set(np.flatnonzero(real.keyring.rows["kind"]).tolist()) == keyed
            esn = sum(ESN_WORDS for s in host.model.states if s.esn)
            free = sum(words * len(places) for words, places in real.states._free_words.items())
            assert real.states._words_used - free == esn
            assert set(real._aevents._previous) <= set(real.states)
            planned = set(real._sad.timers._planned)
            assert planned <= set(real.states)
            for state, plain in zip(real.states, host.model.states, strict=True):
                # A check that packets or a request made needless stays planned: it will find nothing to do.
                assert state in planned or not _limited_in_time(plain)


def _limited_in_time(s: PlainState) -> bool:
    """Whether time has yet something to do to a state."""
    x = s.limits
    soft = not s.dying and (x.soft_add or (x.soft_use and s.use))
    return bool(x.hard_add or (x.hard_use and s.use) or soft)


def _id(remote: str, spi: int) -> StateId:
    return StateId(ADDRESSES[remote], spi, 50, AF_INET)


def _update(state: PlainState, more: int, counted: int | None) -> AeventUpdate:
    current = None
    if counted is not None:
        current = LifetimeCurrent(counted * 100, counted, state.add, state.use)
    if not state.esn:
        return AeventUpdate(
            replay=ReplayLegacy(state.oseq + more, state.top, state.bitmap()), current=current
        )
    words = tuple(state.bitmap() >> 32 * place & 0xFFFFFFFF for place in range(ESN_WORDS))
    esn = ReplayEsn(ESN_WORDS, state.window, state.oseq + more, state.top, bitmap=words)
    return AeventUpdate(replay_esn=esn, current=current)


_PLAIN = datagram()


def _inner(flow: int) -> bytes:
    """A datagram of one of two flows; the header's sum follows the address."""
    data = bytearray(_PLAIN)
    data[15] += flow
    data[11] -= flow
    return bytes(data)


def _spi(batch: Batch, i: int) -> int:
    """The SPI under which a packet was sent, or 0."""
    sent = batch.packets[i]["outcome"] == Outcome.SENT
    return int.from_bytes(batch.packet(i)[20:24]) if sent else 0


def _outcomes(batch: Batch) -> list[Outcome]:
    return [Outcome.of(int(number)) for number in batch.packets["outcome"]]


TestMachine = pytest.mark.compiled(Machine.TestCase)
# What explains a failure takes minutes, and the steps say it.
TestMachine.settings = settings(
    max_examples=int(os.environ.get("UXFRM_MACHINE_EXAMPLES", "120")),
    stateful_step_count=50,
    deadline=None,
    phases=set(Phase) - {Phase.explain},
)
