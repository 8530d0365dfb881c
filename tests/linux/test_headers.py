"""Outer headers are made as Linux makes them, and what they say reaches the inner packet as in Linux.

The cipher is null, so that the inner packet is read off the wire and not taken from uxfrm, and a whole ESP
packet can be compared.
"""

from __future__ import annotations

from itertools import product

import pytest
from scapy.utils import checksum

from linux.guest import LinuxGuest, Sending
from linux.suites import CLEAR
from linux.twin import TUNNELS, Case, delivered_by, outcomes, packets, prepare, sent_by
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import DECAP_DSCP, DONT_ENCAP_DSCP, NOECN, NOPMTUDISC

pytestmark = pytest.mark.linux

ECN = (0, 1, 2, 3)
DSCP = (0, 1, 8, 10, 46, 63)
TOS = [dscp << 2 | ecn for dscp, ecn in product(DSCP, ECN)]
MAY_FRAGMENT, MUST_NOT = 0, 2

OUT_FLAGS = [
    (0, 0),
    (NOECN, 0),
    (DECAP_DSCP, 0),
    (NOPMTUDISC, 0),
    (0, DONT_ENCAP_DSCP),
    (NOECN | NOPMTUDISC, DONT_ENCAP_DSCP),
]
IN_FLAGS = [(0, 0), (NOECN, 0), (DECAP_DSCP, 0), (NOECN | DECAP_DSCP, 0), (0, DONT_ENCAP_DSCP)]


def _cases(flags: list[tuple[int, int]]) -> list[Case]:
    """Every combination of families with each of the flags, on the way to the guest."""
    return [
        Case(CLEAR, shape, flags=bits, extra_flags=extra) for shape, (bits, extra) in product(TUNNELS, flags)
    ]


def header_bytes(packet: bytes) -> int:
    return 20 if packet[0] >> 4 == 4 else 40


def tos_of(packet: bytes) -> int:
    return packet[1] if packet[0] >> 4 == 4 else int.from_bytes(packet[:2]) >> 4 & 0xFF


def with_tos(packet: bytes, tos: int) -> bytes:
    """The packet with another TOS byte or traffic class, and the header checksum that belongs to it."""
    if packet[0] >> 4 == 4:
        return _summed(packet[:1] + bytes([tos]) + packet[2:])
    return (int.from_bytes(packet[:2]) & 0xF00F | tos << 4).to_bytes(2) + packet[2:]


def _summed(packet: bytes) -> bytes:
    cleared = packet[:10] + bytes(2) + packet[12:]
    return cleared[:10] + checksum(cleared[:20]).to_bytes(2) + cleared[12:]


def without_id(packet: bytes) -> bytes:
    """An IPv4 packet as if its identification were 0: each host counts these in its own way."""
    return _summed(packet[:4] + bytes(2) + packet[6:]) if packet[0] >> 4 == 4 else packet


def _unnumbered(wire: list[bytes], which: list[int]) -> bool:
    """True when these are IPv4 packets with identification 0."""
    return all(wire[i][0] >> 4 == 4 and wire[i][4:6] == bytes(2) for i in which)


def inside(packet: bytes) -> bytes:
    """The inner packet of an outer one that is not encrypted: behind SPI and number, cut to its length."""
    inner = packet[header_bytes(packet) + 8 :]
    length = int.from_bytes(inner[2:4]) if inner[0] >> 4 == 4 else 40 + int.from_bytes(inner[4:6])
    return inner[:length]


def _through(case: Case, inner: list[bytes]) -> list[bytes]:
    """What uxfrm puts on the wire for these inner packets."""
    batch = Batch.pack(inner)
    case.twin().output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(inner)
    return packets(batch)


def _df(packet: bytes) -> bool:
    return bool(packet[6] & 0x40)


@pytest.mark.parametrize("case", [case.reversed() for case in _cases(OUT_FLAGS)], ids=lambda case: case.name)
def test_outer_packets_are_linuxs(guest: LinuxGuest, case: Case) -> None:
    datagrams = [
        Sending(b"%d" % tos, tos, df, ttl)
        for tos, (df, ttl) in product(TOS, ((MAY_FRAGMENT, 3), (MUST_NOT, 200)))
    ]
    prepare(guest, case)
    wire, errors = sent_by(guest, case, datagrams)
    assert errors == [0] * len(datagrams)
    assert len(wire) == len(datagrams)

    inner = [inside(packet) for packet in wire]
    # the guest did as it was told, so there is something to carry over
    assert [tos_of(packet) for packet in inner] == [d.tos for d in datagrams]
    if case.shape.inner == 4:
        assert [(_df(packet), packet[8]) for packet in inner] == [
            (d.df == MUST_NOT, d.ttl) for d in datagrams
        ]
    else:
        assert [packet[7] for packet in inner] == [d.ttl for d in datagrams]
        assert all(int.from_bytes(packet[1:4]) & 0xFFFFF for packet in inner)

    made = _through(case, inner)
    assert list(map(without_id, made)) == list(map(without_id, wire))
    # uxfrm does not see that a socket lets its host fragment what has DF: these are numbered by Linux
    strict = [i for i, datagram in enumerate(datagrams) if datagram.df == MUST_NOT]
    assert _unnumbered(made, strict) == _unnumbered(wire, strict)


@pytest.mark.parametrize("case", _cases(IN_FLAGS), ids=lambda case: case.name)
def test_inner_tos_is_linuxs(guest: LinuxGuest, case: Case) -> None:
    prepare(guest, case)
    pairs = [(outer, inner) for outer in TOS for inner in (0x00, 0x29, 0xBA, 0x03)]
    sealed = Batch.pack([case.shape.datagram(b"%d" % inner, inner) for _, inner in pairs])
    case.namespace().output(sealed)
    wire = [with_tos(packet, outer) for packet, (outer, _) in zip(packets(sealed), pairs, strict=True)]
    linuxs = [datagram.tos for datagram in delivered_by(guest, wire)]
    assert len(linuxs) == len(wire)

    opened = Batch.pack(wire)
    case.twin().input(opened)
    assert outcomes(opened) == [Outcome.DELIVERED] * len(wire)
    assert [tos_of(packet) for packet in packets(opened)] == linuxs
