"""Aevents that packets and time cause (xfrm-semantics 4.4), on real packets.

The first test's figures are Linux 6.1's: rseqth 2 tells of packets 2 and 4, of a lone one behind
them a second later.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from test_namespace import ALLOW, KEY, datagram, namespace, output, policy, receive, state, template
from uxfrm.lifecycle.events import Event, StateMonitored
from uxfrm.model import algorithm as algo
from uxfrm.model.aevent import AE_CE, AE_CR, Aevent, AeventUpdate
from uxfrm.model.dump import StateId
from uxfrm.model.policy import Direction
from uxfrm.model.state import ESN, Rare, ReplayEsn, ReplayLegacy
from uxfrm.namespace import Namespace

OUT = policy(Direction.OUT, template())


def monitored(ns: Namespace) -> list[Aevent]:
    """What will be told of states' figures from now on."""
    told: list[Aevent] = []

    def listener(event: Event) -> None:
        if isinstance(event, StateMonitored):
            told.append(event.aevent)

    ns.listen(listener, lambda kind: kind is StateMonitored)
    ns.next_deadline()
    return told


def thresholds(packets: int, tenths: int) -> Rare:
    return Rare(replay_maxdiff=packets, replay_maxage=tenths)


def oseqs(told: list[Aevent]) -> list[tuple[int, int]]:
    return [(aevent.flags, aevent.state.replay.oseq) for aevent in told]


def test_every_second_packet_is_told_and_a_lone_one_by_the_timer() -> None:
    ns = namespace(state(), OUT)
    told = monitored(ns)
    output(ns, *[datagram()] * 5)
    assert oseqs(told) == [(AE_CR, 2), (AE_CR, 4)]
    # The counters are those before the packet, as in the kernel, which counts it later.
    assert [aevent.state.current.packets for aevent in told] == [1, 3]
    assert ns.next_deadline() == 1001
    ns.advance(1000.99)
    assert len(told) == 2
    ns.advance(1001)
    assert oseqs(told[2:]) == [(AE_CE, 5)]


def test_what_has_not_changed_is_told_with_the_next_packet() -> None:
    ns = namespace(state(rare=thresholds(100, 5)), OUT)
    told = monitored(ns)
    assert ns.next_deadline() == 1000.5
    ns.advance(1000.5)
    assert told == []
    assert ns.next_deadline() is None
    output(ns, datagram())
    assert oseqs(told) == [(AE_CE, 1)]
    assert ns.next_deadline() == 1001.0
    output(ns, datagram())
    assert len(told) == 1


def test_input_tells_of_its_window() -> None:
    wire = output(namespace(state(), OUT), *[datagram()] * 4)
    ns = namespace(state(replay_window=32), ALLOW)
    told = monitored(ns)
    receive(ns, wire[0], wire[2], wire[1], wire[3])
    assert [(a.state.replay.seq, a.state.replay.bitmap) for a in told] == [(3, 5)]  # type: ignore[union-attr]


def test_input_without_a_window_tells_nothing() -> None:
    wire = output(namespace(state(), OUT), *[datagram()] * 4)
    ns = namespace(state(replay_window=0), ALLOW)
    told = monitored(ns)
    receive(ns, *wire)
    assert told == []


def test_nobody_listening_costs_nothing_and_a_late_listener_hears_what_was_deferred() -> None:
    ns = namespace(state(rare=thresholds(0, 10)), OUT)
    output(ns, *[datagram()] * 3)
    assert ns.next_deadline() is None
    ns.advance(1002)
    told = monitored(ns)
    assert ns.next_deadline() is None
    output(ns, datagram())
    assert oseqs(told) == [(AE_CE, 4)]


def test_another_host_takes_a_state_over() -> None:
    """What the last event told, set by NEWAE in a copy of the state: no number comes twice."""
    rare = thresholds(1, 10)
    esn = {"flags": ESN, "replay_window": 0, "replay_esn": ReplayEsn(2, replay_window=64, bitmap=(0, 0))}
    first = namespace(state(rare=rare, **esn), OUT)
    told = monitored(first)
    wire = output(first, *[datagram()] * 3)
    last = told[-1]
    second = namespace(state(rare=rare, **esn), OUT)
    assert isinstance(last.state.replay, ReplayEsn)
    identity = StateId(last.state.config.daddr, 0x1000, 50, 2)
    second.update_aevent(identity, AeventUpdate(replay_esn=last.state.replay, current=last.state.current))
    wire += output(second, datagram())
    assert [packet[24:28] for packet in wire] == [bytes([0, 0, 0, n]) for n in (1, 2, 3, 4)]
    ns = namespace(state(**esn), ALLOW)
    assert len({o.name for o in receive(ns, *wire)}) == 1


@given(st.integers(0, 5), st.lists(st.integers(1, 9), max_size=6))
def test_packets_in_batches_tell_what_they_tell_alone(maxdiff: int, sizes: list[int]) -> None:
    def run(batches: list[int]) -> list[tuple[int, object]]:
        null = {"aead": None, "crypt": algo.crypt("cipher_null", b""), "auth": algo.auth("sha1", KEY)}
        ns = namespace(state(rare=thresholds(maxdiff, 10), **null), OUT)
        told = monitored(ns)
        for size in batches:
            output(ns, *[datagram()] * size)
        return [(a.flags, a.state.current.packets) for a in told]

    total = sum(sizes)
    assert run(sizes) == run([1] * total)
    if maxdiff:
        assert len(run(sizes)) == total // maxdiff


def test_a_replay_state_that_was_set_is_the_one_told_last() -> None:
    ns = namespace(state(rare=thresholds(3, 0)), OUT)
    told = monitored(ns)
    output(ns, datagram())
    ns.update_aevent(StateId(state().daddr, 0x1000, 50, 2), AeventUpdate(replay=ReplayLegacy(oseq=10)))
    told.clear()
    output(ns, *[datagram()] * 3)
    assert oseqs(told) == [(AE_CR, 13)]
