"""ESP in TCP in captures: segments in any order, cut anywhere, twice, missing.

A capture of a real connection: tests/linux/test_espintcp.py.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from replay.test_host import MAC, PLAIN, host, play, to_us
from uxfrm.datapath.batch import Batch
from uxfrm.datapath.streams import Ends
from uxfrm.explain.report import Report
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction
from uxfrm.model.state import Encap
from uxfrm.replay.host import Host
from uxfrm.replay.tcpstreams import Reassembly, Segment, read_segment

PORT, PEER_PORT = 4500, 31000
ENCAP = {"encap": Encap(7, PEER_PORT, PORT)}
TARGET = b"\xc0\x00\x02\x02"
FIRST = 0xFFFFFFF0  # sequence numbers wrap soon
ENDS = Ends(TARGET, PORT, b"\xc0\x00\x02\x01", PEER_PORT)
KNOWN = {(TARGET, 1)}
SEGMENT, UNSUPPORTED = Outcome.STREAM_SEGMENT, Outcome.UNSUPPORTED_STREAM


def framed(*messages: bytes) -> bytes:
    return b"".join((len(message) + 2).to_bytes(2) + message for message in messages)


def segment(data: bytes, at: int, size: int) -> Segment:
    return Segment(ENDS, (FIRST + 1 + at) & 0xFFFFFFFF, False, data[at : at + size], 0)


SYN = Segment(ENDS, FIRST, True, b"", 0)


@given(st.lists(st.binary(max_size=60), max_size=8), st.lists(st.integers(1, 50), max_size=40), st.randoms())
def test_segments_in_any_order_and_twice_give_the_messages(
    messages: list[bytes], sizes: list[int], rng: random.Random
) -> None:
    data, segments, at = b"IKETCP" + framed(*messages), list[Segment](), 6
    for size in (*sizes, len(framed(*messages)) + 1):
        segments.append(segment(data, at, size))
        if rng.random() < 0.3:
            segments.append(segment(data, max(at - rng.randrange(5), 6), size + rng.randrange(5)))
        at += size
    rng.shuffle(segments)
    stream, found = Reassembly(KNOWN), list[bytes]()
    for one in (SYN, segment(data, 0, 6), *segments):
        found += stream.take(one)[0]
    assert found == messages


def test_reading_begins_in_the_middle_with_what_looks_like_a_message() -> None:
    esp, ike = bytes([0, 0, 0, 1]) + b"\x99" * 30, bytes(4) + b"ike"
    stream, data = Reassembly(KNOWN), framed(esp, ike)
    assert stream.take(segment(data, 5, 10)) == ([], UNSUPPORTED)
    other = framed(bytes([0, 0, 0, 2]) + bytes(30))
    assert stream.take(segment(other, 0, 36)) == ([], UNSUPPORTED)
    assert stream.take(segment(data, 0, 20)) == ([], SEGMENT)
    assert stream.take(segment(data, 20, 100)) == ([esp, ike], SEGMENT)


def test_what_was_not_captured_is_stepped_over_when_enough_waits_behind_it() -> None:
    esp = bytes([0, 0, 0, 1]) + bytes(1000)
    data = framed(*[esp] * 300)
    stream, found = Reassembly(KNOWN), list[bytes]()
    size = len(framed(esp))
    stream.take(SYN)
    for number in range(300):
        if number not in (3, 4):
            found += stream.take(segment(data, number * size, size))[0]
    assert found == [esp] * 298


def test_broken_framing_is_said_and_reading_ends() -> None:
    stream = Reassembly(KNOWN)
    stream.take(SYN)
    data = framed(b"\xff") + b"\x00\x01" + framed(b"\xff")
    assert stream.take(segment(data, 0, 5)) == ([b"\xff"], Outcome.STREAM_BROKEN)
    assert stream.take(segment(data, 5, 9)) == ([], Outcome.STREAM_BROKEN)


@given(st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=40), st.booleans())))
def test_hostile_segments_are_read_without_harm(what: list[tuple[int, bytes, bool]]) -> None:
    stream = Reassembly(KNOWN)
    for at, payload, syn in what:
        messages, outcome = stream.take(Segment(ENDS, (FIRST + at) & 0xFFFFFFFF, syn, payload, 0))
        assert sum(map(len, messages)) <= sum(len(payload) for _, payload, _ in what)
        assert outcome in (SEGMENT, UNSUPPORTED, Outcome.STREAM_BROKEN)


@given(st.binary(min_size=40, max_size=120))
def test_any_bytes_are_a_segment_or_none(packet: bytes) -> None:
    found = read_segment(packet)
    assert found is None or len(found.payload) <= len(packet) - 40


@pytest.mark.parametrize("family", [4, 6])
def test_segments_are_read_as_scapy_built_them(family: int) -> None:
    tcp = TCP(sport=7, dport=8, seq=99, flags="PA", options=[("Timestamp", (1, 2))]) / Raw(b"data")
    header = (
        IP(src="1.2.3.4", dst="5.6.7.8", tos=0xB9) if family == 4 else IPv6(src="::1", dst="::2", tc=0xB9)
    )
    found = read_segment(bytes(header / tcp) + bytes(6))
    assert found is not None
    assert (found.seq, found.syn, found.payload, found.tos) == (99, False, b"data", 0xB9)
    assert (found.ends.local_port, found.ends.remote_port) == (8, 7)
    assert len(found.ends.local) == (4 if family == 4 else 16)


def streamed(count: int) -> bytes:
    """What a peer's stream holds when it has sent PLAIN a few times."""
    peer = host(Direction.OUT, **ENCAP)
    stream = peer.open_stream(Ends(b"\xc0\x00\x02\x01", PEER_PORT, TARGET, PORT))
    peer.output(Batch.pack([PLAIN] * count, 100))
    return stream.take()


def tcp(data: bytes, seq: int, dport: int = PORT) -> bytes:
    header = IP(src="192.0.2.1", dst="192.0.2.2") / TCP(sport=PEER_PORT, dport=dport, seq=seq, flags="PA")
    return to_us(bytes(header / Raw(data)))


def played(*frames: bytes) -> list[Report]:
    player = Host(host(Direction.IN, **ENCAP), MAC)
    return play(player, *[(101 + n / 10, frame) for n, frame in enumerate(frames)])


def test_packets_are_told_with_the_frame_that_completes_them() -> None:
    data = streamed(3)
    found = played(tcp(data[:20], 1), tcp(data[20:], 21), to_us(PLAIN), tcp(b"web", 1, 80))
    assert [(report.frame, report.code) for report in found[:4]] == [
        (1, Outcome.STREAM_SEGMENT),
        (2, Outcome.DELIVERED),
        (2, Outcome.DELIVERED),
        (2, Outcome.DELIVERED),
    ]
    assert [report.inner for report in found[1:4]] == [PLAIN] * 3
    assert [report.seq for report in found[1:4]] == [1, 2, 3]
    assert found[1].proto == "esp"
    assert found[0].proto == "tcp"
    assert [report.frame for report in found[4:]] == [3, 4]


def test_a_capture_without_such_states_is_read_as_ever() -> None:
    player = Host(host(Direction.IN), MAC)
    (report,) = play(player, (101, tcp(streamed(1), 1)))
    assert report.code == Outcome.CLEAR
