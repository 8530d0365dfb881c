"""Clients and supervisors that mean harm, or are broken: the daemon goes on, for everybody else too."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.running import UXFRM, Daemon, Visitor, errno_of
from netlink.compare import attribute as attr
from netlink.compare import request
from netlink.test_kernel_answers import AEAD, DUMP, policy, selector, state
from uxfrm.daemon.ports import Endpoint, Hub
from uxfrm.namespace import Namespace
from uxfrm.netlink.server import ROOM, Port, Server
from uxfrm.netlink.wire import messages
from waiting import until

OVERRUN, POLICY_GROUP, EXPIRE_GROUP = 4, 1 << 3, 1 << 1
QUESTION = request(0x28, bytes(4), flags=1)  # GETDEFAULT


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("hostile")) as running:
        yield running
    assert running.code == 0


@pytest.fixture
def visitor(daemon: Daemon) -> Visitor:
    return Visitor(daemon.path)


def answered(client: socket.socket) -> bool:
    client.send(QUESTION)
    return client.recv(65536)[4] == 0x28


def kinds(client: socket.socket) -> list[int]:
    """The types of all messages that can be read now."""
    found = []
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            found += [m.type for m in messages(client.recv(65536))]
    return found


# -- control connections


def wrong_files() -> list[int]:
    """Files that no client's socket is, one of each kind."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind("")
    listening.listen()
    sockets = [listening, socket.socket(), socket.socket(type=socket.SOCK_DGRAM),
               *socket.socketpair(), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)]  # fmt: skip
    return [os.open("/dev/null", os.O_RDONLY), *os.pipe(), *(x.detach() for x in sockets)]


def garbage() -> list[bytes]:
    chance = random.Random(5)
    whole = b'{"call":"open","port":7,"peer":{"pid":1,"uid":0,"gid":0,"netns":0,"net_admin":true}}'
    return [
        whole, whole[:-1], whole + b"}", b"{", b"[" * 10_000, b"\xff\xfe", b"null",
        b'{"call":"drain","port":-1}',
        b'{"call":"drain","port":1e999}', b'{"call":"rename","old_port":1,"new_port":2}', b"x" * 20_000,
        b'{"call":"socketpolicy","family":2,"policy":"AAAA","peer":{}}', *map(chance.randbytes, range(1, 60)),
    ]  # fmt: skip


def test_garbage_and_wrong_files_are_answered_and_nothing_is_left_open(daemon: Daemon) -> None:
    before = daemon.files()
    fds = wrong_files()
    for datagram in garbage():
        for passed in ([], *([fd] for fd in fds), fds[:3], fds * 8):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
                raw.connect(str(daemon.path))
                socket.send_fds(raw, [datagram], passed)
                if passed is not fds:
                    assert raw.recv(1000).startswith(b'{"errno":')
    for fd in fds:
        os.close(fd)
    visitor = Visitor(daemon.path)
    assert answered(visitor.open())
    visitor.engine.close()
    until(lambda: daemon.files() <= before)


def test_a_supervisor_that_goes_midway(daemon: Daemon) -> None:
    before = daemon.files()
    for number in range(50):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
            raw.connect(str(daemon.path))
            if number % 2:
                raw.send(b'{"call":"drain","port":1}' * (number % 3))
    until(lambda: daemon.files() <= before)


def test_another_supervisors_ports_are_out_of_reach(daemon: Daemon, visitor: Visitor) -> None:
    client = visitor.open()
    other = Visitor(daemon.path)
    for call in (lambda: other.engine.bind(visitor.port, 1), lambda: other.engine.rename(visitor.port, 5),
                 lambda: other.engine.drain(visitor.port)):  # fmt: skip
        with pytest.raises(OSError, match="No such file"):
            call()
    assert answered(client)


def test_too_many_sockets_are_refused_and_those_there_are_still_served(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with Daemon(tmp_path, prefix=("prlimit", "--nofile=700:700")) as daemon:
            visitor = Visitor(daemon.path)
            clients, refused = opened(visitor, 1000)
            assert refused == errno.ENFILE
            assert 100 < len(clients) < 700
            assert answered(clients[0])
            clients.pop().close()
            until(lambda: opened(visitor, 1)[0])
            connections = [socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(300)]
            for connection in connections:
                connection.connect(str(daemon.path))
            assert connections[-1].recv(1) == b""
            assert answered(clients[1])
            for used in (*connections, *clients):
                used.close()
        assert "too many connections" in daemon.log
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def opened(visitor: Visitor, most: int) -> tuple[list[socket.socket], int]:
    """As many clients as may be, and the errno for the next one."""
    clients: list[socket.socket] = []
    try:
        while len(clients) < most:
            clients.append(visitor.open())
    except OSError as error:
        return clients, error.errno or 0
    return clients, 0


# -- clients


def test_who_does_not_read_is_not_read_from_and_costs_no_time(daemon: Daemon, visitor: Visitor) -> None:
    client, other = visitor.open(), visitor.open()
    client.setblocking(False)
    sent, idle = 0, 0
    while idle < 20:
        try:
            client.send(QUESTION)
            sent, idle = sent + 1, 0
        except BlockingIOError:
            idle += 1
            time.sleep(0.02)
        assert sent * len(QUESTION) < 64 * ROOM
    assert answered(other)
    before = daemon.ticks()
    time.sleep(1)
    assert daemon.ticks() - before < os.sysconf("SC_CLK_TCK") / 2, "it polls a port that it does not read"
    client.settimeout(60)
    for _ in range(sent):
        assert client.recv(65536)[4] == 0x28


def test_a_listener_that_sleeps_loses_events_and_is_told(visitor: Visitor) -> None:
    sleeper, busy = visitor.open(groups=POLICY_GROUP), visitor.open()
    for number in range(3000):
        body = policy(selector(dport=number + 1, proto=6)) + attr(31, struct.pack("=I", number))
        assert errno_of(busy, request(0x13, body)) == 0
    seen = []
    while OVERRUN not in seen:
        seen += kinds(sleeper)
        assert errno_of(busy, request(0x1D, b"")) == 0
        assert errno_of(busy, request(0x13, policy())) == 0
    told = seen.index(OVERRUN)
    assert 0 < told < 3000
    assert set(seen[:told]) == {0x13}
    assert errno_of(busy, request(0x1D, b"")) == 0


def test_a_client_that_makes_its_socket_block_stops_nobody(visitor: Visitor) -> None:
    client, other = visitor.open(keep=True), visitor.open()
    visitor.kept.setblocking(True)
    client.send(QUESTION)
    for _ in range(20):
        assert answered(other)
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(100_000):
            client.send(QUESTION)
    assert answered(other)


def test_an_answer_longer_than_any_socket_takes_is_lost(visitor: Visitor) -> None:
    client = visitor.open()
    client.setsockopt(socket.SOL_SOCKET, 32, 1 << 20)  # SO_SNDBUFFORCE; without the right: as it was
    room = client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    with contextlib.suppress(OSError):
        client.send(request(0x10, bytes(min(room - 64, 400_000))))
    client.send(QUESTION)
    while client.recv(1 << 20)[4] != 0x28:
        pass


def test_events_of_time_are_sent_when_they_happen(visitor: Visitor) -> None:
    listener, client = visitor.open(groups=EXPIRE_GROUP), visitor.open()
    limited = bytearray(state(spi=b"\0\0\x66\1"))
    struct.pack_into("=Q", limited, 96 + 40, 1)  # hard_add_expires_seconds
    assert errno_of(client, request(0x10, bytes(limited) + AEAD)) == 0
    assert [m.type for m in messages(listener.recv(65536))] == [0x18]


# -- a dump whose table changes meanwhile, beside the machine's own kernel

DUMPER = """
import socket, struct, sys
sys.path.insert(0, sys.argv[1])
requests = [bytes.fromhex(x) for x in sys.argv[2:]]
a, b = (socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6) for _ in range(2))
for s in (a, b):
    s.bind((0, 0))
a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
add, dump, flush = requests
def ask(data):
    b.send(data)
    return b.recv(65536)[16:20]
for port in range(1, 2000):
    ask(add[:16 + 32] + struct.pack(">H", port) + add[16 + 34:])
a.send(dump)
flags, kinds, changed = set(), set(), False
while 3 not in kinds:
    data = a.recv(65536)
    while data:
        size, kind, flag = struct.unpack_from("=IHH", data)
        flags.add(flag), kinds.add(kind)
        data = data[(size + 3) & ~3:]
    if not changed:
        changed = ask(flush) == ask(add) == bytes(4)
print(sorted(flags), sorted(kinds), changed)
"""


@pytest.mark.linux
def test_a_table_that_changes_during_a_dump() -> None:
    add = request(0x13, policy(selector(dport=1, proto=6)))
    words = [x.hex() for x in (add, request(0x15, b"", DUMP), request(0x1D, b""))]
    command = [sys.executable, "-c", DUMPER, "/", *words]
    found = []
    for prefix in (["unshare", "--map-root-user", "--net"], [*UXFRM, "run", "--private", "--"]):
        done = subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=60, check=False)
        found.append((done.stdout, done.stderr))
    assert found[0] == ("[2] [3, 19] True\n", "")
    assert found[1] == found[0]


# -- the loop itself, turn by turn


class Flooded(Server):
    """A server, one of whose clients sends again whenever something was received from it."""

    flooder: socket.socket
    order: list[int]

    def receive(self, port: Port, datagram: bytes) -> None:
        self.order.append(port.id)
        super().receive(port, datagram)
        if port.id == 1:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.flooder.send(request(0x19, policy(), flags=1), socket.MSG_DONTWAIT)


async def _ports(server: Server, loop: asyncio.AbstractEventLoop) -> tuple[Hub, list[socket.socket]]:
    hub, clients = Hub(server, loop), []
    for number in (1, 2):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        hub.open(theirs, number, capable=True)
        ours.setblocking(False)
        clients.append(ours)
    return hub, clients


async def _flood() -> list[int]:
    server = Flooded(Namespace(randbytes=random.Random(1).randbytes))
    server.order = []
    loop = asyncio.get_running_loop()
    hub, (server.flooder, other) = await _ports(server, loop)
    server.flooder.send(QUESTION)
    for _ in range(10):
        await loop.sock_sendall(other, QUESTION)
        server.order.clear()
        assert (await loop.sock_recv(other, 65536))[4] == 0x28
    order = list(server.order)
    hub.stop()
    return order


def test_a_flood_does_not_keep_others_waiting() -> None:
    order = asyncio.run(_flood())
    assert order.count(2) == 1
    assert order.index(2) <= 3 * 64


class Broken(Server):
    """A server with a fault."""

    def receive(self, port: Port, datagram: bytes) -> None:
        if datagram == b"fault":
            raise ValueError("SecretKeyOfTests")
        super().receive(port, datagram)


async def _fault() -> tuple[bytes, bytes]:
    loop = asyncio.get_running_loop()
    hub, (broken, other) = await _ports(Broken(Namespace(randbytes=random.Random(1).randbytes)), loop)
    broken.send(b"fault")
    end = await asyncio.wait_for(loop.sock_recv(broken, 100), 60)
    other.send(QUESTION)
    answer = await asyncio.wait_for(loop.sock_recv(other, 100), 60)
    assert [type(x) for x in hub.endpoints.values()] == [Endpoint]
    hub.stop()
    return end, answer


def test_a_fault_of_ours_ends_one_port_and_quotes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    end, answer = asyncio.run(_fault())
    assert end == b""
    assert answer[4] == 0x28
    written = "".join(capfd.readouterr())
    assert "Secret" not in written
