"""IP headers and ports, with scapy as the witness; and whatever bytes come, nothing raises."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import GRE
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from uxfrm.datapath.batch import Batch
from uxfrm.datapath.headers import checksum, dsfield, parse, ports, set_dsfield, write_checksum
from uxfrm.model.outcome import Outcome

A, B = "192.0.2.1", "198.51.100.7"
A6, B6 = "2001:db8::1", "2001:db8:f::7"
DATA = Raw(b"payload!")
UDPLITE, MH = 136, 135


def four(**more: object) -> IP:
    return IP(src=A, dst=B, **more)


def six(**more: object) -> IPv6:
    return IPv6(src=A6, dst=B6, **more)


OPTIONS = [IPOption_RR(routers=["0.0.0.0"] * 3), IPOption_NOP()]
HOPS = IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 12)])
ROUTING = IPv6ExtHdrRouting(addresses=[B6, A6])
DEST = IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 4)])
KEY = 0xC0DE1234
MOBILITY = Raw(bytes([59, 1, 5, 0, 0, 0, 0, 0]) + bytes(8))  # type 5: binding update

# name: (packet, protocol, header bytes, fragment, sport, dport)
CASES: dict[str, tuple[Packet, int, int, bool, int, int]] = {
    "tcp": (four() / TCP(sport=1234, dport=80) / DATA, 6, 20, False, 1234, 80),
    "udp": (four() / UDP(sport=53, dport=0xFFFF) / DATA, 17, 20, False, 53, 0xFFFF),
    "udp, options": (four(options=OPTIONS) / UDP(sport=1, dport=2) / DATA, 17, 36, False, 1, 2),
    "udplite": (four(proto=UDPLITE) / UDP(sport=7, dport=9) / DATA, UDPLITE, 20, False, 7, 9),
    "sctp": (four() / SCTP(sport=36412, dport=2905), 132, 20, False, 36412, 2905),
    "icmp": (four() / ICMP(type=3, code=4) / DATA, 1, 20, False, 3, 4),
    "icmpv6 in ipv4": (four(proto=58) / Raw(b"\x80\0abcdef"), 58, 20, False, 0, 0),
    "gre": (four() / GRE() / DATA, 47, 20, False, 0, 0),
    "gre, key": (four() / GRE(key_present=1, key=KEY) / DATA, 47, 20, False, 0xC0DE, 0x1234),
    "gre, checksum and key": (
        four() / GRE(chksum_present=1, key_present=1, key=KEY) / DATA,
        *(47, 20, False, 0xC0DE, 0x1234),
    ),
    "gre, checksum": (four() / GRE(chksum_present=1) / DATA, 47, 20, False, 0, 0),
    "gre, key cut off": (four(proto=47) / Raw(b"\x20\0\x08\0\x01\x02"), 47, 20, False, 0, 0),
    "esp": (four(proto=50) / Raw(bytes(40)), 50, 20, False, 0, 0),
    "ip in ip": (four() / IP(src=B, dst=A) / UDP(sport=1, dport=2), 4, 20, False, 0, 0),
    "mh in ipv4": (four(proto=MH) / MOBILITY, MH, 20, False, 0, 0),
    "first fragment": (four(flags="MF") / UDP(sport=1, dport=2) / DATA, 17, 20, True, 0, 0),
    "later fragment": (four(frag=185, proto=17) / Raw(b"\0\1\0\2abcd"), 17, 20, True, 0, 0),
    "do not fragment": (four(flags="DF") / UDP(sport=1, dport=2), 17, 20, False, 1, 2),
    "udp without room": (four(proto=17) / Raw(b"\0\1\0"), 17, 20, False, 0, 0),
    "nothing inside": (four(proto=6), 6, 20, False, 0, 0),
    "tcp6": (six() / TCP(sport=1234, dport=80) / DATA, 6, 40, False, 1234, 80),
    "udp6": (six() / UDP(sport=5, dport=6), 17, 40, False, 5, 6),
    "icmpv6": (six() / ICMPv6EchoRequest() / DATA, 58, 40, False, 128, 0),
    "icmp in ipv6": (six(nh=1) / Raw(b"\x08\0abcdef"), 1, 40, False, 0, 0),
    "mh": (six(nh=MH) / MOBILITY, MH, 40, False, 5, 0),
    "gre6": (six(nh=47) / GRE(key_present=1, key=KEY), 47, 40, False, 0xC0DE, 0x1234),
    "hop-by-hop": (six() / HOPS / UDP(sport=5, dport=6), 17, 56, False, 5, 6),
    "routing": (six() / ROUTING / UDP(sport=5, dport=6), 17, 80, False, 5, 6),
    "destination options": (six() / DEST / UDP(sport=5, dport=6), 17, 48, False, 5, 6),
    "all of them": (six() / HOPS / DEST / ROUTING / UDP(sport=5, dport=6), 17, 104, False, 5, 6),
    "fragment6": (six() / IPv6ExtHdrFragment(m=1, id=9) / UDP(sport=5, dport=6), 17, 48, True, 0, 0),
    "hop-by-hop, fragment": (
        six() / HOPS / IPv6ExtHdrFragment(offset=10, nh=17) / DATA,
        *(17, 64, True, 0, 0),
    ),
    "no next header": (six(nh=59) / DATA, 59, 40, False, 0, 0),
}


def batch_of(raw: bytes) -> Batch:
    """One packet between guards, so that reading a neighbour would show."""
    return Batch.pack([b"\xff" * 64, raw, b"\xff" * 64])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("padding", [b"", bytes(18), b"\xee\xff\xc0"], ids=["", "padded", "trailer"])
def test_headers_are_read_as_scapy_built_them(name: str, padding: bytes) -> None:
    """Link-layer padding behind the packet is cut off, so neither ports nor lengths come from it."""
    packet, proto, header, fragment, sport, dport = CASES[name]
    raw = bytes(packet)
    batch = batch_of(raw + padding)
    p = batch.packets[1]
    assert parse(batch.data, batch.packets, 1) == 0
    assert (p["proto"], p["header"], bool(p["fragment"])) == (proto, header, fragment)
    assert p["length"] == len(raw)
    assert p["family"] == (2 if isinstance(packet, IP) else 10)
    assert batch.data[p["nexthdr"]] == proto
    assert ports(batch.data, batch.packets, 1) == sport << 16 | dport
    assert batch.packet(1) == raw


def flip(raw: bytes, at: int, value: int) -> bytes:
    return raw[:at] + bytes([value]) + raw[at + 1 :]


GOOD4 = bytes(four() / UDP(sport=1, dport=2) / DATA)
GOOD6 = bytes(six() / UDP(sport=1, dport=2) / DATA)


def resummed(raw: bytes) -> bytes:
    """With the checksum that scapy gives the header as it is now."""
    packet = IP(raw)
    del packet.chksum
    return bytes(packet)


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (b"", Outcome.IN_NOT_IP),
        (flip(GOOD4, 0, 0x55), Outcome.IN_NOT_IP),
        (flip(GOOD6, 0, 0x00), Outcome.IN_NOT_IP),
        (GOOD4[:1], Outcome.IN_IP_HEADER),
        (GOOD4[:19], Outcome.IN_IP_HEADER),
        (flip(GOOD4, 0, 0x44), Outcome.IN_IP_HEADER),
        (flip(GOOD4, 0, 0x4F), Outcome.IN_IP_HEADER),
        (resummed(flip(GOOD4, 3, 19)), Outcome.IN_IP_HEADER),
        (GOOD6[:39], Outcome.IN_IP_HEADER),
        (GOOD4[:-1], Outcome.IN_IP_TRUNCATED),
        (GOOD6[:-1], Outcome.IN_IP_TRUNCATED),
        (GOOD6[:40], Outcome.IN_IP_TRUNCATED),
        (flip(GOOD4, 8, GOOD4[8] - 1), Outcome.IN_IP_CHECKSUM),
        (flip(GOOD4, 19, GOOD4[19] ^ 1), Outcome.IN_IP_CHECKSUM),
        # an extension header that says it is longer than the packet
        (bytes(six(nh=60) / Raw(bytes([17, 200, 1, 4]) + bytes(4))), Outcome.IN_IP_HEADER),
    ],
)
def test_what_the_ip_layer_drops_before_xfrm(raw: bytes, outcome: Outcome) -> None:
    batch = batch_of(raw)
    assert Outcome.of(parse(batch.data, batch.packets, 1)) == outcome


def sane(batch: Batch) -> None:
    """After a good parse everything that is reported lies inside the slot."""
    p = batch.packets[1]
    assert 0 < p["header"] <= p["length"]
    assert p["offset"] + p["length"] <= p["high"] - 320
    assert p["offset"] <= p["nexthdr"] < p["offset"] + p["length"]
    assert p["family"] in (2, 10)
    assert 0 <= ports(batch.data, batch.packets, 1) < 2**32
    assert 0 <= dsfield(batch.data, batch.packets, 1) < 256


SEEDS = [bytes(case[0]) for case in CASES.values()]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=6),
    st.integers(0, 90),
    st.booleans(),
)
def test_a_damaged_packet_never_leads_outside_its_slot(
    raw: bytes, changes: list[tuple[int, int]], cut: int, mend: bool
) -> None:
    changed = bytearray(raw[: max(len(raw) - cut, 0)])
    for at, value in changes:
        if at < len(changed):
            changed[at] = value
    if mend and len(changed) >= 20 and changed[0] >> 4 == 4:
        # so that the damage gets past the checksum
        size = min(max((changed[0] & 15) * 4, 20), len(changed) & ~1)
        changed[10:12] = bytes(2)
        data = np.frombuffer(bytes(changed[:size]), np.uint8)
        changed[10:12] = struct.pack("!H", checksum(data.copy(), 0, size))
    check_any(bytes(changed))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x45", b"\x46", b"\x60\0\0\0\0\x20\0"]))
def test_random_bytes_never_lead_outside_their_slot(tail: bytes, start: bytes) -> None:
    check_any(start + tail)


def check_any(raw: bytes) -> None:
    batch = batch_of(raw)
    result = parse(batch.data, batch.packets, 1)
    if result == 0:
        sane(batch)
    else:
        assert Outcome.of(result).name.startswith("IN_")
    assert batch.packets["length"][[0, 2]].tolist() == [64, 64]
    # The same without any room: a read outside would be an IndexError.
    alone = Batch.pack([raw])
    p = alone.packets[0]
    bare = Batch.view(
        alone.data[p["offset"] : p["offset"] + p["length"]].copy(),
        np.zeros(1, np.int64),
        np.array([len(raw)]),
    )
    assert parse(bare.data, bare.packets, 0) == result
    if result == 0:
        assert ports(bare.data, bare.packets, 0) == ports(batch.data, batch.packets, 1)


def slow_sum(data: bytes) -> int:
    """RFC 1071 by the book: the complement of the ones' complement sum."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


@given(st.binary(min_size=20, max_size=60).filter(lambda b: len(b) % 4 == 0))
def test_the_checksum_is_rfc_1071(data: bytes) -> None:
    buffer = np.frombuffer(data, np.uint8).copy()
    assert checksum(buffer, 0, len(data)) == slow_sum(data)
    write_checksum(buffer, 0, len(data))
    assert checksum(buffer, 0, len(data)) == 0
    assert buffer.tobytes()[:10] == data[:10]
    assert buffer.tobytes()[12:] == data[12:]


@pytest.mark.parametrize("value", [0, 1, 0x2B, 0xB8, 0xFF])
def test_the_dsfield_is_written_and_nothing_else(value: int) -> None:
    want4 = bytes(four(tos=value) / UDP(sport=1, dport=2) / DATA)
    want6 = bytes(six(tc=value, fl=0xABCDE) / UDP(sport=1, dport=2) / DATA)
    have6 = bytes(six(tc=0x55, fl=0xABCDE) / UDP(sport=1, dport=2) / DATA)
    for have, want in ((GOOD4, want4), (have6, want6)):
        batch = batch_of(have)
        assert parse(batch.data, batch.packets, 1) == 0
        set_dsfield(batch.data, batch.packets, 1, value)
        assert batch.packet(1) == want
        assert dsfield(batch.data, batch.packets, 1) == value
