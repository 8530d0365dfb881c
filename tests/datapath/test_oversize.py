"""Packets that are larger than their path: pieces, answers, and what is known of paths.

What Linux does with the same packets: tests/linux/test_path_mtu.py.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet, Raw

from datapath.test_fragments import add
from uxfrm.datapath.batch import Batch
from uxfrm.datapath.divide import divide
from uxfrm.datapath.fragments import Fragments
from uxfrm.datapath.pathmtu import LEARNED_MAX, PathMtus
from uxfrm.model import algorithm as algo
from uxfrm.model.address import Address, parse
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import EVERYTHING
from uxfrm.model.state import AF_UNSPEC_FLAG, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

HERE, PEER = "192.0.2.1", "192.0.2.2"
HERE6, PEER6 = "2001:db8::1", "2001:db8::2"
OWN = {parse(text) for text in (HERE, HERE6, "fd01::1")}
INSIDE = {4: ("10.1.0.9", "10.2.0.9"), 6: ("fd01::9", "fd02::9")}


def host(outer: int = 4, mtu: int = 1500, mode: Mode = Mode.TUNNEL) -> Namespace:
    """A host that protects everything it sends."""
    ns = Namespace(randbytes=random.Random(1).randbytes, now_s=1000)
    here, peer = (HERE, PEER) if outer == 4 else (HERE6, PEER6)
    family = 2 if outer == 4 else 10
    ends = {"daddr": parse(peer), "saddr": parse(here), "family": family}
    aead = algo.aead("rfc4106(gcm(aes))", bytes(20), 128)
    ns.add_state(StateConfig(**ends, flags=AF_UNSPEC_FLAG, spi=0x101, reqid=1, mode=mode, aead=aead))  # type: ignore[arg-type]
    template = Template(**ends, reqid=1, mode=mode)  # type: ignore[arg-type]
    ns.add_policy(PolicyConfig(Direction.OUT, EVERYTHING[family], (template,)))

    def local(address: Address) -> bool:
        return address in OWN

    ns.path.is_local = local
    ns.set_mtu(mtu)
    return ns


def four(size: int, flags: str = "", src: str = INSIDE[4][0], **more: object) -> bytes:
    head = IP(src=src, dst=INSIDE[4][1], flags=flags, **more)
    return bytes(head / UDP(sport=5, dport=6) / Raw(bytes(size - 28)))


def six(size: int, src: str = INSIDE[6][0]) -> bytes:
    head = IPv6(src=src, dst=INSIDE[6][1])
    return bytes(head / UDP(sport=5, dport=6) / Raw(random.Random(size).randbytes(size - 48)))


def send(ns: Namespace, *packets: bytes) -> Batch:
    batch = Batch.pack(packets, 1000)
    ns.output(batch)
    return batch


def ends(batch: Batch) -> list[tuple[int, Outcome]]:
    """Origin and outcome of each packet, in the order in which they go on."""
    p = batch.packets
    return [(int(p[i]["origin"]), Outcome.of(int(p[i]["outcome"]))) for i in batch.in_order()]


SENT, TOO_BIG, ANSWER = Outcome.SENT, Outcome.OUT_TOO_BIG, Outcome.ICMP_TOO_BIG

HEADERS = st.lists(
    st.sampled_from([IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=["fd00::7"])]),
    max_size=3,
)


@given(st.binary(min_size=1, max_size=2000), st.integers(120, 600), HEADERS, st.booleans())
def test_pieces_are_no_larger_than_the_mtu_and_give_the_packet_again(
    payload: bytes, mtu: int, between: list[Packet], ipv6: bool
) -> None:
    """Scapy's headers, cut here, put together by what tests/linux/test_fragments.py compares with Linux."""
    if ipv6:
        made: Packet = IPv6(src="fd00::1", dst="fd00::2", tc=0x28, fl=9)
        for header in between:
            made /= header.copy()
        packet = bytes(made / UDP(sport=1, dport=2) / Raw(payload))
    else:
        packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=7) / UDP(sport=1, dport=2) / Raw(payload))
    if len(packet) <= mtu:
        return
    pieces = divide(packet, mtu, 77)
    assert max(map(len, pieces)) <= mtu
    assert min(map(len, pieces[:-1])) > mtu - 8
    store = Fragments()
    assert [add(store, piece) for piece in reversed(pieces)][-1] == packet


def test_fragments_are_divided_further() -> None:
    packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=7) / Raw(random.Random(1).randbytes(3000)))
    pieces = [small for piece in divide(packet, 1500, 0) for small in divide(piece, 576, 0)]
    assert max(map(len, pieces)) <= 576
    store = Fragments()
    assert [add(store, piece) for piece in pieces][-1] == packet


def test_only_options_that_are_to_be_copied_are_in_all_fragments() -> None:
    """RFC 791 3.1: router alert (148) is copied, record route (7) is not."""
    options = b"\x94\x04\0\0\x07\x07\x04\0\0\0\0\0"
    packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2", options=options) / Raw(bytes(1000)))
    first, *rest = divide(packet, 576, 0)
    assert first[20:32] == options
    assert {piece[20:32] for piece in rest} == {b"\x94\x04\0\0" + b"\x01" * 7 + b"\0"}


def test_a_batch_with_all_of_it() -> None:
    """Everything goes on in the order of what it was made of, and counts once."""
    ns = host()
    batch = send(ns, four(100), four(1500), four(1500, "DF"), four(1446, "DF"), four(3000, "DF", frag=2))
    assert ends(batch) == [
        (0, SENT),
        (1, Outcome.OUT_FRAGMENTED), (1, SENT), (1, SENT),
        (2, TOO_BIG), (2, ANSWER),
        (3, SENT),
        (4, TOO_BIG),
    ]  # fmt: skip
    assert max(len(batch.packet(i)) for i in (5, 6)) == 1500
    answer = IP(batch.packet(7))
    assert (answer.src, answer.dst, answer[ICMP].nexthopmtu) == (HERE, INSIDE[4][0], 1446)
    assert int(ns.path.totals.sum()) == len(batch)
    assert not any(ns.counters())
    (state,) = ns.dump_states()
    assert state.current.packets == 3


def test_answers_come_from_the_address_that_the_sender_knows() -> None:
    ns = host(6)
    assert [outcome for _, outcome in ends(send(ns, four(1500, "DF")))] == [Outcome.CLEAR]
    template = Template(parse(PEER6), parse(HERE6), family=10, reqid=1, mode=Mode.TUNNEL)
    ns.add_policy(PolicyConfig(Direction.OUT, EVERYTHING[2], (template,)))
    assert [outcome for _, outcome in ends(send(ns, four(1500, "DF")))] == [TOO_BIG]  # none is known
    ns.path.source_of = {parse(INSIDE[4][0]): parse("10.1.0.254")}.get
    batch = send(ns, four(1500, "DF"))
    assert IP(batch.packet(1)).src == "10.1.0.254"


def test_no_answer_to_errors_and_to_many() -> None:
    error = IP(src=INSIDE[4][0], dst=INSIDE[4][1], flags="DF") / ICMP(type=3) / Raw(bytes(1480))
    echo = IP(src=INSIDE[4][0], dst=INSIDE[4][1], flags="DF") / ICMP(type=8) / Raw(bytes(1480))
    multicast = IP(src=INSIDE[4][0], dst="224.0.0.9", flags="DF") / UDP() / Raw(bytes(1480))
    batch = send(host(), bytes(error), bytes(echo), bytes(multicast))
    assert [end for end in ends(batch) if end[1] == ANSWER] == [(1, ANSWER)]


def test_the_hosts_own_ipv6_packets_are_fragmented_before() -> None:
    """By the bundle of the whole packet, though policies see no ports of fragments; TCP's never."""
    ns = host(6)
    own, others = six(3000, "fd01::1"), six(3000)
    tcp = own[:6] + b"\x06" + own[7:]
    batch = send(ns, own, others, tcp, six(200))
    assert ends(batch) == [
        (0, Outcome.OUT_FRAGMENTED_FIRST), (0, SENT), (0, SENT), (0, SENT),
        (1, TOO_BIG), (1, ANSWER), (2, TOO_BIG), (2, ANSWER), (3, SENT),
    ]  # fmt: skip
    ns.inspect(opened := Batch.pack([batch.packet(i) for i in (4, 5, 6)]))
    store = Fragments()
    assert [add(store, opened.packet(i)) for i in range(3)][-1] == own


@pytest.mark.parametrize(("mtu", "answered"), [(1500, 1466), (1300, 0)])
def test_tcp_that_does_not_know_of_transport_mode_is_told(mtu: int, answered: int) -> None:
    """Linux's TCP asks xfrm_mtu and sends no such segments. Where less than 1280 are left they go in pieces.

    1500 - 40 (IPv6) - 16 (ESP, IV) - 16 (ICV) are whole words, of which the trailer takes 2 bytes.
    """
    ns = host(6, mtu, Mode.TRANSPORT)
    udp = bytes(IPv6(src=HERE6, dst=PEER6) / UDP(sport=5, dport=6) / Raw(bytes(1400)))
    tcp = bytes(IPv6(src=HERE6, dst=PEER6) / TCP(sport=5, dport=6, flags="A") / Raw(bytes(1428)))
    fragmented = [(0, Outcome.OUT_FRAGMENTED), (0, SENT), (0, SENT)]
    assert ends(send(ns, tcp)) == fragmented  # as Linux does with what it is given
    ns = host(6, mtu, Mode.TRANSPORT)
    ns.path.answers_tcp = True
    batch = send(ns, tcp)
    if not answered:
        assert ends(batch) == fragmented
        return
    assert ends(batch) == [(0, TOO_BIG), (0, ANSWER)]
    answer = IPv6(batch.packet(1))
    assert (answer.dst, answer[ICMPv6PacketTooBig].mtu) == (HERE6, answered)
    fitting = tcp[:answered]
    fitting = fitting[:4] + (answered - 40).to_bytes(2) + fitting[6:]
    assert ends(send(ns, fitting)) == [(0, SENT)]
    assert ends(send(ns, udp))[-1] == (0, SENT)


def test_without_a_known_mtu_nothing_is_too_big() -> None:
    assert [o for _, o in ends(send(host(mtu=0), four(3000, "DF"), four(3000), six(3000)))][:2] == [
        SENT,
        SENT,
    ]


def report(mtu: int, spi: int = 0x101, daddr: str = PEER) -> bytes:
    quoted = IP(src=HERE, dst=daddr, proto=50) / Raw(spi.to_bytes(4) + bytes(60))
    return bytes(IP(src="198.51.100.1", dst=HERE) / ICMP(type=3, code=4, nexthopmtu=mtu) / quoted)


def fits(ns: Namespace) -> int:
    """The largest packet with DF that is sent."""
    batch = send(ns, four(1500, "DF"))
    answers = [IP(batch.packet(i))[ICMP].nexthopmtu for i in range(1, len(batch))]
    return int(answers[0]) if answers else 1500


def test_what_is_believed_for_ten_minutes() -> None:
    ns = host()
    assert fits(ns) == 1446
    for word in (report(1400, spi=0x102), report(1400, daddr="192.0.2.3"), report(1600)):
        ns.input(Batch.pack([word], 1000))
        assert fits(ns) == 1446
    damaged = bytearray(report(1400))
    damaged[-1] ^= 1
    ns.input(Batch.pack([bytes(damaged)], 1000))
    assert fits(ns) == 1446
    ns.input(Batch.pack([report(1400)], 1000))
    assert (fits(ns), ns.next_deadline()) == (1346, 1600)
    ns.advance(1599.9)
    assert fits(ns) == 1346
    ns.advance(1600)
    assert fits(ns) == 1446


@pytest.mark.parametrize(("value", "expected"), [(0, 1346), (1, 498), (2, 1446), (3, 1446)])
def test_ip_no_pmtu_disc(value: int, expected: int) -> None:
    """1: what routers say is taken for 552 bytes; 2 and 3: nothing is believed (icmp_unreach)."""
    ns = host()
    ns.set_sysctl("net.ipv4.ip_no_pmtu_disc", value)
    ns.input(Batch.pack([report(1400)], 1000))
    assert fits(ns) == expected


def test_errors_for_others_are_not_heard() -> None:
    ns = host()
    packet = IP(report(1400))
    packet.dst = "203.0.113.77"
    del packet.chksum
    ns.input(Batch.pack([bytes(packet)], 1000))
    assert fits(ns) == 1446


def test_devices_and_routers_together() -> None:
    changes: list[int] = []
    mtus = PathMtus(lambda: changes.append(1))
    there, elsewhere = parse(PEER), parse("192.0.2.3")
    mtus.default = 1500
    mtus.of_device = {elsewhere: 1400}.get
    assert (mtus.of(there), mtus.of(elsewhere)) == (1500, 1400)
    mtus.learn(elsewhere, 1450, 0)
    mtus.learn(there, 1450, 0)
    assert (mtus.of(there), mtus.of(elsewhere), len(changes)) == (1450, 1400, 2)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2000), st.integers(0, 300)), max_size=20))
def test_a_path_never_grows_before_its_time(words: list[tuple[int, int, int]]) -> None:
    """Beside a list of all that was said."""
    mtus, said, now = PathMtus(lambda: None), [], 0
    mtus.default = 1500
    for place, mtu, passed in words:
        now += passed
        mtus.expire(now)
        said = [word for word in said if now < word[2]]
        daddr = bytes([10, 0, 0, place])
        known = min([1500, *(m for p, m, _ in said if p == place)])
        assert mtus.of(daddr) == known
        mtus.learn(daddr, mtu, now)
        if max(mtu, 552) <= known:
            said = [word for word in said if word[0] != place] + [(place, max(mtu, 552), now + 600)]


def test_what_is_learned_is_bounded() -> None:
    mtus = PathMtus(lambda: None)
    for number in range(LEARNED_MAX + 100):
        mtus.learn(number.to_bytes(4), 1000, number)
    assert len(mtus) == LEARNED_MAX
    assert mtus.of(bytes(4)) == 0
    assert mtus.of((LEARNED_MAX + 99).to_bytes(4)) == 1000


@given(st.binary(max_size=120), st.booleans())
def test_any_word(said: bytes, ipv6: bool) -> None:
    """What routers say is read as far as it goes."""
    ns = host(6 if ipv6 else 4)
    if ipv6:
        packet = IPv6(src="fd09::1", dst=HERE6) / ICMPv6PacketTooBig(mtu=1300) / Raw(said)
    else:
        packet = IP(src="198.51.100.1", dst=HERE) / ICMP(type=3, code=4, nexthopmtu=1300) / Raw(said)
    batch = Batch.pack([bytes(packet)], 1000)
    ns.input(batch)
    assert Outcome.of(int(batch.packets[0]["outcome"])).verdict == Verdict.CLEAR
    assert len(ns.path.mtus) == 0


# -- the host's own, in fragments that were made before they came here

KEPT = Outcome.IN_FRAGMENT


def cut(packet: bytes) -> list[bytes]:
    """As the kernel cuts it for a device with a smaller MTU."""
    return divide(packet, 1400, 9)


def in_transport(family: int) -> tuple[Namespace, bytes]:
    """A host that takes its own fragments, and a datagram of its own that is too long."""
    ns = host(family, mode=Mode.TRANSPORT)
    ns.path.cut_before = True
    head = IP(src=HERE, dst=PEER, id=7) if family == 4 else IPv6(src=HERE6, dst=PEER6)
    return ns, bytes(head / UDP(sport=5, dport=6) / Raw(random.Random(1).randbytes(3000)))


@pytest.mark.parametrize("family", [4, 6])
def test_the_hosts_own_fragments_are_protected_as_the_packet_that_they_are_of(family: int) -> None:
    """In transport mode, in any order and in several batches, with others between."""
    ns, packet = in_transport(family)
    first, second, third = cut(packet)
    assert ends(send(ns, third, first)) == [(0, KEPT), (1, KEPT)]
    batch = send(ns, second, four(100, src=PEER))
    protected = [outcome for origin, outcome in ends(batch) if origin == 0]
    assert protected == [Outcome.OUT_FRAGMENTED, SENT, SENT, SENT]
    store = Fragments()
    sealed = [add(store, batch.packet(i)) for i in chosen(batch, SENT) if i > 1][-1]
    peer = host(family, mode=Mode.TRANSPORT)
    peer.path.is_local = lambda address: address in (parse(PEER), parse(PEER6))
    assert isinstance(sealed, bytes)
    opened = Batch.pack([sealed], 1000)
    peer.input(opened)
    assert ends(opened) == [(0, Outcome.DELIVERED_NO_POLICY)]
    same = slice(8, None) if family == 6 else slice(12, None)
    assert opened.packet(0)[same] == packet[same]
    assert int(ns.path.totals.sum()) == 2 + len(batch)


def chosen(batch: Batch, outcome: Outcome) -> list[int]:
    return [i for i in range(len(batch)) if batch.packets[i]["outcome"] == outcome]


def test_what_goes_in_clear_goes_in_fragments_again() -> None:
    ns, packet = in_transport(4)
    ns.flush_policies()
    batch = send(ns, *cut(packet))
    again = Outcome.CLEAR_FRAGMENTED
    assert ends(batch) == [(0, KEPT), (1, KEPT), (2, again), *[(2, Outcome.CLEAR)] * 3]
    store = Fragments()
    assert [add(store, batch.packet(i)) for i in chosen(batch, Outcome.CLEAR)][-1] == packet
    assert int(ns.path.totals.sum()) == len(batch)


def test_fragments_of_others_are_forwarded_as_they_are() -> None:
    ns = host()
    ns.path.cut_before = True
    assert [outcome for _, outcome in ends(send(ns, *cut(four(3000))))] == [SENT] * 3
