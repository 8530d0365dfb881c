"""A UDP port for ESP in UDP, beside plain sockets, an IKE daemon's stand-in and Linux's own path MTU.

What arrives is checked by Scapy and by a namespace's input path; what is sent by a socket that knows nothing
of us.
"""

from __future__ import annotations

import json
import os
import random
import select
import socket
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from attach.hosts import Host, join
from attach.test_superpackets import mended
from test_namespace import namespace, policy, state, template
from uxfrm.attach.attachment import OWN_MARK, AttachmentError, Loss, chosen
from uxfrm.attach.pathmtu import path_mtu
from uxfrm.attach.udp import Udp, allow_sharing, open_udp
from uxfrm.datapath.batch import Batch
from uxfrm.model.address import AF_INET, parse
from uxfrm.model.outcome import Verdict
from uxfrm.model.policy import Direction
from uxfrm.model.state import Encap

pytestmark = pytest.mark.linux

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
ENDS = {socket.AF_INET: ("192.0.2.1", "192.0.2.2"), socket.AF_INET6: ("2001:db8::1", "2001:db8::2")}
ESP = b"\0\0\x10\0"


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    both = Host(), Host()
    join(*both)
    yield both
    for host in both:
        host.close()


def plain(host: Host, family: int, address: str, port: int = 4500) -> socket.socket:
    """A bound socket like any program's."""
    with host.inside():
        one = socket.socket(family, socket.SOCK_DGRAM)
        one.bind((address, port))
    one.settimeout(5)
    return one


def opened(host: Host, family: int = socket.AF_INET, **options: object) -> Udp:
    with host.inside():
        return open_udp(family=family, **options)  # type: ignore[arg-type]


def receive(udp: Udp, now: float = 1000.5, patience: float = 2.0) -> Batch | None:
    select.select([udp], [], [], patience)
    return udp.receive(now)


def packets(family: int, payloads: list[bytes], dport: int = 4500, **head: object) -> list[bytes]:
    """What the output path makes: whole packets, without a UDP checksum in IPv4."""
    source, target = ENDS[family]
    ip: Packet = (
        IP(src=source, dst=target, **head)
        if family == socket.AF_INET
        else IPv6(src=source, dst=target, **head)
    )
    no_sum = {"chksum": 0} if family == socket.AF_INET else {}
    return [bytes(ip / UDP(sport=4500, dport=dport, **no_sum) / Raw(payload)) for payload in payloads]


def send(udp: Udp, those: list[bytes], mark: int = 0) -> int:
    return udp.send(Batch.pack(those, mark=mark), np.arange(len(those)))


@FAMILIES
def test_what_arrives_are_the_packets_that_were(hosts: tuple[Host, Host], family: int) -> None:
    source, target = ENDS[family]
    udp = opened(hosts[1], family)
    sender = plain(hosts[0], family, source, 7000)
    payloads = [ESP + os.urandom(size) for size in (4, 5, 1400, 3000)] + [b"\xff", b""]
    for payload in payloads:
        sender.sendto(payload, (target, 4500))
    batch = receive(udp)
    assert batch is not None
    found = [batch.packet(i) for i in range(len(batch))]
    parsed = [IP(p) if family == socket.AF_INET else IPv6(p) for p in found]
    assert [bytes(p[UDP].payload) for p in parsed] == payloads
    assert {(p.src, p.dst, p[UDP].sport, p[UDP].dport) for p in parsed} == {(source, target, 7000, 4500)}
    for packet in found:  # lengths and checksums are right; in IPv4 there is none of UDP
        good = mended(packet)
        assert packet == (good[:26] + bytes(2) + good[28:] if family == socket.AF_INET else good)
    p = batch.packets[0]
    assert p["time"] == 1000
    assert p["ifindex"] == json.loads(hosts[1].run("ip -j link show dev eth0"))[0]["ifindex"]
    assert udp.counts.received == len(payloads)
    assert udp.receive(0) is None


@FAMILIES
def test_segments_of_one_call_are_packets_each(hosts: tuple[Host, Host], family: int) -> None:
    source, target = ENDS[family]
    udp, sender = opened(hosts[1], family), plain(hosts[0], family, source, 4500)
    data = ESP + os.urandom(50_000)
    sender.setsockopt(17, 103, 1000)
    sender.sendto(data, (target, 4500))
    batch = receive(udp)
    assert batch is not None
    head = 28 if family == socket.AF_INET else 48
    assert [batch.packet(i)[head:] for i in range(len(batch))] == [
        data[at : at + 1000] for at in range(0, len(data), 1000)
    ]


@FAMILIES
def test_what_is_sent_arrives_in_order(hosts: tuple[Host, Host], family: int) -> None:
    """Of many sizes, to two ports; those of one size go together."""
    udp = opened(hosts[0], family)
    others = [plain(hosts[1], family, ENDS[family][1], port) for port in (4500, 4501)]
    rng = random.Random(1)
    payloads = [ESP + rng.randbytes(rng.choice([40, 40, 40, 900, 1400])) for _ in range(100)]
    ports = [rng.choice([4500, 4500, 4501]) for _ in payloads]
    made = [packets(family, [payload], port)[0] for payload, port in zip(payloads, ports, strict=True)]
    assert send(udp, made) == 100
    for port, other in zip((4500, 4501), others, strict=True):
        wanted = [payload for payload, at in zip(payloads, ports, strict=True) if at == port]
        got = [other.recvfrom(2000) for _ in wanted]
        assert [data for data, _ in got] == wanted
        assert {address[:2] for _, address in got} == {(ENDS[family][0], 4500)}
    assert (udp.counts.sent, udp.counts.lost) == (100, {})


@FAMILIES
def test_calls_are_few(hosts: tuple[Host, Host], family: int) -> None:
    """300 packets of one size and a shorter last: the receiver, with UDP_GRO, sees 64 together."""
    udp, other = opened(hosts[0], family), plain(hosts[1], family, ENDS[family][1])
    other.setsockopt(17, 104, 1)
    other.setsockopt(socket.SOL_SOCKET, 33, 1 << 22)  # SO_RCVBUFFORCE
    payloads = [ESP + os.urandom(900) for _ in range(299)] + [ESP + os.urandom(60)]
    assert send(udp, packets(family, payloads)) == 300
    got, calls = b"", 0
    while len(got) < sum(map(len, payloads)):
        got += other.recvmsg(1 << 16, 256)[0]
        calls += 1
    assert got == b"".join(payloads)
    assert calls <= 8


def test_class_hops_and_dont_fragment_are_the_packets(hosts: tuple[Host, Host]) -> None:
    """Seen by a raw socket on the other side: TOS with ECN, DF, and no leave to fragment what must not be."""
    udp = opened(hosts[0])
    with hosts[1].inside():
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    raw.settimeout(5)
    made = [
        packets(AF_INET, [ESP + bytes(9)], tos=tos, flags=flags, ttl=ttl)[0]
        for tos, flags, ttl in ((0, 0, 64), (0x2A, 2, 64), (3, 0, 64), (3, 0, 9))
    ]
    assert send(udp, made) == 4
    got = [raw.recv(2000) for _ in made]
    assert [(p[1], p[6] & 0x40, p[8]) for p in got] == [(0, 0, 64), (0x2A, 0x40, 64), (3, 0, 64), (3, 0, 9)]
    long = [ESP + bytes(1600)] * 2
    assert send(udp, packets(AF_INET, long)) == 2  # the kernel may cut them up
    assert send(udp, packets(AF_INET, long, flags="DF")) == 0
    assert udp.counts.lost == {Loss.TOO_LONG: 2}


def test_class_and_hops_that_arrive(hosts: tuple[Host, Host]) -> None:
    for family, level, tos, hops in ((socket.AF_INET, 0, 1, 2), (socket.AF_INET6, 41, 67, 16)):
        udp, sender = opened(hosts[1], family), plain(hosts[0], family, ENDS[family][0], 7000)
        sender.setsockopt(level, tos, 0x2B)
        sender.setsockopt(level, hops, 9)
        sender.sendto(ESP * 4, (ENDS[family][1], 4500))
        batch = receive(udp)
        assert batch is not None
        packet = batch.packet(0)
        assert (packet[1] if family == AF_INET else int.from_bytes(packet[:2]) >> 4 & 0xFF) == 0x2B
        assert packet[8 if family == AF_INET else 7] == 9
        udp.close()


def test_what_is_not_for_the_port_is_counted(hosts: tuple[Host, Host]) -> None:
    udp = opened(hosts[0])
    wrong = [
        *packets(socket.AF_INET6, [ESP]),
        bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=5, dport=4500)),
        bytes(IP(src="192.0.2.1", dst="192.0.2.2", proto=50) / Raw(bytes(40))),
        bytes(IP(src="192.0.2.1", dst="192.0.2.2", flags="MF") / UDP(sport=4500, dport=4500) / Raw(bytes(8))),
        b"\x45",
    ]
    assert send(udp, wrong) == 0
    elsewhere = [bytes(IP(src="192.0.2.77", dst="192.0.2.2") / UDP(sport=4500, dport=4500) / Raw(ESP))]
    assert send(udp, elsewhere) == 0
    assert udp.counts.lost == {Loss.FOREIGN: 5, Loss.REFUSED: 1}


def test_the_mark_is_on_what_is_sent(hosts: tuple[Host, Host]) -> None:
    """A rule for uxfrm's mark sends it away; a packet's own mark is there as well."""
    udp, other = opened(hosts[0]), plain(hosts[1], AF_INET, ENDS[AF_INET][1])
    hosts[0].run(f"ip rule add pref 10 fwmark {OWN_MARK:#x}/{OWN_MARK | 4:#x} unreachable")
    assert send(udp, packets(AF_INET, [ESP])) == 0
    assert send(udp, packets(AF_INET, [ESP]), mark=4) == 1
    assert other.recv(100) == ESP


# -- sharing the port


def knock(sender: socket.socket, *payloads: bytes) -> None:
    for payload in payloads:
        sender.sendto(payload, (ENDS[AF_INET][1], 4500))


def payloads_of(udp: Udp) -> list[bytes]:
    batch = receive(udp, patience=0.5)
    return [] if batch is None else [batch.packet(i)[28:] for i in range(len(batch))]


IKE = b"\0\0\0\0" + bytes(28)


def test_esp_is_ours_and_the_rest_the_daemons(hosts: tuple[Host, Host]) -> None:
    """Its socket was there first, and is made to share afterwards, as charon's can be."""
    daemon = plain(hosts[1], AF_INET, "")
    with hosts[1].inside(), pytest.raises(AttachmentError, match="does not let it be shared"):
        open_udp(share=True)
    allow_sharing(daemon)
    udp, sender = opened(hosts[1], share=True), plain(hosts[0], AF_INET, "", 7000)
    theirs = [IKE, b"\xff", IKE + b"x", bytes(4)]
    ours = [ESP + bytes(n) for n in (4, 100, 1000)]
    knock(sender, *(p for pair in zip(theirs, [*ours, ESP + bytes(7)], strict=True) for p in pair))
    assert [daemon.recv(2000) for _ in theirs] == theirs
    assert payloads_of(udp) == [*ours, ESP + bytes(7)]
    assert udp.turned == 0


def test_a_daemon_that_comes_later_or_again(hosts: tuple[Host, Host]) -> None:
    """The kernel numbers the sockets anew; one datagram of IKE is lost, and from then on all is right."""
    udp, sender = opened(hosts[1], share=True), plain(hosts[0], AF_INET, "", 7000)
    knock(sender, ESP * 3)
    assert payloads_of(udp) == [ESP * 3]
    for _ in range(2):
        with hosts[1].inside():
            daemon = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            allow_sharing(daemon)
            daemon.bind(("", 4500))
        daemon.settimeout(5)
        knock(sender, IKE)
        payloads_of(udp)
        daemon.settimeout(0.2)
        try:
            assert daemon.recv(100) == IKE
        except TimeoutError:
            knock(sender, IKE)
            assert daemon.recv(100) == IKE
        for _ in range(3):
            knock(sender, ESP * 3, IKE + b"2")
            assert payloads_of(udp) == [ESP * 3]
            assert daemon.recv(100) == IKE + b"2"
        daemon.close()


def test_a_given_socket(hosts: tuple[Host, Host]) -> None:
    given, sender = plain(hosts[1], AF_INET, ""), plain(hosts[0], AF_INET, "", 7000)
    udp = Udp(socket.socket(fileno=os.dup(given.fileno())))
    knock(sender, IKE, ESP * 3)
    assert payloads_of(udp) == [IKE, ESP * 3]


def as_nobody(what: Callable[[], str]) -> str:
    """What a child without any rights says."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setresuid(65534, 65534, 65534)
            os.write(writable, what().encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writable)
    with os.fdopen(readable) as told:
        return told.read()


def test_without_any_rights() -> None:
    """Both ways on the loopback device, sharing the port."""

    def both_ways() -> str:
        udp = open_udp(45000, share=True)
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        other.settimeout(5)
        other.bind(("127.0.0.1", 45001))
        made = bytes(IP(src="127.0.0.1", dst="127.0.0.1") / UDP(sport=45000, dport=45001) / Raw(ESP * 3))
        send(udp, [made], mark=3)
        back = other.recv(100)
        other.sendto(back, ("127.0.0.1", 45000))
        batch = receive(udp)
        return "" if batch is None else batch.packet(0)[28:].hex()

    assert as_nobody(both_ways) == (ESP * 3).hex()


def test_what_cannot_be_opened_says_why(hosts: tuple[Host, Host]) -> None:
    taken = plain(hosts[0], AF_INET, "")
    with hosts[0].inside():
        with pytest.raises(AttachmentError, match=r"udp=4500: another program has the port$"):
            open_udp()
        with pytest.raises(AttachmentError, match="does not have the address"):
            open_udp(4501, address="192.0.2.99")
    taken.close()

    def low() -> str:
        try:
            return str(open_udp(45))
        except AttachmentError as error:
            return str(error)

    assert "CAP_NET_BIND_SERVICE" in as_nobody(low)


# -- with a namespace, and the path


def test_esp_in_udp_between_two_namespaces(hosts: tuple[Host, Host]) -> None:
    """192.0.2.1 to .2 in a tunnel: over real sockets, both ends' XFRM here."""
    encap = {"encap": Encap(2, 4500, 4500)}
    out = namespace(state(**encap), policy(Direction.OUT, template()))
    gate = namespace(state(**encap), policy(Direction.IN, template()))
    left, right = opened(hosts[0]), opened(hosts[1])
    inner = [
        bytes(IP(src="10.1.0.5", dst="10.2.0.9") / UDP(sport=1, dport=2) / Raw(os.urandom(n % 7 * 200)))
        for n in range(200)
    ]
    batch = Batch.pack(inner, 1000)
    out.output(batch)
    assert left.send(batch, chosen(batch, Verdict.SENT)) == 200
    found: list[bytes] = []
    while (arrived := receive(right, patience=0.5)) is not None:
        gate.input(arrived)
        found += [arrived.packet(int(i)) for i in chosen(arrived, Verdict.DELIVERED)]
    assert found == inner


def test_the_path_mtu_is_the_kernels(hosts: tuple[Host, Host]) -> None:
    """A router behind says what is too long: the next look knows, and the kernel refuses such DF packets.

    But not where they are not for what is sent.
    """
    far = Host()
    hosts[1].run(f"ip link add eth1 type veth peer name eth0 netns {far.path}")
    hosts[1].run("ip addr add 198.51.100.1/24 dev eth1")
    hosts[1].run("ip link set eth1 mtu 1300 up")
    far.run("ip addr add 198.51.100.2/24 dev eth0")
    far.run("ip link set eth0 mtu 1300 up")
    far.run("ip route add default via 198.51.100.1")
    hosts[0].run("ip route add default via 192.0.2.2")
    hosts[1].run("sysctl -qw net.ipv4.ip_forward=1")
    udp, address = opened(hosts[0]), parse("198.51.100.2")
    with hosts[0].inside():
        assert path_mtu(address) == 1500
        assert path_mtu(parse("2001:db8:9::9")) is None
    long = bytes(
        IP(src="192.0.2.1", dst="198.51.100.2", flags="DF")
        / UDP(sport=4500, dport=4500)
        / Raw(ESP + bytes(1400))
    )
    assert send(udp, [long]) == 1
    for _ in range(50):
        with hosts[0].inside():
            if (found := path_mtu(address)) != 1500:
                break
        select.select([], [], [], 0.02)
    assert found == 1300
    assert send(udp, [long]) == 0
    assert udp.counts.lost == {Loss.TOO_LONG: 1}
    heedless = opened(hosts[0], port=4501, heeding=False)
    assert send(heedless, [long[:20] + (4501).to_bytes(2) + long[22:]]) == 1
    far.close()
