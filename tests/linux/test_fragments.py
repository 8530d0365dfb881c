"""Fragments before XFRM: what Linux 6.1 puts together, what it refuses, and what it counts of them.

Packets are cut here, by neither of the two.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from itertools import product

import pytest
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw
from scapy.utils import checksum

from linux.guest import LinuxGuest
from linux.suites import AH_SUITES, CLEAR, GCM
from linux.test_headers import header_bytes, without_id
from linux.test_udp_encapsulation import encapsulated
from linux.test_udp_encapsulation import ready as ready_for_udp
from linux.twin import (
    DEFLATE,
    GUEST_PORT,
    SHAPES,
    TRANSPORT4,
    TRANSPORT6,
    TUNNELS,
    Case,
    Shape,
    counters,
    delivered_by,
    figures,
    outcomes,
    packets,
    prepare,
    read_datagram,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model.address import parse
from uxfrm.model.flow import PROTO_AH, PROTO_UDP
from uxfrm.model.outcome import Verdict
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.namespace import Namespace

pytestmark = pytest.mark.linux

PAYLOADS = [random.Random(size).randbytes(size) for size in (200, 333, 800)]
HERE = {parse(net) for net in ("10.0.0.2", "10.1.0.2", "10.2.0.2", "fd00::2", "fd01::2", "fd02::2")}

Piece = tuple[int, int, int]
"""From, to and ECN; a piece that ends with its packet is the last fragment."""


def cut(packet: bytes, pieces: list[Piece], number: int) -> list[bytes]:
    """Fragments of a packet without extension headers."""
    make, header = (_four, 20) if packet[0] >> 4 == 4 else (_six, 40)
    payload = packet[header:]
    return [
        make(packet, start, payload[start:end], end < len(payload), number, ecn) for start, end, ecn in pieces
    ]


def _four(packet: bytes, start: int, payload: bytes, more: bool, number: int, ecn: int) -> bytes:
    head = bytearray(packet[:20])
    head[1] |= ecn
    head[2:4], head[4:6] = (20 + len(payload)).to_bytes(2), number.to_bytes(2)
    head[6:8] = (head[6] << 8 & 0x4000 | more << 13 | start // 8).to_bytes(2)
    head[10:12] = bytes(2)
    head[10:12] = checksum(bytes(head)).to_bytes(2)
    return bytes(head) + payload


def _six(packet: bytes, start: int, payload: bytes, more: bool, number: int, ecn: int) -> bytes:
    head = bytearray(packet[:40])
    head[1] |= ecn << 4
    head[4:6], head[6] = (8 + len(payload)).to_bytes(2), 44
    return bytes(head) + bytes([packet[6], 0]) + (start | more).to_bytes(2) + number.to_bytes(4) + payload


def whole(size: int, chance: random.Random, ecn: int = 0, first: int = 8) -> list[Piece]:
    """All of `size` bytes, in pieces of random length, in order; the first has so many bytes at least."""
    ends = sorted({chance.randrange(first, size, 8) for _ in range(chance.randrange(1, 5))})
    return [(start, end, ecn) for start, end in zip([0, *ends], [*ends, size], strict=True)]


def disturbed(size: int, chance: random.Random) -> list[Piece]:
    """Pieces as an attacker or a bad network has them."""
    pieces = whole(size, chance, chance.choice((0, 0, 1)))
    if chance.random() < 0.5:
        chance.shuffle(pieces)
    for _ in range(chance.randrange(3)):
        start = chance.randrange(0, size, 8)
        end = min(chance.randrange(start, size + 40, 8), size)
        if (start, end) == (0, size):
            continue  # a whole packet, which IPv6 counts as one put together
        strange = chance.choice([(start, end, 0), chance.choice(pieces), (start, start, 0), (start, end, 3)])
        pieces.insert(chance.randrange(len(pieces) + 1), strange)
    if chance.random() < 0.3:
        pieces.pop(chance.randrange(len(pieces)))
    return pieces


def sealed(case: Case, inner: list[bytes]) -> list[bytes]:
    batch = Batch.pack(inner)
    case.namespace().output(batch)
    assert {outcome.verdict for outcome in outcomes(batch)} == {Verdict.SENT}
    return packets(batch)


@pytest.fixture(scope="module")
def guest(own_guest: LinuxGuest) -> LinuxGuest:
    """One of this file's own: of packets that never became whole it sends a report half a minute later."""
    return own_guest


def reassembly(guest: LinuxGuest) -> tuple[int, int, int]:
    """Fragments that came to be put together, packets that were, and failures, of both families."""
    lines = [line.split() for line in guest.read("/proc/net/snmp").splitlines()[:2]]
    found = dict(zip(*lines, strict=True)) | dict(
        line.split() for line in guest.read("/proc/net/snmp6").splitlines()
    )
    required, oks, fails = (
        int(found[f"Reasm{what}"]) + int(found[f"Ip6Reasm{what}"]) for what in ("Reqds", "OKs", "Fails")
    )
    return required, oks, fails


def delivered(namespace: Namespace, wire: list[bytes]) -> list[bytes]:
    """The payloads that reach applications at the twin of the guest."""
    namespace.path.is_local = HERE.__contains__
    batch = Batch.pack(wire)
    namespace.input(batch)
    return [
        read_datagram(batch.packet(i))[-1]
        for i, outcome in enumerate(outcomes(batch))
        if outcome.verdict in (Verdict.DELIVERED, Verdict.CLEAR)
    ]


def same_as_linux(guest: LinuxGuest, case: Case, wire: list[bytes]) -> list[bytes]:
    """What an application receives, where both tell the same of these packets."""
    before, moved = prepare(guest, case), reassembly(guest)
    linuxs = [datagram.payload for datagram in delivered_by(guest, wire)]
    twin = case.twin()
    assert delivered(twin, wire) == linuxs
    assert counters(twin) == guest.xfrm_moved(before)
    assert figures(twin) == guest.xfrm_states()
    ours = twin.path.fragments.figures
    theirs = [after - then for after, then in zip(reassembly(guest), moved, strict=True)]
    assert [ours.required, ours.completed, ours.failed] == theirs
    return linuxs


CASES = [
    *(Case(suite, shape) for suite, shape in product((GCM[2], CLEAR), SHAPES)),
    *(Case(AH_SUITES[3], shape) for shape in (TRANSPORT4, TRANSPORT6, TUNNELS[1])),
    *(Case(DEFLATE, shape) for shape in (TRANSPORT4, TUNNELS[3])),
]


# What a packet leaves behind in the guest must not meet another's.
NUMBERS = itertools.count(1)


def pieces_of(packet: bytes, chance: random.Random) -> list[bytes]:
    """A packet in some pieces, in any order, the first with all headers."""
    number = next(NUMBERS)
    if packet[0] >> 4 == 4 and packet[9] == PROTO_AH:
        number = int.from_bytes(packet[4:6])  # which is authenticated
    pieces = cut(packet, whole(len(packet) - header_bytes(packet), chance, first=48), number)
    chance.shuffle(pieces)
    return pieces


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whole_packets_come_out_of_fragments_in_any_order(guest: LinuxGuest, case: Case) -> None:
    chance = random.Random(case.name)
    wire = sealed(case, [case.shape.datagram(payload) for payload in PAYLOADS])
    pieces = [pieces_of(packet, chance) for packet in wire]
    assert same_as_linux(guest, case, [piece for some in pieces for piece in some]) == PAYLOADS


def test_several_packets_at_once(guest: LinuxGuest) -> None:
    case = Case(CLEAR, TUNNELS[1])
    chance = random.Random(4)
    wire = sealed(case, [case.shape.datagram(payload) for payload in PAYLOADS])
    pieces = [piece for packet in wire for piece in pieces_of(packet, chance)]
    chance.shuffle(pieces)
    assert sorted(same_as_linux(guest, case, pieces)) == sorted(PAYLOADS)


@pytest.mark.parametrize("shape", [TUNNELS[0], TUNNELS[3]], ids=lambda shape: shape.name)
def test_esp_in_udp(guest: LinuxGuest, shape: Shape) -> None:
    case = encapsulated(Case(CLEAR, shape))
    chance = random.Random(5)
    wire = sealed(case, [shape.datagram(payload) for payload in PAYLOADS])
    pieces = [piece for packet in wire for piece in pieces_of(packet, chance)]
    before = ready_for_udp(guest, case)
    linuxs = [datagram.payload for datagram in delivered_by(guest, pieces)]
    assert linuxs == PAYLOADS
    twin = case.twin()
    assert delivered(twin, pieces) == linuxs
    assert counters(twin) == guest.xfrm_moved(before)
    assert figures(twin) == guest.xfrm_states()


@pytest.mark.parametrize(("shape", "seed"), list(product((TUNNELS[0], TUNNELS[3]), range(4))), ids=str)
def test_overlaps_duplicates_gaps_and_ecn(guest: LinuxGuest, shape: Shape, seed: int) -> None:
    """Forty packets each, one after the other."""
    case, chance = Case(CLEAR, shape), random.Random(seed)
    inner = [case.shape.datagram(random.Random(n).randbytes(60 + 7 * n)) for n in range(40)]
    pieces = []
    for packet in sealed(case, inner):
        size = len(packet) - header_bytes(packet)
        pieces += cut(packet, disturbed(size, chance), next(NUMBERS))
    assert same_as_linux(guest, case, pieces)


@pytest.mark.parametrize("shape", TUNNELS, ids=lambda shape: shape.name)
def test_fragments_inside_a_tunnel(guest: LinuxGuest, shape: Shape) -> None:
    """Policies see the whole packet, which came the way of its first fragment."""
    case, chance = Case(CLEAR, shape), random.Random(9)
    whole_ones = [shape.datagram(payload) for payload in PAYLOADS]
    inner = [piece for packet in whole_ones for piece in pieces_of(packet, chance)]
    chance.shuffle(inner)
    assert sorted(same_as_linux(guest, case, sealed(case, inner))) == sorted(PAYLOADS)


@pytest.mark.parametrize("shape", [TUNNELS[0], TUNNELS[3]], ids=lambda shape: shape.name)
def test_the_way_of_a_packet_is_that_of_its_first_fragment(guest: LinuxGuest, shape: Shape) -> None:
    """Some fragments come in clear: alone the first one's way counts."""
    case, chance = Case(CLEAR, shape), random.Random(2)
    wire: list[bytes] = []
    for number, (payload, clear_first) in enumerate(product(PAYLOADS, (False, True))):
        packet = shape.datagram(payload)
        first, *rest = cut(packet, whole(len(packet) - header_bytes(packet), chance), next(NUMBERS))
        protected = sealed(replace(case, start=number * 10), [first] if not clear_first else rest)
        wire += [*protected, *rest] if not clear_first else [first, *protected]
    found = same_as_linux(guest, case, wire)
    assert found == PAYLOADS


def test_the_reports_of_malformed_ipv6_fragments(guest: LinuxGuest) -> None:
    """Parameter problems, byte for byte, but for the flow label."""
    ends = {"src": "fd00::1", "dst": "fd00::2"}
    bad = [
        bytes(IPv6(**ends) / IPv6ExtHdrFragment(m=1, id=1, nh=17) / Raw(bytes(17))),
        bytes(IPv6(**ends) / IPv6ExtHdrFragment(offset=8191, id=2, nh=17) / Raw(bytes(16))),
        bytes(IPv6(**ends) / IPv6ExtHdrFragment(m=1, id=3, nh=6) / Raw(bytes(16))),
        bytes(IPv6(**ends) / IPv6ExtHdrFragment(m=1, id=4, nh=58) / Raw(b"\x80" + bytes(7))),
    ]
    twin = Case(CLEAR, TRANSPORT6).twin()
    prepare(guest, Case(CLEAR, TRANSPORT6))
    guest.ip_batch("xfrm policy flush\n")
    twin.flush_policies()
    twin.path.is_local = HERE.__contains__
    for packet in bad:
        guest.send_ip(packet)
        theirs = guest.take_ip(1, timeout=0.5)
        twin.input(Batch.pack([packet]))
        ours = [batch.packet(0) for batch in twin.released()]
        assert [p[:1] + p[4:] for p in ours] == [p[:1] + p[4:] for p in theirs], packet.hex()
    # the limit per destination has its own burst of six
    assert guest.receive_ip(0.1) is None


@pytest.mark.parametrize("family", [4, 6])
def test_the_reports_of_packets_that_never_came_whole(guest: LinuxGuest, family: int) -> None:
    """Time exceeded, to who sent a first fragment, byte for byte but for numbers and labels of their own."""
    shape = TRANSPORT4 if family == 4 else TRANSPORT6
    sysctl = "net.ipv4.ipfrag_time" if family == 4 else "net.ipv6.ip6frag_time"
    path = "/proc/sys/" + sysctl.replace(".", "/")
    before = guest.read(path)
    prepare(guest, Case(CLEAR, shape))
    guest.ip_batch("xfrm policy flush\n")
    guest.write(path, "1")
    packet = shape.datagram(bytes(900), tos=0x28)
    first, _, _ = cut(packet, [(0, 600, 0), (600, 800, 0), (800, 908, 0)], next(NUMBERS))
    _, later, _ = cut(packet, [(0, 600, 0), (600, 800, 0), (800, 908, 0)], next(NUMBERS))
    for piece in (first, later):
        guest.send_ip(piece)
    theirs = guest.take_ip(1, timeout=5) + guest.take_ip(1, timeout=0.3)
    guest.write(path, before)

    twin = Namespace(randbytes=random.Random(1).randbytes, now_s=100)
    twin.path.is_local = HERE.__contains__
    twin.set_sysctl(sysctl, 1)
    twin.input(Batch.pack([first, later], 100))
    assert twin.next_deadline() == 101
    twin.advance(101)
    ours = [batch.packet(i) for batch in twin.released() for i in range(len(batch))]
    if family == 4:
        assert list(map(without_id, ours)) == list(map(without_id, theirs))
    else:
        assert [p[:1] + p[4:] for p in ours] == [p[:1] + p[4:] for p in theirs]
    assert len(ours) == 1


@pytest.mark.parametrize("shape", [TUNNELS[0], TUNNELS[3]], ids=lambda shape: shape.name)
def test_a_policy_for_a_port_sees_it_in_a_packet_that_came_in_fragments(
    guest: LinuxGuest, shape: Shape
) -> None:
    """Of this host's packets; what is forwarded goes by its fragments."""
    case, chance = Case(CLEAR, shape), random.Random(11)
    source, target = shape.inner_ends
    before = prepare(guest, case)
    ends = f"src {source} dst {target} proto udp dport {GUEST_PORT}"
    guest.ip_batch(f"xfrm policy flush\nxfrm policy add {ends} dir in {case._template_words()}\n")
    twin = case.twin()
    twin.flush_policies()
    port = replace(case.selector(), proto=PROTO_UDP, dport=GUEST_PORT, dport_mask=0xFFFF)
    twin.add_policy(PolicyConfig(Direction.IN, port, (case.template(Direction.IN),)))
    inner = [piece for payload in PAYLOADS for piece in pieces_of(shape.datagram(payload), chance)]
    wire = sealed(case, inner)
    linuxs = [datagram.payload for datagram in delivered_by(guest, wire)]
    assert delivered(twin, wire) == linuxs == PAYLOADS
    assert counters(twin) == guest.xfrm_moved(before)
