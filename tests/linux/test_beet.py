"""BEET mode beyond the matrix of algorithms: options in their pseudo header; and route optimisation mode.

Both ways with Linux 6.1: what it opens, what it sends, and how it counts what it refuses.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP, IPOption
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from linux.guest import LinuxGuest, Sending
from linux.suites import AH_SUITES, CLEAR, GCM
from linux.twin import (
    BEETS,
    GUEST_PORT,
    HOST_PORT,
    TRANSPORT4,
    TRANSPORT6,
    Case,
    Shape,
    Suite,
    counters,
    delivered_by,
    figures,
    opened,
    outcomes,
    packets,
    prepare,
    sent_by,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.template import Mode

pytestmark = pytest.mark.linux

_BEETPH = 94
FOUR_IN = [shape for shape in BEETS if shape.inner == 4]
SIX_IN = [shape for shape in BEETS if shape.inner == 6]
OPTIONS = [
    *(bytes([1] * n) for n in (4, 8, 12, 36, 40)),
    bytes([148, 4, 0, 0]),
    bytes([1, 1, 148, 4, 0, 0, 1, 0]),
]


def with_options(shape: Shape, payload: bytes, options: bytes) -> bytes:
    source, target = shape.inner_ends
    sport, dport = shape.ports
    header = IP(src=source, dst=target, id=77, options=[IPOption(options)])
    return bytes(header / UDP(sport=sport, dport=dport) / Raw(payload))


@pytest.mark.parametrize("shape", FOUR_IN, ids=lambda shape: f"{shape.inner}in{shape.outer}")
def test_linux_takes_the_options_that_uxfrm_sends(guest: LinuxGuest, shape: Shape) -> None:
    case = Case(GCM[2], shape)
    before = prepare(guest, case)
    namespace = case.namespace()
    batch = Batch.pack([with_options(shape, b"%d" % i, options) for i, options in enumerate(OPTIONS)])
    namespace.output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(OPTIONS)
    got = delivered_by(guest, packets(batch))
    assert guest.xfrm_moved(before) == {}
    assert [datagram.payload for datagram in got] == [b"%d" % i for i in range(len(OPTIONS))]
    twin = case.twin()
    twin.input(Batch.pack(packets(batch)))
    assert figures(twin) == guest.xfrm_states()


@pytest.mark.parametrize("shape", FOUR_IN, ids=lambda shape: f"{shape.inner}in{shape.outer}")
def test_uxfrm_takes_the_options_that_linux_sends(guest: LinuxGuest, shape: Shape) -> None:
    case = Case(GCM[2], shape).reversed()
    prepare(guest, case)
    wire = []
    for i, options in enumerate(OPTIONS):
        guest.call("udp_options", "u", options.hex())
        found, errors = sent_by(guest, case, [Sending(b"%d" % i)])
        assert errors == [0]
        wire += found
    batch = Batch.pack(wire)
    case.namespace().input(batch)
    assert outcomes(batch) == [Outcome.DELIVERED] * len(OPTIONS)
    inner = [IP(packet) for packet in packets(batch)]
    assert [packet[Raw].load for packet in inner] == [b"%d" % i for i in range(len(OPTIONS))]
    assert [bytes(packet)[20 : packet.ihl * 4] for packet in inner] == OPTIONS
    assert [packet.chksum for packet in inner] == [recomputed(packet) for packet in inner]


def recomputed(packet: IP) -> int:
    again = packet.copy()
    del again.chksum
    return int(IP(bytes(again)).chksum)


_DATAGRAM = bytes(UDP(sport=HOST_PORT, dport=GUEST_PORT, chksum=0) / Raw(b"behind"))
PSEUDO = [
    body
    for head in (
        b"", b"\x11", bytes([17, 0, 0]), bytes([17, 0, 0, 0]), bytes([17, 0, 4, 0]) + bytes([1] * 4),
        bytes([17, 1, 4, 0]) + bytes([1] * 12), bytes([17, 1, 3, 0]) + bytes([1] * 12),
        bytes([17, 1, 0, 0]) + bytes([1] * 12), bytes([17, 5, 4, 0]) + bytes([1] * 44),
        bytes([17, 6, 4, 0]) + bytes([1] * 52), bytes([17, 31, 0, 0]) + bytes([1] * 252),
        bytes([17, 32, 4, 0]) + bytes(260), bytes([17, 255, 255, 0]) + bytes(40), bytes([17, 0, 255, 0]),
        bytes([17, 1, 4, 0]) + bytes([1] * 4) + bytes([7, 3, 4, 1, 1, 1, 1, 1]),
        bytes([94, 0, 4, 0]) + bytes([1] * 4),
        bytes([17, 1, 4, 0]) + bytes([1] * 4) + bytes([68, 200, 5, 0] * 2),
    )
    for body in (head, head + _DATAGRAM)
]  # fmt: skip


@pytest.mark.parametrize("shape", FOUR_IN, ids=lambda shape: f"{shape.inner}in{shape.outer}")
def test_pseudo_headers_are_taken_and_refused_as_by_linux(guest: LinuxGuest, shape: Shape) -> None:
    """One by one: the same is delivered, and the same counter moves."""
    case = Case(CLEAR, shape)
    outside = TRANSPORT4 if shape.outer == 4 else TRANSPORT6
    sender = Case(CLEAR, outside).namespace()
    delivered = 0
    for body in PSEUDO:
        header = IP(proto=_BEETPH) if shape.outer == 4 else IPv6(nh=_BEETPH)
        header.src, header.dst = outside.outer_ends
        packet = header / Raw(body)
        batch = Batch.pack([bytes(packet)])
        sender.output(batch)
        assert outcomes(batch) == [Outcome.SENT]
        before = prepare(guest, case)
        theirs = [datagram.payload for datagram in delivered_by(guest, packets(batch))]
        twin = case.twin()
        taken = Batch.pack(packets(batch))
        twin.input(taken)
        (outcome,) = outcomes(taken)
        # what XFRM lets pass, IP and UDP may refuse yet
        assert outcome == Outcome.DELIVERED or not theirs, (body, outcome)
        assert counters(twin) == guest.xfrm_moved(before), (body, outcome)
        delivered += len(theirs)
    assert delivered > 2


@pytest.mark.parametrize("shape", FOUR_IN, ids=lambda shape: f"{shape.inner}in{shape.outer}")
def test_fragments_are_refused(shape: Shape) -> None:
    """Follows: xfrm4_beet_encap_add, xfrm4_extract_output: whole packets only."""
    namespace = Case(GCM[2], shape).namespace()
    datagram = IP(shape.datagram(bytes(64)))
    datagram.flags = "MF"
    del datagram.chksum
    batch = Batch.pack([bytes(datagram)])
    namespace.output(batch)
    assert outcomes(batch) == [Outcome.OUT_BEET_FRAGMENT]
    assert counters(namespace) == {"XfrmOutStateModeError": 1}


# -- past `ip`, which has no AH in this mode, nor route optimisation but for mobility's states


def prepare_by_request(guest: LinuxGuest, case: Case) -> dict[str, int]:
    """As `prepare`, past `ip`."""
    known = Mode.TUNNEL if case.shape.mode.tunnels else Mode.TRANSPORT
    before = prepare(guest, replace(case, suite=CLEAR, shape=replace(case.shape, mode=known)))
    direction = Direction.IN if case.shape.to_guest else Direction.OUT
    with guest.connect("requests") as client:
        client.flush_states()
        client.flush_policies()
        client.add_state(case.state())
        client.add_policy(PolicyConfig(direction, case.selector(), (case.template(direction),)))
    return before


@pytest.mark.parametrize("suite", AH_SUITES, ids=lambda suite: suite.name)
@pytest.mark.parametrize("shape", SIX_IN, ids=lambda shape: f"{shape.inner}in{shape.outer}")
def test_ah_around_ipv6(guest: LinuxGuest, shape: Shape, suite: Suite) -> None:
    case = Case(suite, shape)
    batch = Batch.pack([shape.datagram(b"to you")])
    case.namespace().output(batch)
    before = prepare_by_request(guest, case)
    assert [found.payload for found in delivered_by(guest, packets(batch))] == [b"to you"]
    assert guest.xfrm_moved(before) == {}
    prepare_by_request(guest, case.reversed())
    wire, _ = sent_by(guest, case.reversed(), [Sending(b"to me")])
    assert opened(case.reversed().namespace(), wire) == [(Outcome.DELIVERED, b"to me")]


@pytest.mark.parametrize("shape", FOUR_IN, ids=lambda shape: f"{shape.inner}in{shape.outer}")
def test_linux_damages_what_ah_protects_in_beet_mode(guest: LinuxGuest, shape: Shape) -> None:
    """Its header is written over eight bytes, which ESP has for options: no UDP header is left."""
    case = Case(AH_SUITES[3], shape)
    prepare_by_request(guest, case.reversed())
    wire, _ = sent_by(guest, case.reversed(), [Sending(b"lost to all")])
    assert struct.pack(">HH", GUEST_PORT, HOST_PORT) not in wire[0]
    batch = Batch.pack([shape.datagram(b"not sent")])
    case.namespace().output(batch)
    assert outcomes(batch) == [Outcome.UNSUPPORTED_MODE]


ROUTE_OPTIMISATION = Shape(Mode.ROUTEOPTIMIZATION, 6, 6)


def test_route_optimisation_is_received_by_nobody(guest: LinuxGuest) -> None:
    case = Case(GCM[2], ROUTE_OPTIMISATION)
    before = prepare_by_request(guest, case)
    batch = Batch.pack([case.shape.datagram(b"%d" % i) for i in range(3)])
    case.namespace().output(batch)
    assert outcomes(batch) == [Outcome.SENT] * 3
    assert delivered_by(guest, packets(batch)) == []
    twin = case.twin()
    twin.input(Batch.pack(packets(batch)))
    assert counters(twin) == guest.xfrm_moved(before) == {"XfrmInStateModeError": 3}
    assert figures(twin) == guest.xfrm_states()


def test_route_optimisation_is_sent_as_by_linux(guest: LinuxGuest) -> None:
    case = Case(GCM[2], ROUTE_OPTIMISATION).reversed()
    prepare_by_request(guest, case)
    wire, errors = sent_by(guest, case, [Sending(b"%d" % i) for i in range(3)])
    twin, batch = case.twin(), Batch.pack([case.shape.datagram(b"%d" % i) for i in range(3)])
    twin.output(batch)
    assert errors == [0, 0, 0]
    assert [packet[4:48] for packet in packets(batch)] == [packet[4:48] for packet in wire]
    assert list(map(len, packets(batch))) == list(map(len, wire))
    assert figures(twin) == guest.xfrm_states()
