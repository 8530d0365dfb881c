"""ESP in TCP without TCP: framing, bounds, and how packets come out of streams and go into them.

Beside Linux 6.12, with real connections: tests/linux/test_espintcp.py.
"""

from __future__ import annotations

import errno
from collections import Counter as Tally

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test_namespace import (
    ALLOW,
    GCM,
    A,
    B,
    datagram,
    moved,
    namespace,
    outcomes,
    policy,
    receive,
    sender,
    state,
    template,
)
from uxfrm.datapath.batch import Batch
from uxfrm.datapath.espintcp import PREFIX
from uxfrm.datapath.streams import MESSAGE_MAX, Ends, Framing, Stream
from uxfrm.lifecycle.events import Event, MappingChanged
from uxfrm.model.address import parse
from uxfrm.model.error import XfrmError
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.policy import Direction
from uxfrm.model.state import Encap
from uxfrm.namespace import Namespace

PORT, PEER_PORT = 4500, 31000
ENCAP = {"encap": Encap(7, PEER_PORT, PORT)}
ENDS = Ends(B, PORT, A, PEER_PORT)  # at the receiver
MARKER = bytes(4)


def framed(*messages: bytes) -> bytes:
    return b"".join((len(m) + PREFIX).to_bytes(PREFIX) + m for m in messages)


def connected(**changes: object) -> tuple[Namespace, Stream]:
    """Somebody whose state sends into a stream."""
    ns = sender(**(ENCAP | changes))
    return ns, ns.open_stream(Ends(A, PEER_PORT, B, PORT))


def sealed(count: int = 1, **changes: object) -> bytes:
    """What is in the stream when datagrams were sent."""
    ns, stream = connected(**changes)
    assert sent(ns, count) == [Outcome.STREAMED] * count
    return stream.take(1 << 20)


def sent(ns: Namespace, count: int = 1) -> list[Outcome]:
    batch = Batch.pack([datagram()] * count)
    ns.output(batch)
    return outcomes(batch)


def listener(**changes: object) -> tuple[Namespace, Stream]:
    ns = namespace(state(**(ENCAP | changes)), ALLOW)
    return ns, ns.open_stream(ENDS)


def taken_in(ns: Namespace, stream: Stream, data: bytes) -> list[Outcome]:
    batch = stream.receive(data)
    ns.input(batch)
    return outcomes(batch)


# -- framing

MESSAGES = st.lists(st.binary(max_size=70), max_size=8)


@given(MESSAGES, st.lists(st.integers(0, 40), max_size=60))
def test_any_pieces_of_a_stream_give_the_same_messages(messages: list[bytes], sizes: list[int]) -> None:
    data, framing, found, at = framed(*messages), Framing(), list[bytes](), 0
    for size in (*sizes, len(data)):
        found += framing.feed(data[at : at + size])
        at += size
    assert found == messages
    assert not framing.broken


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_hostile_bytes_get_outcomes_and_nothing_else(pieces: list[bytes]) -> None:
    ns, stream = listener()
    for piece in pieces:
        for outcome in taken_in(ns, stream, piece):
            assert outcome.verdict in (Verdict.DROPPED, Verdict.IGNORED)
    assert stream.error in (0, errno.EINVAL)


def test_a_length_that_counts_not_even_itself_ends_the_stream() -> None:
    ns, stream = listener()
    good = framed(b"\xff")
    assert taken_in(ns, stream, good + b"\x00\x01" + good) == [Outcome.IN_KEEPALIVE]
    assert stream.error == errno.EINVAL
    assert taken_in(ns, stream, good) == []
    stream.send(b"still sending")
    assert stream.take() == framed(b"still sending")


CHANGES = st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=4)


@given(CHANGES, st.lists(st.integers(1, 90), min_size=1, max_size=12))
def test_a_damaged_stream_fares_the_same_in_any_pieces(
    changes: list[tuple[int, int]], sizes: list[int]
) -> None:
    damaged = bytearray(sealed(4))
    for where, bits in changes:
        damaged[where % len(damaged)] ^= bits
    data, ends = bytes(damaged), []
    for cut in (sizes, [len(data)]):
        ns, stream = listener(replay_window=0)
        found, at = list[Outcome](), 0
        for n in range(len(data)):
            found += taken_in(ns, stream, data[at : at + cut[n % len(cut)]])
            at += cut[n % len(cut)]
        told = Tally(outcome.counter.name for outcome in found if outcome.counter is not None)
        assert moved(ns) == dict(told)
        ends.append((found, stream.error, ns.counters()))
    assert ends[0] == ends[1]


@given(st.binary(max_size=4).filter(lambda m: m != b"\xff"))
def test_what_is_too_short_for_anything_is_a_header_error(message: bytes) -> None:
    ns, stream = listener()
    assert taken_in(ns, stream, framed(message)) == [Outcome.IN_HEADER_SHORT]
    assert moved(ns) == {"XfrmInHdrError": 1}


# -- packets in


@pytest.mark.parametrize("size", [1, 7, 100000])
def test_packets_of_a_stream_are_delivered(size: int) -> None:
    data = sealed(3)
    ns, stream = listener()
    found = []
    for at in range(0, len(data), size):
        found += taken_in(ns, stream, data[at : at + size])
    assert found == [Outcome.DELIVERED] * 3
    assert moved(ns) == {}


def test_the_datagram_comes_out_as_it_went_in() -> None:
    ns, stream = listener()
    batch = stream.receive(sealed())
    ns.input(batch)
    assert batch.packet(0) == datagram()


def test_states_want_their_own_kind_of_encapsulation() -> None:
    data = sealed()
    plain = namespace(state(), ALLOW)
    assert taken_in(plain, plain.open_stream(ENDS), data) == [Outcome.IN_ENCAP_MISMATCH]
    assert moved(plain) == {"XfrmInStateMismatch": 1}
    udp = namespace(state(encap=Encap(2, PEER_PORT, PORT)), ALLOW)
    assert taken_in(udp, udp.open_stream(ENDS), data) == [Outcome.IN_ENCAP_MISMATCH]
    ns, _ = listener()
    ordinary = sender()
    batch = Batch.pack([datagram()])
    ordinary.output(batch)
    assert receive(ns, batch.packet(0)) == [Outcome.IN_ENCAP_MISMATCH]


def test_a_peer_at_another_port_is_told_and_delivered() -> None:
    ns = namespace(state(**ENCAP), ALLOW)
    told: list[Event] = []
    ns.listen(told.append, lambda kind: kind is MappingChanged)
    stream = ns.open_stream(ENDS._replace(remote_port=7))
    assert taken_in(ns, stream, sealed()) == [Outcome.DELIVERED]
    (event,) = told
    assert isinstance(event, MappingChanged)
    assert event.old == (A, PEER_PORT)
    assert event.new == (A, 7)


def test_the_longest_message_is_opened() -> None:
    """It is longer than an IPv4 packet can say, headers and all."""
    peer = namespace(state(**ENCAP), policy(Direction.OUT, template()))
    inner = datagram(MESSAGE_MAX - 28 - 8 - 8 - 2 - 16 - 1)
    stream = peer.open_stream(Ends(A, PEER_PORT, B, PORT))
    batch = Batch.pack([inner])
    peer.output(batch)
    assert outcomes(batch) == [Outcome.STREAMED]
    data = stream.take(1 << 20)
    assert len(data) > 0xFFFF - 20
    ns, receiving = listener()
    got = receiving.receive(data)
    ns.input(got)
    assert outcomes(got) == [Outcome.DELIVERED]
    assert got.packet(0) == inner


# -- packets out


def test_without_its_stream_a_state_sends_nothing() -> None:
    ns = sender(**ENCAP)
    ns.open_stream(Ends(A, PEER_PORT, B, PORT + 1))
    assert sent(ns) == [Outcome.OUT_STREAM_NONE]
    assert moved(ns) == {"XfrmOutStateProtoError": 1}
    stream = ns.open_stream(Ends(A, PEER_PORT, B, PORT))
    assert sent(ns) == [Outcome.STREAMED]
    assert stream.take()[2 + 4 : 2 + 8] == (2).to_bytes(4)  # the first packet has used a number
    ns.close_stream(stream)
    assert sent(ns) == [Outcome.OUT_STREAM_NONE]


def test_a_message_too_long_for_its_length_field_is_refused() -> None:
    ns = namespace(state(**ENCAP), policy(Direction.OUT, template()))
    ns.open_stream(Ends(A, PEER_PORT, B, PORT))
    batch = Batch.pack([datagram(MESSAGE_MAX - 28 - 8 - 8 - 2 - 16 + 4)])
    ns.output(batch)
    assert outcomes(batch) == [Outcome.OUT_STREAM_LENGTH]
    assert moved(ns) == {"XfrmOutStateProtoError": 1}


def test_a_full_stream_drops_without_a_counter_and_goes_on_when_taken_from() -> None:
    ns = sender(**ENCAP)
    stream = ns.open_stream(Ends(A, PEER_PORT, B, PORT), send_bytes=150)
    assert sent(ns, 4) == [Outcome.STREAMED] * 2 + [Outcome.OUT_STREAM_FULL] * 2
    assert moved(ns) == {}
    with pytest.raises(XfrmError) as full:
        stream.send(MARKER + b"ike")
    assert full.value.number == errno.ENOBUFS
    data = stream.take(150)
    assert sent(ns) == [Outcome.STREAMED]
    assert len(Framing().feed(data + stream.take())) == 3
    assert stream.unsent == 0


@given(st.lists(st.one_of(st.none(), st.binary(max_size=50)), max_size=6), st.integers(1, 97))
def test_ike_and_esp_never_interrupt_each_other(what: list[bytes | None], size: int) -> None:
    ns, stream = connected()
    taken, lengths = b"", list[int]()
    for message in what:
        if message is None:
            assert sent(ns) == [Outcome.STREAMED]
        else:
            stream.send(MARKER + message)
        taken += stream.take(size)
    while stream.unsent:
        piece = stream.take(size)
        lengths.append(len(piece))
        taken += piece
    assert all(length == size for length in lengths[:-1])
    found = Framing().feed(taken)
    assert [m for m in found if m[:4] == MARKER] == [MARKER + m for m in what if m is not None]
    assert len(found) == len(what)


def test_behind_a_stream_no_transform_is_done() -> None:
    """As in Linux: the packet is gone before an outer state sees it."""
    far = parse("192.0.2.9")
    inner, outer = state(**ENCAP), state(spi=0x2000, reqid=2, daddr=far, aead=GCM)
    templates = template(), template(reqid=2, daddr=far)
    ns = namespace(inner, outer, policy(Direction.OUT, *templates))
    stream = ns.open_stream(Ends(A, PEER_PORT, B, PORT))
    assert sent(ns) == [Outcome.STREAMED]
    assert [dump.current.packets for dump in ns.dump_states()] == [0, 1]
    assert stream.take()[2:6] == (0x1000).to_bytes(4)


# -- IKE


def test_ike_messages_wait_with_their_marker() -> None:
    ns, stream = listener()
    assert taken_in(ns, stream, framed(MARKER + b"one", b"\xff", MARKER + b"two")) == [Outcome.IN_KEEPALIVE]
    assert [stream.read() for _ in range(3)] == [MARKER + b"one", MARKER + b"two", None]


def test_ike_that_nobody_reads_is_dropped_and_counted() -> None:
    ns = namespace(state(**ENCAP), ALLOW)
    stream = ns.open_stream(ENDS, receive_bytes=1000)
    data = framed(*[MARKER + bytes([i]) * 400 for i in range(3)])
    assert taken_in(ns, stream, data) == [Outcome.IN_STREAM_FULL]
    assert moved(ns) == {"XfrmInError": 1}
    assert stream.read() == MARKER + bytes(400)
    assert taken_in(ns, stream, framed(MARKER + b"there is room again")) == []


def test_messages_have_a_longest_length() -> None:
    _, stream = listener()
    stream.send(bytes(MESSAGE_MAX))
    assert len(stream.take(1 << 20)) == 0xFFFF
    with pytest.raises(XfrmError) as refused:
        stream.send(bytes(MESSAGE_MAX + 1))
    assert refused.value.number == errno.EMSGSIZE


def test_ends_belong_to_one_stream() -> None:
    ns, stream = listener()
    with pytest.raises(XfrmError) as taken:
        ns.open_stream(ENDS)
    assert taken.value.number == errno.EEXIST
    with pytest.raises(XfrmError) as wrong:
        ns.open_stream(ENDS._replace(remote=parse("2001:db8::1")))
    assert wrong.value.number == errno.EINVAL
    ns.close_stream(stream)
    with pytest.raises(XfrmError) as gone:
        ns.close_stream(stream)
    assert gone.value.number == errno.ENOENT
