"""Captures made byte by byte, for what scapy and Wireshark do not write. Laid out from the pcapng draft."""

from __future__ import annotations

import gzip
import struct

SHB, IDB, PB, SPB, EPB = 0x0A0D0D0A, 1, 2, 3, 6


def pcap_file(
    frames: list[tuple[int, int, bytes]],
    order: str = "<",
    magic: int = 0xA1B2C3D4,
    link: int = 1,
    extra: int = 0,
) -> bytes:
    """A pcap file of (seconds, fraction, frame); `extra` bytes more per record header."""
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link)
    for seconds, fraction, frame in frames:
        out += struct.pack(order + "IIII", seconds, fraction, len(frame), len(frame)) + bytes(extra) + frame
    return out


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block with its body padded."""
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str = "<", major: int = 1, minor: int = 0, options: bytes = b"") -> bytes:
    return block(SHB, struct.pack(order + "IHHq", 0x1A2B3C4D, major, minor, -1) + options, order)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def interface(link: int = 1, snaplen: int = 0, options: bytes = b"", order: str = "<") -> bytes:
    return block(IDB, struct.pack(order + "HHI", link, 0, snaplen) + options, order)


def enhanced(
    frame: bytes,
    ticks: int = 0,
    number: int = 0,
    order: str = "<",
    options: bytes = b"",
    length: int | None = None,
    wire: int | None = None,
) -> bytes:
    size = len(frame) if length is None else length
    head = struct.pack(
        order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, size, len(frame) if wire is None else wire
    )
    return block(EPB, head + frame + bytes(-len(frame) % 4) + options, order)


def simple(frame: bytes, wire: int, order: str = "<") -> bytes:
    return block(SPB, struct.pack(order + "I", wire) + frame, order)


def obsolete(frame: bytes, ticks: int = 0, number: int = 0, drops: int = 0xFFFF, order: str = "<") -> bytes:
    head = struct.pack(
        order + "HHIIII", number, drops, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame)
    )
    return block(PB, head + frame, order)


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)
