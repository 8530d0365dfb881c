"""Batches that grow: what was made of a packet goes on behind it, with what came with it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from uxfrm.datapath.batch import Batch


def arrived(count: int) -> Batch:
    batch = Batch.pack([bytes([i]) * (i + 1) for i in range(count)], time_s=9, mark=5, ifindex=3)
    batch.packets["origin"] = range(count)
    return batch


def test_what_came_with_a_packet_comes_with_what_is_made_of_it() -> None:
    batch = arrived(3)
    batch.packets["mark"] = [1, 2, 3]
    (made,) = batch.append([b"made"], [1]).tolist()
    record = batch.packets[made]
    assert batch.packet(made) == b"made"
    assert (record["mark"], record["ifindex"], record["time"], record["outcome"]) == (2, 3, 9, 0)


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), max_size=4))
def test_packets_go_on_in_the_order_of_their_origins(rounds: list[list[int]]) -> None:
    batch = arrived(4)
    expected: list[list[bytes]] = [[bytes([i]) * (i + 1)] for i in range(4)]
    for number, origins in enumerate(rounds):
        made = [bytes([number, place]) * 9 for place in range(len(origins))]
        indices = batch.append(made, origins)
        assert [batch.packet(i) for i in indices] == made
        for packet, origin in zip(made, origins, strict=True):
            expected[origin].append(packet)
    assert [batch.packet(i) for i in batch.in_order()] == [p for group in expected for p in group]
