"""Policies of sockets, by setsockopt: the machine's own kernel beside uxfrm.

Run as a program, this file is the kernel's half: inside a network namespace that vanishes with it, it does
with real UDP sockets what it reads, line by line, and tells what came of it.
"""

from __future__ import annotations

import errno
import json
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

GETPOLICY, FLUSHPOLICY, GETSPDINFO = 0x15, 0x1D, 0x25
OPTION = {2: (0, 17), 10: (41, 35)}
DONE = 3


class Guest:
    """What runs inside the namespace; every command returns what JSON can tell."""

    def __init__(self) -> None:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for name in ("disable_xfrm", "disable_policy"):
            Path(f"/proc/sys/net/ipv4/conf/lo/{name}").write_text("0")
        self.netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
        self.acquires = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
        self.acquires.bind((0, 1))
        self.acquires.setblocking(False)
        self.sockets: dict[int, socket.socket] = {}

    def open(self, key: int, family: int) -> int:
        opened = self.sockets[key] = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET:
            opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])

    def accepted(self, key: int, new: int, options: list[str]) -> None:
        """Give a listening socket policies; keep what accept() gives, and nothing else."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for option in options:
                listener.setsockopt(0, 17, bytes.fromhex(option))
            with socket.create_connection(listener.getsockname()):
                self.sockets[new] = listener.accept()[0]
                self.sockets[key] = listener.dup()

    def set(self, key: int, family: int, payload: str | None) -> int:
        level, name = OPTION[family]
        try:
            if payload is None:
                self.sockets[key].setsockopt(level, name, None, 0)
            else:
                self.sockets[key].setsockopt(level, name, bytes.fromhex(payload))
        except OSError as error:
            return error.errno or -1
        return 0

    def close(self, key: int) -> None:
        self.sockets.pop(key).close()

    def send(self, source: int, target: int) -> list[int]:
        """The errno of sending, and whether the datagram was delivered."""
        try:
            self.sockets[source].sendto(b"hello", self.sockets[target].getsockname())
        except OSError as error:
            return [error.errno or -1, 0]
        try:
            return [0, len(self.sockets[target].recv(100, socket.MSG_DONTWAIT)) > 0]
        except BlockingIOError:
            return [0, 0]

    def request(self, kind: int, flags: int, body: str) -> list[str]:
        """The datagrams that answer a request."""
        data = bytes.fromhex(body)
        self.netlink.send(struct.pack("=IHHII", 16 + len(data), kind, flags, 7, 0) + data)
        found = []
        while True:
            datagram = self.netlink.recv(1 << 16)
            found.append(datagram.hex())
            if not flags & 0x300 or struct.unpack_from("=H", datagram, 4)[0] == DONE:
                return found

    def acquired(self) -> str:
        """The first acquire since the last call."""
        found = ""
        try:
            while True:
                told = self.acquires.recv(1 << 16).hex()
                found = found or told
        except BlockingIOError:
            return found

    def counters(self) -> dict[str, int]:
        lines = Path("/proc/net/xfrm_stat").read_text().splitlines()
        return {name: int(value) for name, value in map(str.split, lines) if int(value)}


if __name__ == "__main__":
    guest = Guest()
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        print(json.dumps(getattr(guest, command)(*arguments)), flush=True)
    sys.exit()

import pytest  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from uxfrm.datapath.batch import Batch  # noqa: E402
from uxfrm.lifecycle.sockets import Socket  # noqa: E402
from uxfrm.model.error import XfrmError  # noqa: E402
from uxfrm.model.outcome import Counter, Outcome, Verdict  # noqa: E402
from uxfrm.namespace import Namespace  # noqa: E402
from uxfrm.netlink.server import Server  # noqa: E402
from uxfrm.netlink.socketoptions import set_policy  # noqa: E402

pytestmark = pytest.mark.linux

LO = socket.inet_aton("127.0.0.1")
ERRNO = {
    Outcome.OUT_POLICY_BLOCK: errno.EPERM,
    Outcome.OUT_SOCKET_NO_STATE: errno.EAGAIN,
    Outcome.OUT_POLICY_ERROR: errno.ENOBUFS,
}


def template(optional: int = 0, proto: int = 50, mode: int = 0) -> bytes:
    every = (2**32 - 1,) * 3
    return struct.pack("=16sIB3xH2x16sIBBBx3I", b"", 0, proto, 2, b"", 1, mode, 0, optional, *every)


def policy(direction: int, **fields: Any) -> bytes:
    """struct xfrm_userpolicy_info, of a destination."""
    x = {"family": 2, "bits": 0, "action": 0, "index": 0, "share": 0, "hard_add": 0, "daddr": LO} | fields
    found = struct.pack("=16s16s5H3B3xiI", x["daddr"], b"", 0, 0, 0, 0, x["family"], x["bits"], 0, 0, 0, 0)
    found += struct.pack("=8Q4Q", *[2**64 - 1] * 4, 0, x["hard_add"], *[0] * 6)
    return found + struct.pack("=IIBBBB4x", 9, x["index"], direction, x["action"], 0, x["share"])


GOOD = [
    *(policy(d) for d in (0, 1)), *(policy(d, action=1) for d in (0, 1)),
    *(policy(d, bits=32) for d in (0, 1)),
    policy(1, bits=32, daddr=b"\x0a\0\0\1", action=1), policy(0, bits=32, daddr=b"\x0a\0\0\1", action=1),
    policy(1) + template(), policy(0) + template(), policy(1) + template(1), policy(0) + template(1),
    policy(1, family=10), policy(1, index=9), policy(1) + b"left over", policy(1, hard_add=1),
    policy(1) + 6 * template(),
]  # fmt: skip
BAD = [
    policy(2), policy(3), policy(1, index=8), policy(1, share=4), policy(1, action=2), policy(1, family=0),
    policy(1, bits=33), policy(1)[:-1], b"x", b"", bytes(4096), bytes(4097), policy(1) + template(proto=6),
    policy(1) + 7 * template(), policy(1) + template(mode=9),
]  # fmt: skip


class Linux:
    """The kernel's half, as a process."""

    def __enter__(self) -> Self:
        command = ["unshare", "--map-root-user", "--net", sys.executable, __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def __call__(self, *command: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Both:
    """The kernel and a namespace, told the same; each method compares what they say."""

    def __init__(self, linux: Linux) -> None:
        self.linux = linux
        self.namespace = Namespace(randbytes=random.Random(1).randbytes)
        self.server = Server(self.namespace)
        self.port = self.server.open(1, capable=True)
        self.listener = self.server.open(2, capable=True)
        self.listener.groups = 0xFF
        self.sockets: dict[int, Socket] = {}
        self.ports: dict[int, int] = {}

    def open(self, key: int, family: int = 2) -> None:
        self.ports[key] = self.linux("open", key, family)
        self.sockets[key] = self.namespace.open_socket(family)

    def set(self, key: int, payload: bytes | None, family: int = 2) -> int:
        told = self.linux("set", key, family, None if payload is None else payload.hex())
        number = 0
        try:
            set_policy(self.sockets[key], family, payload, capable=True)
        except XfrmError as error:
            number = error.number
        assert number == told, (key, payload)
        return number

    def close(self, key: int) -> None:
        self.linux("close", key)
        self.sockets.pop(key).close()

    def send(self, source: int, target: int) -> list[int]:
        told = self.linux("send", source, target)
        assert self._send(source, target) == told
        assert self._counters() == self.linux("counters")
        return list(told)

    def _send(self, source: int, target: int) -> list[int]:
        udp = struct.pack("!4H", self.ports[source], self.ports[target], 13, 0) + b"hello"
        packet = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 33, 0, 0, 64, 17, 0, LO, LO) + udp)
        total = sum(struct.unpack("!10H", packet[:20]))
        struct.pack_into("!H", packet, 10, ~((total >> 16) + total) & 0xFFFF)
        out = Batch.pack([bytes(packet)], ifindex=1, socket=self.sockets[source].number)
        self.namespace.output(out)
        outcome = Outcome.of(int(out.packets[0]["outcome"]))
        if outcome.verdict != Verdict.CLEAR:
            return [ERRNO[outcome], 0]
        arrived = Batch.pack([bytes(packet)], socket=self.sockets[target].number)
        self.namespace.input(arrived)
        return [0, Outcome.of(int(arrived.packets[0]["outcome"])).verdict == Verdict.CLEAR]

    def _counters(self) -> dict[str, int]:
        return {Counter(i).name: value for i, value in enumerate(self.namespace.counters()) if value}

    def request(self, kind: int, body: bytes, flags: int = 5) -> list[bytes]:
        theirs = [bytes.fromhex(x) for x in self.linux("request", kind, flags, body.hex())]
        message = struct.pack("=IHHII", 16 + len(body), kind, flags, 7, 0) + body
        self.server.receive(self.port, message)
        ours = list(iter(self.port.next, None))
        assert _comparable(ours) == _comparable(theirs)
        return theirs

    def dump(self) -> list[bytes]:
        """All policies and their counts."""
        self.request(GETSPDINFO, bytes(4), 1)
        dumped = _comparable(self.request(GETPOLICY, b"", 0x301))
        return [message for message in dumped if len(message) > 180]

    def events(self) -> list[bytes]:
        """What ours told."""
        return list(iter(self.listener.next, None))


def _comparable(datagrams: list[bytes]) -> list[bytes]:
    """Messages without port ids, times and what follows an error's number."""
    found = []
    for datagram in datagrams:
        at = 0
        while at < len(datagram):
            length, kind = struct.unpack_from("=IH", datagram, at)
            message = bytearray(datagram[at : at + length])
            message[12:16] = bytes(4)
            if kind == 2:
                message = message[16:20]
            elif kind == 0x13:
                message[16 + 56 + 64 + 16 : 16 + 56 + 96] = bytes(16)
            found.append(bytes(message))
            at += length + 3 & ~3
    return found


@pytest.fixture
def both() -> Iterator[Both]:
    with Linux() as linux:
        yield Both(linux)


@pytest.mark.parametrize("payload", [*GOOD, *BAD])
def test_what_is_taken_and_what_is_refused(both: Both, payload: bytes) -> None:
    both.open(0)
    both.set(0, payload)
    both.dump()
    both.set(0, None)
    assert both.dump() == []


def test_the_other_familys_option(both: Both) -> None:
    both.open(0, 10)
    assert both.set(0, policy(1), family=2) == errno.EOPNOTSUPP
    assert both.set(0, b"short", family=2) == errno.EOPNOTSUPP
    assert both.set(0, policy(1), family=10) == 0
    assert len(both.dump()) == 1
    assert both.set(0, None, family=2) == 0
    assert both.dump() == []


def test_requests_neither_flush_nor_name_them(both: Both) -> None:
    both.open(0)
    both.set(0, policy(0))
    both.set(0, policy(1))
    both.request(0x13, policy(1, action=1))
    assert len(both.dump()) == 3
    for direction, index in ((0, 3), (1, 12), (3, 3)):
        both.request(GETPOLICY, struct.pack("=56xIB3x", index, direction))
        both.request(0x14, struct.pack("=56xIB3x", index, direction))
    both.request(FLUSHPOLICY, b"")
    assert len(both.dump()) == 2
    both.close(0)
    assert both.dump() == []


def test_what_accept_gives_has_them_too(both: Both) -> None:
    far = [policy(d, bits=32, daddr=b"\x0a\0\0\1") for d in (0, 1)]
    both.linux("accepted", 0, 1, [x.hex() for x in far])
    both.sockets[0] = both.namespace.open_socket(2)
    for each in far:
        set_policy(both.sockets[0], 2, each, capable=True)
    both.sockets[1] = both.sockets[0].clone()
    assert len(both.dump()) == 4
    both.close(0)
    assert len(both.dump()) == 2
    both.close(1)
    assert both.dump() == []


def test_without_rights_nothing_is_looked_at() -> None:
    opened = Namespace(randbytes=random.Random(1).randbytes).open_socket(2)
    for payload in (None, b"", policy(1)):
        with pytest.raises(XfrmError) as refused:
            set_policy(opened, 10, payload, capable=False)
        assert refused.value.number == errno.EPERM


def test_a_missing_state_is_asked_for(both: Both) -> None:
    for key in (0, 1):
        both.open(key)
    both.set(0, policy(1) + template())
    assert both.send(0, 1) == [errno.EAGAIN, 0]
    told = bytes.fromhex(both.linux("acquired"))
    (ours,) = [x for x in both.events() if struct.unpack_from("=H", x, 4)[0] == 0x17]
    # All but port id and times: who is asked for what, and the policy's priority, index, direction.
    assert [ours[at] for at in (slice(12), slice(16, 248), slice(264, 284))] == [
        told[at] for at in (slice(12), slice(16, 248), slice(264, 284))
    ]
    both.set(0, policy(1))
    assert both.send(0, 1) == [0, 1]


KEYS = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.just("set"), KEYS, st.sampled_from([*GOOD, *GOOD, *BAD, None])),
    st.tuples(st.just("send"), KEYS, KEYS),
    st.tuples(st.just("reopen"), KEYS),
    st.tuples(st.just("spd"), st.sampled_from([policy(d, action=a) for d in (0, 1) for a in (0, 1)])),
    st.tuples(st.just("flush")),
)


@pytest.fixture(scope="module")
def lasting() -> Iterator[Both]:
    with Linux() as linux:
        both = Both(linux)
        for key in range(3):
            both.open(key)
        yield both


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=25))
def test_whatever_is_done_in_turn_comes_out_the_same(lasting: Both, steps: list[Any]) -> None:
    """Numbers of policies go on from one example to the next, in both."""
    for step in steps:
        match step:
            case ("set", key, payload):
                lasting.set(key, payload)
            case ("send", source, target):
                lasting.send(source, target)
            case ("reopen", key):
                lasting.close(key)
                lasting.open(key)
            case ("spd", body):
                lasting.request(0x19, body)
            case _:
                lasting.request(FLUSHPOLICY, b"")
    lasting.dump()
