"""Datagrams of a UDP socket as the IP packets they were, and the other way about.

Knows: what the kernel takes off and puts on (IP and UDP headers), UDP_GRO's and UDP_SEGMENT's rule: datagrams
of one size and one last that may be shorter, between the same ends.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.attach.superpackets import folded, pseudo_sum
from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, HEADROOM, I64S, PACKETS, TAILROOM, Batch, Bytes, Int64s
from uxfrm.datapath.headers import write_checksum
from uxfrm.datapath.wire import copy, read16, read32, sum16, write16

HEADS = 48
"""Bytes kept for the headers of what was received together: IPv6 and UDP."""

# Columns of a table of what was received in one call.
START = 0
LENGTH = 1
SIZE = 2  # of each datagram but the last (UDP_GRO); 0 for one datagram
ARRIVED_COLUMNS = 3

# Columns of a table of what is sent in one call.
FIRST = 0  # index of the first packet, whose headers are those of all
FROM = 1  # in the output
TO = 2
EACH = 3  # bytes of each datagram but the last
COUNT = 4
HEAD = 5  # where the first packet lies, and its mark
MARK = 6
SEND_COLUMNS = 7

SEGMENTS_MAX = 64
SEND_MAX = 65000

_TABLE: Any = int64[:, ::1]
_PAIR: Any = numba.types.UniTuple(int64, 2)
_UDP = 17


# -- received


@compiled(_PAIR(_TABLE))
def count_datagrams(arrived: Int64s) -> tuple[int, int]:
    """How many datagrams, and how many bytes, were received."""
    count, size = 0, 0
    for i in range(arrived.shape[0]):
        each = arrived[i, SIZE]
        count += max(1, -(-arrived[i, LENGTH] // each)) if each > 0 else 1
        size += arrived[i, LENGTH]
    return count, size


@compiled(numba.void(DATA, int64, int64, int64))
def _fit(out: Bytes, at: int, header: int, length: int) -> None:
    """Set lengths and checksums of the packet at `at`; IPv4 needs none in UDP, IPv6 does."""
    write16(out, at + header + 4, length)
    if header == 20:
        write16(out, at + 2, header + length)
        write_checksum(out, at, 20)
        return
    write16(out, at + 4, length)
    value = 0xFFFF - folded(pseudo_sum(out, at, _UDP) + length + sum16(out, at + header, length))
    write16(out, at + header + 6, value if value else 0xFFFF)


@compiled(numba.void(DATA, _TABLE, DATA, int64, DATA, int64, int64, I64S, I64S, I64S))
def rebuild(
    data: Bytes,
    arrived: Int64s,
    heads: Bytes,
    header: int,
    out: Bytes,
    room: int,
    tail: int,
    offset: Int64s,
    length: Int64s,
    call: Int64s,
) -> None:
    """Write each datagram behind the headers of its call, `header` bytes of IP and 8 of UDP."""
    i, to = 0, 0
    for k in range(arrived.shape[0]):
        at, end = arrived[k, START], arrived[k, START] + arrived[k, LENGTH]
        each = arrived[k, SIZE] if arrived[k, SIZE] > 0 else arrived[k, LENGTH]
        going = 1
        while going:
            size, start = min(each, end - at), to + room
            copy(out, start, heads, k * HEADS, header + 8)
            copy(out, start + header + 8, data, at, size)
            _fit(out, start, header, 8 + size)
            offset[i], length[i], call[i] = start, header + 8 + size, k
            at += size
            to = start + length[i] + tail
            i += 1
            going = int(at < end)


class Rebuilder:
    """Makes batches of datagrams; a batch's memory is used again by the next one."""

    def __init__(self, header: int) -> None:
        self._header = header
        self._out: Bytes = np.empty(0, np.uint8)

    def batch(self, data: Bytes, arrived: Int64s, heads: Bytes) -> tuple[Batch, Int64s]:
        """The packets of all calls, in order, and the call that each came with."""
        count, size = count_datagrams(arrived)
        need = size + count * (HEADROOM + TAILROOM + HEADS)
        if need > self._out.shape[0]:
            self._out = np.zeros(2 * need, np.uint8)
        offset, length, call = (np.empty(count, np.int64) for _ in range(3))
        rebuild(data, arrived, heads, self._header, self._out, HEADROOM, TAILROOM, offset, length, call)
        low, high = offset - HEADROOM, offset + length + TAILROOM
        return Batch.view(self._out, offset, length, low, high, spare=True), call


# -- sent


@compiled(int64(DATA, int64, int64, int64))
def _header_of(data: Bytes, at: int, length: int, port: int) -> int:
    """Bytes of the IP header of a UDP packet from `port`; 0 for what such a socket cannot send."""
    if length < 28:
        return 0
    version = int(data[at]) >> 4
    header = (int(data[at]) & 15) * 4 if version == 4 else 40
    if version == 4:
        if header < 20 or data[at + 9] != _UDP or read16(data, at + 6) & 0x3FFF:
            return 0
    elif version != 6 or data[at + 6] != _UDP:
        return 0
    if length < header + 8 or read16(data, at + header) != port:
        return 0
    return header if read16(data, at + header + 4) == length - header else 0


@compiled(numba.void(DATA, PACKETS, I64S, I64S, I64S, I64S))
def udp_ports(
    data: Bytes, packets: Any, those: Int64s, made: Int64s, versions: Int64s, ports: Int64s
) -> None:
    """The IP version of each packet, and the source port of those that go out as UDP datagrams, else 0.

    `made` is 1 for the outcomes of packets that IPsec may have put into UDP. Fragments have no port: the
    kernel's own socket would fragment what it sends, but these go as they are.
    """
    for k in range(those.shape[0]):
        p = packets[those[k]]
        at = p["offset"]
        four = int(data[at]) >> 4 == 4
        versions[k], ports[k] = int(data[at]) >> 4, 0
        upper = at + ((int(data[at]) & 15) * 4 if four else 40)
        if made[p["outcome"]] and not p["fragment"] and data[at + (9 if four else 6)] == _UDP:
            ports[k] = read16(data, upper)


@compiled(int64(DATA, PACKETS, int64, int64, int64))
def _same_way(data: Bytes, packets: Any, a: int, b: int, header: int) -> int:
    """1 where two packets have the same ends, class, hop limit, mark and leave to be fragmented."""
    p, q = packets[a], packets[b]
    one, two = p["offset"], q["offset"]
    if p["mark"] != q["mark"] or read16(data, one) != read16(data, two):
        return 0
    if read32(data, one + header) != read32(data, two + header):
        return 0
    first, count = (12, 8) if header < 40 or data[one] >> 4 == 4 else (8, 32)
    if first == 12 and (data[one + 6] ^ data[two + 6]) & 0x40:
        return 0
    hops = 8 if first == 12 else 7
    if data[one + hops] != data[two + hops]:
        return 0
    for k in range(first, first + count, 4):
        if read32(data, one + k) != read32(data, two + k):
            return 0
    return 1


@compiled(_PAIR(DATA, PACKETS, I64S, int64, int64, DATA, _TABLE))
def gather(
    data: Bytes, packets: Any, those: Int64s, version: int, port: int, out: Bytes, sends: Int64s
) -> tuple[int, int]:
    """Write what `those` packets carry into `out`, together what one call can send.

    Returns how many calls, and how many packets are not UDP from `port` of IP `version`.
    """
    count, foreign, to, more = 0, 0, 0, 0
    for k in range(those.shape[0]):
        i = those[k]
        p = packets[i]
        header = _header_of(data, p["offset"], p["length"], port)
        if not header or int(data[p["offset"]]) >> 4 != version:
            foreign += 1
            continue
        size = p["length"] - header - 8
        if more:
            last = sends[count - 1]
            fits = size <= last[EACH] and to - last[FROM] + size <= SEND_MAX and last[COUNT] < SEGMENTS_MAX
            more = int(fits and size > 0 and _same_way(data, packets, last[FIRST], i, header))
        if not more:
            last = sends[count]
            last[FIRST], last[FROM], last[EACH], last[COUNT] = i, to, size, 0
            last[HEAD], last[MARK] = p["offset"], p["mark"]
            count += 1
        copy(out, to, data, p["offset"] + header + 8, size)
        to += size
        last = sends[count - 1]
        last[TO] = to
        last[COUNT] += 1
        more = int(size == last[EACH] and size > 0)
    return count, foreign


class Gatherer:
    """Lays out what is to be sent; the memory is used again the next time."""

    def __init__(self, version: int, port: int) -> None:
        self._version, self._port = version, port
        self._out: Bytes = np.empty(0, np.uint8)
        self._sends: Int64s = np.empty((0, SEND_COLUMNS), np.int64)

    def sends(self, batch: Batch, those: Int64s) -> tuple[Bytes, Int64s, int]:
        """The buffer, a row of the columns above for each call, and how many packets are none of ours."""
        need = int(batch.packets["length"][those].sum())
        if need > self._out.shape[0]:
            self._out = np.empty(2 * need, np.uint8)
        if those.shape[0] > self._sends.shape[0]:
            self._sends = np.empty((2 * those.shape[0], SEND_COLUMNS), np.int64)
        count, foreign = gather(
            batch.data, batch.packets, those, self._version, self._port, self._out, self._sends
        )
        return self._out, self._sends[:count], foreign
