"""AH in the corners: options, extension headers, lengths, damage: Linux and uxfrm agree on each packet."""

from __future__ import annotations

import hmac
import socket

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.packet import Raw
from scapy.utils import checksum

from linux.guest import LinuxGuest, Sending
from linux.suites import AH_AND_ESP, AH_SUITES, nest
from linux.test_fragment_header import with_fragment_header
from linux.twin import (
    GUEST_PORT,
    HOST_PORT,
    SPI,
    TRANSPORT4,
    TRANSPORT6,
    TUNNELS,
    Case,
    Shape,
    Suite,
    counters,
    delivered_by,
    figures,
    outcomes,
    packets,
    prepare,
    sent_by,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.state import ALIGN4
from uxfrm.namespace import Namespace

pytestmark = pytest.mark.linux

SHA1, SHA256 = AH_SUITES[1], AH_SUITES[3]

# Padded to words; Linux's IP layer understands each and passes it on to the socket's packets.
OPTIONS4 = [
    b"",
    bytes([1, 1, 1, 0]),
    bytes([148, 4, 0, 0]),
    bytes([7, 11, 4]) + bytes(8) + b"\0",
    bytes([68, 12, 5, 0]) + bytes(8),
    bytes([136, 4, 1, 2]),
    bytes([130, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]),
    bytes([1, 7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0]),
    bytes([1, 68, 8, 5, 0, 0, 0, 0, 0, 1, 1, 1, 148, 4, 0, 0, 136, 4, 9, 9]),
]

_CHANGES, _STAYS = 0x3E, 0x1E
HOPS = IPv6ExtHdrHopByHop(options=[RouterAlert(value=0), PadN(optlen=0)])
CHANGING = IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=_CHANGES, optlen=4, optdata=b"\1\2\3\4")])
STAYING = IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=_STAYS, optlen=4, optdata=b"\1\2\3\4")])
ROUTED = IPv6ExtHdrRouting(addresses=["fd00::7", "fd00::8"], segleft=0)
HEADERS6 = [
    [HOPS], [CHANGING], [STAYING], [HOPS, STAYING], [ROUTED], [HOPS, STAYING, ROUTED], [CHANGING, ROUTED],
    [HOPS, ROUTED, STAYING],
]  # fmt: skip


def datagram(shape: Shape, options: bytes | list[object], payload: bytes) -> bytes:
    """From the host's side to the guest, with IPv4 options or IPv6 extension headers."""
    source, target = shape.inner_ends
    upper = UDP(sport=HOST_PORT, dport=GUEST_PORT) / Raw(payload)
    if isinstance(options, list):
        made = IPv6(src=source, dst=target)
        for header in options:
            made /= header.copy()  # type: ignore[attr-defined]
        return bytes(made / upper)
    plain = IP(src=source, dst=target, id=5, ihl=5 + len(options) // 4, ttl=9, tos=4)
    packet = bytes(plain / upper)
    ready = packet[:2] + (len(packet) + len(options)).to_bytes(2) + packet[4:10] + bytes(2) + packet[12:20]
    return summed(ready + options) + packet[20:]


def summed(header: bytes) -> bytes:
    """An IPv4 header with its checksum."""
    cleared = header[:10] + bytes(2) + header[12:]
    return cleared[:10] + checksum(cleared).to_bytes(2) + cleared[12:]


def upper_of(packet: bytes) -> tuple[int, bytes]:
    """Protocol behind IPv4 options or IPv6 extension headers, and what follows."""
    if packet[0] >> 4 == 4:
        return packet[9], packet[(packet[0] & 15) * 4 :]
    proto, at = packet[6], 40
    while proto in (0, 43, 60):
        proto, at = packet[at], at + (packet[at + 1] + 1) * 8
    return proto, packet[at:]


def taken(namespace: Namespace, wire: list[bytes]) -> list[bytes]:
    """The payloads that reach the guest's socket, were it this namespace."""
    batch = Batch.pack(wire)
    namespace.input(batch)
    ends = zip(outcomes(batch), packets(batch), strict=True)
    found = [upper_of(packet) for outcome, packet in ends if outcome.verdict == Verdict.DELIVERED]
    ours = (socket.IPPROTO_UDP, GUEST_PORT.to_bytes(2))
    return [upper[8:] for proto, upper in found if (proto, upper[2:4]) == ours]


def assert_delivered_alike(guest: LinuxGuest, case: Case, wire: list[bytes]) -> list[bytes]:
    """Linux and its twin deliver the same of these, and count the same; return the payloads."""
    before = prepare(guest, case)
    linuxs = [datagram.payload for packet in wire for datagram in delivered_by(guest, [packet])]
    twin = case.twin()
    assert taken(twin, wire) == linuxs
    assert counters(twin) == guest.xfrm_moved(before)
    assert figures(twin) == guest.xfrm_states()
    return linuxs


# -- options and extension headers


def sealed(case: Case, inner: list[bytes]) -> list[bytes]:
    """What the sending side makes of these."""
    batch = Batch.pack(inner)
    (case.namespace() if case.shape.to_guest else case.twin()).output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(inner)
    return packets(batch)


def without_ah(packet: bytes) -> bytes:
    """What was protected in transport mode: the same packet without its AH header."""
    if packet[0] >> 4 == 4:
        header, nexthdr = (packet[0] & 15) * 4, 9
    else:
        header, nexthdr = 40, 6
        while packet[nexthdr] != socket.IPPROTO_AH:
            nexthdr, header = header, header + (packet[header + 1] + 1) * 8
    size = (packet[header + 1] + 2) * 4
    front = bytearray(packet[:header])
    front[nexthdr] = packet[header]
    at, length = (2, len(packet) - size) if packet[0] >> 4 == 4 else (4, len(packet) - size - 40)
    front[at : at + 2] = length.to_bytes(2)
    return (summed(bytes(front)) if packet[0] >> 4 == 4 else bytes(front)) + packet[header + size :]


def assert_made_alike(guest: LinuxGuest, shape: Shape, wire: list[bytes]) -> None:
    """uxfrm makes of what Linux protected the packets that Linux made, byte for byte.

    They are looked into as well, as a capture's outgoing half is.
    """
    case = Case(SHA1, shape)
    assert sealed(case, list(map(without_ah, wire))) == wire
    batch = Batch.pack(wire)
    case.twin().inspect(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(wire)


def linuxs(guest: LinuxGuest, case: Case, many: list[list[tuple[int, bytes]]], target: str) -> list[bytes]:
    """What Linux sends with each of these lists of socket options."""
    wire: list[bytes] = []
    prepare(guest, case)
    for i, options in enumerate(many):
        guest.udp_open("u", case.shape.inner_ends[0], GUEST_PORT)
        for number, value in options:
            guest.call("udp_options", "u", value.hex(), number)
        guest.call("udp_send", "u", (b"%d" % i).hex(), target, HOST_PORT, 8, 0, 3)
        wire += guest.take_ip(1)
    assert len(wire) == len(many)
    return wire


@pytest.mark.parametrize("flags", [0, ALIGN4])
def test_linux_takes_ipv4_options_from_uxfrm(guest: LinuxGuest, flags: int) -> None:
    case = Case(SHA256, TRANSPORT4, flags=flags)
    wire = sealed(case, [datagram(TRANSPORT4, options, b"%d" % i) for i, options in enumerate(OPTIONS4)])
    assert assert_delivered_alike(guest, case, wire) == [b"%d" % i for i in range(len(OPTIONS4))]


def test_ipv4_options_from_linux(guest: LinuxGuest) -> None:
    case = Case(SHA1, TRANSPORT4).reversed()
    wire = linuxs(guest, case, [[(socket.IP_OPTIONS, options)] for options in OPTIONS4], "10.0.0.1")
    assert_made_alike(guest, case.shape, wire)
    batch = Batch.pack(wire[:1])
    case.namespace().input(batch)
    assert packets(batch) == [without_ah(wire[0])]


@pytest.mark.parametrize("kind", [131, 137])
def test_a_source_route_is_authenticated_as_at_its_end(guest: LinuxGuest, kind: int) -> None:
    route = bytes([1, kind, 11, 4, 10, 0, 0, 1, 10, 0, 0, 7])
    case = Case(SHA1, TRANSPORT4).reversed()
    wire = linuxs(guest, case, [[(socket.IP_OPTIONS, route)]], "10.0.0.9")
    assert wire[0][16:20] == bytes([10, 0, 0, 1])
    assert bytes([10, 0, 0, 9]) in wire[0][20:]
    assert_made_alike(guest, case.shape, wire)


def test_linux_takes_extension_headers_from_uxfrm(guest: LinuxGuest) -> None:
    case = Case(SHA256, TRANSPORT6)
    wire = sealed(case, [datagram(TRANSPORT6, headers, b"%d" % i) for i, headers in enumerate(HEADERS6)])
    assert assert_delivered_alike(guest, case, wire) == [b"%d" % i for i in range(len(HEADERS6))]


_HOPS, _ROUTE, _DEST = 54, 57, 59
_HOP_OPTIONS = bytes([0, 0, 5, 2, 0, 0, 1, 0])
_DEST_CHANGING, _DEST_STAYING = bytes([0, 0, 0x3E, 4, 1, 2, 3, 4]), bytes([0, 0, 0x1E, 4, 1, 2, 3, 4])
_SEGMENTS = bytes([0, 4, 0, 2, 0, 0, 0, 0]) + bytes([0xFD] + [0] * 14 + [1]) + bytes([0xFD] + [0] * 14 + [7])
HEADERS_OF_LINUX = [
    [], [(_HOPS, _HOP_OPTIONS)], [(_DEST, _DEST_CHANGING)], [(_DEST, _DEST_STAYING)],
    [(_HOPS, _HOP_OPTIONS), (_DEST, _DEST_CHANGING)],
]  # fmt: skip


def test_extension_headers_from_linux(guest: LinuxGuest) -> None:
    case = Case(SHA1, TRANSPORT6).reversed()
    wire = linuxs(guest, case, HEADERS_OF_LINUX, "fd00::1")
    assert_made_alike(guest, case.shape, wire)
    batch = Batch.pack(wire)
    case.namespace().input(batch)
    assert outcomes(batch) == [Outcome.DELIVERED] * len(wire)


# -- headers of every length, next headers, damage


def by_hand(case: Case, number: int, size: int, next_header: int, payload: bytes) -> bytes:
    """An AH packet in IPv4, its header `size` bytes long, made with Python's hmac."""
    auth = case.suite.auth
    assert auth is not None
    source, target = case.shape.outer_ends
    ah = bytes([next_header, (size // 4 - 2) & 255, 0, 0]) + SPI.to_bytes(4) + number.to_bytes(4)
    ah = (ah + bytes(size))[:size]
    body = bytearray(bytes(IP(src=source, dst=target, proto=51, id=9) / Raw(ah + payload)))
    hashed = bytearray(body)
    hashed[1] = hashed[6] = hashed[7] = hashed[8] = hashed[10] = hashed[11] = 0
    tag = hmac.digest(auth.key, bytes(hashed), auth.name[5:-1])[: auth.icv_bits // 8]
    body[32 : 32 + len(tag)] = tag[: max(size - 12, 0)]
    return bytes(body)


UPPER = bytes(UDP(sport=HOST_PORT, dport=GUEST_PORT, chksum=0) / Raw(b"behind"))


@pytest.mark.parametrize("flags", [0, ALIGN4])
@pytest.mark.parametrize("suite", [SHA1, SHA256, AH_SUITES[5]], ids=lambda suite: suite.name)
def test_header_lengths_are_taken_and_refused_as_by_linux(
    guest: LinuxGuest, suite: Suite, flags: int
) -> None:
    case = Case(suite, TRANSPORT4, flags=flags)
    wire = [by_hand(case, i, 4 * i, 17, UPPER) for i in range(1, 24)]
    assert len(assert_delivered_alike(guest, case, wire)) == 2


def test_next_headers_are_taken_and_refused_as_by_linux(guest: LinuxGuest) -> None:
    for case in (Case(SHA256, TRANSPORT4), Case(SHA256, TUNNELS[0])):
        wire = [
            by_hand(case, 1 + i, 32, next_header, payload)
            for i, (next_header, payload) in enumerate(
                (number, payload) for number in (0, 17, 59, 4, 41, 51, 255) for payload in (b"", b"E", UPPER)
            )
        ]
        assert_delivered_alike(guest, case, wire)


@pytest.mark.parametrize("shape", [TRANSPORT4, TRANSPORT6, TUNNELS[0], TUNNELS[3]], ids=lambda s: s.name)
def test_a_flipped_bit_is_seen_where_linux_sees_it(guest: LinuxGuest, shape: Shape) -> None:
    """All but addresses, lengths, version, what makes it a fragment, and IPv6's next header.

    Linux does not ask its policies about IPv6 packets without a next header.
    """
    case = Case(SHA256, shape)
    four = shape.outer == 4
    fixed = {0, 2, 3, 6, 7, *range(16, 20)} if four else {0, 4, 5, 6, *range(24, 40)}
    header = 20 if four else 40
    places = [at for at in range(header + 40) if at not in fixed]
    inner = [shape.datagram(b"%d" % i) for i in range(len(places) * 2)]
    wire = []
    for i, packet in enumerate(sealed(case, inner)):
        damaged = bytearray(packet)
        damaged[places[i // 2]] ^= 1 << (i * 5 % 8)
        wire.append(summed(bytes(damaged[:20])) + bytes(damaged[20:]) if four else bytes(damaged))
    assert 0 < len(assert_delivered_alike(guest, case, wire)) < len(wire) // 4


# -- what Linux itself does not take


@pytest.mark.parametrize("pair", AH_AND_ESP, ids=lambda pair: pair[0].name)
@pytest.mark.parametrize("shape", [TRANSPORT4, TRANSPORT6, TUNNELS[0], TUNNELS[3]], ids=lambda s: s.name)
def test_ah_inside_esp_in_transport_mode(guest: LinuxGuest, shape: Shape, pair: tuple[Suite, ...]) -> None:
    """Linux sends it, and refuses it: it authenticates a header that names ESP still. uxfrm says so."""
    outside = TRANSPORT6 if shape.outer == 6 else TRANSPORT4
    case = nest(pair, shape, outside)
    wire = sealed(case, [shape.datagram(b"refused")])
    assert assert_delivered_alike(guest, case, wire) == []
    batch = Batch.pack(wire)
    case.twin().input(batch)
    assert outcomes(batch) == [Outcome.IN_AH_INSIDE]

    prepare(guest, case.reversed())
    wire, _ = sent_by(guest, case.reversed(), [Sending(b"sent")])
    batch = Batch.pack(wire)
    case.reversed().twin().inspect(batch)
    assert outcomes(batch) == [Outcome.SENT]


def test_a_fragment_header_in_front_of_ah(guest: LinuxGuest) -> None:
    """What Linux adds to a packet that goes through 4-in-6 tunnels is not authenticated: it is refused."""
    case = Case(SHA256, TUNNELS[2])
    wire = [with_fragment_header(packet) for packet in sealed(case, [case.shape.datagram(b"refused")])]
    assert assert_delivered_alike(guest, case, wire) == []
