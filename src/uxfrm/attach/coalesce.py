"""TCP packets of a flow that follow each other, joined: a TUN device takes them in one write.

Joined is only what cutting would give back (what GRO promises): same addresses, ports, acknowledgement,
window, options, TTL and class; numbers in sequence; all of one size but the last; right checksums. A push,
FIN or short packet ends its super-packet. Order within a flow stays; a packet that does not fit ends what its
flow had begun. Everything else goes as it is. The identification of a packet that must not be fragmented
means nothing (RFC 6864) and may be lost.

Follows: tcp_gro_receive, inet_gro_receive, ipv6_gro_receive, tcp_gro_complete.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.attach.superpackets import (
    DATA_VALID,
    GSO_TCPV4,
    GSO_TCPV6,
    NEEDS_CSUM,
    VNET_HEADER,
    folded,
    pseudo_sum,
    put_native16,
)
from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, I64S, PACKETS, Batch, Bytes, Int64s
from uxfrm.datapath.headers import write_checksum
from uxfrm.datapath.wire import copy, read16, read32, sum16, write16

# Columns of a table of frames.
FIRST = 0  # its first packet, and the last, as places in the list of those that go
LAST = 1
COUNT = 2
HEADER = 3  # bytes of all headers; 0 where nothing may be joined
PAYLOAD = 4  # bytes
SIZE = 5  # payload of all but the last
OPEN = 6  # 1 while more may be joined
CHECKED = 7  # 1 where the checksum was found right
START = 8  # in the output: of the virtio_net_hdr, and behind the packet
END = 9
FRAME_COLUMNS = 10

_TABLE: Any = int64[:, ::1]

_TCP = 6
_PUSH, _FIN = 0x08, 0x01
_ODD = 0x80 | 0x20 | 0x04 | 0x02  # CWR, URG, RST, SYN: never joined
_LENGTH_MAX = 0xFFFF
_WINDOW = 8
"""Frames that may be open at a time, as GRO has it for a hash bucket."""


# -- one packet


@compiled(int64(DATA, int64, int64))
def _upper(data: Bytes, at: int, length: int) -> int:
    """Bytes of the IP header of a packet of TCP that may be joined; 0 for all others."""
    if length >= 40 and data[at] == 0x45:
        whole = read16(data, at + 2) == length and not read16(data, at + 6) & 0xBFFF
        return 20 if whole and data[at + 9] == _TCP and sum16(data, at, 20) == 0xFFFF else 0
    if length >= 60 and int(data[at]) >> 4 == 6:
        return 40 if read16(data, at + 4) == length - 40 and data[at + 6] == _TCP else 0
    return 0


@compiled(int64(DATA, int64, int64))
def joinable(data: Bytes, at: int, length: int) -> int:
    """Bytes of all headers of a TCP packet with payload and a right checksum; 0 where it must go alone."""
    upper = _upper(data, at, length)
    if not upper:
        return 0
    header = upper + (int(data[at + upper + 12]) >> 4) * 4
    if header < upper + 20 or header >= length or int(data[at + upper + 13]) & _ODD:
        return 0
    size = length - upper
    if folded(pseudo_sum(data, at, _TCP) + size + sum16(data, at + upper, size)) != 0xFFFF:
        return 0
    return header


@compiled(int64(DATA, int64, int64, int64))
def _same(data: Bytes, a: int, b: int, count: int) -> int:
    """1 where `count` bytes, a multiple of 4, are the same at `a` and `b`."""
    for k in range(0, count, 4):
        if read32(data, a + k) != read32(data, b + k):
            return 0
    return 1


@compiled(int64(DATA, int64, int64, int64))
def _same_ends(data: Bytes, a: int, b: int, ports: int) -> int:
    """1 where two packets have the same addresses and, with `ports`, ports."""
    if data[a] >> 4 != data[b] >> 4:
        return 0
    at, count = (12, 8) if data[a] >> 4 == 4 else (8, 32)
    return _same(data, a + at, b + at, count + 4 * ports)


@compiled(int64(DATA, int64, int64, int64))
def _same_headers(data: Bytes, a: int, b: int, header: int) -> int:
    """1 where the headers differ in nothing that cutting would not put back."""
    if data[a] >> 4 == 4:
        upper = 20
        if read16(data, a) != read16(data, b) or read32(data, a + 8) >> 16 != read32(data, b + 8) >> 16:
            return 0
        if read16(data, a + 6) != read16(data, b + 6):
            return 0
    else:
        upper = 40
        if read32(data, a) != read32(data, b) or read16(data, a + 6) != read16(data, b + 6):
            return 0
    mine, other = a + upper, b + upper
    flags = 0xFFFFFFFF & ~((_PUSH | _FIN) << 16)
    if (read32(data, mine + 12) ^ read32(data, other + 12)) & flags:
        return 0
    return _same(data, mine + 8, other + 8, 4) & _same(data, mine + 20, other + 20, header - upper - 20)


# -- many


@compiled(int64(DATA, PACKETS, I64S, I64S, int64, int64))
def _fits(data: Bytes, packets: Any, those: Int64s, frame: Int64s, k: int, header: int) -> int:
    """1 where packet those[k] goes on where the frame ends."""
    first, p = packets[those[frame[FIRST]]], packets[those[k]]
    payload, a, b = p["length"] - header, first["offset"], p["offset"]
    if header != frame[HEADER] or payload > frame[SIZE]:
        return 0
    if header + frame[PAYLOAD] + payload > _LENGTH_MAX or not _same_headers(data, a, b, header):
        return 0
    upper = 20 if data[a] >> 4 == 4 else 40
    if (read32(data, a + upper + 4) + frame[PAYLOAD]) & 0xFFFFFFFF != read32(data, b + upper + 4):
        return 0
    # Without DF the identification matters, and cutting will count it up.
    if upper == 20 and not data[a + 6] & 0x40:
        return int((read16(data, a + 4) + frame[COUNT]) & 0xFFFF == read16(data, b + 4))
    return 1


@compiled(int64(DATA, PACKETS, int64, int64, int64))
def _ends(data: Bytes, packets: Any, i: int, header: int, size: int) -> int:
    """1 where nothing may be joined behind packet i: it is short, pushes or finishes."""
    p = packets[i]
    upper = 20 if data[p["offset"]] >> 4 == 4 else 40
    return int(p["length"] - header < size or int(data[p["offset"] + upper + 13]) & (_PUSH | _FIN) != 0)


@compiled(int64(DATA, PACKETS, I64S, _TABLE, I64S))
def group(data: Bytes, packets: Any, those: Int64s, frames: Int64s, following: Int64s) -> int:
    """Fill the frames that packets `those` make, in order of their first; return how many.

    `following[k]` is the place of the packet that is joined behind the k-th, -1 for none.
    """
    count = 0
    for k in range(those.shape[0]):
        i = those[k]
        p = packets[i]
        following[k] = -1
        header = joinable(data, p["offset"], p["length"])
        joined = 0
        for n in range(count - 1, max(count - 1 - _WINDOW, -1), -1):
            frame = frames[n]
            if p["length"] < 20 or not frame[OPEN]:
                continue
            if not _same_ends(data, packets[those[frame[FIRST]]]["offset"], p["offset"], int(header > 0)):
                continue
            if header and _fits(data, packets, those, frame, k, header):
                following[frame[LAST]] = k
                frame[LAST] = k
                frame[COUNT] += 1
                frame[PAYLOAD] += p["length"] - header
                frame[OPEN] = 1 - _ends(data, packets, i, header, frame[SIZE])
                joined = 1
                break
            frame[OPEN] = 0
        if not joined:
            frame = frames[count]
            frame[FIRST] = frame[LAST] = k
            frame[COUNT] = 1
            frame[HEADER] = header
            frame[PAYLOAD] = frame[SIZE] = p["length"] - header
            frame[CHECKED] = int(header > 0)
            frame[OPEN] = 0 if not header else 1 - _ends(data, packets, i, header, frame[SIZE])
            count += 1
    return count


@compiled(numba.void(DATA, int64, int64, int64, int64))
def _head(out: Bytes, at: int, header: int, payload: int, size: int) -> None:
    """Write the virtio_net_hdr in front of a super-packet and make its headers those of the whole."""
    ip, upper = at + VNET_HEADER, 20 if out[at + VNET_HEADER] >> 4 == 4 else 40
    out[at] = NEEDS_CSUM
    out[at + 1] = GSO_TCPV4 if upper == 20 else GSO_TCPV6
    put_native16(out, at + 2, header)
    put_native16(out, at + 4, size)
    put_native16(out, at + 6, upper)
    put_native16(out, at + 8, 16)
    if upper == 20:
        write16(out, ip + 2, header + payload)
        write_checksum(out, ip, 20)
    else:
        write16(out, ip + 4, header + payload - 40)
    write16(out, ip + upper + 16, folded(pseudo_sum(out, ip, _TCP) + header + payload - upper))


@compiled(numba.void(DATA, PACKETS, I64S, _TABLE, int64, I64S, DATA))
def write_frames(
    data: Bytes, packets: Any, those: Int64s, frames: Int64s, count: int, following: Int64s, out: Bytes
) -> None:
    """Write the first `count` frames into `out`, each behind its virtio_net_hdr; note where."""
    at = 0
    for n in range(count):
        frame = frames[n]
        p = packets[those[frame[FIRST]]]
        header, start = frame[HEADER], at + VNET_HEADER
        out[at : at + VNET_HEADER] = 0
        copy(out, start, data, p["offset"], p["length"])
        to, last = start + p["length"], p
        k = following[frame[FIRST]]
        while k >= 0:
            last = packets[those[k]]
            payload = last["length"] - header
            copy(out, to, data, last["offset"] + header, payload)
            to += payload
            k = following[k]
        if frame[COUNT] > 1:
            upper = 20 if out[start] >> 4 == 4 else 40
            out[start + upper + 13] |= data[last["offset"] + upper + 13]
            _head(out, at, header, frame[PAYLOAD], frame[SIZE])
        elif frame[CHECKED]:
            out[at] = DATA_VALID
        frame[START], frame[END] = at, to
        at = to


class Coalescer:
    """Lays packets out as frames for a TUN device; the memory is used again the next time."""

    def __init__(self) -> None:
        self._out: Bytes = np.empty(0, np.uint8)
        self._frames: Int64s = np.empty((0, FRAME_COLUMNS), np.int64)

    def frames(self, batch: Batch, those: Int64s) -> tuple[Bytes, Int64s]:
        """The buffer, and a row of the columns above for each frame in it."""
        count = those.shape[0]
        need = int(batch.packets["length"][those].sum()) + count * VNET_HEADER
        if need > self._out.shape[0]:
            self._out = np.empty(2 * need, np.uint8)
        if count > self._frames.shape[0]:
            self._frames = np.empty((2 * count, FRAME_COLUMNS), np.int64)
        following = np.empty(count, np.int64)
        made = group(batch.data, batch.packets, those, self._frames, following)
        write_frames(batch.data, batch.packets, those, self._frames, made, following, self._out)
        return self._out, self._frames[:made]
