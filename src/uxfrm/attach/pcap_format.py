"""The two capture formats, pcap and pcapng, as two classes of one shape.

    walk(data, at, stop, frames)   note frames (see pcap_walk)
    control(rest)                  take a block that is no frame: how many bytes it had, 0 for "not complete"
    fault(rest)                    say what is wrong with the record at the start of `rest`
    missing(rest)                  say what the end of the file cut off
    size(rest)                     length of the record at the start of `rest`

`rest` is a memoryview from the position where the walk stopped. Nothing here reads files or knows names.
Follows: draft-ietf-opsawg-pcap "General File Structure"; draft-ietf-opsawg-pcapng "Section Header Block",
"Interface Description Block", "Options".
"""

from __future__ import annotations

import struct
from typing import Protocol

import numpy as np

from uxfrm.attach.pcap_walk import (
    BLOCK_MAX,
    ENHANCED_PACKET,
    FRAME_MAX,
    IF_COLUMNS,
    INTERFACE_DESCRIPTION,
    PACKET,
    SECTION_HEADER,
    SIMPLE_PACKET,
    Bytes,
    Int64s,
    walk_blocks,
    walk_records,
)

# Interfaces of one section: what 16 bits number. More would let a file fill the memory with descriptions.
INTERFACES_MAX = 65_536

_LINK_BITS = (
    0xFFFF  # above: FCS length and its flag, see draft-ietf-opsawg-pcap "LinkType and additional information"
)


class FormatError(Exception):
    """What is wrong with a header, in words; the reader adds file and frame."""


class Format(Protocol):
    """What the reader asks of a capture format."""

    def walk(self, data: Bytes, at: int, stop: int, frames: Int64s) -> tuple[int, int, int]: ...
    def control(self, rest: memoryview) -> int: ...
    def fault(self, rest: memoryview) -> str: ...
    def missing(self, rest: memoryview) -> str: ...
    def size(self, rest: memoryview) -> int: ...


def _cut(have: int, need: int, what: str = "") -> str:
    return f"cut short: {have} of {need} bytes{what}"


# --- pcap --------------------------------------------------------------------------------------------

# First four bytes as the file has them: (byte order, nanoseconds per fraction, bytes of a record header).
# The last is Kuznetsov's patched libpcap of 1999, still to be met.
PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000, 16),
    b"\xa1\xb2\xc3\xd4": (">", 1000, 16),
    b"\x4d\x3c\xb2\xa1": ("<", 1, 16),
    b"\xa1\xb2\x3c\x4d": (">", 1, 16),
    b"\x34\xcd\xb2\xa1": ("<", 1000, 24),
    b"\xa1\xb2\xcd\x34": (">", 1000, 24),
}
PCAP_HEADER = 24


class Pcap:
    """A pcap file: one byte order, clock and link type for all frames."""

    def __init__(self, header: bytes) -> None:
        """Read the file header (24 bytes)."""
        if len(header) < PCAP_HEADER:
            raise FormatError(_cut(len(header), PCAP_HEADER, " of the file header"))
        self._order, self._tick, self._header = PCAP_MAGICS[header[:4]]
        self._big = int(self._order == ">")
        major, minor = struct.unpack_from(self._order + "HH", header, 4)
        if major != 2:
            raise FormatError(f"pcap version {major}.{minor}, only 2.x is known")
        self.link: int = struct.unpack_from(self._order + "I", header, 20)[0] & _LINK_BITS

    def walk(self, data: Bytes, at: int, stop: int, frames: Int64s) -> tuple[int, int, int]:
        return walk_records(data, at, stop, self._big, self._header, self._tick, self.link, frames)

    def control(self, rest: memoryview) -> int:
        raise AssertionError("pcap has no blocks")

    def fault(self, rest: memoryview) -> str:
        length = self.size(rest) - self._header
        return f"record of {length} bytes, more than {FRAME_MAX}: the file is damaged from here on"

    def missing(self, rest: memoryview) -> str:
        if len(rest) < self._header:
            return _cut(len(rest), self._header, " of the record header")
        return _cut(len(rest) - self._header, self.size(rest) - self._header)

    def size(self, rest: memoryview) -> int:
        length: int = struct.unpack_from(self._order + "I", rest, 8)[0]
        return self._header + length


# --- pcapng ------------------------------------------------------------------------------------------

PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"

_BYTE_ORDERS = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_IF_TSRESOL, _IF_TSOFFSET = 9, 14
_MICROSECONDS = 6
_OFFSET_MAX = 1 << 40  # seconds, 34,000 years

_BLOCKS = {
    INTERFACE_DESCRIPTION: " of an interface description",
    PACKET: " of a packet block",
    SIMPLE_PACKET: " of a packet block",
    ENHANCED_PACKET: " of a packet block",
}


class Pcapng:
    """A pcapng file: sections, each with its byte order and interfaces."""

    def __init__(self) -> None:
        self._order = "<"
        self._big = 0
        self._table = np.zeros((4, IF_COLUMNS), np.int64)
        self._interfaces = self._table[:0]

    def walk(self, data: Bytes, at: int, stop: int, frames: Int64s) -> tuple[int, int, int]:
        return walk_blocks(data, at, stop, self._big, self._interfaces, frames)

    def control(self, rest: memoryview) -> int:
        """Take a Section Header or Interface Description Block. Raises FormatError."""
        if rest[:4] == PCAPNG_MAGIC:
            return self._section(rest)
        size = self.size(rest)
        self._describe(rest[:size])
        return size

    def _section(self, rest: memoryview) -> int:
        """Begin a section ("Section Header Block"); its length field is not needed and not trusted."""
        if len(rest) < 16:
            return 0
        order = _BYTE_ORDERS.get(bytes(rest[8:12]))
        if order is None:
            raise FormatError(f"section header without byte-order magic: {rest[8:12].hex(' ')}")
        major, minor = struct.unpack_from(order + "HH", rest, 12)
        size: int = struct.unpack_from(order + "I", rest, 4)[0]
        if major != 1:
            raise FormatError(f"pcapng version {major}.{minor}, only 1.x is known")
        if size < 28 or size > BLOCK_MAX or size & 3:
            raise FormatError(f"section header of {size} bytes")
        if len(rest) < size:
            return 0
        if struct.unpack_from(order + "I", rest, size - 4)[0] != size:
            raise FormatError("section header's two lengths differ")
        self._order, self._big = order, int(order == ">")
        self._interfaces = self._table[:0]
        return size

    def _describe(self, block: memoryview) -> None:
        """Add an interface ("Interface Description Block")."""
        if len(block) < 20:
            raise FormatError(f"interface description of {len(block)} bytes")
        number = len(self._interfaces)
        if number >= INTERFACES_MAX:
            raise FormatError(f"more than {INTERFACES_MAX} interfaces in one section")
        if number == len(self._table):
            self._table = np.concatenate([self._table, np.zeros_like(self._table)])
        link, snaplen = struct.unpack_from(self._order + "HxxI", block, 8)
        ticks, shift, offset_s = self._clock(block[16:-4])
        self._table[number] = (link, snaplen, ticks, shift, offset_s)
        self._interfaces = self._table[: number + 1]

    def _clock(self, options: memoryview) -> tuple[int, int, int]:
        """Ticks a second, the power of two they are or -1, seconds to add ("if_tsresol", "if_tsoffset")."""
        resolution, offset_s = _MICROSECONDS, 0
        while len(options) >= 4:
            code, length = struct.unpack_from(self._order + "HH", options)
            value = options[4 : 4 + length]
            if code == _IF_TSRESOL and len(value) == 1:
                resolution = value[0]
            elif code == _IF_TSOFFSET and len(value) == 8:
                offset_s = struct.unpack(self._order + "q", value)[0]
            elif code == 0:
                break
            options = options[4 + (length + 3) // 4 * 4 :]
        offset_s = max(-_OFFSET_MAX, min(_OFFSET_MAX, offset_s))
        power = resolution & 0x7F
        if resolution & 0x80:
            return (1, power, offset_s) if power <= 62 else (0, -1, 0)
        return (10**power, -1, offset_s) if power <= 18 else (0, -1, 0)

    def fault(self, rest: memoryview) -> str:
        kind, size = struct.unpack_from(self._order + "II", rest)
        if size < 12 or size & 3:
            return f"block of {size} bytes, which none can have: the file is damaged from here on"
        if size > BLOCK_MAX:
            return f"block of {size} bytes, more than {BLOCK_MAX}: the file is damaged from here on"
        last = struct.unpack_from(self._order + "I", rest, size - 4)[0]
        if last != size:
            return f"block of {size} bytes says {last} at its end: the file is damaged from here on"
        return self._frame_fault(kind, size, rest)

    def _frame_fault(self, kind: int, size: int, rest: memoryview) -> str:
        """What is wrong with the frame of a sound block."""
        head = 16 if kind == SIMPLE_PACKET else 32
        if size < head:
            return f"skipped: packet block of {size} bytes, at least {head} are needed"
        interface, at = 0, 8
        if kind != SIMPLE_PACKET:
            interface, at = struct.unpack_from(self._order + ("H" if kind == PACKET else "I"), rest, 8)[0], 20
        if interface >= len(self._interfaces):
            return f"skipped: interface {interface} was not described"
        length = struct.unpack_from(self._order + "I", rest, at)[0]
        return f"skipped: {length} bytes in a packet block with room for {min(size - head, FRAME_MAX)}"

    def missing(self, rest: memoryview) -> str:
        if len(rest) < 8:
            return _cut(len(rest), 8, " of a block header")
        kind, size = struct.unpack_from(self._order + "II", rest)
        if kind == ENHANCED_PACKET and len(rest) >= 28:
            length = struct.unpack_from(self._order + "I", rest, 20)[0]
            if len(rest) - 28 < length <= size - 32:
                return _cut(len(rest) - 28, length)
        if kind == SECTION_HEADER:
            return f"cut short: {len(rest)} bytes of a section header"
        return _cut(len(rest), size, _BLOCKS.get(kind, " of a block without a frame"))

    def size(self, rest: memoryview) -> int:
        size: int = struct.unpack_from(self._order + "I", rest, 4)[0]
        return size


# --- which of them ------------------------------------------------------------------------------------

# What else people feed to a capture reader, by its first bytes.
_FOREIGN = {
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xfd7zX": "compressed with xz",
    b"BZh": "compressed with bzip2",
    b"\x04\x22\x4d\x18": "compressed with lz4",
    b"PK\x03\x04": "a zip archive",
    b"snoop": "a snoop capture (editcap converts it)",
    b"\x1f\x8b": "compressed with gzip twice",
}


def foreign(start: bytes) -> str:
    """Say what a file is that is no capture."""
    if not start:
        return "empty, not a capture"
    for magic, words in _FOREIGN.items():
        if start.startswith(magic):
            return f"not pcap or pcapng: it is {words}"
    if start[:4] in PCAP_MAGICS or start[:4] == PCAPNG_MAGIC[: len(start)]:
        return f"cut short in its header: {len(start)} bytes"
    return f"not pcap or pcapng: it starts with {start[:8].hex(' ')}"
