"""Netlink's own format: headers, attributes, acknowledgements (RFC 3549 2.2, 2.3; linux/netlink.h).

All integers are in host byte order. Nothing here knows XFRM.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_ERROR = struct.Struct("=i")

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 1, 2, 3, 4
NLMSG_MIN_TYPE = 0x10

NLM_F_REQUEST, NLM_F_MULTI, NLM_F_ACK, NLM_F_ECHO, NLM_F_DUMP_INTR = 1, 2, 4, 8, 16
NLM_F_ROOT, NLM_F_MATCH = 0x100, 0x200
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200

NLA_F_NESTED, NLA_TYPE_MASK = 0x8000, 0x3FFF


class Extack(IntEnum):
    """Attributes of an extended acknowledgement (NLMSGERR_ATTR_*)."""

    MSG = 1
    OFFS = 2
    COOKIE = 3
    POLICY = 4
    MISS_TYPE = 5
    MISS_NEST = 6


class Message(NamedTuple):
    """One netlink message; `payload` is what follows the header."""

    type: int
    flags: int
    seq: int
    pid: int
    payload: bytes

    def pack(self) -> bytes:
        """The message with its header, not padded."""
        size = HEADER.size + len(self.payload)
        return HEADER.pack(size, self.type, self.flags, self.seq, self.pid) + self.payload


def aligned(size: int) -> int:
    """`size` rounded up to netlink's 4 bytes."""
    return (size + 3) & ~3


def padded(data: bytes) -> bytes:
    """`data` filled up with zeros to a multiple of 4 bytes."""
    return data + bytes(-len(data) % 4)


def messages(datagram: bytes) -> Iterator[Message]:
    """The messages of a datagram; it ends where a length lies. Follows: netlink_rcv_skb."""
    at, end = 0, len(datagram)
    while end - at >= HEADER.size:
        size, kind, flags, seq, pid = HEADER.unpack_from(datagram, at)
        if size < HEADER.size or size > end - at:
            return
        yield Message(kind, flags, seq, pid, datagram[at + HEADER.size : at + size])
        at += aligned(size)


class Attribute(NamedTuple):
    """One attribute and where it begins, counted from the beginning of what was parsed."""

    type: int
    payload: bytes
    at: int


def attributes(data: bytes, at: int = 0) -> tuple[list[Attribute], bool]:
    """The attributes from offset `at` on, and whether bytes are left over behind them.

    Follows: nla_for_each_attr, nla_ok.
    """
    found = []
    end = len(data)
    while end - at >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size or size > end - at:
            break
        found.append(Attribute(kind, data[at + _ATTRIBUTE.size : at + size], at))
        at += aligned(size)
    return found, at < end


def attribute(kind: int, payload: bytes) -> bytes:
    """An attribute, padded."""
    return padded(_ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload)


class Report(NamedTuple):
    """What an extended acknowledgement says besides the errno: words, the attribute at fault, its policy.

    `offset` is counted from the message's header; `policy` is the payload of NLMSGERR_ATTR_POLICY.
    """

    text: str = ""
    offset: int | None = None
    policy: bytes | None = None


NOTHING = Report()


def acknowledge(
    request: Message, pid: int, number: int, report: Report, extended: bool, capped: bool
) -> bytes:
    """NLMSG_ERROR with a positive errno, or 0. Follows: netlink_ack."""
    flags = 0
    echoed = padded(request.pack())
    if number == 0 or capped:
        echoed = echoed[: HEADER.size]
        flags |= NLM_F_CAPPED
    tlvs = _report(report, number) if extended else b""
    if tlvs:
        flags |= NLM_F_ACK_TLVS
    payload = _ERROR.pack(-number) + echoed + tlvs
    return Message(NLMSG_ERROR, flags, request.seq, pid, payload).pack()


def _report(report: Report, number: int) -> bytes:
    tlvs = b""
    if report.text:
        tlvs += attribute(Extack.MSG, report.text.encode() + b"\0")
    if number and report.offset is not None:
        tlvs += attribute(Extack.OFFS, _U32.pack(report.offset))
    if number and report.policy is not None:
        tlvs += attribute(Extack.POLICY | NLA_F_NESTED, report.policy)
    return tlvs


def done(seq: int, pid: int, number: int = 0, report: Report = NOTHING) -> bytes:
    """NLMSG_DONE with a positive errno, or 0: the end of a dump. Follows: netlink_dump_done."""
    tlvs = _report(report, number)
    flags = NLM_F_MULTI | (NLM_F_ACK_TLVS if tlvs else 0)
    return Message(NLMSG_DONE, flags, seq, pid, _ERROR.pack(-number) + tlvs).pack()
