"""What the packet fuzzer feeds: valid packets of every transform, and how they are changed.

Changes know headers, so that packets get past the outer one; checksums and lengths are mended mostly.
What is sealed with a null cipher and no integrity is changed inside as well, and taken as if it were meant.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw
from scapy.utils import checksum

from aggfrag import in_pieces
from linux import suites
from linux.suites import nest
from linux.twin import (
    BEETS,
    BEHIND,
    DEFLATE,
    SHAPES,
    SPI,
    TRANSPORT4,
    TRANSPORT6,
    TUNNELS,
    Case,
    Shape,
    Suite,
    outcomes,
    packets,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, ANY4, ANY6, parse
from uxfrm.model.iptfs import Iptfs
from uxfrm.model.outcome import Verdict
from uxfrm.model.state import AF_UNSPEC_FLAG, ENCAP_ESPINUDP, Encap, Rare, SaDir, StateConfig
from uxfrm.model.template import Mode

PORT = 4500
BARE = suites.CIPHERS[-1]
"""A null cipher without integrity: whatever stands inside is taken."""

_CBC = suites.with_auth(suites.CIPHERS[0], *suites.AUTHS[3])
_TRANSPORT = {4: TRANSPORT4, 6: TRANSPORT6}
_TEXT = b"the quick brown fox jumps over the lazy dog. " * 6

NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 20, 24, 39, 40, 60, 127, 128, 254, 255, 0xFFF8, 0xFFFE, 0xFFFF)
PROTOCOLS = (0, 1, 4, 6, 17, 41, 43, 44, 50, 51, 58, 59, 60, 94, 108, 135, 144, 255)

_TFS_SPI, _AGGFRAG = 0x2000, 144
_TFS_ENDS = {AF_INET: ("10.0.0.1", "10.0.0.2"), AF_INET6: ("fd00::1", "fd00::2")}

_OPTIONS = (0, 1, 7, 68, 130, 131, 137, 148, 255, 3, 4, 40)
_DATAGRAMS = (b"\xff", b"", bytes(4), bytes(9), b"\xff\xff")

Change = Callable[[random.Random, bytes], list[bytes]]
"""What goes on the wire in place of one packet: none, one or more."""


def _esp() -> Iterator[Case]:
    """Every cipher and integrity algorithm once, in modes and families in turn."""
    for i, suite in enumerate(suites.BASIC):
        yield Case(suite, (*SHAPES, *BEETS)[i % 10])
    for suite in (BARE, suites.CLEAR):
        yield from (Case(suite, shape) for shape in (*SHAPES, *BEETS))
    for suite in (suites.GCM[2], suites.CHACHA, _CBC):
        yield from (Case(suite, shape, esn=True) for shape in SHAPES)
    for suite in (suites.GCM[2], BARE):
        for shape in SHAPES:
            anywhere = ANY6 if shape.outer == 6 else ANY4
            yield Case(suite, shape, encap=Encap(ENCAP_ESPINUDP, PORT, PORT, anywhere))


def _others() -> Iterator[Case]:
    """AH, IPComp, and what is nested, up to one layer too many."""
    for i, suite in enumerate(suites.AH_SUITES):
        yield Case(suite, SHAPES[i % len(SHAPES)])
    yield from (Case(suites.AH_SUITES[3], shape, esn=True) for shape in SHAPES)
    yield from (Case(DEFLATE, shape) for shape in SHAPES)
    pairs: list[tuple[Suite, ...]] = [
        (DEFLATE, BARE), (BARE, suites.GCM[2]), (suites.GCM[2], suites.AH_SUITES[3]),
        (DEFLATE, suites.AH_SUITES[1]),
    ]  # fmt: skip
    for pair in pairs:
        yield from (nest(pair, shape, shape) for shape in _TRANSPORT.values())
        yield from (nest(pair, tunnel, _TRANSPORT[tunnel.outer]) for tunnel in TUNNELS)
    for tunnel in TUNNELS:
        yield nest((BARE, suites.GCM[2]), replace(_TRANSPORT[tunnel.inner], net=BEHIND), tunnel)
    for depth in (3, 6, 7):
        yield from (nest((BARE,), *[shape] * depth) for shape in _TRANSPORT.values())


def cases() -> list[Case]:
    """All, each with SPIs of its own."""
    found = []
    for i, case in enumerate((*_esp(), *_others())):
        layers = [replace(layer, spi=SPI + 16 * i + n) for n, layer in enumerate(case.layers)]
        found.append(replace(layers[0], around=tuple(layers[1:])))
    return found


def tfs_states() -> list[StateConfig]:
    """IP-TFS: both families outside, in clear; with a reorder window and without."""
    options = (Iptfs(drop_time=400_000, reorder_window=3), Iptfs(drop_time=400_000, reorder_window=0))
    return [
        StateConfig(
            parse(target), parse(source), spi=_TFS_SPI + 2 * i + k, family=family, mode=Mode.IPTFS,
            crypt=algo.crypt("ecb(cipher_null)", b""), direction=SaDir.IN, flags=AF_UNSPEC_FLAG,
            replay_window=0, rare=Rare(iptfs=chosen),
        )
        for i, (family, (source, target)) in enumerate(_TFS_ENDS.items())
        for k, chosen in enumerate(options)
    ]  # fmt: skip


def tfs_packets() -> list[bytes]:
    """AGGFRAG payloads in clear ESP: whole packets, packets cut anywhere, padding, after RFC 9347 6.1."""
    inner = [
        shape.datagram(text) for shape in (TUNNELS[0], TUNNELS[3]) for text in (b"", _TEXT, b"cut", _TEXT * 4)
    ]
    payloads = [payload for size in (60, 400, 1200) for payload in in_pieces(inner, size)]
    wire = []
    for i, payload in enumerate(payloads):
        state = tfs_states()[i % 4]
        padding = -(len(payload) + 2) % 4
        trailer = bytes(range(1, padding + 1)) + bytes((padding, _AGGFRAG))
        esp = state.spi.to_bytes(4) + (i // 4 + 1).to_bytes(4) + payload + trailer
        source, target = _TFS_ENDS[state.family]
        outer = (
            IP(src=source, dst=target, proto=50)
            if state.family == AF_INET
            else IPv6(src=source, dst=target, nh=50)
        )
        wire.append(bytes(outer / Raw(esp)))
    return wire


def sealed(case: Case, seed: int, count: int = 3) -> list[bytes]:
    """Some packets of a case as they are on the wire: layer by layer, so that there may be too many."""
    wire = [case.shape.datagram((b"", b"x", _TEXT)[i % 3]) for i in range(count)]
    for layer in case.layers:
        batch = Batch.pack(wire)
        layer.namespace(random.Random(seed).randbytes).output(batch)
        # IPComp lets what is too short pass
        assert {outcome.verdict for outcome in outcomes(batch)} <= {Verdict.SENT, Verdict.CLEAR}, layer.name
        wire = packets(batch)
    return wire


def corpus(seed: int = 1) -> list[bytes]:
    """Valid packets of every case, and a few that are not protected."""
    found = [packet for case in cases() for packet in sealed(case, seed)]
    plain = (Shape(shape.mode, shape.inner, shape.inner) for shape in (TRANSPORT4, TRANSPORT6))
    return [*found, *tfs_packets(), *(shape.datagram(_TEXT) for shape in plain)]


# -- headers


def mended(packet: bytes) -> bytes:
    """The packet with the length and header checksum that it should have, where there is room for them."""
    if len(packet) < 40 and packet[:1] and packet[0] >> 4 == 6:
        return packet
    if packet[:1] and packet[0] >> 4 == 6:
        return packet[:4] + min(len(packet) - 40, 0xFFFF).to_bytes(2) + packet[6:]
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return packet
    size = min(max(packet[0] & 15, 5) * 4, len(packet))
    cleared = packet[:2] + min(len(packet), 0xFFFF).to_bytes(2) + packet[4:10] + bytes(2) + packet[12:]
    return cleared[:10] + checksum(cleared[:size]).to_bytes(2) + cleared[12:]


def _header(packet: bytes) -> int:
    """Where what follows the outer IP header begins, as far as it can be told."""
    return 40 if packet[0] >> 4 == 6 else max(packet[0] & 15, 5) * 4


def _put(packet: bytes, at: int, what: bytes) -> bytes:
    return packet[:at] + what + packet[at + len(what) :]


# -- changes


def flip(chance: random.Random, packet: bytes) -> list[bytes]:
    """A few bits anywhere."""
    data = bytearray(packet)
    for _ in range(chance.randint(1, 3)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return [bytes(data)]


def number(chance: random.Random, packet: bytes) -> list[bytes]:
    """A telling number in one or two bytes."""
    size = chance.randint(1, 2)
    what = (chance.choice(NUMBERS) & (1 << 8 * size) - 1).to_bytes(size)
    return [_put(packet, chance.randrange(len(packet)), what)[: len(packet)]]


def cut(chance: random.Random, packet: bytes) -> list[bytes]:
    """The end, or all but the beginning, is missing: nothing behind SPI, number, IV; an ICV cut short."""
    header = _header(packet)
    places = (header, header + 4, header + 8, header + 12, header + 16, header + 24, len(packet) - 1)
    at = chance.choice(
        (*places, len(packet) - chance.choice((2, 4, 8, 12, 16)), chance.randrange(len(packet)))
    )
    return [packet[: max(at, 0)]]


def lengthen(chance: random.Random, packet: bytes) -> list[bytes]:
    """Bytes behind it: an ICV that is longer by one, or much more."""
    return [packet + chance.randbytes(chance.choice((1, 1, 2, 3, 4, 8, 16, 700)))]


def lie(chance: random.Random, packet: bytes) -> list[bytes]:
    """Another length in the IP header than it has."""
    at = 4 if packet[0] >> 4 == 6 else 2
    true = int.from_bytes(packet[at : at + 2])
    lied = chance.choice((*NUMBERS, true - 1, true + 1, true - 8, true + 8, _header(packet) + 8)) & 0xFFFF
    packet = _put(packet, at, lied.to_bytes(2))
    if packet[0] >> 4 == 4 and len(packet) >= 20:
        cleared = _put(packet, 10, bytes(2))
        packet = _put(packet, 10, checksum(cleared[: max(packet[0] & 15, 5) * 4]).to_bytes(2))
    return [packet]


def options(chance: random.Random, packet: bytes) -> list[bytes]:
    """IPv4 options cut short or too long, IPv6 extension headers that end anywhere."""
    if packet[0] >> 4 == 4:
        words = chance.randint(1, 10)
        body = bytes(
            chance.choice((0, 1, 7, 68, 130, 131, 137, 148, 255, 3, 4, 40)) for _ in range(words * 4)
        )
        header = bytes([0x40 | 5 + words]) + packet[1:20]
        return [header + body + packet[20:]]
    kind = chance.choice((0, 43, 44, 51, 60, 60, 135))
    size = chance.choice((0, 0, 0, 1, 2, 31, 255))
    body = chance.randbytes(chance.choice((6, 6, 14, 22)))
    return [packet[:6] + bytes([kind]) + packet[7:40] + bytes([packet[6], size]) + body + packet[40:]]


def protocol(chance: random.Random, packet: bytes) -> list[bytes]:
    """Another next header outside, or in the last bytes, where ESP's trailer is."""
    at = chance.choice((6 if packet[0] >> 4 == 6 else 9, len(packet) - 1, len(packet) - 2, _header(packet)))
    return [_put(packet, min(at, len(packet) - 1), bytes([chance.choice(PROTOCOLS)]))]


def compressed(chance: random.Random, packet: bytes) -> list[bytes]:
    """Other bytes behind the IPComp header: bombs, stumps, rubbish. Of other packets, behind 4 bytes."""
    at = _header(packet) + 4
    body = chance.choice(_STREAMS)
    return [packet[:at] + body[: len(body) if chance.random() < 0.7 else chance.randrange(len(body) + 1)]]


def _deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -11)
    return stream.compress(data) + stream.flush()


_STREAMS = (
    b"\0", b"\3\0", b"\xff" * 40, _deflated(bytes(65400)), _deflated(bytes(65401)), _deflated(bytes(400_000)),
    _deflated(_TEXT), _deflated(mended(bytes([0x45]) + bytes(19) + _TEXT)),
)  # fmt: skip


def fragments(chance: random.Random, packet: bytes) -> list[bytes]:
    """In two to four pieces, some of which overlap, are missing, come twice, or end beyond 65,535 bytes."""
    header = _header(packet)
    body = packet[header:]
    edges = sorted({0, *(chance.randrange(len(body) // 8 + 1) * 8 for _ in range(chance.randint(1, 3)))})
    identity = chance.randbytes(4)
    pieces = []
    for start, end in zip(edges, [*edges[1:], len(body)], strict=True):
        slip = chance.choice((0, 0, 0, 0, 8, -8, 16))
        more = end < len(body) or chance.random() < 0.1
        offset = 8191 if chance.random() < 0.02 else max(start + slip, 0) // 8
        piece = body[max(start + slip, 0) : end + chance.choice((0, 0, 0, 8, 1))]
        pieces.append(_fragment(packet[:header], piece, offset, more, identity))
    if chance.random() < 0.3:
        chance.shuffle(pieces)
    if chance.random() < 0.2:
        pieces.append(chance.choice(pieces))
    return pieces[: chance.choice((9, 9, 9, 1))]


def _fragment(header: bytes, piece: bytes, offset: int, more: bool, identity: bytes) -> bytes:
    if header[0] >> 4 == 4:
        place = (offset | (0x2000 if more else 0)).to_bytes(2)
        return mended(header[:4] + identity[:2] + place + header[8:] + piece)
    place = ((offset << 3 | more) & 0xFFFF).to_bytes(2)
    return mended(header[:6] + bytes([44]) + header[7:] + bytes([header[6], 0]) + place + identity + piece)


def wrapped(chance: random.Random, packet: bytes) -> list[bytes]:
    """In UDP to the port of ESP: as it is, with lengths that lie, behind a marker, as a keepalive."""
    header = _header(packet)
    esp = packet[header:] if chance.random() < 0.5 else chance.choice(_DATAGRAMS)
    size = chance.choice((len(esp) + 8,) * 3 + NUMBERS)
    udp = PORT.to_bytes(2) * 2 + (size & 0xFFFF).to_bytes(2) + bytes(2) + esp
    at = 6 if packet[0] >> 4 == 6 else 9
    return [_put(packet[:header], at, b"\x11") + udp]


def spliced(chance: random.Random, packet: bytes) -> list[bytes]:
    """Itself inside itself, as if decryption had found that, or its own end once more."""
    header = _header(packet)
    at = chance.randrange(header, len(packet) + 1)
    return [packet[:at] + (packet if chance.random() < 0.5 else packet[at:])]


def as_it_is(chance: random.Random, packet: bytes) -> list[bytes]:
    """Valid, or a replay by now."""
    return [packet]


def numbered(chance: random.Random, packet: bytes) -> list[bytes]:
    """Another SPI or sequence number."""
    at = _header(packet) + chance.choice((0, 4))
    return [_put(packet, at, chance.choice((bytes(4), b"\xff" * 4, chance.randbytes(4), b"\0\0\0\1")))]


CHANGES: tuple[Change, ...] = (
    flip, flip, flip, number, number, cut, lengthen, lie, options, protocol, protocol, compressed, fragments,
    fragments, wrapped, spliced, as_it_is, numbered,
)  # fmt: skip


def moved_on(chance: random.Random, packet: bytes, base: int) -> bytes:
    """A packet of IP-TFS with a number near `base`, as its window moves on; others as they are."""
    at = _header(packet)
    if packet[at : at + 3] != _TFS_SPI.to_bytes(4)[:3] or packet[at + 3] >= 4:
        return packet
    return _put(packet, at + 4, (base + chance.randrange(6)).to_bytes(4))


def changed(chance: random.Random, packet: bytes, base: int = 1) -> list[bytes]:
    """A packet after one to three changes, mended mostly."""
    wire = [moved_on(chance, packet, base)]
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3))):
        change = chance.choice(CHANGES)
        at = chance.randrange(len(wire))
        if len(wire[at]) >= 20 and len(wire[at]) > _header(wire[at]):
            wire[at : at + 1] = change(chance, wire[at])
        if not wire:
            return []
    if chance.random() < 0.85:
        wire = [mended(one) if change is not lie else one for one in wire]
    return [one[:0xFFFF] for one in wire]
