"""What the router counts, beside what was sent: packets made by Scapy, one of each kind and family."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.ipsec import AH, ESP
from scapy.packet import Packet, Raw

from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_hosts
from uxfrm.lab.watch import Kind

pytestmark = pytest.mark.linux

SPI = b"\0\0\1\0" + b"\0\0\0\1"
KINDS: dict[str, tuple[Callable[[], Packet], Kind]] = {
    "esp": (lambda: ESP(spi=256, seq=1, data=b"x" * 32), Kind.ESP),
    "ah": (lambda: AH(spi=256, seq=1, icv=b"x" * 12) / ICMP(), Kind.AH),
    "esp in udp": (lambda: UDP(sport=4500, dport=4500) / Raw(SPI + b"x" * 40), Kind.UDP),
    "esp in udp behind nat": (lambda: UDP(sport=1024, dport=4500) / Raw(SPI + b"x" * 40), Kind.UDP),
    "esp in udp to one behind nat": (lambda: UDP(sport=4500, dport=1024) / Raw(SPI + b"x" * 40), Kind.UDP),
    "ike": (lambda: UDP(sport=500, dport=500) / Raw(b"x" * 28), Kind.IKE),
    "ike behind nat": (lambda: UDP(sport=4500, dport=4500) / Raw(b"\0\0\0\0" + b"x" * 28), Kind.IKE),
    "keepalive": (lambda: UDP(sport=4500, dport=4500) / Raw(b"\xff" * 4), Kind.UDP),
    "udp": (lambda: UDP(sport=4501, dport=53) / Raw(b"x" * 40), Kind.CLEAR),
    "tcp to port 4500": (lambda: TCP(sport=4500, dport=4500) / Raw(SPI), Kind.CLEAR),
    "icmp": (lambda: Raw(b"\x08\0" + b"\0" * 30), Kind.CLEAR),
}


QUOTED: dict[str, tuple[Packet, Kind]] = {
    "esp": (IP(proto=50) / Raw(SPI + b"x" * 20), Kind.ABOUT),
    "esp in udp": (IP() / UDP(sport=4500, dport=4500) / Raw(SPI + b"x" * 20), Kind.ABOUT),
    "ike": (IP() / UDP(sport=500, dport=500) / Raw(b"x" * 28), Kind.ABOUT),
    "udp": (IP() / UDP(sport=53, dport=53) / Raw(b"x" * 28), Kind.CLEAR),
    "icmp": (IP() / ICMP() / Raw(b"x" * 28), Kind.CLEAR),
    "nothing": (Raw(b""), Kind.CLEAR),
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(two_hosts()) as found:
        yield found


def send(lab: Lab, packets: list[Packet]) -> None:
    """Send IP packets from host a, as they are."""
    four = packets[0].version == 4
    family = socket.AF_INET if four else socket.AF_INET6
    with lab.inside("a"), socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for packet in packets:
            raw.sendto(bytes(packet), (packet.dst, 0))


def kinds(lab: Lab) -> dict[Kind, int]:
    """What passed from a, by kind."""
    seen = lab.watch.seen()
    assert seen.missed == seen.unread == 0
    a = {lab.plan.address("a"), lab.plan.address("a", 6)}
    return {passed.kind: count for passed, count in seen.packets.items() if passed.source in a}


def header(lab: Lab, family: int, proto: int | None = None) -> Packet:
    a, b = (lab.plan.address(host, family) for host in "ab")
    if family == 4:
        return IP(src=a, dst=b) if proto is None else IP(src=a, dst=b, proto=proto)
    return IPv6(src=a, dst=b) if proto is None else IPv6(src=a, dst=b, nh=proto)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", KINDS)
def test_a_packet_is_counted_as_what_it_is(lab: Lab, family: int, name: str) -> None:
    make, kind = KINDS[name]
    lab.watch.seen()
    proto = {"icmp": 1 if family == 4 else 58}.get(name)
    send(lab, [header(lab, family, proto) / make()] * 3)
    assert kinds(lab) == {kind: 3}


@pytest.mark.parametrize("name", QUOTED)
def test_an_icmp_error_is_of_what_it_quotes(lab: Lab, name: str) -> None:
    quoted, kind = QUOTED[name]
    lab.watch.seen()
    send(lab, [header(lab, 4) / ICMP(type=3, code=2) / Raw(bytes(quoted))])
    assert kinds(lab) == {kind: 1}


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("family", [4, 6])
def test_fragments_are_of_their_packets_kind(lab: Lab, family: int, sealed: bool) -> None:
    body = (SPI if sealed else b"\0" * 8) + b"x" * 3000
    port = 4500 if sealed else 53
    whole = UDP(sport=port, dport=port) / Raw(body)
    if family == 4:
        pieces = fragment(IP(bytes(header(lab, 4) / whole)), 1000)
    else:
        head = header(lab, 6) / IPv6ExtHdrFragment(id=77 + sealed)
        pieces = fragment6(IPv6(bytes(head / whole)), 1000)
    lab.watch.seen()
    send(lab, pieces)
    assert kinds(lab) == {Kind.UDP if sealed else Kind.CLEAR: len(pieces)}


def test_the_first_packets_in_clear_are_kept(lab: Lab) -> None:
    lab.watch.seen()
    sent = [header(lab, 4) / UDP(sport=number, dport=53) / Raw(b"secret") for number in range(1, 21)]
    send(lab, sent)
    seen = lab.watch.seen()
    kept = [IP(packet)[UDP].sport for packet in seen.clear if IP(packet).src == lab.plan.address("a")]
    assert kept == [*range(1, len(kept) + 1)]
    assert len(seen.clear) == 16
