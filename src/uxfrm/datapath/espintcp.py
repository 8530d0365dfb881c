"""ESP in TCP (RFC 8229, RFC 9329), packet by packet: messages of a stream, and the length in front of one.

What a stream has received comes here as packets of one message each: an IP header, a TCP header and what the
message carries (datapath.streams makes them). Follows: espintcp_rcv, esp_output_tcp_encap.
"""

from __future__ import annotations

from typing import Any

from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, PACKETS, Bytes
from uxfrm.datapath.carriers import ESPINTCP, before
from uxfrm.datapath.wire import read32, write16
from uxfrm.model.outcome import Outcome

PREFIX = 2
MARKER = 4

_PENDING = int(Outcome.PENDING)
_BAD = int(Outcome.IN_IP_HEADER)
_KEEPALIVE = int(Outcome.IN_KEEPALIVE)
_SHORT = int(Outcome.IN_HEADER_SHORT)
_FULL = int(Outcome.IN_STREAM_FULL)
_TOO_LONG = int(Outcome.OUT_STREAM_LENGTH)

_ESP = 50
_LENGTH_MAX = 0xFFFF


@compiled(int64(DATA, PACKETS, int64))
def take_in(data: Bytes, packets: Any, i: int) -> int:
    """Look at packet i, a message of a stream; return 0 where it is ESP, or its outcome.

    1. headers, which have no options  2. keepalive  3. too short  4. IKE, whose reader has no room
    The IP header's length is not looked at: a message may be longer than a packet.
    """
    p = packets[i]
    four = int(data[p["offset"]]) >> 4 == 4
    header = (20 if four else 40) + before(ESPINTCP)
    if p["length"] < header:
        return _BAD
    p["family"] = 2 if four else 10
    p["header"] = header
    p["proto"] = p["wire_proto"] = _ESP
    p["nexthdr"] = p["offset"] + (9 if four else 6)
    p["fragment"] = 0
    at, length = p["offset"] + header, p["length"] - header
    if length == 1 and data[at] == 0xFF:
        return _KEEPALIVE
    if length <= MARKER:
        return _SHORT
    return _FULL if read32(data, at) == 0 else _PENDING


@compiled(int64(DATA, PACKETS, int64, int64))
def write_length(data: Bytes, packets: Any, i: int, at: int) -> int:
    """Write at `at` how long packet i's message is; return 0, or the outcome if it is too long."""
    p = packets[i]
    length = p["offset"] + p["length"] - at
    if length > _LENGTH_MAX:
        return _TOO_LONG
    write16(data, at, length)
    return 0
