"""The flow table against a dict: it may forget, but what it finds is right."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uxfrm import compiled
from uxfrm.datapath import flowtable
from uxfrm.datapath.batch import Batch
from uxfrm.datapath.flowtable import ANY_GENERATION, INPUT, INSPECT, KEY_COLUMNS, OUTPUT, FlowTable, flow_key
from uxfrm.datapath.headers import parse, write_checksum
from uxfrm.model.outcome import Outcome

compiled.ready()  # the tables of cases below are made of live objects

DELIVERED = int(Outcome.DELIVERED)
CLEAR = int(Outcome.CLEAR)


def udp(sport: int, dport: int = 53, last: int = 1, proto: int = 17, fragment: int = 0) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, fragment, 64, proto, 0)
    return header + bytes([10, 0, 0, 1, 10, 0, 0, last]) + struct.pack("!HHHH", sport, dport, 8, 0)


def udp6(last: int) -> bytes:
    ends = bytes(15) + b"\1" + b"\x20" + bytes(14) + bytes([last])
    return b"\x60\0\0\0\0\x08\x11\x40" + ends + struct.pack("!HHHH", 1, 53, 8, 0)


def batch_of(*raw: bytes, **fields: Any) -> Batch:
    """Parsed packets; `fields` go into every record, path genids as `pathgen`."""
    batch = Batch.pack(raw)
    for i in range(len(batch)):
        p = batch.packets[i]
        if batch.data[p["offset"]] >> 4 == 4:
            write_checksum(batch.data, p["offset"], 20)
        assert parse(batch.data, batch.packets, i) == 0
        for name, value in fields.items():
            if name == "pathgen":
                p["pathgen"][: len(value)] = value
                p["depth"] = len(value)
            else:
                p[name] = value
    return batch


def key_of(batch: Batch, i: int = 0, direction: int = INPUT) -> Any:
    key = np.full(KEY_COLUMNS, -77, np.int64)  # what was in it before must not matter
    flow_key(batch.data, batch.packets, i, direction, key)
    return key


def look_up(table: FlowTable, batch: Batch, direction: int, policies: int, states: int) -> Any:
    """The packets that were missed, and when each policy slot was last used."""
    n = len(batch)
    missed, used = np.zeros(n, np.int64), np.zeros(100, np.int64)
    key = np.zeros(KEY_COLUMNS, np.int64)
    count = flowtable.look_up(
        batch.data, batch.packets, np.arange(n), n, direction, table.keys, table.values, table.seed,
        policies, states, used, missed, key,
    )  # fmt: skip
    return missed[:count].tolist(), used


def ask(
    table: FlowTable, batch: Batch, policies: int = 1, states: int = 1, direction: int = INPUT
) -> list[tuple[int, int, int, int] | None]:
    """(outcome, policy, bundle, detail) of each packet, None for a miss; the packets start undecided."""
    batch.packets["outcome"] = 0
    lost, _ = look_up(table, batch, direction, policies, states)
    n = len(batch)
    names = ("outcome", "policy", "bundle", "detail")
    return [None if i in lost else tuple(int(batch.packets[i][f]) for f in names) for i in range(n)]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("made", "asked", "found"),
    [
        ((1, ANY_GENERATION), (1, 1), True),
        ((1, ANY_GENERATION), (1, 99), True),
        ((1, ANY_GENERATION), (2, 1), False),
        ((1, 7), (1, 7), True),
        ((1, 7), (1, 8), False),
        ((1, 7), (2, 7), False),
        ((0, 0), (0, 0), True),
    ],
)
def test_a_decision_holds_for_the_generations_it_was_made_under(
    made: tuple[int, int], asked: tuple[int, int], found: bool
) -> None:
    table, batch = FlowTable(seed=1), batch_of(udp(1))
    table.insert(key_of(batch), (DELIVERED, 3, 4, 5, *made))
    assert ask(table, batch, *asked) == [(DELIVERED, 3, 4, 5) if found else None]


VARIANTS: dict[str, tuple[Batch, int]] = {
    "plain": (batch_of(udp(1)), INPUT),
    "other source port": (batch_of(udp(2)), INPUT),
    "ports swapped": (batch_of(udp(53, 1)), INPUT),
    "other address": (batch_of(udp(1, last=2)), INPUT),
    "other protocol": (batch_of(udp(1, proto=6)), INPUT),
    "fragment": (batch_of(udp(1, fragment=0x2000)), INPUT),
    "no ports": (batch_of(udp(1, proto=50)), INPUT),
    "other mark": (batch_of(udp(1), mark=1), INPUT),
    "highest mark": (batch_of(udp(1), mark=2**32 - 1), INPUT),
    "through a state": (batch_of(udp(1), pathgen=[5]), INPUT),
    "through another state": (batch_of(udp(1), pathgen=[6]), INPUT),
    "through two": (batch_of(udp(1), pathgen=[5, 6]), INPUT),
    "through two, other order": (batch_of(udp(1), pathgen=[6, 5]), INPUT),
    "through six": (batch_of(udp(1), pathgen=[5, 6, 7, 8, 9, 10]), INPUT),
    "through another six": (batch_of(udp(1), pathgen=[5, 6, 7, 8, 9, 11]), INPUT),
    "other interface": (batch_of(udp(1), ifindex=2), INPUT),
    "metadata": (batch_of(udp(1), if_id=2), INPUT),
    "highest metadata": (batch_of(udp(1), if_id=2**32 - 1), INPUT),
    "metadata's link": (batch_of(udp(1), link=2), INPUT),
    "a socket's policies": (batch_of(udp(1), owner=2), INPUT),
    "output": (batch_of(udp(1)), OUTPUT),
    "output, other CPU": (batch_of(udp(1), cpu=1), OUTPUT),
    "output, other interface": (batch_of(udp(1), ifindex=2), OUTPUT),
    "inspect": (batch_of(udp(1)), INSPECT),
    "ipv6": (batch_of(udp6(1)), INPUT),
    "ipv6, other address": (batch_of(udp6(2)), INPUT),
}


def test_flows_that_differ_in_anything_are_different() -> None:
    table = FlowTable(seed=99)
    for number, (batch, direction) in enumerate(VARIANTS.values()):
        assert ask(table, batch, direction=direction) == [None]
        table.insert(key_of(batch, 0, direction), (DELIVERED, -1, number, 0, 1, 1))
    for number, (batch, direction) in enumerate(VARIANTS.values()):
        assert ask(table, batch, direction=direction) == [(DELIVERED, -1, number, 0)]
    table.clear()
    assert all(ask(table, batch, direction=d) == [None] for batch, d in VARIANTS.values())


@pytest.mark.parametrize(
    ("one", "other", "direction"),
    [
        # input looks policies up on any CPU, output without a path
        (batch_of(udp(1), cpu=1), batch_of(udp(1), cpu=2), INPUT),
        (batch_of(udp(1)), batch_of(udp(1), pathgen=[5]), OUTPUT),
        # ports of fragments are not looked at
        (batch_of(udp(1, fragment=1)), batch_of(udp(2, fragment=1)), INPUT),
    ],
)
def test_what_the_lookup_does_not_see_makes_no_difference(one: Batch, other: Batch, direction: int) -> None:
    table = FlowTable(seed=3)
    table.insert(key_of(one, 0, direction), (CLEAR, -1, 0, 0, 1, 1))
    assert ask(table, other, direction=direction) == [(CLEAR, -1, 0, 0)]


def test_packets_that_are_settled_are_left_alone_and_policies_remember_their_use() -> None:
    table = FlowTable(seed=3)
    batch = batch_of(udp(1), udp(1), udp(2), time=1234)
    table.insert(key_of(batch), (DELIVERED, 3, 0, 0, 1, 1))
    batch.packets["outcome"][1] = int(Outcome.IN_ICV)
    missed, used = look_up(table, batch, INPUT, 1, 1)
    assert batch.packets["outcome"].tolist() == [DELIVERED, int(Outcome.IN_ICV), 0]
    assert missed == [2]
    assert np.flatnonzero(used).tolist() == [3]
    assert used[3] == 1234


FLOWS = 12
POOL = batch_of(*[udp(port) for port in range(1, FLOWS + 1)])
STEP = st.tuples(
    st.integers(0, FLOWS - 1), st.integers(0, 3), st.sampled_from([ANY_GENERATION, 0, 1, 2]), st.booleans()
)


@given(st.integers(0, 2**32), st.lists(STEP, max_size=40))
def test_few_flows_are_all_remembered_as_a_dict_would(
    seed: int, steps: list[tuple[int, int, int, bool]]
) -> None:
    """Later decisions over a flow replace earlier ones, whatever their generations."""
    table = FlowTable(seed)
    told: dict[int, tuple[int, int, int]] = {}
    for number, (flow, policies, states, question) in enumerate(steps):
        if not question:
            table.insert(key_of(POOL, flow), (DELIVERED, -1, number, 0, policies, states))
            told[flow] = (number, policies, states)
            continue
        for i, answer in enumerate(ask(table, POOL, policies, states)):
            expected = None
            if i in told and told[i][1] == policies and told[i][2] in (ANY_GENERATION, states):
                expected = (DELIVERED, -1, told[i][0], 0)
            assert answer == expected
    assert table.entries == len(told)


def test_a_flood_of_flows_only_evicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many flows come, the table stays at its limit, and the newest flow is always known."""
    limit = 2048
    monkeypatch.setattr(flowtable, "_LIMIT", limit)
    table, rng = FlowTable(seed=5), np.random.default_rng(5)
    told = {}
    sizes = set()
    for number in range(6000):
        batch = batch_of(udp(int(rng.integers(65536)), int(rng.integers(65536)), int(rng.integers(256))))
        told[batch.packet(0)] = number
        table.insert(key_of(batch), (DELIVERED, -1, number, 0, 1, 1))
        sizes.add(table.keys.shape[0])
        if number % 100 == 0:
            assert ask(table, batch) == [(DELIVERED, -1, number, 0)]
    assert max(sizes) == limit
    assert table.entries <= limit
    every = batch_of(*told)
    answers = ask(table, every)
    assert all(a in (None, (DELIVERED, -1, n, 0)) for a, n in zip(answers, told.values(), strict=True))
    known = sum(a is not None for a in answers)
    assert known == table.entries
    assert known > limit * 0.9  # eviction does not leave places empty


def test_growing_forgets_nothing() -> None:
    """What is known before the table doubles is known after it, and little was evicted until then."""
    table = FlowTable(seed=8)
    every = batch_of(*[udp(port) for port in range(1, 1200)])
    sizes = [table.keys.shape[0]]
    known: set[int] = set()
    for i in range(len(every)):
        if table.entries * 2 >= table.keys.shape[0]:
            known = {k for k, answer in enumerate(ask(table, every)) if answer is not None}
            assert len(known) > i * 0.9
        table.insert(key_of(every, i), (DELIVERED, -1, i, 0, 1, 1))
        if table.keys.shape[0] != sizes[-1]:
            sizes.append(table.keys.shape[0])
            answers = ask(table, every)
            assert {k for k, a in enumerate(answers) if a == (DELIVERED, -1, k, 0)} == known | {i}
            assert table.entries == len(known) + 1
    assert sizes == [1024, 2048, 4096]
