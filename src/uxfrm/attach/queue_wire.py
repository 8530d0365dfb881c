"""NFQUEUE on the wire: packets out of netlink messages, verdicts into them.

Knows the layouts of linux/netfilter/nfnetlink_queue.h and nothing of sockets. Messages lie in a buffer one
behind the other, one packet each; a row of a table says what each was.
"""

from __future__ import annotations

import struct
from typing import Any

import numba
from numba import int64

from uxfrm.attach.many import native32, put_native32
from uxfrm.attach.superpackets import AT, CHECK, FIELD, LENGTH, SIZE, UPPER, upper_proto
from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, I64S, PACKETS, Bytes, Int64s
from uxfrm.datapath.wire import copy, read32, write32

QUEUE = 3  # NFNL_SUBSYS_QUEUE
PACKET, VERDICT, CONFIG, VERDICT_BATCH = (QUEUE << 8 | n for n in range(4))
ERROR = 2  # NLMSG_ERROR
REQUEST, ACK = 0x1, 0x4

DROP, ACCEPT = 0, 1

GSO_FLAG = 4  # NFQA_CFG_F_GSO
BIND, PF_BIND = 1, 3
COPY_PACKET = 2

# What becomes of a packet.
DROPPED, AS_IT_CAME, REPLACED = 0, 1, 2

# Columns of a table of messages.
KIND = 0  # PACKET, ERROR, or -1 for what can't be read
ID = 1  # of the packet in its queue; the errno of an error
MARK = 2
IN = 3  # interface it came in by, 0 for none, and that it will leave by
OUT = 4
PAYLOAD = 5  # offset in the buffer, and bytes
BYTES = 6
INFO = 7  # NFQA_SKB_INFO
CUT = 8  # 1 where the kernel did not give all of it
VERSION = 9  # of IP
MESSAGE_COLUMNS = 10

NOT_READY, IS_GSO = 1, 2  # of INFO

_TABLE: Any = int64[:, ::1]
_PAIR: Any = numba.types.UniTuple(int64, 2)
_HEADER = 20  # nlmsghdr and nfgenmsg
_MARK, _INDEV, _OUTDEV, _PAYLOAD, _CAP_LEN, _SKB_INFO = 3, 5, 6, 10, 13, 14
_TCP, _UDP = 6, 17


# -- what the kernel says


@compiled(numba.void(DATA, int64, int64, I64S))
def _attributes(data: Bytes, at: int, end: int, row: Int64s) -> None:
    """Read the attributes of a packet; what is cut short ends it."""
    while at + 4 <= end:
        word = native32(data, at)
        size, kind = word & 0xFFFF, word >> 16 & 0x3FFF
        if size < 4 or at + size > end:
            row[KIND] = -1
            return
        value = at + 4
        if kind == _PAYLOAD:
            row[PAYLOAD], row[BYTES] = value, size - 4
            row[VERSION] = int(data[value]) >> 4 if size > 4 else 0
        elif size >= 8:
            number = read32(data, value)
            if kind == 1:
                row[ID] = number
            elif kind == _MARK:
                row[MARK] = number
            elif kind == _INDEV:
                row[IN] = number
            elif kind == _OUTDEV:
                row[OUT] = number
            elif kind == _SKB_INFO:
                row[INFO] = number
            elif kind == _CAP_LEN:
                row[CUT] = 1
        at += (size + 3) & ~3


@compiled(numba.void(DATA, I64S, I64S, _TABLE))
def read_messages(data: Bytes, start: Int64s, size: Int64s, messages: Int64s) -> None:
    """Fill a row for each message: one packet, or an error."""
    for i in range(start.shape[0]):
        at, row = start[i], messages[i]
        row[:] = 0
        row[KIND] = -1
        if size[i] < 20 or native32(data, at) > size[i]:
            continue
        kind, end = native32(data, at + 4) & 0xFFFF, at + native32(data, at)
        if kind == ERROR:
            row[KIND], row[ID] = kind, (0x100000000 - native32(data, at + 16)) & 0xFFFFFFFF
        elif kind == PACKET:
            row[KIND] = kind
            _attributes(data, at + _HEADER, end, row)


@compiled(int64(DATA, int64, int64))
def upper_of(data: Bytes, at: int, length: int) -> int:
    """Bytes of the IP header of TCP or UDP, 0 for others and behind extension headers."""
    if length < 40:
        return 0
    upper = (int(data[at]) & 15) * 4 if int(data[at]) >> 4 == 4 else 40
    if upper_proto(data, at) not in (_TCP, _UDP):
        return 0
    return upper


@compiled(numba.void(DATA, _TABLE, _TABLE, I64S))
def describe(data: Bytes, messages: Int64s, supers: Int64s, mtu: Int64s) -> None:
    """Fill a row of super-packet for each packet; `mtu[i]`: the packets to cut it to, where it is one.

    What is not whole, or cannot be cut, has a negative length.
    """
    for i in range(messages.shape[0]):
        message, row = messages[i], supers[i]
        at, length = message[PAYLOAD], message[BYTES]
        row[AT], row[LENGTH] = at, length
        row[SIZE] = row[UPPER] = row[CHECK] = row[FIELD] = 0
        if message[KIND] != PACKET or message[CUT]:
            row[LENGTH] = -1
            continue
        upper = upper_of(data, at, length)
        if message[INFO] & IS_GSO:
            header = 0
            if upper and upper + 20 <= length:
                header = upper + (int(data[at + upper + 12]) >> 4) * 4
            if not header or upper_proto(data, at) != _TCP or mtu[i] <= header:
                row[LENGTH] = -1
                continue
            row[SIZE], row[UPPER] = mtu[i] - header, upper
        elif message[INFO] & NOT_READY and upper:
            row[CHECK], row[UPPER] = 1, upper
            row[FIELD] = 16 if upper_proto(data, at) == _TCP else 6


# -- what we say


@compiled(int64(DATA, int64, int64, int64, int64, int64, int64))
def _verdict(out: Bytes, at: int, queue: int, kind: int, verdict: int, packet: int, mark: int) -> int:
    """Write a verdict without payload at `at`; `mark` -1 leaves it. Returns where it ends."""
    size = 32 if mark < 0 else 40
    put_native32(out, at, size)
    put_native32(out, at + 4, kind | REQUEST << 16)
    put_native32(out, at + 8, 0)
    put_native32(out, at + 12, 0)
    write32(out, at + 16, queue)
    put_native32(out, at + 20, 12 | 2 << 16)
    write32(out, at + 24, verdict)
    write32(out, at + 28, packet)
    if mark >= 0:
        put_native32(out, at + 32, 8 | _MARK << 16)
        write32(out, at + 36, mark)
    return at + size


@compiled(int64(DATA, int64, int64, DATA, int64, int64))
def _payload(out: Bytes, start: int, at: int, data: Bytes, offset: int, length: int) -> int:
    """Give the verdict that began at `start` and ends at `at` another packet; return where it ends."""
    put_native32(out, at, (length + 4) | _PAYLOAD << 16)
    copy(out, at + 4, data, offset, length)
    end = at + 4 + ((length + 3) & ~3)
    out[at + 4 + length : end] = 0
    put_native32(out, start, end - start)
    return end


@compiled(_PAIR(DATA, int64, _TABLE, I64S, I64S, int64, int64, DATA, PACKETS))
def write_verdicts(
    out: Bytes,
    queue: int,
    messages: Int64s,
    how: Int64s,
    index: Int64s,
    first: int,
    mark: int,
    data: Bytes,
    packets: Any,
) -> tuple[int, int]:
    """Write verdicts on messages from `first` on, in order, while there is room.

    `how`: what becomes of each; `index`: the packet whose mark, with `mark` added, and bytes go on. Behind
    the last, all that have none are dropped. Returns the next message, and the bytes written.
    """
    at = 0
    for m in range(first, messages.shape[0]):
        if how[m] == DROPPED:
            continue
        p = packets[index[m]]
        if at + 128 + p["length"] > out.shape[0]:
            return m, at
        start = at
        at = _verdict(out, at, queue, VERDICT, ACCEPT, messages[m, ID], (p["mark"] & 0xFFFFFFFF) | mark)
        if how[m] == REPLACED:
            at = _payload(out, start, at, data, p["offset"], p["length"])
    dropped = 0
    for m in range(messages.shape[0]):
        dropped |= int(how[m] == DROPPED)
    if dropped:  # otherwise there is nothing to drop, which is an error (ENOENT)
        at = _verdict(out, at, queue, VERDICT_BATCH, DROP, messages[messages.shape[0] - 1, ID], -1)
    return messages.shape[0], at


def configure(queue: int, command: int, maxlen: int, gso: bool) -> bytes:
    """The message that binds a queue: whole packets, at most `maxlen` waiting, failing closed.

    Acknowledged, so that a queue that somebody else has is known.
    """
    flags = GSO_FLAG if gso else 0
    attributes = (
        _attribute(1, struct.pack(">BxH", command, 0))
        + _attribute(2, struct.pack(">IB", 0xFFFF, COPY_PACKET))
        + _attribute(3, struct.pack(">I", maxlen))
        + _attribute(4, struct.pack(">I", GSO_FLAG | 1))
        + _attribute(5, struct.pack(">I", flags))
    )
    head = struct.pack("=IHHIIBBH", 20 + len(attributes), CONFIG, REQUEST | ACK, 1, 0, 0, 0, _swapped(queue))
    return head + attributes


def _swapped(number: int) -> int:
    return (number & 0xFF) << 8 | number >> 8


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
