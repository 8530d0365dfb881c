"""The memory wire and the fault injector, as whoever tests an IPsec set-up on them sees them.

What two namespaces make of faults is judged by the counters of /proc/net/xfrm_stat.
"""

from __future__ import annotations

import random
from collections import Counter as Tally

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from test_namespace import ALLOW, datagram, moved, namespace, sender, state
from uxfrm.attach.attachment import Attachment, Loss, Way, chosen
from uxfrm.attach.faults import Faults, Injector
from uxfrm.attach.memory import Wire
from uxfrm.datapath.batch import HEADROOM, TAILROOM, Batch
from uxfrm.model.outcome import Verdict


def numbered(count: int) -> list[bytes]:
    """Packets, each of its own."""
    return [b"\x45" + number.to_bytes(4) + bytes(15) for number in range(count)]


def send(end: Attachment, packets: list[bytes]) -> int:
    return end.send(Batch.pack(packets), np.arange(len(packets)))


def receive(end: Attachment, now: float = 0) -> list[bytes]:
    """All that is there."""
    found: list[bytes] = []
    while (batch := end.receive(now)) is not None:
        found += [batch.packet(i) for i in range(len(batch))]
    return found


def test_both_ways_in_order_with_room_and_the_given_time() -> None:
    left, right = Wire(ifindex=7).ends
    packets = numbered(1000)
    assert send(left, packets) == 1000
    assert send(right, packets[:3]) == 3
    first = right.receive(now=5.9)
    assert first is not None
    p = first.packets[0]
    assert (p["time"], p["ifindex"], p["offset"] - p["low"]) == (5, 7, HEADROOM)
    assert p["high"] - p["offset"] - p["length"] == TAILROOM
    assert [first.packet(i) for i in range(len(first))] + receive(right) == packets
    assert receive(left) == packets[:3]
    assert right.receive(0) is None
    assert (left.counts.sent, right.counts.received) == (1000, 1000)


def test_what_a_wire_does_not_take_is_counted() -> None:
    left, right = Wire(mtu=100, capacity=2).ends
    assert send(left, [bytes(101), bytes(100), bytes(100), bytes(100)]) == 2
    assert left.counts.lost == {Loss.TOO_LONG: 1, Loss.FULL: 1}
    assert receive(right) == [bytes(100)] * 2
    right.close()
    assert send(left, [bytes(1)]) == 0


def test_only_chosen_packets_go() -> None:
    """Of two packets one has a policy: it alone is sent, and it alone arrives."""
    host, (left, right) = sender(), Wire().ends
    batch = Batch.pack([datagram(), bytes(20), datagram()], 1000)
    host.output(batch)
    assert left.send(batch, chosen(batch, Verdict.SENT)) == 2
    gate, arrived = namespace(state(), ALLOW), right.receive(1000)
    assert arrived is not None
    assert right.way == Way.IN
    gate.input(arrived)
    assert [arrived.packet(int(i)) for i in chosen(arrived, Verdict.DELIVERED)] == [datagram(), datagram()]


def injected(faults: Faults, packets: list[bytes], seed: int = 1) -> tuple[Injector, list[bytes]]:
    """What arrives of packets when all time has passed."""
    left, right = Wire(capacity=1 << 16).ends
    bad = Injector(left, faults, seed)
    for at in range(0, len(packets), 50):
        send(bad, packets[at : at + 50])
    while (due := bad.next_deadline()) is not None:
        bad.advance(due)
    return bad, receive(right)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 3), st.integers(0, 200), st.integers())
def test_every_packet_is_accounted_for(
    loss: float, duplicate: float, reorder: float, delay: float, count: int, seed: int
) -> None:
    faults = Faults(loss=loss, duplicate=duplicate, reorder=reorder, delay=delay, jitter=delay / 2)
    bad, arrived = injected(faults, numbered(count), seed)
    assert len(arrived) == count - bad.injected.lost + bad.injected.duplicated
    tally = Tally(arrived)
    assert set(tally) <= set(numbered(count))
    assert (
        sorted(tally.values()) == [1] * (len(tally) - bad.injected.duplicated) + [2] * bad.injected.duplicated
    )
    assert bad.counts.sent == count
    assert injected(faults, numbered(count), seed)[1] == arrived


@pytest.mark.parametrize("name", ["loss", "duplicate", "corrupt", "reorder"])
def test_a_probability_is_one(name: str) -> None:
    """Of 4,000 packets a quarter, within five standard deviations."""
    bad, arrived = injected(Faults(**{name: 0.25}), numbered(4000))
    told = {
        "loss": bad.injected.lost,
        "duplicate": bad.injected.duplicated,
        "corrupt": bad.injected.corrupted,
        "reorder": bad.injected.reordered,
    }
    assert abs(told.pop(name) - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert not any(told.values())
    seen = {
        "loss": 4000 - len(arrived),
        "duplicate": len(arrived) - 4000,
        "corrupt": len(set(numbered(4000)) - set(arrived)),
        "reorder": 1000 if arrived != numbered(4000) and sorted(arrived) == numbered(4000) else 0,
    }
    assert abs(seen[name] - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5


def test_corruption_is_one_bit() -> None:
    _, arrived = injected(Faults(corrupt=1), numbered(100))
    for was, now in zip(numbered(100), arrived, strict=True):
        assert (int.from_bytes(was) ^ int.from_bytes(now)).bit_count() == 1


def test_a_reordered_packet_is_overtaken_by_so_many_and_no_more() -> None:
    _, arrived = injected(Faults(reorder=0.1, gap=2), numbered(2000))
    place = {packet: at for at, packet in enumerate(arrived)}
    late = [place[packet] - number for number, packet in enumerate(numbered(2000))]
    assert max(late) in (2, 3, 4)  # two went before it, or more where those were late themselves
    assert min(late) < 0


def test_a_delay_is_kept_to() -> None:
    left, right = Wire().ends
    bad = Injector(left, Faults(delay=0.5), seed=1, now=100.0)
    send(bad, numbered(2))
    assert bad.next_deadline() == 100.5
    bad.advance(100.25)
    send(bad, numbered(3)[2:])
    bad.advance(100.49)
    assert receive(right) == []
    bad.advance(100.5)
    assert receive(right) == numbered(2)
    bad.advance(101)
    assert receive(right) == numbered(3)[2:]
    assert bad.next_deadline() is None


@pytest.mark.parametrize("wrong", [{"loss": 1.1}, {"corrupt": -0.1}, {"gap": 0}, {"jitter": 1.0}])
def test_nonsense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Faults(**wrong)  # type: ignore[arg-type]


def test_esp_over_a_bad_wire() -> None:
    """Duplicates fall to the replay window, corrupted packets to ICV, SPI or header: each is counted."""
    left, right = Wire(capacity=1 << 16).ends
    bad = Injector(left, Faults(loss=0.1, duplicate=0.1, corrupt=0.05, reorder=0.2), seed=3)
    out, gate = sender(), namespace(state(), ALLOW)
    rng = random.Random(1)
    for _ in range(20):
        batch = Batch.pack([datagram(rng.randrange(1000)) for _ in range(50)], 1000)
        out.output(batch)
        bad.send(batch, chosen(batch, Verdict.SENT))
    bad.advance(1001)
    delivered, arrived = 0, 0
    while (batch := right.receive(1001)) is not None:
        gate.input(batch)
        arrived += len(batch)
        delivered += len(chosen(batch, Verdict.DELIVERED))
    counts = moved(gate)
    assert arrived == 1000 - bad.injected.lost + bad.injected.duplicated
    assert counts["XfrmInStateSeqError"] <= bad.injected.duplicated
    assert delivered >= 1000 - bad.injected.lost - bad.injected.corrupted
    assert delivered + sum(counts.values()) <= arrived
    assert arrived - delivered - sum(counts.values()) <= bad.injected.corrupted  # a broken IP header
