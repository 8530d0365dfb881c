"""Cutting and joining super-packets, checked by Scapy, which knows neither."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from uxfrm.attach.superpackets import SUPER_COLUMNS, VNET_HEADER, Cutter, read_vnet
from uxfrm.datapath.wire import sum16

OUTER = {4: IP(src="10.1.0.5", dst="10.2.0.9", id=0xFFFE, flags="DF"), 6: IPv6(src="fd00::5", dst="fd01::9")}
OPTIONS = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]


def vnet(flags: int = 0, kind: int = 0, size: int = 0, start: int = 0, field: int = 0) -> bytes:
    """A virtio_net_hdr as linux/virtio_net.h has it."""
    return struct.pack("=BBHHHH", flags, kind, 0, size, start, field)


def partial(packet: Packet) -> bytes:
    """A packet with the checksum that the kernel hands on: of the pseudo header alone."""
    raw = bytearray(bytes(packet))
    upper, field, proto = place(packet)
    ends = raw[12:20] if packet.version == 4 else raw[8:40]
    total = sum(struct.unpack(f">{len(ends) // 2}H", ends)) + proto + len(raw) - upper
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    raw[upper + field : upper + field + 2] = total.to_bytes(2)
    return bytes(raw)


def place(packet: Packet) -> tuple[int, int, int]:
    """Bytes before the upper header, where its checksum is in it, its protocol."""
    upper = 20 if packet.version == 4 else 40
    return (upper, 16, 6) if TCP in packet else (upper, 6, 17)


def cut(*frames: bytes) -> tuple[list[bytes], list[int]]:
    """What a TUN device gave, as packets."""
    data = np.frombuffer(b"".join(frames), np.uint8).copy()
    sizes = np.array([len(frame) for frame in frames], np.int64)
    supers = np.empty((len(frames), SUPER_COLUMNS), np.int64)
    read_vnet(data, np.cumsum(sizes) - sizes, sizes, supers)
    batch, parts = Cutter().batch(data, supers)
    return [batch.packet(i) for i in range(len(batch))], parts.tolist()


def mended(packet: bytes) -> bytes:
    """The packet with lengths and checksums as Scapy computes them."""
    parsed = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    for layer in parsed.iterpayloads():
        for name in ("len", "plen", "chksum"):
            if name in layer.fields:
                del layer.fields[name]
    return bytes(parsed)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("payload", [1, 100, 101, 250, 1000])
@pytest.mark.parametrize("flags", ["A", "PA", "FPA", "EPAC"])
def test_tcp(version: int, payload: int, flags: str) -> None:
    body = bytes(n * 7 & 0xFF for n in range(payload))
    whole = OUTER[version] / TCP(sport=5, dport=6, seq=0xFFFFFFF0, flags=flags, options=OPTIONS) / Raw(body)
    upper, field, _ = place(whole)
    kind = {4: 1, 6: 4}[version] | (0x80 if "C" in flags else 0)
    packets, parts = cut(vnet(1, kind, 100, upper, field) + partial(whole))
    assert parts == [len(packets)] == [-(-payload // 100)]
    assert [mended(p) for p in packets] == packets
    parsed = [type(OUTER[version])(p) for p in packets]
    assert b"".join(bytes(p[TCP].payload) for p in parsed) == body
    assert [p[TCP].seq for p in parsed] == [(0xFFFFFFF0 + 100 * n) & 0xFFFFFFFF for n in range(len(parsed))]
    for number, part in enumerate(parsed):
        last = number == len(parsed) - 1
        wanted = {f for f in flags if (f not in "FP" or last) and (f != "C" or number == 0)}
        assert set(str(part[TCP].flags)) == wanted
        assert part[TCP].options == whole[TCP].options
        if version == 4:
            assert part.id == (0xFFFE + number) & 0xFFFF


@pytest.mark.parametrize("version", [4, 6])
def test_udp(version: int) -> None:
    body = bytes(range(250))
    whole = OUTER[version] / UDP(sport=5, dport=6) / Raw(body)
    upper, field, _ = place(whole)
    packets, _ = cut(vnet(1, 5, 100, upper, field) + partial(whole))
    assert [mended(p) for p in packets] == packets
    assert [bytes(type(OUTER[version])(p)[UDP].payload) for p in packets] == [
        body[:100],
        body[100:200],
        body[200:],
    ]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("upper", [TCP(sport=1, dport=2, flags="S"), UDP(sport=1, dport=2)])
@given(body=st.binary(max_size=60))
def test_a_checksum_that_was_begun_is_completed(version: int, upper: Packet, body: bytes) -> None:
    whole = OUTER[version] / upper.copy() / Raw(body)
    start, field, _ = place(whole)
    packets, _ = cut(vnet(1, 0, 0, start, field) + partial(whole), vnet() + bytes(whole))
    assert packets == [bytes(whole)] * 2


def test_what_needs_nothing_passes_as_it_is() -> None:
    odd = b"\x45" + bytes(range(30))
    assert cut(vnet() + odd, vnet(2) + odd) == ([odd, odd], [1, 1])


MALFORMED = {
    "shorter than its header": bytes(5),
    "no packet": vnet(),
    "fragmentation offload, which was not asked for": vnet(1, 3, 100, 20, 6) + bytes(OUTER[4] / UDP()),
    "parts of nothing": vnet(1, 1, 0, 20, 16) + bytes(OUTER[4] / TCP()),
    "no checksum to complete": vnet(0, 1, 100, 20, 16) + bytes(OUTER[4] / TCP()),
    "a checksum outside": vnet(1, 0, 0, 20, 60) + bytes(OUTER[4] / TCP()),
    "neither TCP nor UDP": vnet(1, 1, 100, 20, 16) + bytes(OUTER[4].copy() / Raw(bytes(40))),
    "another header length": vnet(1, 1, 100, 24, 16) + bytes(OUTER[4] / TCP() / Raw(bytes(40))),
}


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED)
def test_what_makes_no_sense_is_no_packet(frame: bytes) -> None:
    good = bytes(OUTER[4] / UDP(sport=1, dport=2))
    assert cut(frame, vnet() + good) == ([good], [0, 1])


@given(
    st.binary(max_size=120), st.integers(0, 5), st.integers(0, 200), st.integers(0, 80), st.integers(0, 80)
)
def test_any_bytes(body: bytes, kind: int, size: int, start: int, field: int) -> None:
    """Whatever is said of whatever bytes: packets or none, of no more bytes than a header for each part."""
    packets, parts = cut(vnet(1, kind, size, start, field) + body)
    assert sum(parts) == len(packets)
    assert sum(len(p) for p in packets) <= len(body) * (1 + len(packets))


def plain_sum(data: bytes) -> int:
    """RFC 1071, 1."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@given(st.binary(max_size=100), st.integers(0, 9))
def test_the_sum(data: bytes, at: int) -> None:
    assert sum16(
        np.frombuffer(data, np.uint8).copy(), min(at, len(data)), max(0, len(data) - at)
    ) == plain_sum(data[at:])


@pytest.mark.parametrize(("at", "length"), [(-1, 2), (0, -1), (0, 9), (8, 1)])
def test_a_sum_stays_inside(at: int, length: int) -> None:
    data: Any = np.zeros(8, np.uint8)
    with pytest.raises(IndexError):
        sum16(data, at, length)


def test_the_header_is_the_kernels() -> None:
    assert len(vnet()) == VNET_HEADER
