"""NFQUEUEs between real hosts: what the kernels send and receive judges, and what was on the wire.

Two or three network namespaces; the XFRM of each end is a Namespace here, fed by the queues.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attach.hosts import Host, join
from attach.test_udp import as_nobody
from test_namespace import GCM, namespace
from uxfrm.attach import queue_wire as wire
from uxfrm.attach.attachment import CHECKED_MARK, AttachmentError, Loss, Way, chosen
from uxfrm.attach.nfqueue import Queue, open_queue
from uxfrm.attach.pathmtu import path_mtu
from uxfrm.attach.raw import open_raw
from uxfrm.attach.rules import ALL, PROTECT_TCP, Match, Plan
from uxfrm.attach.superpackets import SUPER_COLUMNS
from uxfrm.attach.transparent import GO_ON, Transparent, plan_of
from uxfrm.datapath.batch import Batch
from uxfrm.model.address import AF_INET, AF_INET6, family, parse
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Action, Direction, PolicyConfig
from uxfrm.model.selector import EVERYTHING, Selector
from uxfrm.model.state import Encap, StateConfig
from uxfrm.model.template import Mode, Template

pytestmark = pytest.mark.linux


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    both = Host(), Host()
    join(*both)
    yield both
    for host in both:
        host.close()


def opened(host: Host, number: int, way: Way, **options: object) -> Queue:
    with host.inside():
        beside = {4: open_raw(AF_INET, ()), 6: open_raw(AF_INET6, ())}
        return open_queue(number, way, beside, **options)  # type: ignore[arg-type]


def receive(queue: Queue, patience: float = 2.0) -> Batch | None:
    select.select([queue], [], [], patience)
    return queue.receive(1000.5)


def bound(host: Host, address: str, port: int = 53) -> socket.socket:
    with host.inside():
        one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((address, port))
    one.settimeout(2)
    return one


# -- one queue


def test_what_is_sent_goes_on_as_it_is_now(hosts: tuple[Host, Host]) -> None:
    """Three datagrams: one goes on, one is not chosen, one was changed as decryption changes it."""
    queue = opened(hosts[1], 7, Way.IN)
    hosts[1].run("iptables -t raw -A PREROUTING -p udp -j NFQUEUE --queue-num 7")
    hosts[1].run("iptables -t mangle -A PREROUTING -p icmp -j MARK --set-mark 0x77")
    receiver, sender = bound(hosts[1], "192.0.2.2"), bound(hosts[0], "192.0.2.1")
    for data in (b"one", b"two", b"three"):
        sender.sendto(data, ("192.0.2.2", 53))
    batch = receive(queue)
    assert batch is not None
    assert [batch.packet(i)[28:] for i in range(3)] == [b"one", b"two", b"three"]
    p = batch.packets[0]
    assert p["ifindex"] == json.loads(hosts[1].run("ip -j link show dev eth0"))[0]["ifindex"]
    assert (p["time"], p["mark"]) == (1000, 0)
    longer = batch.packet(2)[:28] + b"THREE and more"
    changed = bytearray(longer)
    changed[2:4], changed[10:12] = struct.pack(">H", len(longer)), bytes(2)
    changed[24:28] = struct.pack(">HH", len(longer) - 20, 0)
    total = sum(struct.unpack(">10H", changed[:20]))
    changed[10:12] = struct.pack(">H", 0xFFFF - (total % 0xFFFF))
    at = int(batch.packets["offset"][2])
    batch.data[at : at + len(changed)] = np.frombuffer(bytes(changed), np.uint8)
    batch.packets["length"][2], batch.packets["outcome"][2] = len(changed), Outcome.DELIVERED
    assert queue.send(batch, np.array([0, 2])) == 2
    assert [receiver.recv(100) for _ in range(2)] == [b"one", b"THREE and more"]
    assert (queue.counts.received, queue.counts.sent, queue.counts.lost[Loss.REFUSED]) == (3, 2, 0)


def test_marks_in_and_out(hosts: tuple[Host, Host]) -> None:
    """The packet's mark is the batch's; what goes on carries the batch's, and that it was checked."""
    queue = opened(hosts[1], 7, Way.IN)
    hosts[1].run("iptables -t raw -A PREROUTING -p udp -j MARK --set-mark 0x20000005")
    hosts[1].run("iptables -t raw -A PREROUTING -p udp -j NFQUEUE --queue-num 7")
    hosts[1].run(f"iptables -A INPUT -p udp -m mark ! --mark {CHECKED_MARK | 9:#x} -j DROP")
    receiver, sender = bound(hosts[1], "192.0.2.2"), bound(hosts[0], "192.0.2.1")
    for data in (b"one", b"two"):
        sender.sendto(data, ("192.0.2.2", 53))
    batch = receive(queue)
    assert batch is not None
    assert batch.packets["mark"].tolist() == [5, 5]
    batch.packets["mark"][1] = 9
    queue.send(batch, np.arange(2))
    assert receiver.recv(100) == b"two"


@pytest.mark.parametrize("what", ["no listener", "closed", "never sent", "not chosen"])
def test_it_fails_closed(hosts: tuple[Host, Host], what: str) -> None:
    hosts[1].run("iptables -t raw -A PREROUTING -p udp -j NFQUEUE --queue-num 7")
    receiver, sender = bound(hosts[1], "192.0.2.2"), bound(hosts[0], "192.0.2.1")
    receiver.settimeout(0.2)
    queue = None if what == "no listener" else opened(hosts[1], 7, Way.IN)
    sender.sendto(b"x", ("192.0.2.2", 53))
    if queue is not None:
        batch = receive(queue)
        assert batch is not None
        if what == "closed":
            queue.close()
        elif what == "never sent":
            assert queue.receive(0) is None
        else:
            assert queue.send(batch, np.empty(0, np.int64)) == 0
    with pytest.raises(TimeoutError):
        receiver.recv(10)


def test_more_than_may_wait_is_dropped(hosts: tuple[Host, Host]) -> None:
    queue = opened(hosts[1], 7, Way.IN, maxlen=5)
    hosts[1].run("iptables -t raw -A PREROUTING -p udp -j NFQUEUE --queue-num 7")
    sender = bound(hosts[0], "192.0.2.1")
    for _ in range(9):
        sender.sendto(b"x", ("192.0.2.2", 53))
    batch = receive(queue)
    assert batch is not None
    assert len(batch) == 5


def test_many_packets_in_order(hosts: tuple[Host, Host]) -> None:
    """More than a batch, and more verdicts than a call holds; every third dropped, the others as changed."""
    queue = opened(hosts[1], 7, Way.IN)
    hosts[1].run("iptables -t raw -A PREROUTING -p udp -j NFQUEUE --queue-num 7")
    receiver, sender = bound(hosts[1], "192.0.2.2"), bound(hosts[0], "192.0.2.1")
    for n in range(600):
        sender.sendto(struct.pack(">I", n) + bytes(1200 + n % 200), ("192.0.2.2", 53))
    receiver.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
    found: list[int] = []
    seen = 0
    receiver.setblocking(False)
    while seen < 600 and (batch := receive(queue)) is not None:
        number = np.arange(seen, seen + len(batch))
        batch.packets["outcome"][:] = Outcome.DELIVERED
        queue.send(batch, np.flatnonzero(number % 3 < 2))
        seen += len(batch)
        with contextlib.suppress(BlockingIOError):
            while data := receiver.recv(2000):
                found.append(int.from_bytes(data[:4]))
    assert found == [n for n in range(600) if n % 3 < 2]


def test_another_batch_goes_out_beside(hosts: tuple[Host, Host]) -> None:
    """What was made here, or released later, reaches this host's own programs as well."""
    queue, receiver = opened(hosts[0], 7, Way.OUT), bound(hosts[0], "192.0.2.1")
    head = bytes.fromhex("4500001f000040004011b6cac0000202c0000201")
    batch = Batch.pack([head + struct.pack(">HHHH", 9, 53, 11, 0) + b"abc", b"\x75" + bytes(40)])
    assert queue.send(batch, np.arange(2)) == 1
    assert receiver.recv(100) == b"abc"
    assert queue.counts.lost[Loss.FOREIGN] == 1


def test_what_cannot_be_opened_says_why(hosts: tuple[Host, Host]) -> None:
    queue = opened(hosts[0], 7, Way.IN)
    with pytest.raises(AttachmentError, match="another program has this queue"):
        opened(hosts[0], 7, Way.IN)
    queue.close()
    opened(hosts[0], 7, Way.IN)

    def words() -> str:
        try:
            return str(open_queue(7, Way.IN, {}))
        except AttachmentError as error:
            return str(error)

    assert "needs CAP_NET_ADMIN" in as_nobody(words)


@given(st.lists(st.binary(max_size=90), min_size=1, max_size=4), st.integers(0, 2000))
def test_any_message(bodies: list[bytes], mtu: int) -> None:
    """Whatever the kernel said: a row, and nothing read or described beyond the message."""
    messages = [struct.pack("=IHHII", 16 + len(b), wire.PACKET, 0, 0, 0) + b for b in bodies]
    size = np.array([len(m) for m in messages], np.int64)
    data = np.frombuffer(b"".join(messages), np.uint8).copy()
    table = np.empty((len(messages), wire.MESSAGE_COLUMNS), np.int64)
    start = np.cumsum(size) - size
    wire.read_messages(data, start, size, table)
    supers = np.empty((len(messages), SUPER_COLUMNS), np.int64)
    wire.describe(data, table, supers, np.full(len(messages), mtu))
    for row, first, count in zip(table, start, size, strict=True):
        assert row[wire.PAYLOAD] + row[wire.BYTES] <= first + count


# -- whole hosts

STARTED = time.monotonic()


class Engine:
    """A host whose IPsec is here: all queues, raw sockets and rules, and a Namespace."""

    def __init__(self, host: Host, plan: Plan, *configs: StateConfig | PolicyConfig) -> None:
        self.host, self.namespace = host, namespace(*configs)
        told = host.run("ip -j addr")
        local = {parse(a["local"]) for link in json.loads(told) for a in link["addr_info"]}
        self.namespace.path.is_local = lambda address: address in local
        with host.inside():
            self.transparent = Transparent(plan, self.mtu_of)
        self.queues, self.raw = self.transparent.queues, self.transparent.raw

    def mtu_of(self, address: bytes) -> int | None:
        """The kernel's own answer, asked for in the host's namespace."""
        with self.host.inside():
            return path_mtu(address)

    def know_devices(self) -> None:
        """Let the namespace know how much the devices carry, and as who the host speaks to itself."""
        path = self.namespace.path
        path.mtus.of_device = lambda _: 1500
        is_local = path.is_local
        path.source_of = lambda address: address if is_local and is_local(address) else None

    def turn(self, queue: Queue) -> None:
        now = 1000 + time.monotonic() - STARTED
        self.namespace.advance(now)
        while (batch := queue.receive(now)) is not None:
            if queue.way == Way.IN:
                self.namespace.input(batch)
            else:
                self.namespace.output(batch)
            queue.send(batch, chosen(batch, *GO_ON))

    def close(self) -> None:
        self.transparent.close()


def pump(*engines: Engine, seconds: float = 0.0) -> None:
    owner = {queue: engine for engine in engines for queue in engine.queues}
    for queue in select.select(owner, [], [], seconds)[0]:
        owner[queue].turn(queue)


def run(engines: list[Engine], host: Host, command: str) -> int:
    """A command's exit code, with the engines turning."""
    process = host.start(*command.split(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        pump(*engines, seconds=0.05)
    return int(process.returncode)


class Wire:
    """What passes eth0 of a host, in either direction."""

    def __init__(self, host: Host) -> None:
        with host.inside():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._socket.bind(("eth0", 3))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
        self._socket.setblocking(False)

    def longest(self) -> int:
        """Bytes of the longest IP packet so far."""
        found = 0
        with contextlib.suppress(BlockingIOError):
            while frame := self._socket.recv(2000):
                found = max(found, len(frame) - 14)
        return found

    def protocols(self) -> set[int]:
        """The IP protocols of all frames so far but neighbour discovery's; 4500 for its UDP port."""
        found = set()
        with contextlib.suppress(BlockingIOError):
            while frame := self._socket.recv(2000):
                kind, packet = int.from_bytes(frame[12:14]), frame[14:]
                if kind == 0x800:
                    found.add(4500 if packet[9] == 17 and packet[22:24] == b"\x11\x94" else packet[9])
                elif kind == 0x86DD and not (packet[6] in (0, 58) and packet[40] in (58, *range(133, 144))):
                    found.add(packet[6])
        return found


def tunnel(
    source: str, target: str, spi: int, mode: Mode, inner: int = AF_INET, **changes: object
) -> StateConfig:
    """A state for packets of the family `inner`."""
    return StateConfig(
        selector=EVERYTHING[inner],
        saddr=parse(source), daddr=parse(target), family=family(parse(target)), spi=spi, reqid=1, mode=mode,
        aead=GCM, replay_window=128, **changes,
    )  # type: ignore[arg-type]  # fmt: skip


def policies(ours: str, theirs: str, inner: str, other: str, mode: Mode) -> list[PolicyConfig]:
    """`inner` here and `other` there are to be protected, in all directions."""

    def prefix(text: str) -> tuple[bytes, int]:
        address, _, length = text.partition("/")
        return parse(address), int(length or (32 if "." in address else 128))

    def selector(source: str, target: str) -> Selector:
        (saddr, slen), (daddr, dlen) = prefix(source), prefix(target)
        return Selector(family(daddr), daddr, saddr, dlen, slen)

    here, there = parse(ours), parse(theirs)
    out = Template(there, here, family=family(there), reqid=1, mode=mode)
    into = Template(here, there, family=family(here), reqid=1, mode=mode)
    return [
        PolicyConfig(Direction.OUT, selector=selector(inner, other), templates=(out,)),
        PolicyConfig(Direction.IN, selector=selector(other, inner), templates=(into,)),
        PolicyConfig(Direction.FWD, selector=selector(other, inner), templates=(into,)),
    ]


CASES = {
    "transport 4": ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.2", Mode.TRANSPORT),
    "transport 6": ("2001:db8::1", "2001:db8::2", "2001:db8::1", "2001:db8::2", Mode.TRANSPORT),
    "tunnel 4 in 4": ("192.0.2.1", "192.0.2.2", "10.1.0.1", "10.2.0.1", Mode.TUNNEL),
    "tunnel 6 in 6": ("2001:db8::1", "2001:db8::2", "fd01::1", "fd02::1", Mode.TUNNEL),
    "tunnel 4 in 6": ("2001:db8::1", "2001:db8::2", "10.1.0.1", "10.2.0.1", Mode.TUNNEL),
    "tunnel 6 in 4": ("192.0.2.1", "192.0.2.2", "fd01::1", "fd02::1", Mode.TUNNEL),
}


def ends(
    hosts: tuple[Host, Host],
    case: str,
    plan: Plan = Plan(),  # noqa: B008
    mtu: int = 1400,
    **changes: object,
) -> list[Engine]:
    """Both hosts protected from each other's first packet on; routes are of `mtu` bytes.

    1,400 leave room for the outer headers.
    """
    left, right, one, two, mode = CASES[case]
    for host, address, other in ((hosts[0], one, two), (hosts[1], two, one)):
        if mode == Mode.TUNNEL:
            length = "32" if "." in address else "128 nodad"
            host.run(f"ip addr add {address}/{length} dev lo")
            gateway = f"{'192.0.2.' if '.' in address else '2001:db8::'}{2 if host is hosts[0] else 1}"
            host.run(f"ip route add {other} via {gateway} src {address} mtu {mtu}")
        else:
            host.run(f"ip route add {other} dev eth0 mtu {mtu}")
    inner = family(parse(one))
    there = tunnel(left, right, 0x1000, mode, inner, **changes)
    back = tunnel(right, left, 0x2000, mode, inner, **changes)
    return [
        Engine(hosts[0], plan, there, back, *policies(left, right, one, two, mode)),
        Engine(hosts[1], plan, there, back, *policies(right, left, two, one, mode)),
    ]


def tcp(engines: list[Engine], address: str, size: int, mss: int = 0) -> bool:
    """Bytes from the first host to the second and a digest back: the whole, and right.

    `mss` is what the second takes in one segment.
    """
    kind = socket.AF_INET6 if ":" in address else socket.AF_INET
    with engines[1].host.inside():
        listener = socket.create_server((address, 8080), family=kind)
        if mss:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, mss)
    with engines[0].host.inside():
        client = socket.socket(kind, socket.SOCK_STREAM)
    client.setblocking(False)
    client.connect_ex((address, 8080))
    patience = time.monotonic() + 60
    while not select.select([listener], [], [], 0)[0] and time.monotonic() < patience:
        pump(*engines, seconds=0.02)
    listener.settimeout(1)
    server = listener.accept()[0]
    server.setblocking(False)
    data = os.urandom(size)
    left, got, count = memoryview(data), hashlib.sha256(), 0
    while count < size and time.monotonic() < patience:
        with contextlib.suppress(BlockingIOError):
            left = left[client.send(left) :] if left else left
        pump(*engines, seconds=0.01)
        with contextlib.suppress(BlockingIOError):
            while chunk := server.recv(1 << 20):
                got.update(chunk)
                count += len(chunk)
    return got.digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("case", CASES)
def test_ping_and_tcp_and_nothing_in_clear(hosts: tuple[Host, Host], case: str) -> None:
    seen = Wire(hosts[1])
    engines = ends(hosts, case)
    target = CASES[case][3]
    assert run(engines, hosts[0], f"ping -c 2 -i 0.1 -W 5 -s 1200 {target}") == 0
    assert tcp(engines, target, 300_000)
    assert seen.protocols() == {50}
    outcomes = engines[1].namespace.counters()
    assert sum(outcomes) == 0
    packets, messages = engines[0].queues[PROTECT_TCP].counts.received, engines[0].queues[PROTECT_TCP].counts
    assert packets > 200
    assert messages.lost == {}
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("case", ["transport 4", "tunnel 4 in 4", "tunnel 6 in 6", "tunnel 4 in 6"])
def test_the_host_learns_what_fits(hosts: tuple[Host, Host], case: str) -> None:
    """Nobody left room for the outer headers: TCP is told, by ICMP that was made here, and all arrives."""
    seen = Wire(hosts[1])
    engines = ends(hosts, case, mtu=1500)
    for engine in engines:
        engine.know_devices()
    assert tcp(engines, CASES[case][3], 200_000)
    assert seen.protocols() == {50}
    learned = engines[0].mtu_of(parse(CASES[case][3]))
    assert learned is not None
    assert 1400 < learned < 1500
    assert engines[0].raw[6 if "2001" in CASES[case][0] else 4].counts.lost == {}
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("case", ["transport 4", "tunnel 6 in 6"])
def test_super_packets_are_cut_as_their_connection_wants(hosts: tuple[Host, Host], case: str) -> None:
    """Who takes segments of 1000 bytes only, options counted, gets no longer ones."""
    seen = Wire(hosts[1])
    engines = ends(hosts, case)
    assert tcp(engines, CASES[case][3], 200_000, mss=1000)
    received = engines[0].queues[PROTECT_TCP].counts.received
    assert received >= 200
    inner = 20 + 20 + 1000 if case.endswith(" 4") else 40 + 20 + 1000
    assert inner + 30 <= seen.longest() <= inner + 40 + 48  # ESP, and an outer header
    for engine in engines:
        engine.close()


def test_esp_in_udp_in_place(hosts: tuple[Host, Host]) -> None:
    """Port 4500 taken by a rule: no socket is bound, and IKE passes in clear."""
    seen = Wire(hosts[1])
    engines = ends(hosts, "tunnel 4 in 4", Plan(udp_ports=(4500,)), encap=Encap(2, 4500, 4500))
    assert run(engines, hosts[0], "ping -c 2 -i 0.1 -W 5 10.2.0.1") == 0
    assert seen.protocols() == {4500}
    daemon, peer = bound(hosts[1], "192.0.2.2", 4500), bound(hosts[0], "192.0.2.1", 500)
    peer.sendto(bytes(32), ("192.0.2.2", 4500))
    for _ in range(5):
        pump(*engines, seconds=0.05)
    assert daemon.recv(100) == bytes(32)
    for engine in engines:
        engine.close()


def test_what_should_be_protected_is_not_let_in_in_clear(hosts: tuple[Host, Host]) -> None:
    """One end without IPsec sends in clear: dropped, counted, and once more after the engine has died."""
    left, right, one, two, mode = CASES["transport 4"]
    del left, one
    engine = Engine(hosts[1], Plan(), *policies(right, "192.0.2.1", two, "192.0.2.1", mode))
    receiver, sender = bound(hosts[1], "192.0.2.2"), bound(hosts[0], "192.0.2.1")
    receiver.settimeout(0.2)
    sender.sendto(b"clear", ("192.0.2.2", 53))
    for _ in range(3):
        pump(engine, seconds=0.05)
    with pytest.raises(TimeoutError):
        receiver.recv(10)
    values = engine.namespace.counters()
    assert sum(values) == 1
    engine.close()
    sender.sendto(b"clear", ("192.0.2.2", 53))
    with pytest.raises(TimeoutError):
        receiver.recv(10)
    with hosts[1].inside():
        engine.transparent.close(open_=True)
    sender.sendto(b"clear", ("192.0.2.2", 53))
    assert receiver.recv(10) == b"clear"


def test_nothing_leaves_in_clear_when_the_engine_dies(hosts: tuple[Host, Host]) -> None:
    seen = Wire(hosts[1])
    engines = ends(hosts, "tunnel 4 in 4")
    assert run(engines, hosts[0], "ping -c 1 -W 5 10.2.0.1") == 0
    engines[0].close()
    assert run(engines[1:], hosts[0], "ping -c 2 -i 0.1 -W 1 10.2.0.1") == 1
    assert seen.protocols() == {50}
    engines[1].close()


def test_a_plan_is_what_policies_may_want() -> None:
    """Matches for what may be stopped or changed, in its directions; everything where a default blocks."""
    left, right = "192.0.2.1", "192.0.2.2"
    ns = namespace(*policies(left, right, "10.1.0.0/16", "10.2.0.0/16", Mode.TUNNEL))
    ns.add_policy(PolicyConfig(Direction.OUT, selector=EVERYTHING[AF_INET6]))
    plan = plan_of(ns.policies, 88)
    assert (plan.queue, plan.out) == (88, (Match(AF_INET, "10.1.0.0/16", "10.2.0.0/16"),))
    assert set(plan.into) == {Match(AF_INET, "10.2.0.0/16", "10.1.0.0/16")}
    ns.add_policy(PolicyConfig(Direction.OUT, selector=EVERYTHING[AF_INET], action=Action.BLOCK, priority=9))
    assert Match(AF_INET) in plan_of(ns.policies).out
    ns.set_default(fwd=1)
    assert plan_of(ns.policies).into == ALL
    closed = ((Match(AF_INET, None, "10.9.0.0/16"), *plan.out), (Match(AF_INET, "10.9.0.0/16"),))
    again = plan_of(ns.policies, closed=closed)
    assert (again.closed_out, again.closed_into) == (closed[0][:1], ())


def test_rules_follow_the_policies(hosts: tuple[Host, Host]) -> None:
    """Without policies all passes in clear; with one from its first packet on nothing does."""
    engine = Engine(hosts[1], Plan(out=(), into=()))
    assert run([engine], hosts[0], "ping -c 1 -W 5 192.0.2.2") == 0
    assert engine.queues[1].counts.received == 0
    for config in policies("192.0.2.2", "192.0.2.1", "192.0.2.2", "192.0.2.1", Mode.TRANSPORT):
        engine.namespace.add_policy(config)
    with hosts[1].inside():
        engine.transparent.follow(plan_of(engine.namespace.policies))
    assert run([engine], hosts[0], "ping -c 1 -W 1 192.0.2.2") == 1
    assert engine.queues[1].counts.received == 1
    engine.close()


def test_a_gateway_forwards(hosts: tuple[Host, Host]) -> None:
    """A host behind the first: both ways through its forward policies; other traffic passes in clear."""
    lan = Host()
    hosts[0].run(f"ip link add eth1 type veth peer name eth0 netns {lan.path}")
    hosts[0].run("ip addr add 10.1.0.1/24 dev eth1")
    hosts[0].run("ip link set eth1 up")
    lan.run("ip addr add 10.1.0.9/24 dev eth0")
    lan.run("ip link set eth0 up")
    lan.run("ip route add default via 10.1.0.1")
    hosts[0].run("sysctl -qw net.ipv4.ip_forward=1")
    hosts[0].run("ip route add 10.2.0.0/24 via 192.0.2.2")
    hosts[1].run("ip addr add 10.2.0.1/24 dev lo")
    hosts[1].run("ip route add 10.1.0.0/24 via 192.0.2.1")
    there, back = (
        tunnel("192.0.2.1", "192.0.2.2", 0x1000, Mode.TUNNEL),
        tunnel("192.0.2.2", "192.0.2.1", 0x2000, Mode.TUNNEL),
    )
    nets = ("10.1.0.0/24", "10.2.0.0/24")
    plan = Plan(out=(Match(AF_INET, *nets),), into=(Match(AF_INET, *nets[::-1]),))
    engines = [
        Engine(hosts[0], plan, there, back, *policies("192.0.2.1", "192.0.2.2", *nets, Mode.TUNNEL)),
        Engine(hosts[1], Plan(), there, back, *policies("192.0.2.2", "192.0.2.1", *nets[::-1], Mode.TUNNEL)),
    ]
    seen = Wire(hosts[1])
    assert run(engines, lan, "ping -c 3 -i 0.1 -W 5 10.2.0.1") == 0
    assert seen.protocols() == {50}
    assert run(engines, lan, "ping -c 1 -W 5 192.0.2.2") == 0
    assert seen.protocols() == {1}
    for engine in engines:
        engine.close()
    lan.close()
