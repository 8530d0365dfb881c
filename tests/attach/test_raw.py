"""Raw sockets between two hosts: what one's kernel puts on the wire the other's hands on."""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6Unknown, IPv6
from scapy.packet import Packet, Raw

from attach.hosts import Host, join
from attach.test_udp import as_nobody
from test_namespace import namespace, policy, state, template
from uxfrm.attach import raw as attachment
from uxfrm.attach.attachment import OWN_MARK, AttachmentError, Loss, chosen
from uxfrm.attach.raw import AH, COMP, ESP, open_raw
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Verdict
from uxfrm.model.policy import Direction

pytestmark = pytest.mark.linux

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    both = Host(), Host()
    join(*both)
    yield both
    for host in both:
        host.close()


def opened(host: Host, family: int, *protocols: int) -> attachment.Raw:
    with host.inside():
        return open_raw(family, protocols or (ESP, AH, COMP))


def head(family: int, proto: int, **fields: object) -> Packet:
    if family == socket.AF_INET:
        return IP(src="192.0.2.1", dst="192.0.2.2", proto=proto, id=7, **fields)
    return IPv6(src="2001:db8::1", dst="2001:db8::2", nh=proto, **fields)


def send(one: attachment.Raw, packets: list[bytes], mark: int = 0) -> int:
    return one.send(Batch.pack(packets, mark=mark), np.arange(len(packets)))


def receive(one: attachment.Raw, count: int) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count and select.select([one], [], [], 1)[0]:
        batch = one.receive(1000.5)
        assert batch is not None
        found += [batch.packet(i) for i in range(len(batch))]
    return found


@FAMILIES
def test_each_protocol_arrives_as_it_was_sent(hosts: tuple[Host, Host], family: int) -> None:
    left, right = opened(hosts[0], family), opened(hosts[1], family)
    tos = {"tos": 0x2B, "ttl": 9} if family == socket.AF_INET else {"tc": 0x2B, "hlim": 9}
    packets = [
        bytes(head(family, p, **tos) / Raw(os.urandom(n))) for p in (ESP, AH, COMP) for n in (1, 60, 1400)
    ]
    other = bytes(head(family, 99) / Raw(b"x" * 30))
    assert send(left, [*packets, other]) == 10
    assert sorted(receive(right, 9)) == sorted(packets)
    assert right.receive(0) is None
    assert right.counts.received == 9


@FAMILIES
def test_what_comes_with_a_packet(hosts: tuple[Host, Host], family: int) -> None:
    """Interface, given time, the mark that a rule set on the way in, room for headers."""
    left, right = opened(hosts[0], family), opened(hosts[1], family)
    tables = "iptables" if family == socket.AF_INET else "ip6tables"
    hosts[1].run(f"{tables} -t mangle -A PREROUTING -p esp -j MARK --set-mark 0x2a")
    assert send(left, [bytes(head(family, ESP) / Raw(bytes(20)))]) == 1
    assert select.select([right], [], [], 2)[0]
    batch = right.receive(1000.5)
    assert batch is not None
    p = batch.packets[0]
    assert p["ifindex"] == json.loads(hosts[1].run("ip -j link show dev eth0"))[0]["ifindex"]
    assert (p["time"], p["mark"]) == (1000, 0x2A)
    assert p["offset"] - p["low"] >= 192
    assert p["high"] - p["offset"] - p["length"] >= 320


@FAMILIES
def test_fragments_are_whole_again(hosts: tuple[Host, Host], family: int) -> None:
    """The other end's kernel sends ESP in fragments, which are put together before they are handed on."""
    right = opened(hosts[1], family)
    with hosts[0].inside():
        one = socket.socket(family, socket.SOCK_RAW, ESP)
    body = os.urandom(4000)
    one.sendto(body, ("192.0.2.2" if family == socket.AF_INET else "2001:db8::2", 0))
    (packet,) = receive(right, 1)
    assert packet[20 if family == socket.AF_INET else 40 :] == body
    assert int.from_bytes(packet[2:4] if family == socket.AF_INET else packet[4:6]) == len(packet) - (
        0 if family == socket.AF_INET else 40
    )


@FAMILIES
def test_marks_choose_the_way(hosts: tuple[Host, Host], family: int) -> None:
    left = opened(hosts[0], family)
    six = "" if family == socket.AF_INET else "-6 "
    hosts[0].run(f"ip {six}rule add pref 10 fwmark {OWN_MARK:#x}/{OWN_MARK | 4:#x} unreachable")
    packet = bytes(head(family, ESP) / Raw(bytes(20)))
    assert send(left, [packet]) == 0
    assert send(left, [packet], mark=4) == 1
    assert left.counts.lost == {Loss.REFUSED: 1}


@FAMILIES
def test_what_is_not_sent_is_counted(hosts: tuple[Host, Host], family: int) -> None:
    left = opened(hosts[0], family)
    other = socket.AF_INET6 if family == socket.AF_INET else socket.AF_INET
    packets = [
        bytes(head(family, ESP) / Raw(bytes(1500))),
        bytes(head(other, ESP) / Raw(bytes(40))),
        bytes(head(family, ESP))[:19],
        b"",
    ]
    assert send(left, packets) == 0
    assert left.counts.lost == {Loss.TOO_LONG: 1, Loss.FOREIGN: 1, Loss.MALFORMED: 2}


@FAMILIES
def test_what_is_refused_does_not_hold_up_others(hosts: tuple[Host, Host], family: int) -> None:
    """200 packets in one batch, every third too long for the device, every fifth of the other family."""
    left, right = opened(hosts[0], family), opened(hosts[1], family, ESP)
    other = socket.AF_INET6 if family == socket.AF_INET else socket.AF_INET
    made = [
        bytes(head(other if n % 5 == 4 else family, ESP) / Raw(bytes([n]) * (1600 if n % 3 == 2 else 60)))
        for n in range(200)
    ]
    good = [packet for n, packet in enumerate(made) if n % 3 != 2 and n % 5 != 4]
    assert send(left, made, mark=0x70) == len(good)
    assert receive(right, len(good)) == good
    assert left.counts.lost == {Loss.FOREIGN: 40, Loss.TOO_LONG: 200 - 40 - len(good)}


def test_a_learnt_path_mtu_does_not_hit_our_own(hosts: tuple[Host, Host]) -> None:
    left, right = opened(hosts[0], socket.AF_INET), opened(hosts[1], socket.AF_INET)
    hosts[0].run("ip route add 192.0.2.2 dev eth0 mtu lock 600")
    packet = bytes(head(socket.AF_INET, ESP, flags="DF") / Raw(bytes(1400)))
    assert send(left, [packet]) == 1
    assert receive(right, 1) == [packet]


def test_the_peer_is_not_told_that_the_protocol_is_unreachable(hosts: tuple[Host, Host]) -> None:
    """A kernel without ESP answers ICMP protocol unreachable, unless a raw socket is open."""
    left = opened(hosts[0], socket.AF_INET, AH)
    with hosts[0].inside():
        icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    packet = bytes(head(socket.AF_INET, COMP) / Raw(bytes(20)))
    right = opened(hosts[1], socket.AF_INET)
    send(left, [packet])
    assert receive(right, 1) == [packet]
    icmp.settimeout(0.2)
    with pytest.raises(TimeoutError):
        icmp.recv(100)
    right.close()
    send(left, [packet])
    icmp.settimeout(5)
    assert icmp.recv(100)[20:22] == bytes([3, 2])


@FAMILIES
def test_of_icmp_only_what_was_too_big_is_received(hosts: tuple[Host, Host], family: int) -> None:
    four = family == socket.AF_INET
    proto, kinds = (attachment.ICMP, (3, 8, 0, 11)) if four else (attachment.ICMPV6, (2, 128, 129, 3))
    left, right = opened(hosts[0], family), opened(hosts[1], family, proto)
    layer = ICMP if four else ICMPv6Unknown
    made = [bytes(head(family, proto) / layer(type=kind) / Raw(bytes(40))) for kind in kinds]
    assert send(left, made) == 4
    assert receive(right, 1) == made[:1]
    assert receive(right, 1) == []


def test_esp_between_two_namespaces(hosts: tuple[Host, Host]) -> None:
    out, gate = (
        namespace(state(), policy(Direction.OUT, template())),
        namespace(state(), policy(Direction.IN, template())),
    )
    left, right = opened(hosts[0], socket.AF_INET, ESP), opened(hosts[1], socket.AF_INET, ESP)
    inner = [
        bytes(IP(src="10.1.0.5", dst="10.2.0.9") / UDP(sport=1, dport=2) / Raw(os.urandom(n)))
        for n in range(60)
    ]
    batch = Batch.pack(inner, 1000)
    out.output(batch)
    assert left.send(batch, chosen(batch, Verdict.SENT)) == 60
    found: list[bytes] = []
    while len(found) < 60 and select.select([right], [], [], 2)[0]:
        arrived = right.receive(1000)
        assert arrived is not None
        gate.input(arrived)
        found += [arrived.packet(int(i)) for i in chosen(arrived, Verdict.DELIVERED)]
    assert found == inner


def test_without_rights() -> None:
    def words() -> str:
        try:
            return str(open_raw(socket.AF_INET))
        except AttachmentError as error:
            return str(error)

    assert as_nobody(words) == "raw: raw sockets need CAP_NET_RAW in their network namespace"
