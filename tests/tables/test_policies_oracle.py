"""The policy table against a slow one that asks every policy in turn."""

from __future__ import annotations

import errno
import random
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from uxfrm.model.address import AF_INET, AF_INET6
from uxfrm.model.dump import PolicyId
from uxfrm.model.error import XfrmError
from uxfrm.model.flow import Flow
from uxfrm.model.mark import Mark
from uxfrm.model.policy import PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.tables.classifier import Classifier, Rule
from uxfrm.tables.policies import PolicyTable


def identity(p: PolicyConfig) -> tuple[object, ...]:
    """Cheap parts first: a tuple comparison stops at the first difference."""
    return (p.selector.dport, p.selector, p.direction, p.type, p.if_id, p.mark.normalised(), p.context)


class SlowTable:
    """The same policies in one list, oldest first; every question walks it."""

    def __init__(self) -> None:
        self.policies: list[PolicyConfig] = []
        self.places: list[PolicyConfig] = []
        self.generator = 0

    def identical(self, config: PolicyConfig) -> PolicyConfig | None:
        wanted = identity(config)
        return next((old for old in self.policies if identity(old) == wanted), None)

    def index(self, config: PolicyConfig) -> int:
        used = [old.index for old in self.policies]
        index = config.index
        while not index or index in used:
            index = (self.generator | config.direction) or 8
            self.generator += 8
        return index

    def add(self, config: PolicyConfig, place: int | None = None) -> PolicyConfig | None:
        if self.identical(config) is not None:
            return None
        config = replace(config, index=self.index(config), mark=config.mark.normalised())
        self.policies.append(config)
        self.places.insert(len(self.places) if place is None else place, config)
        return config

    def update(self, config: PolicyConfig) -> PolicyConfig | None:
        old = self.identical(config)
        if old is None:
            return self.add(config)
        place = self.places.index(old) if old.priority == config.priority else None
        self.remove(old)
        return self.add(replace(config, index=old.index), place)

    def remove(self, config: PolicyConfig) -> None:
        self.policies.remove(config)
        self.places.remove(config)

    def lookup(self, type: int, direction: int, flow: Flow, if_id: int) -> PolicyConfig | None:
        first: dict[tuple[bool, ...], PolicyConfig] = {}
        for p in self.places:
            if (p.type, p.direction, p.if_id) != (type, direction, if_id):
                continue
            if not p.mark.covers(flow.mark) or not p.selector.matches(flow):
                continue
            best = first.setdefault(kind_of_list(p.selector), p)
            if p.priority < best.priority:
                first[kind_of_list(p.selector)] = p
        return min(first.values(), key=lambda p: (p.priority, self.policies.index(p)), default=None)


def kind_of_list(s: Selector) -> tuple[bool, ...]:
    """The kernel's lists that can hold two policies which match one flow."""
    bits, wide = (32, 16) if s.family == AF_INET else (128, 48)
    return (
        s.prefixlen_d == bits and s.prefixlen_s == bits,
        (s.prefixlen_d < wide or not any(s.daddr)) and (s.prefixlen_d, s.prefixlen_s) != (bits, bits),
        (s.prefixlen_s < wide or not any(s.saddr)) and (s.prefixlen_d, s.prefixlen_s) != (bits, bits),
    )


def draw_address(draw: random.Random, bits: int) -> bytes:
    """An address of a small world, so that prefixes of every length meet."""
    high, low = draw.choice((0, 1, 2, 3)), draw.choice((0, 1, 2, 3, 128))
    return (high << (bits - 2) | low).to_bytes(bits // 8)


def draw_selector(draw: random.Random) -> Selector:
    bits, family = draw.choice(((32, AF_INET), (32, AF_INET), (128, AF_INET6)))
    lengths = (0, 1, 2, bits - 7, bits - 1, bits, bits)
    return Selector(
        family,
        draw_address(draw, bits),
        draw_address(draw, bits),
        draw.choice(lengths),
        draw.choice(lengths),
        draw.choice((0, 5, 80)),
        draw.choice((0, 0, 1, 0xFFF0, 0xFFFF)),
        draw.choice((0, 5, 80)),
        draw.choice((0, 0, 1, 0xFFFF)),
        draw.choice((0, 0, 6, 17)),
        draw.choice((0, 0, 2)),
        draw.choice((0, 0, 0, 1)),
    )


def draw_policy(draw: random.Random) -> PolicyConfig:
    direction = draw.choice((0, 1, 1, 1, 2))
    index = draw.choice((0, 0, 0, draw.randrange(12) * 8 + direction))
    mark = draw.choice((Mark(), Mark(), Mark(1, 1), Mark(0, 3), Mark(2, 1)))
    return PolicyConfig(
        direction,
        draw_selector(draw),
        priority=draw.choice((0, 7, 7, 9, 0xFFFFFFFF)),
        index=index,
        type=draw.choice((0, 0, 0, 1)),
        mark=mark,
        if_id=draw.choice((0, 0, 0, 4)),
    )


def draw_flow(draw: random.Random) -> Flow:
    bits = draw.choice((32, 32, 128))
    port = (0, 5, 80, 81)
    return Flow(
        draw_address(draw, bits),
        draw_address(draw, bits),
        draw.choice((1, 6, 17)),
        draw.choice(port),
        draw.choice(port),
        draw.choice((0, 2, 3)),
        draw.randrange(4),
    )


def compare_lookups(fast: PolicyTable, slow: SlowTable, draw: random.Random, times: int) -> None:
    for _ in range(times):
        flow, type, direction = draw_flow(draw), draw.choice((0, 0, 0, 1)), draw.choice((0, 1, 1, 1, 2))
        if_id = draw.choice((0, 0, 0, 4))
        found = fast.lookup(type, direction, flow, if_id)
        assert (found and found.config) == slow.lookup(type, direction, flow, if_id)


def change(fast: PolicyTable, slow: SlowTable, draw: random.Random) -> None:
    """One random add, update or delete on both."""
    config = draw_policy(draw)
    kind = draw.random()
    if kind < 0.5:
        added = slow.add(config)
        if added is None:
            with pytest.raises(XfrmError) as refusal:
                fast.add(config, 0)
            assert refusal.value.number == errno.EEXIST
        else:
            assert fast.add(config, 0).config == added
    elif kind < 0.75:
        assert fast.update(config, 0)[0].config == slow.update(config)
    elif slow.policies:
        gone = draw.choice(slow.policies)
        slow.remove(gone)
        by_index = PolicyId(gone.direction, None, gone.index, gone.type, gone.mark, gone.if_id)
        by_selector = PolicyId(gone.direction, gone.selector, 0, gone.type, gone.mark, gone.if_id)
        assert fast.delete(draw.choice((by_index, by_selector))).config == gone


class PolicyMachine(RuleBasedStateMachine):
    """hypothesis chooses the order of bursts of changes, flushes and questions; seeds fill them."""

    seeds = st.integers(0, 2**32)

    def __init__(self) -> None:
        super().__init__()
        self.fast = PolicyTable()
        self.slow = SlowTable()

    @rule(seed=seeds, times=st.integers(1, 25))
    def changes(self, seed: int, times: int) -> None:
        draw = random.Random(seed)
        for _ in range(times):
            change(self.fast, self.slow, draw)

    @rule(seed=seeds)
    def lookups(self, seed: int) -> None:
        compare_lookups(self.fast, self.slow, random.Random(seed), 10)

    @precondition(lambda self: len(self.slow.policies) > 3)
    @rule(keep=st.integers(0, 3))
    def thins_out(self, keep: int) -> None:
        for policy in list(self.fast.dump())[keep:]:
            self.fast.remove(policy)
            self.slow.remove(policy.config)

    @rule(type=st.integers(0, 1))
    def flush(self, type: int) -> None:
        gone = [p for p in reversed(self.slow.policies) if p.type == type]
        assert [p.config for p in self.fast.flush(type)] == gone
        for policy in gone:
            self.slow.remove(policy)

    @invariant()
    def same_dump(self) -> None:
        assert [p.config for p in self.fast.dump()] == self.slow.policies[::-1]

    @invariant()
    def same_counts(self) -> None:
        for direction in range(3):
            count = sum(p.direction == direction for p in self.slow.policies)
            assert self.fast.count(direction) == count
            assert self.fast.any(direction) is (count > 0)

    def teardown(self) -> None:
        compare_lookups(self.fast, self.slow, random.Random(1), 20)


TestPolicyMachine = PolicyMachine.TestCase
TestPolicyMachine.settings = settings(max_examples=40, stateful_step_count=12, deadline=None)


@pytest.mark.parametrize("seed", range(3))
def test_a_long_life(seed: int) -> None:
    draw = random.Random(seed)
    fast, slow = PolicyTable(), SlowTable()
    for _ in range(12):
        for _ in range(60):
            change(fast, slow, draw)
        compare_lookups(fast, slow, draw, 40)


def test_many_policies_of_few_prefixes() -> None:
    """Every combination of lengths and every port mask in turn: the tables by mask, and their order."""
    draw = random.Random(7)
    fast, slow = PolicyTable(), SlowTable()
    for n in range(1500):
        bits = 32
        selector = Selector(
            AF_INET,
            draw_address(draw, bits),
            draw_address(draw, bits),
            draw.choice((0, 1, 32)),
            draw.choice((0, 1, 25, 32)),
            dport=n,
            dport_mask=n,
            sport=n,
            sport_mask=draw.choice((0, 0xFF)),
        )
        config = PolicyConfig(1, selector, priority=draw.randrange(4))
        added = slow.add(config)
        if added is not None:
            fast.add(config, 0)
    for _ in range(200):
        flow = draw_flow(draw)._replace(dport=draw.randrange(2048), sport=draw.randrange(2048))
        found = fast.lookup(0, 1, flow)
        assert (found and found.config) == slow.lookup(0, 1, flow, 0)


def test_bounds_follow() -> None:
    """Of 3,000 rules that come and go in turn, no bound lags behind by more than a few times those alive."""
    draw = random.Random(3)
    classifier: Classifier[Rule] = Classifier(32)
    selectors = [s for s in (draw_selector(draw) for _ in range(4500)) if s.family == AF_INET]
    rules = [Rule(rank, selector, Mark()) for rank, selector in enumerate(selectors)]
    alive = 200
    for rank, each in enumerate(rules):
        classifier.add(each)
        if rank >= alive:
            classifier.remove(rules[rank - alive])
    oldest = len(rules) - alive
    for length in classifier._lengths.values():
        true = min(rule.rank for rule in rules[oldest:] if rule.prefixlen == 32 - length.shift)
        assert oldest - 4 * alive < length.best <= true
        assert all(length.best <= node.best for node in length.nodes.values())
    for each in rules[oldest:]:
        classifier.remove(each)
    assert not classifier
