"""NAT keepalives (RFC 3948 2.3): when a state is idle, and what is sent then.

The moments are those of Linux's net/xfrm/xfrm_nat_keepalive.c (6.11 and later); no kernel here has it.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from test_namespace import A, B, datagram, namespace, outcomes, policy, state, template
from uxfrm.datapath.batch import Batch
from uxfrm.model.address import AF_INET6, parse
from uxfrm.model.dump import StateId
from uxfrm.model.mark import Mark
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction
from uxfrm.model.state import ENCAP_ESPINUDP, Encap, Rare, SaDir, StateConfig
from uxfrm.namespace import Namespace


def outbound(interval: int, **changes: object) -> StateConfig:
    usual: dict[str, object] = {
        "encap": Encap(ENCAP_ESPINUDP, 4500, 31000),
        "direction": SaDir.OUT,
        "replay_window": 0,
        "rare": Rare(nat_keepalive=interval),
    }
    return state(**(usual | changes))


def sent(ns: Namespace, to: float) -> list[tuple[float, int]]:
    """When keepalives leave up to then, and to which port."""
    found = []
    while (deadline := ns.next_deadline()) is not None and deadline <= to:
        ns.advance(deadline)
        for batch in ns.released():
            assert outcomes(batch) == [Outcome.OUT_KEEPALIVE]
            found.append((deadline, IP(batch.packet(0))[UDP].dport))
    ns.advance(to)
    return found


def test_an_idle_state_sends_at_once_and_then_every_interval() -> None:
    ns = namespace(outbound(20))
    assert [when for when, _ in sent(ns, 1050)] == [1000, 1020, 1040]
    ns.delete_state(StateId(B, 0x1000, 50, 2))
    assert sent(ns, 2000) == []
    assert ns.next_deadline() is None


def test_packets_put_a_keepalive_off() -> None:
    ns = namespace(outbound(20), policy(Direction.OUT, template()))
    assert sent(ns, 1010) == [(1000, 31000)]
    batch = Batch.pack([datagram()], 1015)
    ns.advance(1015)
    ns.output(batch)
    assert outcomes(batch) == [Outcome.SENT]
    assert [when for when, _ in sent(ns, 1060)] == [1035, 1055]


def test_a_run_for_one_state_sends_for_all_that_are_idle() -> None:
    other = outbound(30, spi=0x2000, encap=Encap(ENCAP_ESPINUDP, 4500, 31001))
    ns = namespace(outbound(20), other)
    both = [31000, 31001]
    assert sent(ns, 1039) == [(1000, port) for port in both] + [(1020, port) for port in both]


@pytest.mark.parametrize("family", [4, 6])
def test_what_a_keepalive_is(family: int) -> None:
    changes: dict[str, object] = {"set_mark": Mark(0x15, 0xF)}
    source, target = A, B
    if family == 6:
        source, target = parse("2001:db8::1"), parse("2001:db8::2")
        changes |= {"saddr": source, "daddr": target, "family": AF_INET6}
    ns = namespace(outbound(20, **changes))
    ns.advance(1000)
    (batch,) = ns.released()
    raw = batch.packet(0)
    packet: Packet = IP(raw) if family == 4 else IPv6(raw)
    again = packet.copy()
    if family == 4:
        del again.chksum
        assert packet[UDP].chksum == 0
        assert packet.flags == "DF"
    else:
        del again[UDP].chksum
    assert bytes(again) == raw
    assert (parse(packet.src), parse(packet.dst)) == (source, target)
    assert (packet[UDP].sport, packet[UDP].dport, bytes(packet[UDP].payload)) == (4500, 31000, b"\xff")
    assert batch.packets["mark"][0] == 0x5
