"""IPComp: deflate, packet by packet between the compiled runs (RFC 3173, 2394).

Follows: net/xfrm/xfrm_ipcomp.c, crypto/deflate.c; net/ipv4/xfrm4_tunnel.c for packets that went uncompressed.
`seal` and `open_` describe a payload as a job without a key, which the ciphers pass over; `compress` and
`decompress` then do what is theirs. What deflate makes of a packet is byte for byte what Linux makes of it.
"""

from __future__ import annotations

import zlib
from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, HEADROOM, I64S, JOBS, PACKETS, TAILROOM, Batch, Bytes, Int64s
from uxfrm.datapath.esp import KEY, LENGTH, RESULT, SEQ_HI, TEXT
from uxfrm.datapath.headers import AF_INET
from uxfrm.datapath.modes import TUNNEL, write_length
from uxfrm.model.flow import PROTO_COMP, PROTO_IPIP, PROTO_IPV6
from uxfrm.model.outcome import Outcome
from uxfrm.tables.rows import ROWS, TRANSFORM_COMP, TRANSFORM_IPIP

HEADER = 4

INFLATED_MAX = 65400
"""The most that one packet may become (IPCOMP_SCRATCH_SIZE)."""

# A job's columns, as far as they are not a cipher's.
_PACKET, _SIZE = 1, 2
_NO_KEY = -1

_THRESHOLD = 90
_LEVEL, _WINDOW, _MEMORY = zlib.Z_DEFAULT_COMPRESSION, -11, 8
# Other implementations send with a larger window; Linux takes any distance, for it inflates in one piece.
_WINDOW_MAX = -15

_COMP = int(Outcome.IN_COMP)


@compiled(numba.void(JOBS, *[int64] * 4))
def _job(jobs: Int64s, number: int, packet: int, start: int, size: int) -> None:
    """A job that seal and open_ refuse without touching the text: it has no key and no length."""
    jobs[number, KEY] = _NO_KEY
    jobs[number, _PACKET] = packet
    jobs[number, _SIZE] = size
    jobs[number, TEXT] = start
    jobs[number, LENGTH] = 0
    jobs[number, SEQ_HI] = -1
    jobs[number, RESULT] = -1


# -- input


@compiled(int64(ROWS, PACKETS, int64, int64, JOBS, int64))
def open_(rows: Any, packets: Any, i: int, row: int, jobs: Int64s, number: int) -> int:
    """Describe what follows packet i's IPComp header, or its outer header, as job `number`."""
    p = packets[i]
    before = HEADER if rows[row]["transform"] == TRANSFORM_COMP else 0
    start, size = p["offset"] + p["header"] + before, p["length"] - p["header"] - before
    _job(jobs, number, i, start, size)
    return 0


@compiled(int64(ROWS, DATA, PACKETS, int64, int64, JOBS, I64S))
def payload(rows: Any, data: Bytes, packets: Any, i: int, row: int, jobs: Int64s, found: Int64s) -> int:
    """Find what packet i's job has made: found = (offset, length, next header); return 0 or the outcome.

    Linux takes next header 0 for a failure.
    """
    p = packets[i]
    number = p["job"]
    if jobs[number, RESULT] != 1:
        return _COMP
    compressed = rows[row]["transform"] == TRANSFORM_COMP
    found[0] = jobs[number, TEXT]
    found[1] = jobs[number, LENGTH]
    found[2] = int(data[p["offset"] + p["header"]]) if compressed else p["proto"]
    return 0 if found[2] else _COMP


def inflate(text: bytes) -> bytes | None:
    """What was compressed; None for what is no whole stream, too long, or no longer than with its header.

    Follows: deflate_decompress, which gives a stream that has run out one more byte; ipcomp_decompress.
    """
    stream = zlib.decompressobj(_WINDOW_MAX)
    try:
        made = stream.decompress(text, INFLATED_MAX)
        if not stream.eof and not stream.unconsumed_tail and len(made) < INFLATED_MAX:
            made += stream.decompress(b"\0", INFLATED_MAX - len(made))
    except zlib.error:
        return None
    return made if stream.eof and len(made) >= len(text) + HEADER else None


def decompress(rows: Any, batch: Batch, jobs: Int64s) -> None:
    """Do the jobs without a key; packets that outgrow their room move to the end of the batch's buffer."""
    grown: list[tuple[Int64s, bytes]] = []
    for number in _still_compressed(rows, batch.packets, jobs):
        job = jobs[number]
        packet = batch.packets[job[_PACKET]]
        start, size = int(job[TEXT]), int(job[_SIZE])
        made = inflate(batch.data[start : start + size].tobytes())
        if made is None:
            continue
        job[LENGTH], job[RESULT] = len(made), 1
        if start + len(made) <= packet["high"]:
            batch.data[start : start + len(made)] = np.frombuffer(made, np.uint8)
        else:
            grown.append((job, made))
    if grown:
        _move(batch, grown)


def _still_compressed(rows: Any, packets: Any, jobs: Int64s) -> Int64s:
    """Do the jobs of companions, which have nothing to do; return those of IPComp's states."""
    numbers = np.flatnonzero(jobs[:, KEY] == _NO_KEY)
    path, depth = packets["path"][jobs[numbers, _PACKET]], packets["depth"][jobs[numbers, _PACKET]]
    plain = rows["transform"][path[np.arange(len(numbers)), depth - 1]] == TRANSFORM_IPIP
    done = numbers[plain]
    jobs[done, LENGTH], jobs[done, RESULT] = jobs[done, _SIZE], 1
    return numbers[~plain]


def _move(batch: Batch, grown: list[tuple[Int64s, bytes]]) -> None:
    """Give packets a place of their own, with the usual room around."""
    at, parts = batch.free, list[Bytes]()
    for job, made in grown:
        packet = batch.packets[job[_PACKET]]
        offset, start = int(packet["offset"]), int(job[TEXT])
        parts += [
            np.zeros(HEADROOM, np.uint8), batch.data[offset:start], np.frombuffer(made, np.uint8),
            np.zeros(TAILROOM, np.uint8),
        ]  # fmt: skip
        moved = at + HEADROOM - offset
        packet["low"] = at
        packet["offset"] += moved
        packet["nexthdr"] += moved
        job[TEXT] += moved
        at += HEADROOM + start - offset + len(made) + TAILROOM
        packet["high"] = at
    batch.lay(np.concatenate(parts))


# -- output


@compiled(int64(PACKETS, int64, int64))
def uncompressed(packets: Any, i: int, mode: int) -> int:
    """The protocol that the outermost header names where packet i is not compressed."""
    p = packets[i]
    if mode == TUNNEL:
        return PROTO_IPIP if p["family"] == AF_INET else PROTO_IPV6
    return int(p["proto"])


@compiled(numba.void(PACKETS, int64, int64, int64, JOBS, int64))
def seal(packets: Any, i: int, start: int, size: int, jobs: Int64s, number: int) -> None:
    """Describe packet i's payload as job `number`."""
    _job(jobs, number, i, start, size)


def deflate(text: bytes) -> bytes:
    """Compress as Linux does (RFC 2394)."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW, _MEMORY)
    return stream.compress(text) + stream.flush()


def compress(batch: Batch, jobs: Int64s) -> None:
    """Do the jobs without a key: what is short or does not shrink stays as it is, without IPComp header."""
    numbers = np.flatnonzero(jobs[:, KEY] == _NO_KEY)
    jobs[numbers, RESULT] = 1
    for number in numbers[jobs[numbers, _SIZE] >= _THRESHOLD]:
        job = jobs[number]
        start, size = int(job[TEXT]), int(job[_SIZE])
        made = deflate(batch.data[start : start + size].tobytes())
        if len(made) + HEADER < size:
            _shrink(batch, int(job[_PACKET]), start, made)


def _shrink(batch: Batch, i: int, start: int, made: bytes) -> None:
    """Put IPComp header and compressed payload in the place of packet i's payload."""
    packet, data = batch.packets[i], batch.data
    head = bytes((data[packet["nexthdr"]], 0)) + int(packet["spi"]).to_bytes(2)
    data[start : start + HEADER + len(made)] = np.frombuffer(head + made, np.uint8)
    data[packet["nexthdr"]] = PROTO_COMP
    packet["proto"] = PROTO_COMP
    packet["length"] = start + HEADER + len(made) - packet["offset"]
    write_length(data, batch.packets, i)
