"""Two gateways on wires in memory, with a clock of the test's: who gets which packet, and that none is lost.

What is sealed is also looked at by Scapy, who knows nothing of uxfrm.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.packet import Raw

from test_namespace import ALLOW, KEY, datagram, namespace, policy, state, template
from uxfrm.attach.attachment import Way
from uxfrm.attach.faults import Faults, Injector
from uxfrm.attach.memory import End, Wire
from uxfrm.daemon.gateway import Gateway, Outlets
from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.events import Acquire, Event
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Action, Direction
from uxfrm.model.state import ENCAP_ESPINUDP, Encap, Rare, SaDir, StateConfig
from uxfrm.namespace import Namespace

OUT = policy(Direction.OUT, template())
CLEAR = bytes(IP(src="10.9.0.1", dst="10.9.0.2") / UDP(sport=1, dport=2) / Raw(b"clear"))


class Side:
    """A gateway with its ends: `host` is its host's, `network` and `nat_t` are the network's."""

    def __init__(self, ns: Namespace, with_wire: bool = True, with_udp: bool = False) -> None:
        inner, outer, port = Wire(way=Way.OUT), Wire(), Wire()
        self.host, self.tun = inner.ends
        self.network, self.wire = outer.ends
        self.nat_t, self.udp = port.ends
        self.told, self.back = Wire().ends
        by_port = {(4, 4500, ""): self.udp} if with_udp else {}
        self.gateway = Gateway(ns, Outlets(self.tun, {4: self.wire} if with_wire else {}, by_port))
        self.gateway.outlets.back = {4: self.back}

    def turn(self, now: float = 1000) -> None:
        """Serve everything that waits."""
        for attachment in (self.tun, self.wire, self.udp):
            while self.gateway.serve(attachment, now):
                pass


def put(end: End, *packets: bytes) -> None:
    batch = Batch.pack(packets)
    end.send(batch, batch.in_order())


def took(end: End) -> list[bytes]:
    found = []
    while (batch := end.receive(0)) is not None:
        found += [batch.packet(i) for i in range(len(batch))]
    return found


def encapsulated() -> StateConfig:
    return state(encap=Encap(ENCAP_ESPINUDP, 4500, 4500))


def opened_by_scapy(packet: bytes) -> bytes:
    sa = SecurityAssociation(ESP, spi=0x1000, crypt_algo="AES-GCM", crypt_key=KEY, tunnel_header=IP())
    return bytes(sa.decrypt(IP(packet)))


def test_what_the_host_sends_leaves_sealed_and_arrives_as_it_was() -> None:
    left, right = Side(namespace(state(), OUT)), Side(namespace(state(), ALLOW))
    sent = [datagram(size) for size in (0, 20, 1000)]
    put(left.host, *sent)
    left.turn()
    sealed = took(left.network)
    assert [IP(packet).proto for packet in sealed] == [50] * 3
    assert [opened_by_scapy(packet) for packet in sealed] == sent
    put(right.network, *sealed)
    right.turn()
    assert took(right.host) == sent
    assert took(left.host) == took(right.network) == []


def test_esp_in_udp_has_an_attachment_of_its_own() -> None:
    left, right = (Side(namespace(encapsulated(), p), with_udp=True) for p in (OUT, ALLOW))
    put(left.host, datagram())
    left.turn()
    (sealed,) = took(left.nat_t)
    assert (IP(sealed)[UDP].sport, IP(sealed)[UDP].dport) == (4500, 4500)
    assert took(left.network) == []
    put(right.nat_t, sealed)
    right.turn()
    assert took(right.host) == [datagram()]


def test_the_clear_goes_by_the_wire_even_from_the_port_of_esp_in_udp() -> None:
    side = Side(namespace(encapsulated(), OUT), with_udp=True)
    own = bytes(IP(src="10.9.0.1", dst="10.9.0.2") / UDP(sport=4500, dport=4500) / Raw(b"not ESP at all"))
    put(side.host, CLEAR, own)
    side.turn()
    assert took(side.network) == [CLEAR, own]
    assert took(side.nat_t) == []


def test_what_a_policy_refuses_goes_nowhere_and_is_counted() -> None:
    ns = namespace(policy(Direction.OUT, action=Action.BLOCK))
    side = Side(ns)
    put(side.host, datagram())
    side.turn()
    assert took(side.network) == took(side.host) == []
    assert ns.path.totals[Outcome.OUT_POLICY_BLOCK] == 1


def test_what_is_no_ipsec_is_not_given_to_the_host_again() -> None:
    side = Side(namespace(ALLOW))
    put(side.network, CLEAR)
    side.turn()
    assert took(side.host) == []
    assert side.gateway.unclaimed == 1


def test_without_an_outlet_packets_are_counted() -> None:
    side = Side(namespace(state(), OUT), with_wire=False)
    put(side.host, datagram(), CLEAR)
    side.turn()
    assert side.gateway.nowhere == 2


def test_replayed_and_forged_packets_are_not_given_to_the_host() -> None:
    left, ns = Side(namespace(state(), OUT)), namespace(state(), ALLOW)
    right = Side(ns)
    put(left.host, datagram())
    left.turn()
    (sealed,) = took(left.network)
    forged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    put(right.network, forged, sealed, sealed)
    right.turn()
    assert took(right.host) == [datagram()]
    assert ns.path.totals[Outcome.IN_ICV] == ns.path.totals[Outcome.IN_SEQ_REPLAYED] == 1


def test_the_packet_that_caused_an_acquire_is_sent_when_its_state_came() -> None:
    ns = namespace(OUT)
    ns.set_sysctl("net.core.xfrm_larval_drop", 0)
    asked: list[Event] = []
    ns.listen(lambda event: asked.append(event) or True, lambda kind: kind is Acquire)
    side = Side(ns)
    put(side.host, datagram())
    side.turn()
    assert len(asked) == 1
    assert took(side.network) == []
    ns.add_state(state())
    side.gateway.pass_time(1000.2)
    assert opened_by_scapy(took(side.network)[0]) == datagram()


def test_keepalives_leave_by_the_port_they_keep_open() -> None:
    way = {"direction": SaDir.OUT, "replay_window": 0, "rare": Rare(nat_keepalive=20)}
    side = Side(namespace(state(encap=Encap(ENCAP_ESPINUDP, 4500, 31000), **way), OUT), with_udp=True)
    side.gateway.pass_time(1000.5)
    side.gateway.pass_time(1020.5)
    assert [bytes(IP(packet)[UDP].payload) for packet in took(side.nat_t)] == [b"\xff"] * 2
    assert took(side.network) == []


def test_who_sends_too_much_is_told_and_not_through_the_tunnel() -> None:
    ns = namespace(state(), OUT)
    ns.set_mtu(600)
    ns.path.source_of = lambda _: bytes([10, 1, 0, 1])
    side = Side(ns)
    put(side.host, datagram(800, flags="DF"))
    side.turn()
    assert took(side.network) == took(side.host) == []
    (told,) = took(side.told)
    assert (IP(told).src, IP(told).dst) == ("10.1.0.1", "10.1.0.5")
    assert (IP(told)[ICMP].type, IP(told)[ICMP].code) == (3, 4)
    assert 500 < IP(told)[ICMP].nexthopmtu < 600


def test_what_the_hosts_device_brought_is_not_taken_in_twice() -> None:
    left, right = Side(namespace(state(), OUT)), Side(namespace(state(), ALLOW))
    put(left.host, datagram())
    left.turn()
    right.gateway.deaf_to = 1
    put(right.network, *took(left.network))
    right.turn()
    assert took(right.host) == []
    assert right.gateway.unclaimed == 0


def test_an_error_in_the_path_loses_its_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    side = Side(namespace(state(), OUT))
    put(side.host, datagram())

    def broken(batch: Batch) -> None:
        raise IndexError

    with monkeypatch.context() as patched:
        patched.setattr(side.gateway.namespace, "output", broken)
        side.turn()
    assert took(side.network) == []
    assert side.gateway.failed == 1
    put(side.host, datagram())
    side.turn()
    assert len(took(side.network)) == 1


def test_over_a_bad_wire_what_arrives_was_sent_and_arrives_once() -> None:
    left, right = Side(namespace(state(), OUT)), Side(namespace(state(replay_window=64), ALLOW))
    bad = Injector(left.wire, Faults(loss=0.1, duplicate=0.1, corrupt=0.1, reorder=0.2), seed=3)
    left.gateway.outlets.wire = {4: bad}
    sent = [bytes(IP(src="10.1.0.5", dst="10.2.0.9", id=number) / Raw(b"x")) for number in range(400)]
    for packet in sent:
        put(left.host, packet)
        left.turn()
    bad.advance(1001)
    put(right.network, *took(left.network))
    right.turn()
    arrived = took(right.host)
    assert len(arrived) == len({*arrived})
    assert {*arrived} <= {*sent}
    spoiled = bad.injected.lost + bad.injected.corrupted
    assert len(sent) - spoiled <= len(arrived) < len(sent)
