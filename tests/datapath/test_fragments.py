"""Reassembly beside a slow model that remembers every byte, and the figures of Linux's source for its bounds.

Whether Linux does the same with the same packets is asked in tests/linux/test_fragments.py.
"""

from __future__ import annotations

import random
import tracemalloc
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6
from scapy.packet import Raw
from scapy.utils import checksum

from uxfrm.datapath.batch import PACKET_DTYPE, Batch
from uxfrm.datapath.fragments import Fragments, Refused, Whole, read
from uxfrm.model.address import Address, parse
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.namespace import Namespace

KEPT, DUPLICATE, OVERLAP = Outcome.IN_FRAGMENT, Outcome.IN_FRAGMENT_DUPLICATE, Outcome.IN_FRAGMENT_OVERLAP
LENGTH, ECN, FLOOD, HEADER = (
    Outcome.IN_FRAGMENT_LENGTH, Outcome.IN_FRAGMENT_ECN,
    Outcome.IN_FRAGMENT_FLOOD, Outcome.IN_FRAGMENT_HEADER,
)  # fmt: skip
RECORD = np.zeros(1, PACKET_DTYPE)[0]
SOURCE = "192.0.2.1"


def four(
    offset: int,
    payload: bytes,
    more: bool,
    *,
    number: int = 7,
    tos: int = 0,
    df: bool = False,
    src: str = SOURCE,
) -> bytes:
    flags = ["MF"] * more + ["DF"] * df
    head = IP(src=src, dst="192.0.2.2", id=number, proto=17, frag=offset // 8, flags="+".join(flags), tos=tos)
    return bytes(head / Raw(payload))


def six(offset: int, payload: bytes, more: bool, number: int = 7) -> bytes:
    head = IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(
        offset=offset // 8, m=more, id=number, nh=17
    )
    return bytes(head / Raw(payload))


def add(store: Fragments, packet: bytes, now: float = 0) -> Outcome | bytes:
    try:
        found = store.add(read(packet, 1), RECORD, now)
    except Refused as refused:
        return refused.outcome
    return found.packet if isinstance(found, Whole) else found


class Model:
    """What came of one packet, byte by byte; `runs` are the pieces whose parts came in order at the end."""

    def __init__(self) -> None:
        self.came: dict[int, int] = {}
        self.run_of: dict[int, int] = {}
        self.total: int | None = None
        self.longest = 0

    def add(self, offset: int, payload: bytes, more: bool) -> Outcome | bytes:
        payload = payload[: len(payload) & ~7] if more else payload
        end = offset + len(payload)
        if not payload or (not more and (end < self.longest or self.total not in (None, end))):
            return LENGTH
        if more and self.total is not None and end > self.total:
            return LENGTH
        self.total = self.total if more else end
        self.longest = max(self.longest, end)
        place = range(offset, end)
        if there := [byte for byte in place if byte in self.came]:
            last = max(self.came) + 1
            one_run = len({self.run_of[byte] for byte in there}) == 1
            return DUPLICATE if len(there) == len(place) and one_run and end <= last else OVERLAP
        at_the_end = bool(self.came) and offset == max(self.came) + 1
        run = self.run_of[offset - 1] if at_the_end else offset
        self.came |= {offset + k: byte for k, byte in enumerate(payload)}
        self.run_of |= dict.fromkeys(place, run)
        if self.total is not None and len(self.came) == self.total:
            return bytes(self.came[k] for k in range(self.total))
        return KEPT


PIECES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 33), st.booleans()), max_size=12)


@given(PIECES, st.booleans())
def test_any_pieces_fare_as_byte_by_byte(pieces: list[tuple[int, int, bool]], ipv6: bool) -> None:
    store, model, header = Fragments(), Model(), 40 if ipv6 else 20
    for at, size, last in pieces:
        more = not last or at == 0  # else it is not a fragment
        payload = random.Random(size * 7 + at).randbytes(size + (8 if at == 0 else 0))
        payload = payload[: len(payload) & ~7] if ipv6 and more else payload
        found = add(store, (six if ipv6 else four)(at * 8, payload, more))
        expected = model.add(at * 8, payload, more)
        assert (found[header:] if isinstance(found, bytes) else found) == expected
        if expected not in (KEPT, DUPLICATE):
            model = Model()
        assert len(store) <= 1


@given(
    st.binary(min_size=1, max_size=3000), st.integers(1, 90), st.randoms(use_true_random=False), st.booleans()
)
def test_what_scapy_cuts_comes_together_in_any_order(
    payload: bytes, units: int, order: random.Random, ipv6: bool
) -> None:
    """And is what was cut, but for what every host numbers itself."""
    if ipv6:
        before = IPv6(src="fd00::1", dst="fd00::2", fl=3, nh=60) / IPv6ExtHdrDestOpt(nh=44)
        whole = before / IPv6ExtHdrFragment(id=5) / UDP(sport=1, dport=2) / Raw(payload)
        pieces = [bytes(piece) for piece in fragment6(whole, 56 + 8 * units)]
        del whole[IPv6ExtHdrDestOpt].payload
        expected = bytes(before.copy() / UDP(sport=1, dport=2) / Raw(payload))
        expected = expected[:40] + b"\x11" + expected[41:]
    else:
        whole = IP(src=SOURCE, dst="192.0.2.2", id=5) / UDP(sport=1, dport=2) / Raw(payload)
        pieces, expected = [bytes(piece) for piece in fragment(whole, 8 * units)], bytes(whole)
    if len(pieces) < 2:
        return
    order.shuffle(pieces)
    store = Fragments()
    *kept, found = [add(store, piece) for piece in pieces]
    assert set(kept) == {KEPT}
    assert isinstance(found, bytes)
    assert found[40 if ipv6 else 20 :][-len(payload) :] == payload
    assert found[:40] == expected[:40] or not ipv6
    assert found == expected or ipv6
    assert (len(store), store.bytes) == (0, {4: 0, 16: 0})


def test_the_table_of_ecn() -> None:
    """Follows: ip_frag_ecn_table. Not-ECT goes with nothing else, CE wins over ECT."""
    for first, second in product(range(4), repeat=2):
        store = Fragments()
        add(store, four(0, bytes(8), True, tos=first))
        found = add(store, four(8, bytes(8), False, tos=second))
        if (first == 0) != (second == 0):
            assert found == ECN
        else:
            assert isinstance(found, bytes)
            assert found[1] == (3 if 3 in (first, second) else first)


@pytest.mark.parametrize(
    ("first", "last", "df"), [(8, 16, False), (16, 8, True), (16, 16, True)], ids=["small", "large", "same"]
)
def test_df_stays_where_it_came_with_the_largest(first: int, last: int, df: bool) -> None:
    store = Fragments()
    add(store, four(0, bytes(first), True, df=True))
    found = add(store, four(first, bytes(last), False))
    assert isinstance(found, bytes)
    assert bool(found[6] & 0x40) == df


def test_more_than_65535_bytes() -> None:
    store = Fragments()
    for offset in range(0, 65528, 8):
        add(store, four(offset, bytes(8), True))
        store.bytes[4] = 0  # for once
    assert add(store, four(65528, bytes(8), False)) == LENGTH
    assert add(Fragments(), six(65528, bytes(8), True)) == HEADER


@pytest.mark.parametrize("units", [1, 4])
def test_malformed_ipv6_fragments(units: int) -> None:
    assert add(Fragments(), six(0, bytes(8 * units + 1), True)) == HEADER
    short = IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(m=1, nh=6) / Raw(bytes(16))
    assert add(Fragments(), bytes(short)) == HEADER
    twice = (
        IPv6(src="fd00::1", dst="fd00::2")
        / IPv6ExtHdrFragment(nh=44)
        / IPv6ExtHdrFragment(m=1)
        / Raw(bytes(8))
    )
    assert add(Fragments(), bytes(twice)) == HEADER


def test_another_64_fragments_from_there_begin_a_new_packet() -> None:
    store = Fragments()
    add(store, four(0, bytes(8), True))
    for number in range(100, 163):
        add(store, four(0, bytes(8), True, number=number))
    assert add(store, four(8, bytes(8), True)) == KEPT  # the 64th
    for number in range(200, 264):
        add(store, four(0, bytes(8), True, number=number, src=SOURCE))
    assert add(store, four(16, bytes(8), False)) == KEPT  # without those before
    assert store.figures.failed == 1
    others = Fragments()
    add(others, four(0, bytes(8), True))
    for number in range(100, 300):
        add(others, four(0, bytes(8), True, number=number, src="192.0.2.9"))
    assert isinstance(add(others, four(8, bytes(8), False)), bytes)


@pytest.mark.parametrize("size", [8, 1400])
def test_a_flood_ends_at_the_threshold_and_its_memory_is_what_is_counted(size: int) -> None:
    store = Fragments()
    store.high_thresh = {4: 1 << 20, 16: 1 << 20}
    packets = [four(0, bytes(size), True, number=n) for n in range(2000)]
    packets += [four(8 * n, bytes(8), True, number=1) for n in range(2, 2000)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    found = [add(store, packet) for packet in packets]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert FLOOD in found
    assert found.index(FLOOD) > 100
    assert store.bytes[4] < (1 << 20) + size + 5000
    assert grown < store.bytes[4] + 200_000
    # IPv6 has its own; what waits can't complete now, and goes when its time is over
    assert add(store, six(0, bytes(8), True)) == KEPT
    assert len(list(store.expire(29.9))) == 0
    list(store.expire(30))
    assert store.bytes[4] == 0
    assert add(store, four(0, bytes(8), True), 30) == KEPT


HERE = {parse("192.0.2.2"), parse("fd00::2")}


def namespace() -> Namespace:
    ns = Namespace(randbytes=random.Random(3).randbytes, now_s=1000)

    def local(address: Address) -> bool:
        return address in HERE

    ns.path.is_local = local
    return ns


@pytest.mark.parametrize(("make", "seconds"), [(four, 30), (six, 60)], ids=["4", "6"])
def test_time_exceeded_goes_to_who_sent_a_first_fragment(make: object, seconds: int) -> None:
    """Its quotation is read by Scapy."""
    ns, cut = namespace(), four if make is four else six
    batch = Batch.pack([cut(0, bytes(16), True), cut(8, bytes(8), True, number=9)], 1000)
    ns.input(batch)
    assert {Outcome.of(int(o)) for o in batch.packets["outcome"]} == {KEPT}
    assert ns.next_deadline() == 1000 + seconds
    ns.advance(1000 + seconds)
    (answer,) = ns.released()
    assert Outcome.of(int(answer.packets[0]["outcome"])) == Outcome.CLEAR
    packet = answer.packet(0)
    icmp = IP(packet) if cut is four else IPv6(packet)
    told = (icmp.src, icmp.dst, icmp.payload.type, icmp.payload.code)
    assert told == (("192.0.2.2", SOURCE, 11, 1) if cut is four else ("fd00::2", "fd00::1", 3, 1))
    assert bytes(icmp.payload.payload) == cut(0, bytes(16), True)
    body = packet[20 if cut is four else 40 :]
    assert checksum(body if cut is four else packet[8:40] + len(body).to_bytes(4) + b"\0\0\0\x3a" + body) == 0
    assert cut is six or checksum(packet[:20]) == 0
    assert ns.next_deadline() is None


def test_errors_about_fragments_are_limited() -> None:
    """A burst of 50, then 1,000 a second (net.ipv4.icmp_msgs_burst, icmp_msgs_per_sec)."""
    ns = namespace()
    bad = Batch.pack([six(0, bytes(9), True)] * 500, 1000)
    ns.input(bad)
    assert sum(map(len, ns.released())) == 50
    ns.advance(1000.0305)
    ns.input(Batch.pack([six(0, bytes(9), True)] * 500, 1000))
    assert sum(map(len, ns.released())) == 30


def test_fragments_for_others_are_left_alone() -> None:
    ns = namespace()
    elsewhere = IP(src=SOURCE, dst="203.0.113.1", proto=50) / Raw(bytes(40))
    batch = Batch.pack([bytes(piece) for piece in fragment(elsewhere, 16)])
    ns.input(batch)
    assert {Outcome.of(int(o)).verdict for o in batch.packets["outcome"]} == {Verdict.CLEAR}
    assert len(ns.path.fragments) == 0


@given(PIECES)
def test_every_fragment_is_counted_once(pieces: list[tuple[int, int, bool]]) -> None:
    ns = namespace()
    packets = [four(at * 8, bytes(size), more) for at, size, more in pieces]
    batch = Batch.pack(packets)
    ns.input(batch)
    assert int(ns.path.totals.sum()) == len(packets) == len(batch)
    assert all(Outcome.of(int(o)) != Outcome.PENDING for o in batch.packets["outcome"])


@given(PIECES, st.integers(1, 3))
def test_a_batch_fares_as_its_fragments_one_by_one(pieces: list[tuple[int, int, bool]], step: int) -> None:
    packets = [four(at * 8, bytes([at]) * size, not last) for at, size, last in pieces]
    found = []
    for width in (step, len(packets) or 1):
        ns, ends = namespace(), []
        for start in range(0, len(packets), width):
            batch = Batch.pack(packets[start : start + width])
            ns.input(batch)
            ends += [(int(o), batch.packet(i)) for i, o in enumerate(batch.packets["outcome"])]
        found.append((ends, ns.path.totals.tolist(), ns.statistics().fragments))
    assert found[0] == found[1]


@given(st.lists(st.binary(max_size=80), max_size=8), st.booleans())
def test_any_bytes(payloads: list[bytes], ipv6: bool) -> None:
    """Extension headers, lengths and offsets that lie end in outcomes."""
    ns = namespace()
    packets = []
    for payload in payloads:
        if ipv6:
            packets.append(bytes(IPv6(src="fd00::1", dst="fd00::2", nh=44) / Raw(payload)))
        else:
            raw = bytearray(bytes(IP(src=SOURCE, dst="192.0.2.2", proto=50) / Raw(payload)))
            raw[6:8] = payload[:2].ljust(2, b"\x20")
            mended = IP(bytes(raw))
            del mended.chksum
            packets.append(bytes(mended))
    batch = Batch.pack([p for p in packets if p])
    ns.input(batch)
    assert all(Outcome.of(int(o)) != Outcome.PENDING for o in batch.packets["outcome"])


def test_pairs_in_two_batches() -> None:
    """The fragment that completes a packet is the packet, wherever the others came."""
    ns = namespace()
    pieces = [four(at, bytes([at]) * 8, at < 32) for at in range(0, 40, 8)]
    for one, two in pairwise(pieces[:-1]):
        assert one != two
    first, second = Batch.pack(pieces[:2]), Batch.pack(pieces[2:])
    ns.input(first)
    ns.input(second)
    assert Outcome.of(int(second.packets[2]["outcome"])) == Outcome.CLEAR
    assert second.packet(2)[20:] == b"".join(bytes([at]) * 8 for at in range(0, 40, 8))
