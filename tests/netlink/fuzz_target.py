"""What must hold whatever a client sends: replies come out, and nothing else.

One input, one namespace, which holds states, policies and larval states already.
"""

from __future__ import annotations

import random
import struct

from netlink.compare import attribute as attr
from netlink.compare import request
from netlink.fuzz_input import BODIES, parse
from netlink.test_kernel_answers import AEAD, DUMP, algorithm, policy, selector, spi_range, state, template
from uxfrm.namespace import Namespace
from uxfrm.netlink.server import Port, Server

ROOM = 32768
_REPLY_MAX = 8192
"""A reply is no longer: a request's echo, or a state with all that it can have."""

CRYPT = attr(2, algorithm("cbc(aes)", bytes(16))) + attr(20, algorithm("hmac(sha256)", bytes(32), 128))
ESN = attr(23, struct.pack("=7I", 1, 0, 0, 0, 0, 32, 0))
BEGINNING = [
    request(0x10, state(spi=b"\0\0\x20\1") + AEAD),
    request(0x10, state(spi=b"\0\0\x20\2", mode=1, flags=128) + CRYPT + ESN),
    request(0x16, spi_range(0x3001, 0x3001)),
    request(0x16, spi_range(0x3002, 0x3002, mode=1, seq=7)),
    request(0x13, policy() + attr(5, template())),
    request(0x13, policy(selector(dport=80, proto=6), direction=0) + attr(16, b"\1" + bytes(5))),
]

_DATA = struct.Struct("=IHHII")
_ERROR, _DONE, _OVERRUN = 2, 3, 4


def run(data: bytes) -> None:
    """Carry an input out. AssertionError, or whatever the server raised."""
    server = Server(Namespace(randbytes=random.Random(1).randbytes, now_s=1000))
    ports = _ports(server)
    for datagram in BEGINNING:
        server.receive(ports[0], datagram)
    for step in parse(data):
        server.namespace.advance(server.namespace.now_s + step.seconds)
        port = ports[step.port % len(ports)]
        if not port.full:
            server.receive(port, step.datagram)
        assert max(x.queued for x in ports) <= ROOM + _REPLY_MAX, "a port that does not read grows"
        if step.port < 128:
            _drain(ports)
    _drain(ports)
    server.namespace.advance(server.namespace.now_s + 100_000)
    _answers(server)


def _ports(server: Server) -> list[Port]:
    """Three with the right and different options, one of which listens, and one without the right."""
    ports = [server.open(100 + n, capable=n < 3, room=ROOM) for n in range(4)]
    ports[0].extended = True
    ports[1].capped = ports[1].extended = True
    ports[2].groups = ports[3].groups = 0xFF
    return ports


def _drain(ports: list[Port]) -> None:
    for port in ports:
        while (datagram := port.next()) is not None:
            check(datagram)


def check(datagram: bytes) -> None:
    """Lengths hold, message by message, attribute by attribute."""
    at = 0
    while at < len(datagram):
        size, kind, *_ = _DATA.unpack_from(datagram, at)
        assert 16 <= size <= len(datagram) - at, "a message's length lies"
        assert kind in (_ERROR, _DONE, _OVERRUN) or 0x10 <= kind <= 0x28, "an unknown message"
        if kind >= 0x10:
            _check_attributes(datagram[at + 16 + _body(kind) : at + size])
        at += (size + 3) & ~3


def _body(kind: int) -> int:
    return {0x11: 24, 0x14: 64, 0x1C: 8}.get(kind, BODIES[kind])


def _check_attributes(data: bytes) -> None:
    while data:
        assert len(data) >= 4, "bytes are left over behind the attributes"
        size = struct.unpack_from("=H", data)[0]
        assert 4 <= size <= len(data), "an attribute's length lies"
        data = data[(size + 3) & ~3 :]


def _answers(server: Server) -> None:
    """A client that comes now gets its dump, whole."""
    port = server.open(999, capable=True)
    server.receive(port, request(0x12, b"", DUMP))
    kinds = []
    while (datagram := port.next()) is not None:
        check(datagram)
        at = 0
        while at < len(datagram):
            size, kind, *_ = _DATA.unpack_from(datagram, at)
            kinds.append(kind)
            at += (size + 3) & ~3
    assert kinds == [0x10] * len(server.namespace.states) + [_DONE]
