"""Where the IP packet is in a link-layer frame, and which way the frame went, as the host saw it.

Knows the link layers: Ethernet II with VLAN tags, Linux cooked v1 and v2, raw IP, BSD null and loop.
Never looks behind the IP version.

Direction: a cooked frame says what it was (packet type). An Ethernet frame is OUT if the host's MAC is its
source, IN if it is its destination, else OTHER; so broadcast and multicast frames are OTHER unless the host
sent them. Without a MAC, and for links without addresses, the direction is UNKNOWN: the addresses of the
packet must tell.

Follows: LINKTYPE_ETHERNET, LINKTYPE_LINUX_SLL, LINKTYPE_LINUX_SLL2, LINKTYPE_RAW, LINKTYPE_NULL and _LOOP
of the tcpdump group's list; IEEE 802.1Q.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import int8, int64, types, uint8

from uxfrm.attach.pcap import FrameBatch
from uxfrm.attach.pcap_walk import Bytes, Int64s, read16, read32
from uxfrm.compiled import compiled


class Direction(IntEnum):
    """Which way a frame went."""

    UNKNOWN = 0
    IN = 1  # addressed to the host
    OUT = 2  # sent by the host
    OTHER = 3  # neither


# LINKTYPE_ values. 12 and 14 are raw IP as DLT_RAW of BSD and OpenBSD.
ETHERNET = 1
NULL, LOOP = 0, 108
RAW, RAW_BSD, RAW_OPENBSD = 101, 12, 14
RAW_IPV4, RAW_IPV6 = 228, 229
LINUX_SLL, LINUX_SLL2 = 113, 276

KNOWN = frozenset(
    {ETHERNET, NULL, LOOP, RAW, RAW_BSD, RAW_OPENBSD, RAW_IPV4, RAW_IPV6, LINUX_SLL, LINUX_SLL2}
)

_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN, _SERVICE_VLAN, _OLD_SERVICE_VLAN = 0x8100, 0x88A8, 0x9100
_TAGS_MAX = 4

_UNKNOWN, _IN, _OUT, _OTHER = (int(d) for d in Direction)

_DATA: Any = uint8[::1]
_I64S: Any = int64[::1]
_tuple: Any = types.UniTuple
_PLACE: Any = _tuple(int64, 2)


@dataclass(slots=True)
class Placement:
    """For each frame of a batch, where its IP packet is.

    `ip_offset` in the batch's `data`, -1 if the frame is not IP (or its link header is cut short).
    `ip_length`: bytes captured from there on, which may include Ethernet padding. `direction`: a Direction,
    for frames that are not IP too.
    """

    ip_offset: Int64s
    ip_length: Int64s
    direction: npt.NDArray[np.int8]


@compiled(int64(_DATA, int64, int64, int64))
def _behind_tags(data: Bytes, at: int, end: int, kind: int) -> int:
    """The IP packet's offset, given that `at` is behind an EtherType `kind`; -1 if it is not IP."""
    for _ in range(_TAGS_MAX):
        if kind not in (_VLAN, _SERVICE_VLAN, _OLD_SERVICE_VLAN):
            break
        if end - at < 4:
            return -1
        kind = read16(data, at + 2, 1)
        at += 4
    if kind in (_IPV4, _IPV6):
        return at
    return -1


@compiled(int64(_DATA, int64))
def _mac(data: Bytes, at: int) -> int:
    """The six bytes at `at` as a number."""
    return (read32(data, at, 1) << 16) | read16(data, at + 4, 1)


@compiled(_PLACE(_DATA, int64, int64, int64))
def _ethernet(data: Bytes, at: int, end: int, mac: int) -> tuple[int, int]:
    """1. destination  2. source  3. EtherType or tags."""
    if end - at < 14:
        return -1, _UNKNOWN
    direction = _UNKNOWN
    if mac >= 0:
        direction = _OTHER
        if _mac(data, at) == mac:
            direction = _IN
        if _mac(data, at + 6) == mac:
            direction = _OUT
    return _behind_tags(data, at + 14, end, read16(data, at + 12, 1)), direction


@compiled(int64(int64))
def _cooked_direction(kind: int) -> int:
    """A packet type of if_packet.h: host, broadcast, multicast, otherhost, outgoing.

    Whether the host had joined a group no capture says, so groups are as on Ethernet.
    """
    if kind == 0:
        return _IN
    if kind < 4:
        return _OTHER
    if kind == 4:
        return _OUT
    return _UNKNOWN


@compiled(_PLACE(_DATA, int64, int64))
def _cooked(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """LINKTYPE_LINUX_SLL: 1. packet type  2. protocol, behind the sender's address."""
    if end - at < 16:
        return -1, _UNKNOWN
    return _behind_tags(data, at + 16, end, read16(data, at + 14, 1)), _cooked_direction(read16(data, at, 1))


@compiled(_PLACE(_DATA, int64, int64))
def _cooked2(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """LINKTYPE_LINUX_SLL2: 1. protocol  2. packet type."""
    if end - at < 20:
        return -1, _UNKNOWN
    return _behind_tags(data, at + 20, end, read16(data, at, 1)), _cooked_direction(int(data[at + 10]))


@compiled(_PLACE(_DATA, int64, int64, int64))
def _raw(data: Bytes, at: int, end: int, version: int) -> tuple[int, int]:
    """IP without a link header; `version` 0 takes both."""
    if at >= end:
        return -1, _UNKNOWN
    found = int(data[at]) >> 4
    if found == version or (version == 0 and found in (4, 6)):
        return at, _UNKNOWN
    return -1, _UNKNOWN


@compiled(_PLACE(_DATA, int64, int64))
def _null(data: Bytes, at: int, end: int) -> tuple[int, int]:
    """LINKTYPE_NULL and LINKTYPE_LOOP: an address family in the one or the other byte order, then the packet.

    The families are AF_INET, and AF_INET6 of Linux, NetBSD, FreeBSD and Darwin.
    """
    if end - at < 4:
        return -1, _UNKNOWN
    family = int(data[at]) | int(data[at + 3])
    if int(data[at + 1]) | int(data[at + 2]):
        return -1, _UNKNOWN
    if family == 2:
        return _raw(data, at + 4, end, 4)
    if family in (10, 24, 28, 30):
        return _raw(data, at + 4, end, 6)
    return -1, _UNKNOWN


@compiled(_PLACE(_DATA, int64, int64, int64, int64))
def _place(data: Bytes, at: int, end: int, link: int, mac: int) -> tuple[int, int]:
    """One frame's IP offset and direction."""
    if link == ETHERNET:
        return _ethernet(data, at, end, mac)
    if link == LINUX_SLL:
        return _cooked(data, at, end)
    if link == LINUX_SLL2:
        return _cooked2(data, at, end)
    if link in (RAW, RAW_BSD, RAW_OPENBSD):
        return _raw(data, at, end, 0)
    if link == RAW_IPV4:
        return _raw(data, at, end, 4)
    if link == RAW_IPV6:
        return _raw(data, at, end, 6)
    if link in (NULL, LOOP):
        return _null(data, at, end)
    return -1, _UNKNOWN


@compiled(numba.void(_DATA, _I64S, _I64S, _I64S, int64, _I64S, _I64S, int8[::1]))
def place_frames(
    data: Bytes,
    offset: Int64s,
    length: Int64s,
    link: Int64s,
    mac: int,
    ip_offset: Int64s,
    ip_length: Int64s,
    direction: npt.NDArray[np.int8],
) -> None:
    """Fill `ip_offset`, `ip_length` and `direction` for all frames; `mac` is a number, -1 for none."""
    for i in range(offset.shape[0]):
        end = offset[i] + length[i]
        at, way = _place(data, offset[i], end, link[i], mac)
        ip_offset[i] = at
        ip_length[i] = end - at if at >= 0 else 0
        direction[i] = way


def locate(batch: FrameBatch, mac: bytes | None = None) -> Placement:
    """Find the IP packet and the direction of every frame; `mac` (6 bytes) is the host's Ethernet address."""
    if mac is not None and len(mac) != 6:
        raise ValueError(f"a MAC address has 6 bytes, not {len(mac)}")
    number = len(batch)
    found = Placement(np.empty(number, np.int64), np.empty(number, np.int64), np.empty(number, np.int8))
    place_frames(
        batch.data,
        batch.offset,
        batch.length,
        batch.link,
        -1 if mac is None else int.from_bytes(mac, "big"),
        found.ip_offset,
        found.ip_length,
        found.direction,
    )
    return found
