"""Control messages as Python's own socket module lays them out and the kernel does."""

from __future__ import annotations

import os
import socket
import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uxfrm.attach.many import CONTROL_MAX, Receiver, control

MESSAGES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.binary(max_size=20)), max_size=4)


def laid_out(messages: list[tuple[int, int, bytes]]) -> bytes:
    """As cmsg(3): length, level, type, value, padded."""
    made = b""
    for level, kind, value in messages:
        made += struct.pack("=Qii", 16 + len(value), level, kind) + value + bytes(-len(value) % 8)
    return made


@given(MESSAGES, st.integers(0, 3), st.integers(0, 3), st.integers(0, 9))
def test_the_first_of_its_kind_is_found(
    messages: list[tuple[int, int, bytes]], level: int, kind: int, before: int
) -> None:
    data = bytes(before) + laid_out(messages)
    at = control(np.frombuffer(data + bytes(16), np.uint8).copy(), before, len(data) - before, level, kind)
    wanted = [value for one, other, value in messages if (one, other) == (level, kind)]
    assert (at < 0) == (not wanted)
    if wanted:
        assert data[at : at + len(wanted[0])] == wanted[0]


@given(st.binary(max_size=80), st.integers(0, 3), st.integers(0, 3))
def test_any_bytes(data: bytes, level: int, kind: int) -> None:
    assert -1 <= control(np.frombuffer(data, np.uint8).copy(), 0, len(data), level, kind) <= len(data)


def test_a_receiver_has_places_again_and_again() -> None:
    """With control messages (credentials), into the slots that are free, until there is nothing."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    right.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    receiver = Receiver(8, head=5, size=100, tail=7)
    for turn in range(3):
        sent = [bytes([turn, n]) * (n + 1) for n in range(11)]
        for packet in sent:
            left.send(packet)
        found: list[bytes] = []
        assert receiver.receive(right.fileno(), first=6) == 8
        for at in (6, 7):
            start = int(receiver.start[at])
            found.append(receiver.data[start : start + int(receiver.lengths(8)[at])].tobytes())
        while count := receiver.receive(right.fileno()):
            sizes = receiver.control_bytes(count)
            for i, length in enumerate(receiver.lengths(count).tolist()):
                start = int(receiver.start[i])
                found.append(receiver.data[start : start + length].tobytes())
                at = control(receiver.controls, i * CONTROL_MAX, int(sizes[i]), socket.SOL_SOCKET, 2)
                assert struct.unpack_from("i", receiver.controls, at)[0] == os.getpid()
        assert found == sent
