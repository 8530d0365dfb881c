"""A netlink server under all that clients may send, and clients that do not read."""

from __future__ import annotations

import errno
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netlink.compare import attribute as attr
from netlink.compare import request
from netlink.test_kernel_answers import AEAD, DUMP, policy, selector, spi_range, state, usersa_id
from uxfrm.model.error import XfrmError
from uxfrm.namespace import Namespace
from uxfrm.netlink.server import DATAGRAM_MAX, ROOM, Port, Server
from uxfrm.netlink.wire import messages


def server() -> tuple[Server, Port]:
    made = Server(Namespace(randbytes=random.Random(1).randbytes))
    return made, made.open(100, capable=True)


def taken(port: Port) -> list[bytes]:
    found = []
    while (datagram := port.next()) is not None:
        found.append(datagram)
    return found


def errnos(port: Port) -> list[int]:
    """The errnos of all acknowledgements that wait."""
    all_messages = [m for datagram in taken(port) for m in messages(datagram)]
    return [-struct.unpack_from("=i", m.payload)[0] for m in all_messages if m.type == 2]


SEEDS = [request(kind, bytes(300)) for kind in range(0x10, 0x2A)] + [
    request(0x10, state() + AEAD), request(0x1A, state() + AEAD), request(0x13, policy()),
    request(0x16, spi_range(1, 9)), request(0x12, b"", DUMP), request(0x15, b"", DUMP),
]  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    datagram = bytearray(draw(st.sampled_from(SEEDS)) + draw(st.sampled_from((b"", AEAD, b"\1"))))
    for _ in range(draw(st.integers(0, 6))):
        datagram[draw(st.integers(0, len(datagram) - 1))] = draw(st.integers(0, 255))
    return bytes(datagram[: draw(st.integers(0, len(datagram)))] + draw(st.binary(max_size=30)))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(spoiled(), st.binary(max_size=400)), max_size=8))
def test_whatever_comes_is_answered_or_passed_over(datagrams: list[bytes]) -> None:
    made, port = server()
    port.extended = True
    port.groups = 0xFF
    for datagram in datagrams:
        made.receive(port, datagram)
        for answer in taken(port):
            assert list(messages(answer))


def test_without_the_right_nothing_is_told_or_changed() -> None:
    made, _ = server()
    other = made.open(101, capable=False)
    for datagram in (request(0x10, state() + AEAD), request(0x12, b"", DUMP), request(0x1D, b"")):
        made.receive(other, datagram)
        assert errnos(other) == [errno.EPERM]
    assert len(made.namespace.states) == 0


def test_a_state_is_added_told_shown_and_taken_away() -> None:
    made, port = server()
    watcher = made.open(101, capable=True)
    watcher.groups = 1 << 2
    made.receive(port, request(0x10, state() + AEAD, pid=9))
    assert errnos(port) == [0]
    made.receive(port, request(0x12, usersa_id()))
    reply, _ = (m for d in taken(port) for m in messages(d))
    (event,) = (m for d in taken(watcher) for m in messages(d))
    assert (event.type, event.seq, event.pid, event.payload) == (0x10, 7, 9, reply.payload)
    assert AEAD[4:] in reply.payload
    made.receive(port, request(0x11, usersa_id()))
    made.receive(port, request(0x11, usersa_id()))
    assert errnos(port) == [0, errno.ESRCH]


def test_who_joins_late_or_leaves_is_told_exactly_what_happens_meanwhile() -> None:
    made, port = server()
    watcher = made.open(101, capable=True)
    told = []
    for n, groups in enumerate((0, 1 << 2, 0, 1 << 3, 1 << 2)):
        watcher.groups = groups
        made.receive(port, request(0x10, state(spi=struct.pack(">I", 256 + n)) + AEAD, flags=1))
        made.receive(port, request(0x13, policy(selector(dport=n + 1, proto=6)), flags=1))
        told.append([m.type for d in taken(watcher) for m in messages(d)])
    assert told == [[], [0x10], [], [0x13], [0x10]]
    assert made.take_ready() == [watcher]
    assert made.take_ready() == []


def test_datagrams_of_a_dump_fit_the_smallest_reader_and_states_may_go_meanwhile() -> None:
    made, port = server()
    for n in range(200):
        made.receive(port, request(0x10, state(spi=struct.pack(">I", 256 + n)) + AEAD, flags=1))
    made.receive(port, request(0x12, b"", DUMP))
    made.receive(port, request(0x12, b"", DUMP))
    assert port.dumping
    first = port.next()
    assert first is not None
    assert errnos_of(port.next()) == [errno.EBUSY]
    made.receive(port, request(0x1C, b"\0", flags=1))
    rest = taken(port)
    assert max(map(len, [first, *rest])) <= DATAGRAM_MAX
    assert [m.type for m in messages(rest[-1])][-1] == 3
    assert not port.dumping


def errnos_of(datagram: bytes | None) -> list[int]:
    assert datagram is not None
    return [-struct.unpack_from("=i", m.payload)[0] for m in messages(datagram) if m.type == 2]


def test_a_reader_that_sleeps_costs_no_more_than_its_room_and_is_told_what_it_lost() -> None:
    made, port = server()
    sleeper = made.open(101, capable=True)
    sleeper.groups = 1 << 3
    for n in range(2000):
        sel = selector(dport=n + 1, proto=6)
        made.receive(port, request(0x13, policy(sel) + attr(31, struct.pack("=I", n)), flags=1))
    assert sleeper.queued <= ROOM
    before = len(taken(sleeper))
    assert 0 < before < 2000
    made.receive(port, request(0x1D, b"", flags=1))
    assert [m.type for d in taken(sleeper) for m in messages(d)] == [4, 0x1D]


def test_a_port_that_does_not_read_its_replies_is_full() -> None:
    made, port = server()
    while not port.full:
        made.receive(port, request(0x25, bytes(4)))
    assert port.queued < 2 * ROOM


def test_replies_to_one_long_datagram_are_lost_beyond_the_room() -> None:
    made, port = server()
    port.groups = 1 << 3
    made.receive(port, request(0x25, bytes(4)) * 50_000)
    assert port.queued < ROOM + DATAGRAM_MAX
    assert {m.type for d in taken(port) for m in messages(d)} == {2, 0x24}
    made.receive(port, request(0x13, policy(), flags=1))
    assert [m.type for d in taken(port) for m in messages(d)] == [4, 0x13]


def test_port_ids_are_unique() -> None:
    made, port = server()
    other = made.open(101, capable=True)
    with pytest.raises(XfrmError, match="EADDRINUSE"):
        made.open(100, capable=True)
    with pytest.raises(XfrmError, match="EADDRINUSE"):
        made.rename(other, 100)
    made.close(port)
    made.rename(other, 100)
    assert made.ports == {100: other}
