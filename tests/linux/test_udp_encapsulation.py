"""ESP in UDP (RFC 3948) to and from Linux 6.1: every mode and family, through a NAT too; MAPPING events."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from linux.guest import GuestTransport, LinuxGuest, Sending
from linux.suites import BASIC, CHACHA, CLEAR, GCM
from linux.twin import (
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
    sent_by,
)
from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.events import Event, MappingChanged
from uxfrm.model.address import AF_INET, AF_INET6, ANY4, ANY6
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import ENCAP_ESPINUDP, Encap
from uxfrm.namespace import Namespace
from uxfrm.netlink.constants import Group
from uxfrm.netlink.events import notification

pytestmark = pytest.mark.linux

PORT = 4500
PAYLOADS = tuple(bytes(i * 7 + size & 0xFF for i in range(size)) for size in (15, 16, 17, 100, 999, 1000))
NAT_PORT = 31000


def encapsulated(case: Case) -> Case:
    oa = ANY4 if case.shape.outer == 4 else ANY6
    return replace(case, encap=Encap(ENCAP_ESPINUDP, PORT, PORT, oa))


def deterministic(payload: bytes) -> bytes:
    """A MAPPING without the bytes behind IPv4 addresses: Linux does not write those of the new one."""
    return payload if payload[20] == AF_INET6 else payload[:48] + bytes(12) + payload[60:]


MATRIX = [
    encapsulated(Case(suite, shape, esn=esn))
    for shape in SHAPES
    for suite, esn in ((GCM[2], False), (CLEAR, True), (CHACHA, True))
]
# every algorithm once more, in modes and families in turn
MATRIX += [encapsulated(Case(suite, SHAPES[i % len(SHAPES)])) for i, suite in enumerate(BASIC)]


def ready(guest: LinuxGuest, case: Case) -> dict[str, int]:
    """Give the guest the case, and the socket of a key manager."""
    guest.udp_open("ike", case.shape.outer_ends[1 if case.shape.to_guest else 0], PORT)
    guest.udp_encap("ike")
    return prepare(guest, case)


def sealed(case: Case) -> tuple[Namespace, list[bytes]]:
    namespace = case.namespace()
    batch = Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    namespace.output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(PAYLOADS)
    return namespace, packets(batch)


def bypassing(namespace: Namespace, family: int) -> int:
    """The number of a key manager's socket in our namespace."""
    socket = namespace.open_socket(family)
    anywhere = ANY4 if family == AF_INET else ANY6
    socket.set_policy(PolicyConfig(Direction.IN, Selector(family, anywhere, anywhere)))
    return socket.number


def taken_in(case: Case, wire: list[bytes], namespace: Namespace) -> Batch:
    family = AF_INET if case.shape.outer == 4 else AF_INET6
    batch = Batch.pack(wire, 1000, socket=bypassing(namespace, family))
    namespace.input(batch)
    return batch


def through_nat(packet: bytes, port: int = NAT_PORT, host: int = 9) -> bytes:
    """Another source address and port, and right checksums around them."""
    if packet[0] >> 4 == 4:
        parsed: Packet = IP(packet)
        parsed.src = f"10.0.0.{host}"
        del parsed.chksum
    else:
        parsed = IPv6(packet)
        parsed.src = f"fd00::{host}"
        del parsed[UDP].chksum
    parsed[UDP].sport = port
    return bytes(parsed)


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
def test_linux_opens_what_uxfrm_sends_in_udp(guest: LinuxGuest, case: Case) -> None:
    before = ready(guest, case)
    namespace, wire = sealed(case)
    got = delivered_by(guest, wire)
    assert guest.xfrm_moved(before) == {}
    assert [datagram.payload for datagram in got] == list(PAYLOADS)
    assert guest.xfrm_usage() == [(state.bytes, state.packets) for state in figures(namespace)]


@pytest.mark.parametrize("case", [case.reversed() for case in MATRIX], ids=lambda case: case.name)
def test_uxfrm_opens_what_linux_sends_in_udp(guest: LinuxGuest, case: Case) -> None:
    ready(guest, case)
    wire, errors = sent_by(guest, case, list(map(Sending, PAYLOADS)))
    assert errors == [0] * len(PAYLOADS)
    namespace = case.namespace()
    batch = taken_in(case, wire, namespace)
    assert outcomes(batch) == [Outcome.DELIVERED] * len(PAYLOADS)
    assert [read_datagram(packet) for packet in packets(batch)] == list(map(case.shape.received, PAYLOADS))
    assert counters(namespace) == {}
    assert [(state.bytes, state.packets) for state in figures(namespace)] == guest.xfrm_usage()


@pytest.mark.parametrize("shape", [TRANSPORT4, TRANSPORT6, TUNNELS[0], TUNNELS[3]], ids=lambda s: s.name)
def test_a_nat_is_told_and_what_came_through_it_delivered(guest: LinuxGuest, shape: Shape) -> None:
    """In transport mode the checksum inside is for addresses from before the NAT: no matter."""
    case = encapsulated(Case(GCM[2], shape))
    before = ready(guest, case)
    transport = GuestTransport(guest, "mapping")
    transport.join(Group.MAPPING)
    _, wire = sealed(case)
    wire = [wire[0], *map(through_nat, wire[1:4]), through_nat(wire[4], 31001), through_nat(wire[5], host=8)]
    got = delivered_by(guest, wire)
    assert guest.xfrm_moved(before) == {}
    assert [datagram.payload for datagram in got] == list(PAYLOADS[:6])
    theirs = list(iter(transport.receive, None))

    twin, told = case.twin(), list[Event]()
    twin.listen(told.append, lambda kind: kind is MappingChanged)
    batch = taken_in(case, wire, twin)
    assert {outcome.verdict for outcome in outcomes(batch)} == {Verdict.DELIVERED}
    assert [read_datagram(packet)[-1] for packet in packets(batch)] == list(PAYLOADS[:6])
    assert len(told) == 5
    assert [notification(event).payload for event in told] == [
        deterministic(message[16:]) for message in theirs
    ]


def test_what_linux_takes_for_cut_off(guest: LinuxGuest) -> None:
    """Over IPv6 a datagram shorter than 48 bytes is dropped, without a counter, if it holds ESP."""
    case = encapsulated(Case(CLEAR, TRANSPORT6))
    before = ready(guest, case)
    namespace = case.namespace()
    batch = Batch.pack([case.shape.datagram(bytes(size)) for size in (0, 2, 3)])
    namespace.output(batch)
    assert [len(packet) - 40 for packet in packets(batch)] == [44, 44, 48]
    assert [datagram.payload for datagram in delivered_by(guest, packets(batch))] == [bytes(3)]
    assert guest.xfrm_moved(before) == {}
    twin = case.twin()
    ours = outcomes(taken_in(case, packets(batch), twin))
    assert ours == [Outcome.IN_UDP_SHORT, Outcome.IN_UDP_SHORT, Outcome.DELIVERED]
    assert counters(twin) == {}
