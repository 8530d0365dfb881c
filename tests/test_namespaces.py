"""Several namespaces in one process: what happens in one is as if the others were not there.

Each namespace gets a script. A script's trace (answers, packets, events, dumps, counters, figures, deadlines)
must be the same when the scripts run one after the other and when they are interleaved step by step. They use
the same addresses, SPIs and selectors on purpose.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Sequence
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test_namespace import (
    INSIDE,
    A,
    B,
    datagram,
    namespace,
    outcomes,
    output,
    policy,
    receive,
    state,
    template,
)
from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.events import Acquire
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET
from uxfrm.model.dump import LarvalConfig, PolicyId, StateId
from uxfrm.model.error import XfrmError
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction
from uxfrm.model.sysctl import SYSCTLS
from uxfrm.namespace import Namespace

START = 1000
LIMITS = LifetimeConfig(soft_packet=3, hard_packet=6, soft_add=20, hard_add=40)


def key(number: int) -> algo.Algorithm:
    return algo.aead("rfc4106(gcm(aes))", bytes([number]) * 20, 128)


@cache
def sealed() -> tuple[bytes, ...]:
    """Packets of a peer that has each of the keys."""
    found = []
    for number in range(3):
        peer = namespace(state(aead=key(number), spi=1), policy(Direction.OUT, template()))
        found += output(peer, *[datagram()] * 4)
    return tuple(found)


Action = Callable[[Namespace], object]


def _add(spi: int, number: int) -> Action:
    return lambda ns: ns.add_state(state(spi=spi, aead=key(number), lifetime=LIMITS)).dump()


def _policy(number: int) -> Action:
    wanted = policy(Direction.OUT, *([template()] if number else []), priority=number)
    return lambda ns: ns.update_policy(wanted).dump


def _output(count: int) -> Action:
    def act(ns: Namespace) -> object:
        batch = Batch.pack([datagram(20 + n) for n in range(count)], ns.now_s)
        ns.output(batch)
        return outcomes(batch), [batch.packet(n) for n in range(count)]

    return act


def _input(first: int, count: int) -> Action:
    return lambda ns: receive(ns, *sealed()[first : first + count], now_s=ns.now_s)


def _advance(seconds: float) -> Action:
    def act(ns: Namespace) -> object:
        ns.advance(ns.now + seconds)
        return [outcomes(batch) for batch in ns.released()]

    return act


NUMBERS = st.integers(0, 2)
ACTIONS: st.SearchStrategy[Action] = st.one_of(
    st.builds(_add, st.integers(1, 2), NUMBERS),
    st.builds(_policy, NUMBERS),
    st.builds(_output, st.integers(1, 4)),
    st.builds(_output, st.integers(1, 4)),
    st.builds(_input, st.integers(0, 9), st.integers(1, 4)),
    st.builds(_advance, st.sampled_from([0.1, 1, 7, 30])),
    st.builds(
        lambda name, value: lambda ns: ns.set_sysctl(name, value), st.sampled_from(list(SYSCTLS)), NUMBERS
    ),
    st.sampled_from(
        [
            lambda ns: ns.delete_state(StateId(B, 1, 50, AF_INET)).dump(),
            lambda ns: ns.delete_policy(PolicyId(Direction.OUT, selector=INSIDE)).dump,
            lambda ns: ns.alloc_spi(LarvalConfig(B, A, 50, reqid=1, mode=1), 0x100, 0x1FF),
            lambda ns: ns.add_policy(policy(Direction.IN, template())).dump,
            lambda ns: ns.set_default(out=1),
            lambda ns: ns.set_default(out=2),
            lambda ns: ns.flush_states(),
            lambda ns: ns.flush_policies(),
        ]
    ),
)


class Host:
    """A namespace that runs a script and keeps its trace."""

    def __init__(self, seed: int, script: Sequence[Action]) -> None:
        self.trace: list[object] = []
        self._ns = Namespace(randbytes=random.Random(seed).randbytes, now_s=START)
        for begin in (_add(1, seed % 3), _policy(1)):
            begin(self._ns)
        self._ns.add_policy(policy(Direction.IN, template()))
        self._ns.listen(self._hear)
        self._script = iter(script)

    def _hear(self, event: object) -> bool:
        self.trace.append(event)
        return True

    def step(self) -> None:
        """Do what comes next, and look at everything."""
        ns = self._ns
        try:
            self.trace.append(next(self._script)(ns))
        except XfrmError as error:
            self.trace.append(str(error))
        self.trace += [list(ns.dump_states()), list(ns.dump_policies()), ns.counters(), ns.sysctls]
        self.trace += [ns.get_default(), ns.next_deadline(), ns.statistics()]


SCRIPTS = st.lists(st.lists(ACTIONS, min_size=1, max_size=10), min_size=2, max_size=4)


@given(SCRIPTS, st.randoms(use_true_random=False))
def test_others_make_no_difference(scripts: list[list[Action]], order: random.Random) -> None:
    alone = [Host(seed, script) for seed, script in enumerate(scripts)]
    for host, script in zip(alone, scripts, strict=True):
        for _ in script:
            host.step()
    together = [Host(seed, script) for seed, script in enumerate(scripts)]
    turns = [number for number, script in enumerate(scripts) for _ in script]
    order.shuffle(turns)
    for number in turns:
        together[number].step()
    for number, (one, other) in enumerate(zip(alone, together, strict=True)):
        assert one.trace == other.trace, number


def pair(number: int) -> tuple[Namespace, Namespace]:
    """Two ends of a tunnel; all such tunnels have the same addresses and SPI, and another key each."""
    shared = state(aead=key(number))
    ends = (
        namespace(shared, policy(Direction.OUT, template()), seed=number),
        namespace(shared, seed=100 + number),
    )
    ends[1].add_policy(policy(Direction.IN, template()))
    return ends


def test_packets_of_one_are_nothing_to_another() -> None:
    pairs = [pair(number) for number in range(4)]
    for _ in range(3):
        packets = [output(sender, *[datagram()] * 3) for sender, _ in pairs]
        assert len({packet for batch in packets for packet in batch}) == 12
        for number, (_, receiver) in enumerate(pairs):
            assert receive(receiver, *packets[number - 1]) == [Outcome.IN_ICV] * 3
        for (_, receiver), batch in zip(pairs, packets, strict=True):
            assert receive(receiver, *batch) == [Outcome.DELIVERED] * 3
    for sender, receiver in pairs:
        assert [dump.current.packets for dump in (*sender.dump_states(), *receiver.dump_states())] == [9, 9]
        assert sum(sender.counters()) == 0
        assert sum(receiver.counters()) == 9


def test_one_that_goes_takes_only_its_own_along() -> None:
    """Its keys are wiped, its arrays freed; the others' stay."""
    pairs = [pair(number) for number in range(6)]
    for _ in range(5):
        pairs.pop(len(pairs) // 2)
        gc.collect()
        for sender, receiver in pairs:
            assert receive(receiver, *output(sender, datagram())) == [Outcome.DELIVERED]


def test_time_passes_in_one_alone() -> None:
    early, late = (namespace(state(lifetime=LIMITS), seed=seed) for seed in (1, 2))
    late.advance(START + 100)
    assert (len(early.states), len(late.states)) == (1, 0)
    assert (early.now_s, late.now_s) == (START, START + 100)
    assert early.next_deadline() == START + 20


def test_acquires_are_numbered_in_each_for_itself() -> None:
    """Linux numbers them for all namespaces together: a namespace of a test must not depend on others."""
    asked: dict[int, list[int]] = {1: [], 2: []}
    for seed in asked:
        ns = namespace(policy(Direction.OUT, template()), seed=seed)

        def hear(event: object, numbers: list[int] = asked[seed]) -> bool:
            if isinstance(event, Acquire):
                numbers.append(event.wanted.seq)
            return True

        ns.listen(hear)
        for _ in range(2):
            ns.output(Batch.pack([datagram()], START))
            ns.flush_states()
    assert asked == {1: [1, 2], 2: [1, 2]}


@pytest.mark.parametrize("name", SYSCTLS)
def test_a_sysctl_is_one_namespaces(name: str) -> None:
    one, other = namespace(), namespace(seed=2)
    before, value = other.sysctls, other.sysctl(name) + 1
    one.set_sysctl(name, value)
    assert (one.sysctl(name), other.sysctls) == (value, before)
