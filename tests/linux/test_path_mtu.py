"""Packets larger than their path, as Linux 6.1 deals with them: fragments, ICMP errors, what it learns.

The guest sends itself, and forwards for 10.3.0.9 and fd03::9.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from linux.guest import LinuxGuest, Sending
from linux.suites import AH_SUITES, CLEAR, GCM
from linux.test_fragments import HERE
from linux.test_headers import header_bytes, inside, without_id
from linux.test_udp_encapsulation import encapsulated
from linux.twin import (
    DEFLATE,
    HOST_PORT,
    TRANSPORT4,
    TRANSPORT6,
    TUNNELS,
    Case,
    Shape,
    counters,
    figures,
    outcomes,
    prepare,
)
from uxfrm.datapath.batch import Batch
from uxfrm.datapath.fragments import Fragments, Whole, read
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import AF_UNSPEC_FLAG
from uxfrm.namespace import Namespace

pytestmark = pytest.mark.linux

MTU = 1500
SENDER = {4: "10.3.0.9", 6: "fd03::9"}
TARGET = {4: "10.1.0.1", 6: "fd01::1"}
ROUTER = {parse(SENDER[4]): parse("10.0.0.2"), parse(SENDER[6]): parse("fd00::2")}
SETUP = (
    "ip route add 10.3.0.0/24 via 10.0.0.1 dev vec0",
    "ip -6 route add fd03::/64 via fd00::1 dev vec0",
    "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
)


@pytest.fixture(scope="module")
def router() -> Iterator[LinuxGuest]:
    with LinuxGuest() as booted:
        for line in SETUP:
            code, _, err = booted.run(line.split())
            assert code == 0, err
        yield booted


def forwarding(guest: LinuxGuest, case: Case) -> Namespace:
    """Have the guest forward into a case's tunnel; its twin. What it learned of paths is forgotten."""
    prepare(guest, case)
    for family in ("-4", "-6"):
        guest.run(["ip", family, "route", "flush", "cache"])
    inner = case.shape.inner
    words = " ".join(layer._template_words() for layer in case.layers)
    guest.ip_batch(
        f"xfrm policy flush\nxfrm policy add src {SENDER[inner]} dst {TARGET[inner]} dir out {words}\n"
    )
    guest.drain()
    family, bits = (AF_INET, 32) if inner == 4 else (AF_INET6, 128)
    twin = case.twin()
    twin.flush_policies()
    selector = Selector(family, parse(TARGET[inner]), parse(SENDER[inner]), bits, bits)
    twin.add_policy(
        PolicyConfig(Direction.OUT, selector, tuple(x.template(Direction.OUT) for x in case.layers))
    )
    return known(twin)


def known(twin: Namespace) -> Namespace:
    twin.path.is_local = HERE.__contains__
    twin.path.source_of = ROUTER.get
    twin.set_mtu(MTU)
    return twin


def out(twin: Namespace, packet: bytes) -> list[bytes]:
    """What leaves the twin for a packet, in order."""
    batch = Batch.pack([hop(packet)])
    twin.output(batch)
    leaving = (Verdict.SENT, Verdict.CLEAR, Verdict.RETURNED)
    return [batch.packet(i) for i in batch.in_order() if outcomes(batch)[i].verdict in leaving]


def hop(packet: bytes) -> bytes:
    """The packet one hop on: what XFRM sees of what is forwarded."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes([packet[7] - 1]) + packet[8:]
    later = IP(packet)
    later.ttl -= 1
    del later.chksum
    return bytes(later)


def unnumbered(packet: bytes) -> bytes:
    """A packet without what every host numbers or labels in its own way.

    What an ICMP error quotes is here one hop further on than in Linux.
    """
    if packet[0] >> 4 == 4:
        if packet[9] == 1:
            return without_id(packet[:20]) + packet[20:22] + packet[24:36] + packet[37:38] + packet[40:]
        return without_id(packet)
    if packet[6] == 58:
        mask = int.from_bytes(packet[:4]) & 0xFFF00000
        return mask.to_bytes(4) + packet[4:42] + packet[44:55] + packet[56:]
    return packet[:44] + bytes(4) + packet[48:] if packet[6] == 44 else packet


def four(size: int, flags: str = "", **more: object) -> bytes:
    head = IP(src=SENDER[4], dst=TARGET[4], flags=flags, tos=0x2A, id=9, **more)
    return bytes(head / UDP(sport=1, dport=2) / Raw(bytes(size - 28)))


def six(size: int, *between: Packet) -> bytes:
    packet: Packet = IPv6(src=SENDER[6], dst=TARGET[6], tc=0x2A, fl=5)
    for header in between:
        packet /= header
    packet /= UDP(sport=1, dport=2)
    return bytes(packet / Raw(bytes(size - len(packet))))


FORWARDED = {
    4: [
        *(four(size, flags) for size, flags in product((1400, 1454, 1455, 1456, 1470, 1500), ("", "DF"))),
        four(1492, "MF"), four(1480, "MF", frag=7), four(1492, "DF", frag=9),
        four(1480, options=b"\x94\x04\0\0\x1e\x04\0\0"), four(1480, "DF", options=b"\x94\x04\0\0"),
    ],
    6: [
        *(six(size) for size in (1280, 1281, 1400, 1434, 1435, 1454, 1455, 1500)),
        six(1480, IPv6ExtHdrFragment(m=1, id=4, nh=17)), six(1480, IPv6ExtHdrFragment(offset=4, id=4, nh=17)),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("suite", "shape"), list(product((CLEAR, AH_SUITES[3]), TUNNELS)), ids=lambda x: x.name
)
def test_what_is_forwarded(router: LinuxGuest, suite: object, shape: Shape) -> None:
    """The same fragments and the same ICMP errors; no counter of XFRM moves."""
    case = Case(CLEAR if suite is CLEAR else AH_SUITES[3], shape, flags=AF_UNSPEC_FLAG).reversed()
    twin, before = forwarding(router, case), router.xfrm_stat()
    for packet in FORWARDED[shape.inner]:
        router.send_ip(packet)
        theirs, ours = router.settled(), out(twin, packet)
        assert len(theirs) <= 3
        if suite is CLEAR or told(ours)[:-1]:
            assert list(map(unnumbered, ours)) == list(map(unnumbered, theirs)), packet[:60].hex()
        else:
            assert list(map(len, ours)) == list(map(len, theirs)), packet[:60].hex()
    assert counters(twin) == router.xfrm_moved(before) == {}
    assert figures(twin) == router.xfrm_states()


def put_together(wire: list[bytes]) -> list[bytes]:
    store, whole = Fragments(), []
    record = Batch.pack([b""]).packets[0]
    for packet in wire:
        fragment = packet[6] == 44 if packet[0] >> 4 == 6 else bool(int.from_bytes(packet[6:8]) & 0x3FFF)
        found = store.add(read(packet, 1), record, 0) if fragment else Whole(packet, record)
        if isinstance(found, Whole):
            whole.append(found.packet)
    return whole


def original(case: Case, wire: list[bytes]) -> bytes:
    """The one datagram that the host at the wire's beginning wrote; the cipher is null."""
    opened = put_together(wire)
    if case.shape.mode.tunnels:
        return put_together([inside(packet) for packet in opened])[0]
    (packet,) = opened
    header = header_bytes(packet)
    upper = packet[header + 8 : -16]
    upper = upper[: int.from_bytes(upper[4:6])]
    length = (header + len(upper) if header == 20 else len(upper)).to_bytes(2)
    if header == 20:
        made = IP(packet[:2] + length + packet[4:9] + b"\x11\0\0" + packet[12:20])
        del made.chksum
        return bytes(made) + upper
    return packet[:4] + length + b"\x11" + packet[7:40] + upper


@pytest.mark.parametrize("shape", [*TUNNELS, TRANSPORT4, TRANSPORT6], ids=lambda shape: shape.name)
def test_what_the_host_itself_sends(router: LinuxGuest, shape: Shape) -> None:
    """Into IPv6 tunnels in fragments, else in fragments afterwards; of IPv4 in IPv4 Linux cuts others."""
    case = Case(CLEAR, shape).reversed()
    before = prepare(router, case)
    for size in (1000, 1380, 1420, 1460, 3000):
        prepare(router, case)
        twin = known(case.twin())
        payload = random.Random(size).randbytes(size)
        assert router.udp_send("u", (case.shape.inner_ends[1], HOST_PORT), [Sending(payload)]) == [0]
        theirs = router.settled()
        packet = original(case, theirs)
        batch = Batch.pack([packet])
        twin.output(batch)
        ours = [batch.packet(i) for i in batch.in_order() if outcomes(batch)[i] == Outcome.SENT]
        assert max(map(len, ours)) <= MTU
        if shape.outer == 4 and shape.inner == 4:
            assert (len(ours) > 1) == (len(theirs) > 1)
            assert [unnumbered(p)[20:-16] for p in put_together(ours)] == [
                unnumbered(p)[20:-16] for p in put_together(theirs)
            ]
        else:
            assert list(map(len, ours)) == list(map(len, theirs))
            assert original(case, ours) == packet
        assert figures(twin) == router.xfrm_states()
    assert router.xfrm_moved(before) == {}


def report(packet: bytes, mtu: int) -> bytes:
    """A router's word that a packet is too big."""
    if packet[0] >> 4 == 4:
        return bytes(
            IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=3, code=4, nexthopmtu=mtu) / Raw(packet[:200])
        )
    return bytes(IPv6(src="fd00::1", dst="fd00::2") / ICMPv6PacketTooBig(mtu=mtu) / Raw(packet[:200]))


def told(packets: list[bytes]) -> list[int]:
    """The MTUs in ICMP errors, and how many other packets there are."""
    found = [
        int.from_bytes(p[26:28] if p[0] >> 4 == 4 else p[44:48])
        for p in packets
        if (p[9] == 1 if p[0] >> 4 == 4 else p[6] == 58)
    ]
    return [*found, len(packets) - len(found)]


LEARNING = [
    *(Case(suite, shape, flags=AF_UNSPEC_FLAG) for suite, shape in product((CLEAR, AH_SUITES[3]), TUNNELS)),
    Case(GCM[0], TUNNELS[0]),
    *(Case(DEFLATE, shape) for shape in (TUNNELS[0], TUNNELS[3])),
    *(encapsulated(Case(CLEAR, shape, flags=AF_UNSPEC_FLAG)) for shape in TUNNELS[:2]),
]  # fmt: skip


@pytest.mark.parametrize("case", LEARNING, ids=lambda case: case.name)
def test_what_routers_say_is_believed(router: LinuxGuest, case: Case) -> None:
    """Each word, then a packet that is too big for anything: its answer has the MTU that is known now."""
    case = case.reversed()
    twin = forwarding(router, case)
    if case.encap:
        router.udp_open("ike", case.shape.outer_ends[0], 4500)
        router.udp_encap("ike")
    inner = case.shape.inner
    big = four(1500, "DF") if inner == 4 else six(1500)
    small = four(300) if inner == 4 else six(300)
    others = [four(size, "DF") if inner == 4 else six(size) for size in (1230, 1260, 1280, 1281)]
    router.send_ip(small)
    (sample,) = router.settled()
    assert len(out(twin, small)) == 1
    header = header_bytes(sample)
    stranger = sample[: header + 2] + b"\x77\x77\x77\x77\x77\x77" + sample[header + 8 :]
    if case.encap:
        stranger = sample[: header + 8] + b"\x77" * 4 + sample[header + 12 :]
    words = [(sample, 1600), (stranger, 1400), (sample, 1400), (sample, 1450), (sample, 1300), (sample, 200)]
    for packet, mtu in words:
        if case.encap and packet is stranger:
            continue  # Linux believes it of any UDP packet of the socket's
        router.send_ip(report(packet, mtu))
        twin.input(Batch.pack([report(packet, mtu)]))
        for packet in (big, *(others if mtu == 1300 else [])):
            router.send_ip(packet)
            assert told(out(twin, packet)) == told(router.settled()), (mtu, len(packet))
