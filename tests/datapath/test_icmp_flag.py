"""States and policies with flag icmp: ICMP errors go by the packet inside them (xfrm-semantics 6.3, 6.7)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6
from scapy.packet import Packet, Raw

from uxfrm.datapath.batch import Batch
from uxfrm.datapath.embedded import embedded_flow
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.flow import Flow
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import POLICY_ICMP, Direction, PolicyConfig
from uxfrm.model.selector import EVERYTHING, Selector
from uxfrm.model.state import ICMP as FLAG
from uxfrm.model.state import StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

A, B = parse("10.0.0.1"), parse("10.0.0.2")
NEAR, FAR = Selector(AF_INET, parse("10.1.0.0"), parse("10.2.0.0"), 16, 16), "10.2.0.9"
BACK = Selector(AF_INET, NEAR.saddr, NEAR.daddr, 16, 16)
ROUTER = "192.0.2.7"
TUNNEL = Template(A, B, family=AF_INET, mode=Mode.TUNNEL, reqid=1)

# What somebody in 10.1/16 sent to 10.2/16, and a router there says of it.
QUESTION = IP(src="10.1.0.5", dst=FAR) / UDP(sport=5000, dport=53) / Raw(b"question")
ERROR = IP(src=ROUTER, dst="10.1.0.5") / ICMP(type=3, code=1) / QUESTION


def state(selector: Selector, flags: int = 0) -> StateConfig:
    return StateConfig(
        A, B, spi=1, reqid=1, mode=Mode.TUNNEL, aead=algo.aead("rfc4106(gcm(aes))", bytes(20), 128),
        selector=selector, flags=flags,
    )  # fmt: skip


def namespace() -> Namespace:
    return Namespace(randbytes=random.Random(5).randbytes)


def sealed(packet: Packet) -> bytes:
    """The packet as the other gateway sends it."""
    gateway = namespace()
    gateway.add_state(state(EVERYTHING[AF_INET]))
    gateway.add_policy(PolicyConfig(Direction.OUT, EVERYTHING[AF_INET], (TUNNEL,)))
    batch = Batch.pack([bytes(packet)])
    gateway.output(batch)
    return batch.packet(0)


def received(host: Namespace, *packets: Packet) -> list[str]:
    batch = Batch.pack([sealed(packet) for packet in packets])
    host.input(batch)
    return [Outcome.of(int(outcome)).name for outcome in batch.packets["outcome"]]


def gateway(flags: int, *directions: Direction, local: bool) -> Namespace:
    """10.1/16's gateway, whose state takes only what comes from 10.2/16."""
    host = namespace()
    host.add_state(state(NEAR, flags))
    for direction in directions:
        host.add_policy(PolicyConfig(direction, NEAR, (TUNNEL,)))
    host.path.is_local = lambda _: local
    return host


OTHER = IP(src=ROUTER, dst="10.1.0.5") / ICMP(type=3, code=1) / IP(src="10.1.0.5", dst="10.9.0.1") / UDP()
ECHO = IP(src=ROUTER, dst="10.1.0.5") / ICMP(type=8) / QUESTION


def test_a_forwarded_error_is_let_through_for_the_packet_inside() -> None:
    host = gateway(FLAG, Direction.FWD, local=False)
    found = received(host, ERROR, OTHER, ERROR, ECHO)
    assert found == ["FORWARDED", "IN_STATE_SELECTOR", "FORWARDED", "IN_STATE_SELECTOR"]


def test_without_the_flag_the_states_selector_refuses_it() -> None:
    assert received(gateway(0, Direction.FWD, local=False), ERROR) == ["IN_STATE_SELECTOR"]


def test_without_a_policy_for_the_packet_inside_it_is_refused() -> None:
    assert received(gateway(FLAG, Direction.IN, local=False), ERROR) == ["IN_NO_POLICY"]


def test_one_for_the_host_itself_is_let_in_for_the_packet_inside() -> None:
    host = gateway(FLAG, Direction.IN, local=True)
    assert received(host, ERROR, OTHER, ERROR) == ["DELIVERED", "IN_STATE_SELECTOR", "DELIVERED"]
    assert received(gateway(0, Direction.IN, local=True), ERROR) == ["IN_STATE_SELECTOR"]


@pytest.mark.parametrize(
    ("flags", "packet", "outcome"),
    [
        (POLICY_ICMP, ERROR, "SENT"),
        (0, ERROR, "CLEAR"),
        (POLICY_ICMP, OTHER, "CLEAR"),
        (POLICY_ICMP, ECHO, "CLEAR"),
    ],
    ids=["flag", "no flag", "other inside", "no error"],
)
def test_errors_are_sent_as_the_answer_would_be(flags: int, packet: Packet, outcome: str) -> None:
    """A router of 10.2/16 answers 10.1/16, through the gateway whose policy is only for the two."""
    host = namespace()
    host.add_state(state(EVERYTHING[AF_INET]))
    host.add_policy(PolicyConfig(Direction.OUT, NEAR, (TUNNEL,), flags=flags))
    batch = Batch.pack([bytes(packet), bytes(packet)])
    host.output(batch)
    assert [Outcome.of(int(each)).name for each in batch.packets["outcome"]] == [outcome] * 2


# -- the packet inside


def flow(proto: int, sport: int, dport: int) -> Flow:
    return Flow(parse("10.1.0.5"), parse(FAR), proto, sport, dport)


@pytest.mark.parametrize(
    ("upper", "expected"),
    [
        (UDP(sport=5000, dport=53) / Raw(bytes(100)), flow(17, 53, 5000)),
        (TCP(sport=5000, dport=443), flow(6, 443, 5000)),
        (ICMP(type=8, code=0), flow(1, 8, 0)),
    ],
    ids=["udp", "tcp", "icmp"],
)
@pytest.mark.parametrize("kept", [8, 200])
def test_flows_of_packets_cut_short(upper: Packet, expected: Flow, kept: int) -> None:
    inside = bytes(IP(src="10.1.0.5", dst=FAR) / upper)[: 20 + kept]
    packet = IP(src=ROUTER, dst="10.1.0.5") / ICMP(type=3) / Raw(inside)
    assert embedded_flow(bytes(packet), flow(1, 3, 0)) == expected


def test_ipv6() -> None:
    ends: dict[str, Any] = {"src": "fd01::5", "dst": "fd02::9"}
    expected = Flow(parse("fd01::5"), parse("fd02::9"), 17, 53, 5000, oif=3, mark=4)
    outer = Flow(parse("fd01::5"), parse("fd00::1"), 58, 2, 0, oif=3, mark=4)
    for error in (ICMPv6PacketTooBig(), ICMPv6DestUnreach()):
        packet = IPv6(src="fd00::1", dst="fd01::5") / error / IPv6(**ends) / UDP(sport=5000, dport=53)
        assert embedded_flow(bytes(packet), outer) == expected
    assert outer.is_icmp_error
    assert not outer._replace(sport=128).is_icmp_error
    assert ICMPv6EchoRequest().type == 128
    assert EVERYTHING[AF_INET6].matches(expected)


@given(st.binary(max_size=120), st.sampled_from([4, 6]))
def test_any_bytes_inside(inside: bytes, version: int) -> None:
    """Whatever is inside, there is a flow of the packet's family or none."""
    four = version == 4
    head = bytes(IP(src=ROUTER, dst=FAR) / ICMP(type=3)) if four else bytes(IPv6() / ICMPv6DestUnreach())
    outer = flow(1, 3, 0) if four else Flow(parse("fd01::5"), parse("fd00::1"), 58, 1, 0)
    first = bytes([version << 4 | 5])
    for packet in (head + inside, head + first + inside):
        found = embedded_flow(packet, outer)
        assert found is None or found.family == outer.family
