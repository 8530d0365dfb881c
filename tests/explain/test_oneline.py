"""Packets in one line: scapy builds them, the line must say what is in them and never fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.ipsec import ESP
from scapy.packet import Packet, Raw

from uxfrm.explain.oneline import one_line, protocol

V4, V6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="2001:db8::1", dst="2001:db8::2")

LINES = [
    (V4 / UDP(sport=1, dport=53) / Raw(b"abc"), "udp 10.0.0.1:1 > 10.0.0.2:53 3 bytes"),
    (V4 / TCP(sport=1, dport=2, flags="SA"), "tcp 10.0.0.1:1 > 10.0.0.2:2 [S.] 0 bytes"),
    (V4 / ICMP(type=8), "icmp 10.0.0.1 > 10.0.0.2 echo request"),
    (V4 / ESP(spi=0x1234, seq=7) / Raw(bytes(20)), "esp 10.0.0.1 > 10.0.0.2 spi 0x00001234 seq 7"),
    (IP(src="10.0.0.1", dst="10.0.0.2", proto=89) / Raw(bytes(8)), "ospf 10.0.0.1 > 10.0.0.2 8 bytes"),
    (IP(src="10.0.0.1", dst="10.0.0.2", frag=3, proto=17) / Raw(bytes(8)),
     "udp 10.0.0.1 > 10.0.0.2 8 bytes fragment at 24"),
    (V6 / UDP(sport=1, dport=2), "udp [2001:db8::1]:1 > [2001:db8::2]:2 0 bytes"),
    (V6 / IPv6ExtHdrHopByHop() / ICMPv6EchoRequest(), "icmp6 2001:db8::1 > 2001:db8::2 echo request"),
    (V6 / IPv6ExtHdrFragment(offset=2, nh=17) / Raw(bytes(8)),
     "udp 2001:db8::1 > 2001:db8::2 0 bytes fragment at 16"),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "line"), LINES, ids=[line for _, line in LINES])
def test_a_packet_in_one_line(packet: Packet, line: str) -> None:
    assert one_line(bytes(packet)) == line


@given(st.binary(max_size=100))
def test_any_bytes_make_a_line(data: bytes) -> None:
    assert "\n" not in one_line(data)


def test_protocols_without_a_name_are_numbers() -> None:
    assert protocol(50) == "esp"
    assert protocol(200) == "200"
