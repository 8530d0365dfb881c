"""Super-packets: many TCP or UDP packets of a flow in one, cut into what can be on a wire.

Knows: virtio_net_hdr as TUN devices have it, TCP and UDP over IPv4 and IPv6, and their checksums.
What is to be cut is a row of a table (SUPER_COLUMNS), so that it does not matter where it came from.

Cut, as the kernel would for a device that can't:
1. the headers are copied in front of every part  2. lengths, IPv4 identification and checksum
3. TCP: sequence number; FIN and PSH on the last part only, CWR on the first only  4. the checksum of all.
A packet that is whole but whose checksum is only begun (NEEDS_CSUM) has it completed.

Follows: tcp_gso_segment, __udp_gso_segment, inet_gso_segment, ipv6_gso_segment, skb_checksum_help;
virtio 1.2, 5.1.6 "Device Operation" of a network device.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, HEADROOM, I64S, TAILROOM, Batch, Bytes, Int64s
from uxfrm.datapath.headers import write_checksum
from uxfrm.datapath.wire import copy, read16, read32, sum16, write16, write32

VNET_HEADER = 10
"""Bytes of virtio_net_hdr in front of every packet of a TUN device with IFF_VNET_HDR."""

# Columns of a table of super-packets.
AT = 0  # offset of the IP header in the buffer
LENGTH = 1  # bytes of the IP packet
SIZE = 2  # payload of each part (gso_size), 0 where the packet is whole
UPPER = 3  # bytes before the header of TCP or UDP; 0 where nothing has to be known of it
CHECK = 4  # 1 where the checksum, `FIELD` bytes into that header, is only begun
FIELD = 5
SUPER_COLUMNS = 6

_TABLE: Any = int64[:, ::1]
_PAIR: Any = numba.types.UniTuple(int64, 2)

NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 4, 5, 0x80

_TCP, _UDP = 6, 17
_FIN, _PSH, _CWR = 0x01, 0x08, 0x80
_PARTS_MAX = 4096


# -- the header in front


@compiled(int64(DATA, int64))
def _native16(data: Bytes, at: int) -> int:
    """A 16-bit word of this machine's (every machine that uxfrm runs on is little-endian)."""
    return int(data[at]) | int(data[at + 1]) << 8


@compiled(numba.void(DATA, int64, int64))
def put_native16(data: Bytes, at: int, value: int) -> None:
    """Store a 16-bit word of this machine's."""
    data[at] = value & 0xFF
    data[at + 1] = (value >> 8) & 0xFF


@compiled(numba.void(DATA, I64S, I64S, _TABLE))
def read_vnet(data: Bytes, start: Int64s, size: Int64s, supers: Int64s) -> None:
    """Describe what lies at `start`, each a virtio_net_hdr and an IP packet of `size` bytes together.

    What makes no sense becomes a row with a negative LENGTH.
    """
    for i in range(start.shape[0]):
        at, row = start[i], supers[i]
        row[AT] = at + VNET_HEADER
        row[LENGTH] = size[i] - VNET_HEADER
        row[SIZE] = row[UPPER] = row[CHECK] = row[FIELD] = 0
        if row[LENGTH] < 20:
            row[LENGTH] = -1
            continue
        kind = int(data[at + 1]) & ~GSO_ECN
        if kind in (GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4):
            row[SIZE] = _native16(data, at + 4)
            if not row[SIZE]:
                row[LENGTH] = -1
        elif kind:
            row[LENGTH] = -1
        if data[at] & NEEDS_CSUM:
            row[CHECK] = 1
            row[UPPER] = _native16(data, at + 6)
            row[FIELD] = _native16(data, at + 8)
        elif kind:
            row[LENGTH] = -1


# -- cutting


@compiled(int64(DATA, int64))
def upper_proto(data: Bytes, at: int) -> int:
    """The upper protocol of a packet that has no IPv6 extension header, or any of IPv4."""
    return int(data[at + 9]) if int(data[at]) >> 4 == 4 else int(data[at + 6])


@compiled(int64(DATA, int64, int64, int64))
def _headers(data: Bytes, at: int, length: int, upper: int) -> int:
    """Bytes of all headers of a packet that is to be cut; -1 if it cannot be."""
    version = int(data[at]) >> 4
    if version == 4:
        if upper != (int(data[at]) & 15) * 4 or upper < 20:
            return -1
    elif version != 6 or upper < 40:
        return -1
    if upper + 20 <= length and upper_proto(data, at) == _TCP:
        size = (int(data[at + upper + 12]) >> 4) * 4
        return upper + size if size >= 20 and upper + size <= length else -1
    if upper + 8 <= length and upper_proto(data, at) == _UDP:
        return upper + 8
    return -1


@compiled(_PAIR(DATA, _TABLE, I64S))
def plan(data: Bytes, supers: Int64s, parts: Int64s) -> tuple[int, int]:
    """Into how many parts each has to be cut, 0 for what cannot be; return the parts and bytes of all.

    The bytes are those of the packets, without the room around each.
    """
    total, size = 0, 0
    for i in range(supers.shape[0]):
        row = supers[i]
        at, length, upper = row[AT], row[LENGTH], row[UPPER]
        parts[i] = 0
        if length < 20 or (row[CHECK] and upper + row[FIELD] + 2 > length):
            continue
        count, header = 1, 0
        if row[SIZE]:
            header = _headers(data, at, length, upper)
            if header < 0:
                continue
            count = max(1, -((header - length) // row[SIZE]))
        if count > _PARTS_MAX:
            continue
        parts[i] = count
        total += count
        size += length + (count - 1) * header
    return total, size


@compiled(int64(DATA, int64, int64))
def pseudo_sum(data: Bytes, at: int, proto: int) -> int:
    """The sum of a pseudo header, without its length."""
    if int(data[at]) >> 4 == 4:
        return sum16(data, at + 12, 8) + proto
    return sum16(data, at + 8, 32) + proto


@compiled(int64(int64))
def folded(total: int) -> int:
    """A sum in 16 bits (RFC 1071)."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@compiled(numba.void(DATA, int64, int64, int64, int64))
def complete(data: Bytes, at: int, length: int, upper: int, field: int) -> None:
    """Complete the checksum of a whole packet, whose field holds the pseudo header's sum.

    A sum of 0 is written as 0xffff, which is the same to TCP and the only way to say it in UDP.
    """
    value = 0xFFFF - sum16(data, at + upper, length - upper)
    write16(data, at + upper + field, value if value else 0xFFFF)


@compiled(numba.void(DATA, int64, int64, int64))
def _fit(data: Bytes, at: int, length: int, number: int) -> None:
    """Make the IP header at `at` one of part `number` of `length` bytes."""
    if int(data[at]) >> 4 == 4:
        write16(data, at + 2, length)
        write16(data, at + 4, read16(data, at + 4) + number)
        write_checksum(data, at, (int(data[at]) & 15) * 4)
    else:
        write16(data, at + 4, length - 40)


@compiled(numba.void(DATA, int64, int64, int64, int64, int64, int64))
def _fit_upper(data: Bytes, at: int, length: int, upper: int, skipped: int, first: int, last: int) -> None:
    """Make the TCP or UDP header of the part at `at` its own; `skipped` payload bytes stand before it."""
    proto, where, size = upper_proto(data, at), at + upper, length - upper
    field = 6
    if proto == _TCP:
        field = 16
        write32(data, where + 4, read32(data, where + 4) + skipped)
        flags = int(data[where + 13])
        if not last:
            flags &= ~(_FIN | _PSH)
        if not first:
            flags &= ~_CWR
        data[where + 13] = flags
    else:
        write16(data, where + 4, size)
    write16(data, where + field, 0)
    value = 0xFFFF - folded(pseudo_sum(data, at, proto) + size + sum16(data, where, size))
    write16(data, where + field, value if value else 0xFFFF)


@compiled(int64(DATA, I64S, int64, DATA, int64, int64, int64, I64S, I64S, int64))
def _cut_one(
    data: Bytes,
    row: Int64s,
    parts: int,
    out: Bytes,
    to: int,
    head: int,
    tail: int,
    offset: Int64s,
    length: Int64s,
    i: int,
) -> int:
    """Write the parts of one super-packet from `to` on, noted from index `i` on; return where they end."""
    at, upper = row[AT], row[UPPER]
    if not row[SIZE]:
        offset[i], length[i] = to + head, row[LENGTH]
        copy(out, to + head, data, at, row[LENGTH])
        if row[CHECK]:
            complete(out, to + head, row[LENGTH], upper, row[FIELD])
        return to + head + row[LENGTH] + tail
    header = _headers(data, at, row[LENGTH], upper)
    for number in range(parts):
        skipped = number * row[SIZE]
        payload = min(row[SIZE], row[LENGTH] - header - skipped)
        start, size = to + head, header + payload
        copy(out, start, data, at, header)
        copy(out, start + header, data, at + header + skipped, payload)
        _fit(out, start, size, number)
        _fit_upper(out, start, size, upper, skipped, int(number == 0), int(number == parts - 1))
        offset[i + number], length[i + number] = start, size
        to = start + size + tail
    return to


@compiled(numba.void(DATA, _TABLE, I64S, DATA, int64, int64, I64S, I64S))
def cut(
    data: Bytes,
    supers: Int64s,
    parts: Int64s,
    out: Bytes,
    head: int,
    tail: int,
    offset: Int64s,
    length: Int64s,
) -> None:
    """Write all parts into `out`, with `head` and `tail` bytes of room around each."""
    to, i = 0, 0
    for k in range(supers.shape[0]):
        if parts[k]:
            to = _cut_one(data, supers[k], parts[k], out, to, head, tail, offset, length, i)
            i += parts[k]


class Cutter:
    """Makes batches of super-packets; a batch's memory is used again by the next one."""

    def __init__(self) -> None:
        self._out: Bytes = np.empty(0, np.uint8)

    def batch(self, data: Bytes, supers: Int64s) -> tuple[Batch, Int64s]:
        """The packets of all, in order, and how many each became: 0 where it was malformed."""
        parts = np.empty(supers.shape[0], np.int64)
        count, size = plan(data, supers, parts)
        need = size + count * (HEADROOM + TAILROOM)
        if need > self._out.shape[0]:
            self._out = np.zeros(2 * need, np.uint8)
        offset, length = np.empty(count, np.int64), np.empty(count, np.int64)
        cut(data, supers, parts, self._out, HEADROOM, TAILROOM, offset, length)
        low, high = offset - HEADROOM, offset + length + TAILROOM
        return Batch.view(self._out, offset, length, low, high, spare=True), parts
