"""ESP in UDP, packet by packet: the golden rows of Linux 6.1 (xfrm-semantics 4.5, 5.3, 12).

Algorithms, modes and NATs beside Linux itself: tests/linux/test_udp_encapsulation.py.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from netlink.test_kernel_answers import ADDRESS_A
from test_namespace import (
    ALLOW,
    A,
    B,
    datagram,
    moved,
    namespace,
    outcomes,
    output,
    policy,
    receive,
    sender,
    sent,
    state,
    template,
)
from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.events import Event, MappingChanged, Reported
from uxfrm.model.address import AF_INET
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction
from uxfrm.model.selector import Selector
from uxfrm.model.state import Encap, Rare
from uxfrm.model.template import Mode
from uxfrm.namespace import Namespace
from uxfrm.netlink.events import notification

ENCAP = {"encap": Encap(2, 4500, 4500)}
HOST = Selector(AF_INET, B, A, 32, 32)


def in_udp(esp: bytes, sport: int = 4500) -> bytes:
    """A plain ESP packet put into UDP."""
    outer = IP(esp)
    return bytes(IP(src=outer.src, dst=outer.dst) / UDP(sport=sport, dport=4500) / Raw(bytes(outer.payload)))


def to_port(payload: bytes) -> bytes:
    return bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=4500, dport=4500) / Raw(payload))


def hear(ns: Namespace) -> list[Event]:
    told: list[Event] = []
    ns.listen(told.append, lambda kind: kind in (MappingChanged, Reported))
    return told


def test_the_header_is_the_states_ports_and_no_checksum() -> None:
    packet = IP(output(sender(**ENCAP), datagram())[0])
    assert (packet[UDP].sport, packet[UDP].dport, packet[UDP].chksum) == (4500, 4500, 0)
    assert packet[UDP].len == len(packet) - 20
    assert bytes(packet[UDP].payload)[:8] == bytes([0, 0, 0x10, 0, 0, 0, 0, 1])


def test_a_plain_state_refuses_esp_in_udp() -> None:
    wire = output(sender(), datagram())
    ns = namespace(state(), state(spi=0x2000, **ENCAP), ALLOW)
    assert receive(ns, in_udp(wire[0])) == [Outcome.IN_ENCAP_MISMATCH]
    assert moved(ns) == {"XfrmInStateMismatch": 1}
    assert receive(ns, wire[0]) == [Outcome.DELIVERED]


def test_another_port_is_told_each_time_and_delivered() -> None:
    wire = [
        in_udp(p, port) for p, port in zip(output(sender(), *[datagram()] * 4), (4500, 7, 7, 8), strict=True)
    ]
    ns = namespace(state(**ENCAP), ALLOW)
    told = hear(ns)
    assert receive(ns, *wire) == [Outcome.DELIVERED] * 4
    assert [(e.old, e.new) for e in told] == [((A, 4500), (A, port)) for port in (7, 7, 8)]  # type: ignore[union-attr]
    (dump,) = ns.dump_states()
    assert dump.config.encap == ENCAP["encap"]  # type: ignore[union-attr]


def test_with_a_threshold_only_news_are_told() -> None:
    ports = [7, 7, 8, 8, 8]
    wire = [in_udp(p, port) for p, port in zip(output(sender(), *[datagram()] * 5), ports, strict=True)]
    ns = namespace(state(rare=Rare(mtimer_thresh=10), **ENCAP), ALLOW)
    told = hear(ns)
    for packet, now in zip(wire, (1000, 1001, 1002, 1012, 1013), strict=True):
        assert receive(ns, packet, now_s=now) == [Outcome.DELIVERED]
    assert [e.new[1] for e in told] == [7, 8, 8]  # type: ignore[union-attr]


def test_a_forged_packet_changes_no_mapping() -> None:
    (wire,) = output(sender(), datagram())
    ns = namespace(state(**ENCAP), ALLOW)
    told = hear(ns)
    assert receive(ns, in_udp(wire[:-1] + bytes([wire[-1] ^ 1]), 7)) == [Outcome.IN_ICV]
    assert told == []


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        (b"\xff", Outcome.IN_KEEPALIVE),
        (bytes(4) + b"IKE message", Outcome.CLEAR),
        (b"\xff\xff", Outcome.CLEAR),
        (b"12345678", Outcome.CLEAR),
    ],
)
def test_what_else_comes_to_the_port(payload: bytes, outcome: Outcome) -> None:
    ns = namespace(state(**ENCAP), ALLOW)
    assert receive(ns, to_port(payload)) == [outcome]
    assert moved(ns) == {}


@pytest.mark.parametrize("payload", ["esp", bytes(4) + b"IKE message"])
def test_the_datagram_itself_passes_the_policies(payload: str | bytes) -> None:
    """Host to host, a policy asks the datagram itself for a state: key managers' sockets bypass it."""
    host = {"mode": Mode.TRANSPORT}
    plain = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=2) / Raw(b"x"))
    wanted = template(mode=Mode.TRANSPORT)
    out = namespace(state(**host, **ENCAP), policy(Direction.OUT, wanted, selector=HOST))
    wire = output(out, plain)[0] if payload == "esp" else to_port(payload)  # type: ignore[arg-type]
    ns = namespace(state(**host, **ENCAP), policy(Direction.IN, wanted, selector=HOST))
    assert receive(ns, wire) == [Outcome.IN_TEMPLATE]
    assert moved(ns) == {"XfrmInTmplMismatch": 1}
    socket = ns.open_socket(AF_INET)
    socket.set_policy(policy(Direction.IN, selector=Selector(AF_INET, bytes(4), bytes(4))))
    batch = Batch.pack([wire], 1000, socket=socket.number)
    ns.input(batch)
    assert outcomes(batch)[0] in (Outcome.DELIVERED, Outcome.CLEAR_ALLOWED)


def test_more_than_udp_can_say_is_not_sent() -> None:
    ns = sender(**ENCAP)
    assert sent(ns, datagram(65535 - 28 - 20)) == [Outcome.OUT_UDP_LENGTH]
    assert moved(ns) == {"XfrmOutStateProtoError": 1}


def test_a_report_is_told_as_it_was_given() -> None:
    ns = namespace()
    told = hear(ns)
    ns.report(60, HOST, ADDRESS_A)
    assert told == [Reported(60, HOST, ADDRESS_A)]
    message = notification(told[0])
    assert (message.type, message.payload[0], len(message.payload)) == (0x20, 60, 60 + 20)
