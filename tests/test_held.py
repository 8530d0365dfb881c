"""Packets held while a state is negotiated (larval_drop 0): in order, bounded, at the kernel's moments.

Moments are those of Linux: 0.1 s after the first packet, then after twice as long each time, up to a minute.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from test_namespace import (
    ALLOW,
    B,
    datagram,
    moved,
    namespace,
    outcomes,
    policy,
    receive,
    state,
    template,
)
from uxfrm.datapath.batch import Batch
from uxfrm.datapath.held import QUEUE_MAX
from uxfrm.lifecycle.events import Acquire, Event
from uxfrm.model.dump import PolicyId
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Action, Direction
from uxfrm.namespace import Namespace

OUT = policy(Direction.OUT, template())
HELD, SENT, GIVEN_UP = Outcome.HELD, Outcome.SENT, Outcome.OUT_HELD_GIVEN_UP


def holding(*configs: object) -> tuple[Namespace, list[Acquire]]:
    ns = namespace(*configs)  # type: ignore[arg-type]
    ns.set_sysctl("net.core.xfrm_larval_drop", 0)
    asked: list[Acquire] = []

    def listener(event: Event) -> bool:
        if isinstance(event, Acquire):
            asked.append(event)
        return isinstance(event, Acquire)

    ns.listen(listener, lambda kind: kind is Acquire)
    return ns, asked


def out(ns: Namespace, *packets: bytes) -> list[Outcome]:
    batch = Batch.pack(packets, ns.now_s)
    ns.output(batch)
    return outcomes(batch)


def released(ns: Namespace) -> list[tuple[Outcome, bytes]]:
    return [
        (outcome, batch.packet(i)) for batch in ns.released() for i, outcome in enumerate(outcomes(batch))
    ]


def looks(ns: Namespace) -> list[float]:
    """When packets that wait are looked after, until none are left."""
    found = []
    while (look := ns.path.held.timers.next_deadline()) is not None:
        found.append(round(look - 1000, 3))
        ns.advance(look)
    return found


def test_packets_wait_for_the_state_and_leave_in_order() -> None:
    ns, asked = holding(OUT)
    sizes = [20, 300, 7, 44]
    assert out(ns, *map(datagram, sizes[:3])) == [HELD] * 3
    assert out(ns, datagram(sizes[3])) == [HELD]
    assert len(asked) == 1
    assert moved(ns) == {}
    ns.add_state(state())
    assert released(ns) == []
    ns.advance(1000.1)
    found = released(ns)
    assert [outcome for outcome, _ in found] == [SENT] * 4
    assert [packet[24:28] for _, packet in found] == [bytes([0, 0, 0, n]) for n in (1, 2, 3, 4)]
    back = namespace(state(), ALLOW)
    assert receive(back, *[packet for _, packet in found]) == [Outcome.DELIVERED] * 4
    assert released(ns) == []
    assert len(ns.path.held) == ns.path.held.bytes == 0
    assert moved(ns) == {}


def test_the_first_packet_too_many_is_dropped_without_a_counter() -> None:
    ns, _ = holding(OUT)
    assert out(ns, *[datagram()] * 110) == [HELD] * QUEUE_MAX + [Outcome.OUT_HELD_FULL] * 9
    assert QUEUE_MAX == 101
    assert moved(ns) == {}


def test_looks_are_twice_as_far_apart_each_time_and_then_all_is_given_up() -> None:
    ns, asked = holding(OUT)
    out(ns, datagram(), datagram())
    waits = [later - sooner for sooner, later in pairwise([0, *looks(ns)])]
    assert waits == pytest.approx([0.1 * 2**n for n in range(11)])
    assert [outcome for outcome, _ in released(ns)] == [GIVEN_UP] * 2
    assert ns.path.held.given_up == 2
    assert moved(ns) == {}
    # Each look at which no larval state was left asked for one again.
    assert len(asked) == 4


def test_nobody_listening_holds_too() -> None:
    ns = namespace(OUT)
    ns.set_sysctl("net.core.xfrm_larval_drop", 0)
    assert out(ns, datagram()) == [HELD]
    ns.add_state(state())
    ns.advance(1000.1)
    assert [outcome for outcome, _ in released(ns)] == [SENT]


def test_a_policy_that_goes_takes_its_packets_along() -> None:
    ns, _ = holding(OUT)
    out(ns, datagram())
    ns.delete_policy(PolicyId(Direction.OUT, selector=OUT.selector))
    assert [outcome for outcome, _ in released(ns)] == [GIVEN_UP]
    ns.advance(2000)
    assert released(ns) == []


@pytest.mark.parametrize("flushed", [True, False])
def test_flush_and_replacement(flushed: bool) -> None:
    ns, _ = holding(OUT)
    out(ns, datagram())
    if flushed:
        ns.flush_policies()
        assert [outcome for outcome, _ in released(ns)] == [GIVEN_UP]
        return
    ns.update_policy(policy(Direction.OUT))
    ns.advance(ns.now)
    assert [outcome for outcome, _ in released(ns)] == [Outcome.CLEAR_ALLOWED]


def test_a_policy_that_now_blocks_drops_what_was_held() -> None:
    ns, _ = holding(OUT)
    out(ns, datagram(), datagram())
    ns.add_policy(policy(Direction.OUT, action=Action.BLOCK, priority=0, if_id=0, type=1))
    ns.advance(1000.1)
    assert [outcome for outcome, _ in released(ns)] == [GIVEN_UP] * 2
    assert moved(ns) == {"XfrmOutPolBlock": 1}


def test_with_larval_drop_the_same_packet_is_dropped_and_counted() -> None:
    ns, _ = holding(OUT)
    assert out(ns, datagram()) == [HELD]
    ns.set_sysctl("net.core.xfrm_larval_drop", 1)
    assert out(ns, datagram()) == [Outcome.OUT_NO_STATE]
    assert moved(ns) == {"XfrmOutNoStates": 1}


def test_a_mark_is_kept() -> None:
    ns, _ = holding(OUT)
    batch = Batch.pack([datagram()], 1000, mark=7, ifindex=3)
    ns.output(batch)
    ns.add_state(state(daddr=B))
    ns.advance(1001)
    (again,) = ns.released()
    assert (again.packets[0]["mark"], again.packets[0]["ifindex"]) == (7, 3)
