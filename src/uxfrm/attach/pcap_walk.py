"""Walking over the records of a capture: the compiled half of the reader.

Both walks have one shape: from `at` to `stop` in `data` they note every complete frame in the columns of
`frames`, and return (frames noted, position of the first thing not taken, why they stopped there).
They read packet lengths, never packets, and allocate nothing. Why a record is bad is found out in Python.

Follows: draft-ietf-opsawg-pcap "Packet Record"; draft-ietf-opsawg-pcapng "General Block Structure",
"Enhanced Packet Block", "Simple Packet Block", "Packet Block (obsolete!)".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int64, types, uint8

from uxfrm.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]

# Why a walk stopped.
MORE = 0  # the record at the position is not complete
FULL = 1  # no more columns in `frames`
CONTROL = 2  # a Section Header or Interface Description Block, perhaps not complete
SKIP = 3  # a complete block whose frame is unusable; what follows it can be read
BAD = 4  # no length to go on by

# Rows of `frames`.
OFFSET, LENGTH, WIRE_LENGTH, TIME_NS, LINK = range(5)
ROWS = 5

# Columns of `interfaces`.
IF_LINK, IF_SNAPLEN, IF_TICKS, IF_SHIFT, IF_OFFSET_S = range(5)
IF_COLUMNS = 5

# A frame longer than this is damage, not a frame: libpcap's MAXIMUM_SNAPLEN,
# Wireshark's WTAP_MAX_PACKET_SIZE_STANDARD.
FRAME_MAX = 262_144
# A block longer than this is refused rather than held in memory (Wireshark's MAX_BLOCK_SIZE).
BLOCK_MAX = 16 * 1024 * 1024

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
PACKET = 2
SIMPLE_PACKET = 3
ENHANCED_PACKET = 6

# Seconds beyond which nanoseconds do not fit 63 bits (the year 2262).
_SECONDS_MAX = 9_223_372_035
_TIME_MAX = 9_223_372_036_854_775_807

_DATA: Any = uint8[::1]
_TABLE: Any = int64[:, ::1]
_tuple: Any = types.UniTuple
_STOP: Any = _tuple(int64, 3)


@compiled(int64(_DATA, int64, int64))
def read16(data: Bytes, at: int, big: int) -> int:
    """Two bytes in the file's byte order."""
    if big:
        return (int(data[at]) << 8) | int(data[at + 1])
    return int(data[at]) | (int(data[at + 1]) << 8)


@compiled(int64(_DATA, int64, int64))
def read32(data: Bytes, at: int, big: int) -> int:
    """Four bytes in the file's byte order, unsigned."""
    if big:
        return (
            (int(data[at]) << 24) | (int(data[at + 1]) << 16) | (int(data[at + 2]) << 8) | int(data[at + 3])
        )
    return int(data[at]) | (int(data[at + 1]) << 8) | (int(data[at + 2]) << 16) | (int(data[at + 3]) << 24)


@compiled(_STOP(_DATA, int64, int64, int64, int64, int64, int64, _TABLE))
def walk_records(
    data: Bytes, at: int, stop: int, big: int, header: int, tick: int, link: int, frames: Int64s
) -> tuple[int, int, int]:
    """Walk over the packet records of a pcap file: `header` bytes each, `tick` nanoseconds per fraction.

    Offsets are noted relative to the first `at`.
    """
    first = at
    for i in range(frames.shape[1]):
        if stop - at < header:
            return i, at, MORE
        length = read32(data, at + 8, big)
        if length > FRAME_MAX:
            return i, at, BAD
        if stop - at - header < length:
            return i, at, MORE
        frames[OFFSET, i] = at + header - first
        frames[LENGTH, i] = length
        frames[WIRE_LENGTH, i] = read32(data, at + 12, big)
        frames[TIME_NS, i] = read32(data, at, big) * 1_000_000_000 + read32(data, at + 4, big) * tick
        frames[LINK, i] = link
        at += header + length
    return frames.shape[1], at, FULL


@compiled(int64(int64, int64, int64, int64, int64))
def nanoseconds(high: int, low: int, ticks: int, shift: int, offset_s: int) -> int:
    """Turn a timestamp into nanoseconds since 1970 ("if_tsresol", "if_tsoffset").

    An interface counts `ticks` a second (a power of ten up to 10^18), or 2^shift if `shift` is not negative;
    with ticks 0 it has no usable clock and everything happens at 0. Out of range times become the last one.
    """
    if ticks == 0:
        return 0
    if high > 0x7FFFFFFF:
        return _TIME_MAX
    count = (high << 32) | low
    if shift >= 0:
        seconds = count >> shift
        fraction = count & ((1 << shift) - 1)
        if shift > 30:
            fraction = ((fraction >> (shift - 30)) * 1_000_000_000) >> 30
        else:
            fraction = (fraction * 1_000_000_000) >> shift
    else:
        seconds = count // ticks
        fraction = count - seconds * ticks
        if ticks > 1_000_000_000:
            fraction = fraction // (ticks // 1_000_000_000)
        else:
            fraction = fraction * (1_000_000_000 // ticks)
    if seconds > _SECONDS_MAX or seconds + offset_s > _SECONDS_MAX:
        return _TIME_MAX
    if seconds + offset_s < -_SECONDS_MAX:
        return -_TIME_MAX
    return (seconds + offset_s) * 1_000_000_000 + fraction


@compiled(int64(_DATA, int64, int64, int64, _TABLE, _TABLE, int64, int64))
def _note_packet(
    data: Bytes, at: int, size: int, big: int, interfaces: Int64s, frames: Int64s, i: int, first: int
) -> int:
    """Note the frame of an Enhanced Packet Block or of its obsolete forerunner; 0 if it is unusable."""
    if size < 32:
        return 0
    if read32(data, at, big) == PACKET:
        interface = read16(data, at + 8, big)
    else:
        interface = read32(data, at + 8, big)
    length = read32(data, at + 20, big)
    if interface >= interfaces.shape[0] or length > size - 32 or length > FRAME_MAX:
        return 0
    frames[OFFSET, i] = at + 28 - first
    frames[LENGTH, i] = length
    frames[WIRE_LENGTH, i] = read32(data, at + 24, big)
    frames[TIME_NS, i] = nanoseconds(
        read32(data, at + 12, big),
        read32(data, at + 16, big),
        interfaces[interface, IF_TICKS],
        interfaces[interface, IF_SHIFT],
        interfaces[interface, IF_OFFSET_S],
    )
    frames[LINK, i] = interfaces[interface, IF_LINK]
    return 1


@compiled(int64(_DATA, int64, int64, int64, _TABLE, _TABLE, int64, int64))
def _note_simple(
    data: Bytes, at: int, size: int, big: int, interfaces: Int64s, frames: Int64s, i: int, first: int
) -> int:
    """Note the frame of a Simple Packet Block, which has no time and belongs to interface 0; or return 0."""
    if size < 16 or interfaces.shape[0] == 0:
        return 0
    wire = read32(data, at + 8, big)
    length = wire
    snaplen = interfaces[0, IF_SNAPLEN]
    if snaplen > 0 and length > snaplen:
        length = snaplen
    if length > size - 16 or length > FRAME_MAX:
        return 0
    frames[OFFSET, i] = at + 12 - first
    frames[LENGTH, i] = length
    frames[WIRE_LENGTH, i] = wire
    frames[TIME_NS, i] = 0
    frames[LINK, i] = interfaces[0, IF_LINK]
    return 1


@compiled(_STOP(_DATA, int64, int64, int64, _TABLE, _TABLE))
def walk_blocks(
    data: Bytes, at: int, stop: int, big: int, interfaces: Int64s, frames: Int64s
) -> tuple[int, int, int]:
    """Walk over the blocks of a pcapng section, passing over those that carry no frame.

    1. Only the type of a Section Header can be read: its byte order may be another.
    2. The length must be sane, the block complete and its trailing length the same.
    3. Interface descriptions are for Python; packet blocks are noted; all others are passed over.
    Offsets are noted relative to the first `at`.
    """
    first = at
    i = 0
    while i < frames.shape[1]:
        if stop - at < 8:
            return i, at, MORE
        kind = read32(data, at, big)
        if kind == SECTION_HEADER:
            return i, at, CONTROL
        size = read32(data, at + 4, big)
        if size < 12 or size > BLOCK_MAX or size & 3:
            return i, at, BAD
        if stop - at < size:
            return i, at, MORE
        if read32(data, at + size - 4, big) != size:
            return i, at, BAD
        if kind == INTERFACE_DESCRIPTION:
            return i, at, CONTROL
        if kind in (ENHANCED_PACKET, PACKET):
            if _note_packet(data, at, size, big, interfaces, frames, i, first) == 0:
                return i, at, SKIP
            i += 1
        elif kind == SIMPLE_PACKET:
            if _note_simple(data, at, size, big, interfaces, frames, i, first) == 0:
                return i, at, SKIP
            i += 1
        at += size
    return i, at, FULL
