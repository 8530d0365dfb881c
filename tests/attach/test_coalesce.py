"""Joined packets, cut again, are the packets: the cutting was checked by Scapy (test_superpackets).

What must go alone, and what must not overtake, is told apart by hand.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from attach.test_superpackets import cut, plain_sum
from uxfrm.attach.coalesce import COUNT, END, START, Coalescer
from uxfrm.datapath.batch import Batch

Change = dict[str, object]


def segments(
    count: int, version: int = 4, size: int = 100, sport: int = 5, seq: int = 0xFFFFFF00, **tcp: object
) -> list[Packet]:
    """A flow's packets, in order."""
    ip = (
        IP(src="10.1.0.5", dst="10.2.0.9", flags="DF") if version == 4 else IPv6(src="fd00::5", dst="fd01::9")
    )
    head = {"flags": "A", "ack": 7, "options": [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]} | tcp
    return [
        ip
        / TCP(sport=sport, dport=80, seq=(seq + n * size) & 0xFFFFFFFF, **head)
        / Raw(bytes([n & 255]) * size)
        for n in range(count)
    ]


def frames(packets: list[bytes]) -> tuple[list[bytes], list[int]]:
    """What would be written to the device, and how many packets each is."""
    batch = Batch.pack(packets)
    out, table = Coalescer().frames(batch, np.arange(len(packets)))
    return [out[row[START] : row[END]].tobytes() for row in table], table[:, COUNT].tolist()


def known(packets: list[bytes]) -> list[bytes]:
    """The packets without identification where they must not be fragmented (RFC 6864)."""

    def without(p: bytes) -> bytes:
        right = plain_sum(p[:20]) == 0xFFFF
        return p[:4] + bytes(2) + p[6:10] + bytes([right]) + p[12:] if p[:1] == b"E" and p[6] & 0x40 else p

    return [without(p) for p in packets]


def joined(packets: list[Packet | bytes]) -> list[int]:
    """How many packets each frame has; that cutting gives them back is always checked."""
    raw = [bytes(p) for p in packets]
    made, counts = frames(raw)
    again, parts = cut(*made)
    assert parts == counts
    assert sorted(known(again)) == sorted(known(raw))
    return counts


@pytest.mark.parametrize("version", [4, 6])
def test_a_flow_becomes_one(version: int) -> None:
    assert joined([*segments(9, version), *segments(10, version, size=99)[9:]]) == [9, 1]
    made, counts = frames([bytes(p) for p in segments(9, version)])
    assert counts == [9]
    assert known(cut(*made)[0]) == known([bytes(p) for p in segments(9, version)])


def test_the_kernels_limit_of_64_kilobytes() -> None:
    assert joined(list(segments(50, size=1400))) == [46, 4]


def changed(at: int, of: list[Packet], change: Change, layer: type[Packet] = TCP) -> list[Packet | bytes]:
    for name, value in change.items():
        setattr(of[at][layer], name, value)
    return list(of)


ALONE = [
    ("a hole", TCP, {"seq": 1}),
    ("SYN", TCP, {"flags": "S"}),
    ("RST", TCP, {"flags": "RA"}),
    ("urgent", TCP, {"flags": "UA"}),
    ("CWR", TCP, {"flags": "AC"}),
    ("another window", TCP, {"window": 77}),
    ("another acknowledgement", TCP, {"ack": 8}),
    ("another timestamp", TCP, {"options": [("NOP", None), ("NOP", None), ("Timestamp", (1, 3))]}),
    ("no options", TCP, {"options": []}),
    ("a wrong checksum", TCP, {"chksum": 1}),
    ("another TTL", IP, {"ttl": 3}),
    ("another TOS", IP, {"tos": 3}),
    ("may be fragmented", IP, {"flags": 0}),
    ("a fragment", IP, {"flags": "MF"}),
    ("IP options", IP, {"options": [b"\x01\x01\x01\x00"]}),
]


@pytest.mark.parametrize(("layer", "change"), [row[1:] for row in ALONE], ids=[row[0] for row in ALONE])
def test_what_differs_ends_what_was_begun(layer: type[Packet], change: Change) -> None:
    """The third of five: no packet behind it may be joined to those before it."""
    packets = changed(2, segments(5), change, layer)
    counts = joined(packets)
    assert counts in ([2, 1, 2], [2, 3])
    made, _ = frames([bytes(p) for p in packets])
    assert known(cut(*made)[0]) == known([bytes(p) for p in packets])


@pytest.mark.parametrize("flags", ["PA", "FA", "FPA"])
def test_a_push_ends_it_and_is_kept(flags: str) -> None:
    assert joined(changed(2, segments(5), {"flags": flags})) == [3, 2]


def test_a_short_packet_ends_it() -> None:
    start = segments(3)
    assert joined(
        [*start, *segments(1, size=20, seq=0xFFFFFF00 + 300), *segments(2, seq=0xFFFFFF00 + 320)]
    ) == [4, 2]


def test_a_longer_packet_begins_anew() -> None:
    assert joined([*segments(2), *segments(2, size=150, seq=0xFFFFFF00 + 200)]) == [2, 2]


def test_flows_that_alternate_are_joined_each() -> None:
    packets = [p for three in zip(*(segments(6, sport=s) for s in (1, 2, 3)), strict=True) for p in three]
    assert joined(list(packets)) == [6, 6, 6]


def test_identification_counts_where_packets_may_be_fragmented() -> None:
    packets = segments(6)
    for number, packet in enumerate(packets):
        packet[IP].flags, packet[IP].id = 0, 0xFFFE + number & 0xFFFF
    packets[4][IP].id = 9
    assert joined(list(packets)) == [4, 1, 1]


@pytest.mark.parametrize("other", [UDP(sport=1, dport=2) / Raw(b"x"), ICMP()])
def test_others_pass_as_they_are(other: Packet) -> None:
    packet = bytes(IP(src="10.1.0.5", dst="10.2.0.8") / other)
    assert frames([packet] * 3) == ([bytes(10) + packet] * 3, [1, 1, 1])


def test_a_pure_acknowledgement_is_not_overtaken() -> None:
    ack = IP(src="10.1.0.5", dst="10.2.0.9") / TCP(sport=5, dport=80, flags="A")
    assert joined([*segments(4)[:2], ack, *segments(4)[2:]]) == [2, 1, 2]


@settings(max_examples=60)
@given(st.integers(), st.integers(1, 40))
def test_any_traffic_keeps_each_flows_order(seed: int, count: int) -> None:
    rng = random.Random(seed)
    flows = {sport: segments(count, rng.choice([4, 6]), sport=sport) for sport in range(1, 4)}
    packets = []
    while any(flows.values()):
        flow = rng.choice([f for f in flows.values() if f])
        taken = flow.pop(0) if rng.random() < 0.9 else flow.pop(rng.randrange(len(flow)))
        if rng.random() < 0.1:
            taken[TCP].flags = rng.choice(["PA", "SA", "A", "FA"])
        packets.append(bytes(taken))
    made, _ = frames(packets)
    again, _ = cut(*made)

    def of(flow: int, those: list[bytes]) -> list[bytes]:
        return [p for p in those if (p[20:22] if p[0] >> 4 == 4 else p[40:42]) == flow.to_bytes(2)]

    for flow in range(1, 4):
        assert known(of(flow, again)) == known(of(flow, packets))


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes(packets: list[bytes]) -> None:
    made, counts = frames(packets)
    assert sum(counts) == len(packets)
    assert [m[10:] for m in made] == packets


@given(st.integers(0, 199), st.integers(0, 255), st.sampled_from([4, 6]))
def test_any_byte_changed(at: int, value: int, version: int) -> None:
    """The second of four packets has one byte changed: what is written is still what came."""
    raw = [bytes(p) for p in segments(4, version)]
    hit = bytearray(raw[1])
    hit[at % len(hit)] = value
    raw[1] = bytes(hit)
    made, _ = frames(raw)
    again: list[bytes] = []
    for frame in made:
        again += [frame[10:]] if frame[1] == 0 else cut(frame)[0]
    assert known(again) == known(raw)
