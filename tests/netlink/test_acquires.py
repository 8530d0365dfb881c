"""Packets that want states: what this machine's kernel asks its key managers for, uxfrm asks for.

A policy's template without a state, on both sides; the same packets; the same ACQUIREs, the same larval
states, completed by the number of the question.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6

from netlink.compare import attribute as attr
from netlink.compare import comparable, request
from netlink.kernel import Answer, Kernel, Uxfrm
from netlink.test_kernel_answers import DUMP, policy, spi_range, template
from uxfrm.netlink.constants import Xfrm
from uxfrm.netlink.wire import HEADER, messages

pytestmark = pytest.mark.linux

LO = 1
A4, B4, A6, B6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"
SETUP = (
    "ip link set lo up; ip addr add 10.0.0.1 dev lo; ip -6 addr add fd00::1 dev lo; "
    "ip route add 10.0.0.2 dev lo; ip -6 route add fd00::2 dev lo; "
    "for n in all lo; do echo 0 > /proc/sys/net/ipv4/conf/$n/disable_xfrm; done"
)
SEQ = 204  # of struct xfrm_usersa_info


def selector(family: int, proto: int = 0) -> bytes:
    ends = bytes(32)
    return ends + struct.pack(">HHHH", 0, 0, 0, 0) + struct.pack("=HBBB3xiI", family, 0, 0, proto, 0, 0)


def wide_template(spi: bytes = bytes(4), family: int = 2, mode: int = 0, optional: int = 0) -> bytes:
    """A transport template, which takes the flow's own addresses."""
    head = struct.pack("=16s4sB3xH2x16sI", bytes(16), spi, 50, family, bytes(16), 7)
    return head + struct.pack("=BBB1xIII", mode, 0, optional, 1, 2, 3)


class Both:
    """The kernel and uxfrm, given the same."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.kernel.shell(SETUP)
        self.ours = Uxfrm(kernel.port, random.Random(1).randbytes, cpus=os.cpu_count() or 1)
        self.cpu = min(os.sched_getaffinity(0))
        self.asked: list[tuple[int, int]] = []

    def request(self, datagram: bytes, ours: bytes | None = None) -> list[list[str]]:
        return self._same(self.kernel.request(datagram), self.ours.request(ours or datagram))

    def run_on(self, cpu: int) -> None:
        self.kernel.run_on(cpu)
        self.cpu = cpu

    def send(self, packet: tuple[str, str, str, str, str]) -> list[list[str]]:
        # an IPv6 flow of a socket that is bound to no interface has none yet when it is looked up
        oif = 0 if ":" in packet[1] else LO
        return self._same(self.kernel.send(*packet), self.ours.output(_built(*packet), oif, self.cpu))

    def _same(self, theirs: Answer, ours: Answer) -> list[list[str]]:
        numbers = zip(_numbers(theirs), _numbers(ours), strict=True)
        self.asked += numbers
        found = comparable(_unnumbered(theirs), self.kernel.port)
        assert comparable(_unnumbered(ours), self.kernel.port) == found
        return found


def _numbers(answer: Answer) -> list[int]:
    asked = [m for datagram in answer.events for m in messages(datagram) if m.type == Xfrm.ACQUIRE]
    return [struct.unpack_from("=I", m.payload, 276)[0] for m in asked]


def _unnumbered(answer: Answer) -> Answer:
    """The answer with states' key-manager numbers left out, which a kernel counts for all namespaces."""
    return Answer(*(list(_stripped(side)) for side in answer))


def _stripped(datagrams: list[bytes]) -> Iterator[bytes]:
    for message in (m for datagram in datagrams for m in messages(datagram)):
        payload = message.payload
        if message.type == Xfrm.NEWSA:
            payload = payload[:SEQ] + bytes(4) + payload[SEQ + 4 :]
        yield HEADER.pack(HEADER.size + len(payload), *message[:4]) + payload


def _built(kind: str, source: str, sport: str, target: str, dport: str) -> bytes:
    """The packet that the kernel's socket sends."""
    head = (IPv6 if ":" in target else IP)(src=source, dst=target)
    if kind == "udp":
        return bytes(head / UDP(sport=int(sport), dport=int(dport)) / b"hello")
    if kind == "icmp":
        return bytes(head / ICMP(type=int(sport), code=int(dport)))
    head.proto = 89
    return bytes(head / b"hello")


@pytest.fixture
def both() -> Iterator[Both]:
    with Kernel() as kernel:
        yield Both(kernel)


UDP4, OTHER4 = ("udp", A4, "4000", B4, "53"), ("udp", A4, "4001", B4, "54")


@pytest.mark.parametrize(
    "packet",
    [UDP4, ("udp", A6, "4000", B6, "53"), ("icmp", A4, "8", B4, "0"), ("ospf", A4, "0", B4, "0")],
    ids=lambda packet: f"{packet[0]}-{packet[1]}",
)
def test_a_packet_without_a_state(both: Both, packet: tuple[str, str, str, str, str]) -> None:
    family = 10 if ":" in packet[1] else 2
    both.request(request(0x13, policy(selector(family)) + attr(5, wide_template(family=family))))
    assert len(both.send(packet)[1]) == 1
    assert len(both.request(request(0x12, b"", DUMP))[0]) == 2  # the larval state and DONE
    assert both.send(packet)[1] == []
    other = (*packet[:2], "4001", packet[3], "54") if packet[0] == "udp" else packet
    assert both.send(other)[1] == []


def test_the_policys_mark_and_interface_go_along(both: Both) -> None:
    extra = attr(21, struct.pack("=II", 0, 0x10)) + attr(16, b"\1" + bytes(5))
    both.request(request(0x13, policy(selector(2, 17), priority=3) + attr(5, wide_template()) + extra))
    assert len(both.send(UDP4)[1]) == 1


def test_templates_with_endpoints_and_spis(both: Both) -> None:
    body = policy(selector(2)) + attr(5, wide_template(b"\0\0\x10\1") + template())
    both.request(request(0x13, body))
    assert len(both.send(UDP4)[1]) == 1
    both.request(request(0x12, b"", DUMP))


def test_tunnels_ask_for_one_state_between_their_endpoints(both: Both) -> None:
    both.request(request(0x13, policy(selector(2)) + attr(5, template())))
    assert len(both.send(UDP4)[1]) == 1
    assert both.send(OTHER4)[1] == []
    both.request(request(0x12, b"", DUMP))


def test_an_optional_template_asks_too_and_lets_the_packet_go(both: Both) -> None:
    both.request(request(0x13, policy(selector(2)) + attr(5, wide_template(optional=1))))
    both.send(UDP4)
    both.request(request(0x12, b"", DUMP))


def test_the_questions_number_finds_the_larval_state(both: Both) -> None:
    both.request(request(0x13, policy(selector(2)) + attr(5, wide_template())))
    both.send(UDP4)
    theirs, ours = both.asked[0]
    wanted = [spi_range(0x1001, 0x1001, seq=number) for number in (theirs, ours)]
    found = [request(0x16, _towards(body, B4)) for body in wanted]
    both.request(found[0], found[1])
    assert len(both.request(request(0x12, b"", DUMP))[0]) == 2


def _towards(body: bytes, address: str) -> bytes:
    octets = bytes(int(part) for part in address.split("."))
    return body[:56] + octets + body[60:]
