"""The control connection: what a supervisor says arrives; a stranger is refused, and nothing leaks."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intercept.small_engine import SmallEngine
from uxfrm.intercept.engine import Peer
from uxfrm.intercept.remote import DATAGRAM_MAX, RemoteEngine, answer, serve_control

PEER = Peer(1, 2, 3, 4, False)
PEER_JSON = {"pid": 1, "uid": 2, "gid": 3, "netns": 4, "net_admin": False}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def far() -> Iterator[tuple[SmallEngine, RemoteEngine]]:
    engine = SmallEngine()
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def serve() -> None:
        with there:
            while serve_control(there, engine):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    remote = RemoteEngine(here)
    yield engine, remote
    remote.close()
    thread.join(5)


def test_every_call_arrives(far: tuple[SmallEngine, RemoteEngine]) -> None:
    engine, remote = far
    client, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    remote.open(server, 7, PEER)
    remote.bind(7, 0xFFFFFFFF)
    remote.join(7, 3)
    remote.leave(7, 3)
    remote.option(7, 11, 1)
    remote.rename(7, 0xFFFFFFFF)
    remote.drain(0xFFFFFFFF)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    assert remote.encapsulate(udp.dup(), 2, PEER) == 0
    assert remote.encapsulate(udp.dup(), 5, PEER) == errno.ENOPROTOOPT
    assert remote.socket_policy(udp, socket.AF_INET6, bytes(range(256)) * 16, PEER) == 0
    assert engine.log == [
        *("open 7 1 2 False", "bind 7 4294967295", "join 7 3", "leave 7 3", "option 7 11 1"),
        *("rename 7 4294967295", "encapsulate 0 2", "encapsulate 0 5", "socket_policy 10 4096"),
    ]
    assert server.fileno() == -1
    client.close()


def test_the_engines_errors_come_back(far: tuple[SmallEngine, RemoteEngine]) -> None:
    _, remote = far
    client, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client_2, server_2 = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    remote.open(server, 7, PEER)
    with pytest.raises(OSError) as caught:
        remote.open(server_2, 7, PEER)
    assert caught.value.errno == errno.EADDRINUSE
    assert server_2.fileno() >= 0
    remote.open(server_2, 8, PEER)
    with pytest.raises(OSError) as caught:
        remote.bind(9, 0)
    assert caught.value.errno == errno.ENOENT
    client.close()
    client_2.close()


def test_a_lost_engine_refuses() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    remote = RemoteEngine(here)
    there.close()
    for call in (lambda: remote.bind(1, 0), lambda: remote.drain(1)):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ECONNREFUSED


BROKEN: list[bytes] = [
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"call": "nothing"}',
    b'{"call": "bind"}',
    b'{"call": "bind", "port": -1, "groups": 0}',
    b'{"call": "bind", "port": 4294967296, "groups": 0}',
    b'{"call": "bind", "port": 1e9999, "groups": 0}',
    b'{"call": "join", "port": 1, "group": 0}',
    b'{"call": "join", "port": 1, "group": 33}',
    b'{"call": "open", "port": 1, "peer": {}}',
    b'{"call": "bind", "port": 1, "groups": 0, "more": 0}',
    b"[" * 10000,
    json.dumps({"call": "open", "port": 1, "peer": PEER_JSON}).encode(),
    json.dumps({"call": "socketpolicy", "family": 2, "policy": "!", "peer": PEER_JSON}).encode(),
]


def errno_of(reply: bytes) -> int:
    return int(json.loads(reply)["errno"])


@pytest.mark.parametrize("datagram", BROKEN)
def test_broken_datagrams_get_an_error(datagram: bytes) -> None:
    engine, before = SmallEngine(), open_files()
    for count in (0, 2):
        fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
        assert errno_of(answer(engine, datagram, fds)) == errno.EBADMSG
    assert engine.log == []
    assert open_files() == before


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(datagram: bytes) -> None:
    assert errno_of(answer(NO_ENGINE, datagram, [])) in (errno.EBADMSG, errno.ENOENT)


NO_ENGINE = SmallEngine()


@pytest.mark.parametrize(
    "make",
    [
        lambda: os.open("/dev/null", os.O_RDONLY),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach(),
    ],
)
def test_a_server_end_of_another_kind_is_refused(make: Callable[[], int]) -> None:
    engine, before = SmallEngine(), open_files()
    datagram = json.dumps({"call": "open", "port": 1, "peer": PEER_JSON}).encode()
    assert errno_of(answer(engine, datagram, [make()])) in (errno.EBADMSG, errno.ENOTSOCK)
    assert open_files() == before
    assert engine.log == []


def test_a_hostile_connection() -> None:
    engine = SmallEngine()
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = open_files()
    null = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    socket.send_fds(here, [b"{}"], null)
    socket.send_fds(here, [b"{}"], null[:2])
    here.send(bytes(DATAGRAM_MAX + 1))
    for _ in range(3):
        assert serve_control(there, engine)
    assert [errno_of(here.recv(100)) for _ in range(3)] == [errno.EMSGSIZE, errno.EBADMSG, errno.EMSGSIZE]
    for fd in null:
        os.close(fd)
    assert open_files() == before
    # One that asks and never reads is given up once its queue is full, and nobody waits for it.
    there.settimeout(0)
    assert serve_control(there, engine)
    here.settimeout(0)
    served = True
    for _ in range(100_000):
        try:
            here.send(b"{}")
        except BlockingIOError:
            break
        served = serve_control(there, engine)
        if not served:
            break
    assert not served
    here.close()
    assert not serve_control(there, engine)
