"""ESP in TCP (RFC 9329) to and from Linux 6.12, over real TCP connections inside the guest.

A network namespace of the guest's is the peer: its socket is an ordinary one, and its bytes are uxfrm's
stream. So TCP is Linux's at both ends, and what is compared is all above it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import pytest

from linux.guest import GuestTransport, LinuxGuest, Sending
from linux.suites import CHACHA, CLEAR, GCM
from linux.twin import (
    BEETS,
    HOST_PORT,
    TRANSPORT4,
    TRANSPORT6,
    TUNNELS,
    Case,
    Shape,
    counters,
    figures,
    outcomes,
    packets,
    prepare,
    read_datagram,
)
from uxfrm.attach.pcap import open_capture
from uxfrm.datapath.batch import Batch
from uxfrm.datapath.streams import Ends, Framing, Stream
from uxfrm.explain.report import IN, OUT
from uxfrm.lifecycle.events import Event, MappingChanged
from uxfrm.model.address import AF_INET6, ANY4, ANY6, parse
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.state import DECAP_DSCP, ENCAP_ESPINTCP, Encap
from uxfrm.namespace import Namespace
from uxfrm.netlink.constants import Group
from uxfrm.netlink.events import notification
from uxfrm.replay.host import Host

pytestmark = pytest.mark.linux

NET = 3
PORT, PEER_PORT = 4500, 31000
MARKER = bytes(4)
PAYLOADS = tuple(bytes(i * 7 + size & 0xFF for i in range(size)) for size in (0, 15, 16, 100, 1000))
SHAPES = [replace(shape, net=NET) for shape in (TRANSPORT4, TRANSPORT6, *TUNNELS, BEETS[0], BEETS[3])]
SETUP = """\
ip netns add peer
ip link add veth0 type veth peer name veth1 netns peer
ip link set veth0 up
ip addr add 10.3.0.2/24 dev veth0
ip addr add fd03::2/64 dev veth0 nodad
ip -n peer link set veth1 up
ip -n peer addr add 10.3.0.1/24 dev veth1
ip -n peer addr add fd03::1/64 dev veth1 nodad"""


@pytest.fixture(scope="module")
def linux(guest612: LinuxGuest) -> Iterator[LinuxGuest]:
    """Linux 6.12 with a peer in a namespace of its own."""
    for line in SETUP.splitlines():
        code, _, said = guest612.run(line.split())
        assert code == 0, said
    yield guest612
    guest612.call("tcp_close", "s")
    guest612.run(["ip", "link", "delete", "veth0"])
    guest612.run(["ip", "netns", "delete", "peer"])


def in_tcp(case: Case) -> Case:
    oa = ANY4 if case.shape.outer == 4 else ANY6
    ports = (PEER_PORT, PORT) if case.shape.to_guest else (PORT, PEER_PORT)
    return replace(case, encap=Encap(ENCAP_ESPINTCP, *ports, oa))


CASES = [
    in_tcp(Case(suite, shape, esn=esn)) for shape in SHAPES for suite, esn in ((GCM[2], False), (CLEAR, True))
]
CASES.append(in_tcp(Case(CHACHA, SHAPES[2])))


def ends(case: Case) -> tuple[str, str]:
    """The addresses of the peer and of the guest."""
    source, target = case.shape.outer_ends
    return (source, target) if case.shape.to_guest else (target, source)


def connect(linux: LinuxGuest, case: Case, port: int = PEER_PORT) -> None:
    """Connect the peer's port to the guest's, which takes ESP out of TCP from then on."""
    peer, here = ends(case)
    linux.call("tcp_connect", "s", (here, PORT), (peer, port), "peer")


def ours(namespace: Namespace, case: Case) -> Stream:
    """The peer's end of the connection, in a namespace that plays the peer."""
    peer, here = map(parse, ends(case))
    return namespace.open_stream(Ends(peer, PEER_PORT, here, PORT))


def theirs(namespace: Namespace, case: Case, port: int = PEER_PORT) -> Stream:
    """The guest's end of it, in a namespace that plays the guest."""
    peer, here = map(parse, ends(case))
    return namespace.open_stream(Ends(here, PORT, peer, port))


def send(linux: LinuxGuest, data: bytes, size: int = 1 << 20) -> None:
    """Have the peer send this, in pieces."""
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert not any(linux.call("many", [("tcp_send", "s-peer", piece.hex()) for piece in pieces]))


def settle(linux: LinuxGuest) -> None:
    """Wait until the guest has read all of its stream: an IKE message of ours comes out."""
    send(linux, (2 + 10).to_bytes(2) + MARKER + b"settle")
    assert bytes.fromhex(linux.call("tcp_take", "s", 100, 10.0)) == MARKER + b"settle"


def sealed(case: Case) -> tuple[Namespace, bytes]:
    """What uxfrm puts into its stream for the payloads."""
    namespace = case.namespace()
    stream = ours(namespace, case)
    batch = Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    namespace.output(batch)
    assert outcomes(batch) == [Outcome.STREAMED] * len(PAYLOADS)
    return namespace, stream.take(1 << 20)


def sent_by(linux: LinuxGuest, case: Case, payloads: tuple[bytes, ...] = PAYLOADS) -> bytes:
    """What the peer receives when an application of the guest's sends these."""
    to = case.shape.inner_ends[1], HOST_PORT
    assert linux.udp_send("u", to, map(Sending, payloads)) == [0] * len(payloads)
    linux.call("tcp_send", "s", (MARKER + b"last").hex())
    got, framing, found = b"", Framing(), list[bytes]()
    while not found or found[-1] != MARKER + b"last":
        piece = bytes.fromhex(linux.call("tcp_take", "s-peer", 1 << 16, 0.1))
        assert piece
        got, found = got + piece, found + framing.feed(piece)
    return got[: -2 - 4 - len(b"last")]


@pytest.mark.parametrize("size", [1 << 20, 1, 37])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_linux_opens_what_uxfrm_sends(linux: LinuxGuest, case: Case, size: int) -> None:
    if size == 1 and case is not CASES[0]:
        size = 5
    before = prepare(linux, case)
    connect(linux, case)
    namespace, data = sealed(case)
    send(linux, data, size)
    settle(linux)
    got = linux.udp_take("u", len(PAYLOADS), timeout=0)
    assert linux.xfrm_moved(before) == {}
    assert [datagram.payload for datagram in got] == list(PAYLOADS)
    assert linux.xfrm_usage() == [(state.bytes, state.packets) for state in figures(namespace)]


@pytest.mark.parametrize("case", [case.reversed() for case in CASES], ids=lambda case: case.name)
def test_uxfrm_opens_what_linux_sends(linux: LinuxGuest, case: Case) -> None:
    case = in_tcp(case)
    before = prepare(linux, case)
    connect(linux, case)
    data = sent_by(linux, case)
    assert linux.xfrm_moved(before) == {}
    namespace = case.namespace()
    batch = ours(namespace, case).receive(data, 1000)
    namespace.input(batch)
    assert outcomes(batch) == [Outcome.DELIVERED] * len(PAYLOADS)
    assert [read_datagram(packet) for packet in packets(batch)] == list(map(case.shape.received, PAYLOADS))
    assert counters(namespace) == {}
    assert [(state.bytes, state.packets) for state in figures(namespace)] == linux.xfrm_usage()


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[5]], ids=lambda shape: shape.name)
def test_ike_goes_both_ways_between_packets(linux: LinuxGuest, shape: Shape) -> None:
    case = in_tcp(Case(GCM[2], shape))
    before = prepare(linux, case)
    connect(linux, case)
    namespace = case.namespace()
    stream = ours(namespace, case)
    for number in range(3):
        stream.send(MARKER + b"to Linux %d" % number)
        stream.send(b"\xff")
        namespace.output(Batch.pack([shape.datagram(b"%d" % number)]))
    send(linux, stream.take(), 11)
    for number in range(3):
        assert bytes.fromhex(linux.call("tcp_take", "s", 100, 5.0)) == MARKER + b"to Linux %d" % number
    settle(linux)
    assert [datagram.payload for datagram in linux.udp_take("u", 9, timeout=0)] == [b"0", b"1", b"2"]
    assert linux.xfrm_moved(before) == {}

    for number in range(3):
        assert linux.call("tcp_send", "s", (MARKER + b"from Linux %d" % number).hex()) == 0
    got = bytes.fromhex(linux.call("tcp_take", "s-peer", 3 * (2 + 4 + 12), 5.0))
    assert len(stream.receive(got)) == 0
    assert [stream.read() for _ in range(4)] == [*(MARKER + b"from Linux %d" % n for n in range(3)), None]


# -- what is wrong, beside Linux: counters, and what the stream does then


def framed(*messages: bytes) -> bytes:
    return b"".join((len(message) + 2).to_bytes(2) + message for message in messages)


def damaged(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


ESP = b"\x00\x00\x00\x01" + bytes(60)
HOSTILE = {
    "empty": framed(b""),
    "one byte": framed(b"\x00"),
    "keepalives": framed(b"\xff", b"\xff"),
    "two bytes of a keepalive": framed(b"\xff\xff"),
    "a marker and nothing else": framed(MARKER),
    "too short for SPI and number": framed(b"12345"),
    "an unknown SPI": framed(ESP),
    "a length of 1, then more": framed(b"\xff", b"\x00") + b"\x00\x01" + framed(ESP, b"\x00"),
    "a length of 0": bytes(2) + framed(ESP),
    "the prefix that daemons take": b"IKETCP" + framed(ESP),
    "half a message": framed(ESP)[:-1],
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1]], ids=lambda shape: shape.name)
def test_what_hostile_bytes_count_as(linux: LinuxGuest, shape: Shape, data: bytes) -> None:
    case = in_tcp(Case(GCM[2], shape))
    before = prepare(linux, case)
    connect(linux, case)
    send(linux, data)
    refused = linux.call("tcp_error", "s")
    twin = case.twin()
    stream = theirs(twin, case)
    twin.input(stream.receive(data))
    assert counters(twin) == linux.xfrm_moved(before)
    assert stream.error == refused


def test_the_state_must_be_for_tcp_and_the_seal_good(linux: LinuxGuest) -> None:
    case = in_tcp(Case(GCM[2], SHAPES[2]))
    _, data = sealed(case)
    udp = Encap(2, PEER_PORT, PORT, ANY4)
    for kept in (case, replace(case, encap=None), replace(case, encap=udp)):
        before = prepare(linux, kept)
        connect(linux, kept)
        hostile = data if kept is not case else damaged(data)
        send(linux, hostile)
        settle(linux)
        twin = kept.twin()
        twin.input(theirs(twin, kept).receive(hostile))
        moved = linux.xfrm_moved(before)
        assert counters(twin) == moved
        assert set(moved) == {"XfrmInStateProtoError" if kept is case else "XfrmInStateMismatch"}


def test_ike_that_nobody_reads(linux: LinuxGuest) -> None:
    """How much fits differs, since Linux counts its own overhead; what happens then does not."""
    case = in_tcp(Case(GCM[2], SHAPES[2]))
    before = prepare(linux, case)
    connect(linux, case)
    data = framed(*[MARKER + bytes(1000)] * 1000)
    linux.call("tcp_send", "s-peer", data.hex(), False)  # TCP itself takes less and less
    assert set(linux.xfrm_moved(before)) == {"XfrmInError"}
    twin = case.twin()
    stream = theirs(twin, case)
    twin.input(stream.receive(data))
    assert set(counters(twin)) == {"XfrmInError"}
    for reader in (lambda: bytes.fromhex(linux.call("tcp_take", "s", 2000, 1.0)), stream.read):
        assert reader() == MARKER + bytes(1000)


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[5]], ids=lambda shape: shape.name)
def test_another_port_of_the_peer_is_told(linux: LinuxGuest, shape: Shape) -> None:
    case = in_tcp(Case(GCM[2], shape))
    prepare(linux, case)
    connect(linux, case, 31001)
    transport = GuestTransport(linux, "mapping")
    transport.join(Group.MAPPING)
    _, data = sealed(case)
    send(linux, data)
    settle(linux)
    assert len(linux.udp_take("u", len(PAYLOADS), timeout=0)) == len(PAYLOADS)
    messages = [message[16:] for message in iter(transport.receive, None)]
    twin, told = case.twin(), list[Event]()
    twin.listen(told.append, lambda kind: kind is MappingChanged)
    batch = theirs(twin, case, 31001).receive(data)
    twin.input(batch)
    assert {outcome.verdict for outcome in outcomes(batch)} == {Verdict.DELIVERED}
    assert len(messages) == len(PAYLOADS)
    assert [notification(event).payload for event in told] == [deterministic(m) for m in messages]


def deterministic(payload: bytes) -> bytes:
    """A MAPPING without the bytes behind IPv4 addresses: Linux does not write those of the new one."""
    return payload if payload[20] == AF_INET6 else payload[:48] + bytes(12) + payload[60:]


def test_without_a_connection_nothing_is_sent(linux: LinuxGuest) -> None:
    """And a number is used all the same: the next packet has the one behind it."""
    case = in_tcp(Case(GCM[2], replace(SHAPES[2], to_guest=False)))
    before = prepare(linux, case)
    connect(linux, case, 31001)
    linux.udp_send("u", (case.shape.inner_ends[1], HOST_PORT), [Sending(b"lost")])
    twin = case.twin()
    theirs(twin, case, 31001)
    batch = Batch.pack([replace(case.shape, to_guest=False).datagram(b"lost")])
    twin.output(batch)
    assert counters(twin) == linux.xfrm_moved(before) == {"XfrmOutStateProtoError": 1}
    assert linux.xfrm_usage() == [(state.bytes, state.packets) for state in figures(twin)]
    linux.call("tcp_close", "s")
    connect(linux, case)
    data = sent_by(linux, case, (b"sent",))
    assert data[2 + 4 : 2 + 8] == (2).to_bytes(4)


def test_a_peer_that_does_not_read_loses_whole_packets(linux: LinuxGuest) -> None:
    """No counter tells of them, and what is behind them is understood."""
    case = in_tcp(Case(GCM[2], replace(SHAPES[2], to_guest=False)))
    before = prepare(linux, case)
    connect(linux, case)
    count = 6000
    payloads = [b"%04d" % n + bytes(1396) for n in range(count)]
    to = case.shape.inner_ends[1], HOST_PORT
    for at in range(0, count, 500):
        assert not any(linux.udp_send("u", to, map(Sending, payloads[at : at + 500])))
    namespace = case.namespace()
    stream = ours(namespace, case)
    numbers = []
    while data := bytes.fromhex(linux.call("tcp_take", "s-peer", 1 << 20, 0.2)):
        batch = stream.receive(data)
        namespace.input(batch)
        assert set(outcomes(batch)) <= {Outcome.DELIVERED}
        numbers += [int(read_datagram(packet)[-1][:4]) for packet in packets(batch)]
    assert numbers == sorted(numbers)
    assert 0 < len(numbers) < count
    assert linux.xfrm_moved(before) == counters(namespace) == {}
    twin = case.twin()
    small = twin.open_stream(Ends(*ends_of(case)), send_bytes=1 << 20)
    batch = Batch.pack([case.shape.datagram(payload) for payload in payloads[:1000]])
    twin.output(batch)
    assert set(outcomes(batch)) == {Outcome.STREAMED, Outcome.OUT_STREAM_FULL}
    assert counters(twin) == {}
    assert len(Framing().feed(small.take(1 << 22))) == outcomes(batch).count(Outcome.STREAMED)


def ends_of(case: Case) -> tuple[bytes, int, bytes, int]:
    peer, here = map(parse, ends(case))
    return here, PORT, peer, PEER_PORT


def test_the_length_field_counts_for_the_mtu(linux: LinuxGuest) -> None:
    case = in_tcp(Case(GCM[2], replace(SHAPES[2], to_guest=False)))
    prepare(linux, case)
    connect(linux, case)
    sizes = range(1400, 1430)
    errors = linux.udp_send(
        "u", (case.shape.inner_ends[1], HOST_PORT), [Sending(bytes(size), df=2) for size in sizes]
    )
    assert set(errors) == {0, errno.EMSGSIZE}
    twin = case.twin()
    theirs(twin, case)
    twin.set_mtu(1500)
    batch = Batch.pack([case.shape.datagram(bytes(size), df=True) for size in sizes])
    twin.output(batch)
    ours_sent = [outcome == Outcome.STREAMED for outcome in outcomes(batch)[: len(sizes)]]
    assert ours_sent == [error == 0 for error in errors]


def test_the_segments_dscp_is_the_outer_one(linux: LinuxGuest) -> None:
    case = in_tcp(Case(GCM[2], SHAPES[2], flags=DECAP_DSCP))
    prepare(linux, case)
    connect(linux, case)
    linux.call("udp_tos", "s-peer", 0xB8)
    _, data = sealed(case)
    send(linux, data)
    settle(linux)
    assert {datagram.tos for datagram in linux.udp_take("u", len(PAYLOADS), timeout=0)} == {0xB8}
    twin = case.twin()
    batch = theirs(twin, case).receive(data, tos=0xB8)
    twin.input(batch)
    assert {packet[1] for packet in packets(batch)} == {0xB8}


def test_a_capture_of_the_connection_is_read_by_replay(linux: LinuxGuest) -> None:
    """All of the guest's traffic, as one of its hosts would capture it: both directions, IKE, a keepalive."""
    case = in_tcp(Case(GCM[2], SHAPES[2]))
    prepare(linux, case)
    backwards = in_tcp(replace(case, spi=case.spi + 1).reversed())
    linux.ip_batch("".join(backwards.batch().splitlines(keepends=True)[2:]))
    linux.call("capture_start", "veth0")
    connect(linux, case)
    _, data = sealed(case)
    stream = case.namespace().open_stream(Ends(bytes(4), 1, bytes(4), 2))
    stream.send(MARKER + b"ike")
    stream.send(b"\xff")
    send(linux, stream.take() + data, 700)
    assert bytes.fromhex(linux.call("tcp_take", "s", 100, 5.0)) == MARKER + b"ike"
    settle(linux)
    assert len(linux.udp_take("u", len(PAYLOADS), timeout=0)) == len(PAYLOADS)
    sent_by(linux, backwards, PAYLOADS[:2])
    capture = bytes.fromhex(linux.call("capture_stop"))

    host = case.twin()
    host.add_state(backwards.state())
    host.add_policy(PolicyConfig(Direction.OUT, backwards.selector(), (backwards.template(Direction.OUT),)))
    player = Host(host, local=frozenset({parse("10.3.0.2")}))
    with open_capture(BytesIO(capture)) as frames:
        played = [report for batch in frames for report in player.reports(player.play(batch))]
    # Linux shows what it has decrypted on the device once more.
    found = [report for report in played if report.source.startswith("10.3.")]
    inwards = [report.code for report in found if report.direction == IN]
    outwards = [report.code for report in found if report.direction == OUT]
    assert inwards.count(Outcome.DELIVERED) == len(PAYLOADS)
    assert (inwards.count(Outcome.STREAM_IKE), inwards.count(Outcome.IN_KEEPALIVE)) == (2, 1)
    assert (outwards.count(Outcome.SENT), outwards.count(Outcome.STREAM_IKE)) == (2, 1)
    others = set(inwards + outwards) - {Outcome.STREAM_SEGMENT, Outcome.STREAM_IKE, Outcome.IN_KEEPALIVE}
    assert others == {Outcome.DELIVERED, Outcome.SENT}
    opened = [report.inner for report in found if report.code in (Outcome.DELIVERED, Outcome.SENT)]
    assert [read_datagram(inner)[-1] for inner in opened if inner] == [*PAYLOADS, *PAYLOADS[:2]]
