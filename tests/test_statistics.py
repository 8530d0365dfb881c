"""What can be counted in a namespace, against what was put into it and against plain counting."""

from __future__ import annotations

import random
from dataclasses import replace

from test_namespace import INSIDE, A, B, datagram, namespace, output, policy, state, template
from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.events import Acquire, StateExpired
from uxfrm.model.address import AF_INET
from uxfrm.model.dump import LarvalConfig, StateId
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.mark import Mark
from uxfrm.model.policy import Direction
from uxfrm.model.selector import Selector
from uxfrm.model.statistics import Index
from uxfrm.namespace import Namespace


def tunnel(number: int) -> tuple[bytes, bytes]:
    return bytes([192, 0, number >> 8, number & 255]), A


def test_states_by_life() -> None:
    soft = LifetimeConfig(soft_add=5, hard_add=50)
    ns = namespace(state(), state(spi=2, lifetime=soft), state(spi=3, lifetime=soft))
    ns.alloc_spi(LarvalConfig(daddr=B, saddr=A, proto=50, family=AF_INET, seq=7), 0x100, 0x100)
    ns.advance(1006)
    figures = ns.statistics()
    found = figures.states
    assert (found.all, found.valid, found.dying, found.larval, found.expired) == (4, 3, 2, 1, 0)
    assert figures.timers.states == 3
    assert figures.timers.next == 24  # the larval state's
    assert figures.keys.used == 3
    ns.advance(1050)
    assert (ns.statistics().states.all, ns.statistics().keys.used) == (1, 1)


def test_indexes_against_plain_counting() -> None:
    ns = namespace()
    for number in range(3000):
        daddr, saddr = tunnel(number % 700)
        ns.add_state(state(daddr=daddr, saddr=saddr, spi=number + 1, reqid=number % 3, seq=number % 5))
    for number in range(0, 3000, 2):
        ns.delete_state(StateId(tunnel(number % 700)[0], number + 1, 50, AF_INET))
    found = ns.statistics().states
    told = (found.by_spi, found.by_destination, found.by_source)
    for index, each in zip(ns.states.indexes, told, strict=True):
        buckets: dict[int, int] = {}
        for row in range(len(index.links)):
            if ns.states.rows[row]["serial"]:
                bucket = int(index.hashes[row]) % len(index.heads)
                buckets[bucket] = buckets.get(bucket, 0) + 1
        assert each == Index(1500, len(index.heads), len(buckets), max(buckets.values()))
    assert found.by_sequence.entries == sum(1 for number in range(1, 3000, 2) if number % 5)
    assert found.by_sequence.longest == 300
    assert found.kernel_buckets == ns.sad_info().sadhcnt


def test_classifiers_of_policies() -> None:
    ns = namespace()
    for number in range(20):
        ns.add_policy(policy(Direction.OUT, selector=replace(INSIDE, sport=number, sport_mask=0xFFFF)))
    ns.add_policy(policy(Direction.OUT, selector=INSIDE))
    ns.add_policy(policy(Direction.OUT, selector=INSIDE, priority=5, mark=Mark(3, 3)))
    ns.add_policy(policy(Direction.IN, selector=Selector(AF_INET, A, B, 32, 32)))
    found = ns.statistics().policies
    assert (found.all, found.incoming, found.outgoing, found.forwarded) == (23, 1, 22, 0)
    assert (found.classifiers, found.prefix_lengths, found.prefixes) == (2, 2, 2)
    # ports, no ports, no ports but a mark
    assert (found.masks, found.masks_of_one, found.tabled, found.listed) == (3, 3, 22, 1)


def test_policies_behind_others_of_the_same_selector_are_hidden() -> None:
    ns = namespace()
    for number in range(10):
        same = replace(INSIDE, saddr=bytes([10, 1, 0, number]))  # beyond the prefix of 16 bits
        ns.add_policy(policy(Direction.OUT, selector=same, priority=number))
    found = ns.statistics().policies
    assert (found.tabled, found.hidden, found.masks) == (10, 9, 1)


def test_flows_and_what_becomes_stale() -> None:
    ns = namespace(state(), policy(Direction.OUT, template()))
    output(ns, datagram(), datagram(30), datagram(40))
    output(ns, datagram())
    found = ns.statistics().flows
    assert (found.entries, found.stale, found.misses, found.hits, found.bundles) == (1, 0, 3, 1, 1)
    ns.set_default(in_=1)
    assert ns.statistics().flows.stale == 1
    output(ns, datagram())
    assert (ns.statistics().flows.entries, ns.statistics().flows.stale) == (1, 0)


def test_held_packets_and_larval_states() -> None:
    ns = namespace(policy(Direction.OUT, template()))
    ns.set_sysctl("net.core.xfrm_larval_drop", 0)
    ns.listen(lambda event: isinstance(event, Acquire), lambda kind: kind is Acquire)
    ns.output(Batch.pack([datagram(100), datagram(100)], 1000))
    found = ns.statistics()
    assert (found.states.larval, found.events.listeners, found.events.told) == (1, 1, 1)
    assert (found.held.packets, found.held.bytes, found.held.policies) == (2, 256, 1)
    assert found.timers.held == 1
    ns.advance(1300)
    found = ns.statistics()
    assert (found.states.all, found.held.packets, found.held.bytes, found.held.given_up) == (0, 0, 0, 2)
    assert found.timers.next is None


def test_events_are_counted_once_however_many_hear_them() -> None:
    ns = namespace(state(lifetime=LifetimeConfig(hard_add=5)))
    assert ns.statistics().events.told == 0
    for _ in range(2):
        ns.listen(lambda event: isinstance(event, StateExpired))
    ns.advance(1100)
    assert (ns.statistics().events.told, ns.statistics().events.listeners) == (1, 2)


def test_memory_is_that_of_the_tables() -> None:
    ns = namespace()
    before = ns.statistics().memory
    for number in range(2000):
        ns.add_state(state(daddr=tunnel(number)[0], spi=number + 1))
    after = ns.statistics().memory
    assert after.states > before.states + 2000 * 300
    assert after.indexes > before.indexes + 2000 * 3 * 12
    assert after.keys > before.keys
    assert after.flows == before.flows


def test_looking_changes_nothing() -> None:
    """The same packets, with a look between any two and without."""

    def run(look: bool) -> list[bytes]:
        ns = Namespace(randbytes=random.Random(5).randbytes, now_s=1000)
        ns.add_state(state(lifetime=LifetimeConfig(hard_packet=3)))
        ns.add_policy(policy(Direction.OUT, template()))
        sent = []
        for _ in range(5):
            batch = Batch.pack([datagram()], 1000)
            ns.output(batch)
            sent.append(batch.packet(0))
            if look:
                ns.statistics()
        return [*sent, repr(ns.counters()).encode()]

    assert run(look=True) == run(look=False)
