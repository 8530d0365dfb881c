"""AH: what is authenticated of a packet, and its ICV (RFC 4302).

Follows: net/ipv4/ah4.c, net/ipv6/ah6.c. `open_` and `seal` describe a packet as a job that the ciphers pass
over. `Authenticator` then writes what is to be authenticated, header fields that change on the way zeroed,
into a buffer of its own: as ESP that is not encrypted, so that ICVs are made and compared in one place. The
packet itself stays as it is.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, I64S, JOBS, PACKETS, Batch, Bytes, Int64s
from uxfrm.datapath.carriers import named as named_by
from uxfrm.datapath.crypto import batch as crypto
from uxfrm.datapath.crypto.keyring import Keyring
from uxfrm.datapath.esp import COLUMNS, KEY, LENGTH, RESULT, SEQ_HI, SPARE, TEXT, job
from uxfrm.datapath.headers import AF_INET, AF_INET6
from uxfrm.datapath.modes import TRANSPORT
from uxfrm.datapath.wire import copy, read32, write32
from uxfrm.model.flow import PROTO_AH
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import ALIGN4
from uxfrm.tables.rows import ROWS

PROTO = PROTO_AH

HEADER = 12
"""Bytes in front of the ICV."""

# A job's columns, as far as they are not a cipher's.
_PACKET, _ROW = 1, 2
_NOT_A_KEY = -2

_REFUSED = int(Outcome.IN_AH)
_ICV = int(Outcome.IN_ICV)
_INSIDE = int(Outcome.IN_AH_INSIDE)

# One call of the ciphers: at most this many messages, the longest possible among them.
_BURST = 128
_TEXT_BYTES = 1 << 18
_MESSAGE_MAX = 65535 + 4 + 64

# IPv4 options that stay as they are: security, extended security, commercial security, router alert, the
# multi-destination mode; and the source routes, whose last address the packet is bound for.
_IMMUTABLE4 = (130, 133, 134, 148, 149)
_SOURCE_ROUTES = (131, 137)

_HOP_BY_HOP, _ROUTING, _DESTINATION = 0, 43, 60
_MAY_CHANGE, _HOME_ADDRESS = 0x20, 0xC9


def block(family: int, flags: int) -> int:
    """Of how many bytes the header's length is a multiple. Follows: ah_init_state, ah6_init_state."""
    return 4 if family == AF_INET and flags & ALIGN4 else 8


@compiled(int64(ROWS, int64, int64))
def header_bytes(rows: Any, row: int, icv_bytes: int) -> int:
    """Bytes of the header with an ICV of that size, padding included."""
    unit = int64(rows[row]["block"])
    return (HEADER + icv_bytes + unit - 1) // unit * unit


# -- input


@compiled(numba.void(JOBS, *[int64] * 4))
def _job(jobs: Int64s, number: int, packet: int, row: int, seq_hi: int) -> None:
    """A job that the ciphers refuse without touching the packet: it has no key and no length."""
    job(jobs, number, _NOT_A_KEY, 0, 0, 0, seq_hi)
    jobs[number, _PACKET] = packet
    jobs[number, _ROW] = row


@compiled(int64(ROWS, DATA, PACKETS, int64, int64, JOBS, int64))
def open_(rows: Any, data: Bytes, packets: Any, i: int, row: int, jobs: Int64s, number: int) -> int:
    """Describe packet i as job `number`; return 0, or the outcome where the header's length is wrong.

    The length is that of the ICV as the state truncates it, or of the whole one.
    """
    p, x = packets[i], rows[row]
    room = p["length"] - p["header"]
    if room < HEADER:
        return _REFUSED
    size = (int(data[p["offset"] + p["header"] + 1]) + 2) * 4
    known = size in (
        header_bytes(rows, row, int64(x["icv_bytes"])), header_bytes(rows, row, int64(x["icv_whole"]))
    )  # fmt: skip
    if not known or room < size:
        return _REFUSED
    _job(jobs, number, i, row, p["seq_hi"] if x["esn"] else -1)
    return 0


@compiled(int64(ROWS, PACKETS, int64))
def named(rows: Any, packets: Any, i: int) -> int:
    """The protocol that packet i's IP header names while AH is verified.

    Inside another transform in transport mode it is that one's still: Linux replaces it when all are opened.
    """
    p, proto = packets[i], PROTO
    for depth in range(p["depth"] - 2, -1, -1):
        x = rows[p["path"][depth]]
        if x["mode"] != TRANSPORT:
            break
        proto = named_by(x["encap"]) if x["encap"] else int64(x["proto"])
    return int(proto)


@compiled(int64(ROWS, DATA, PACKETS, int64, JOBS, I64S))
def payload(rows: Any, data: Bytes, packets: Any, i: int, jobs: Int64s, found: Int64s) -> int:
    """Find what follows packet i's header: found = (offset, length, next header); return 0 or the outcome."""
    p = packets[i]
    result = jobs[p["job"], RESULT]
    if result == 0:
        return _ICV if named(rows, packets, i) == PROTO else _INSIDE
    if result != 1:
        return _REFUSED
    at = p["offset"] + p["header"]
    size = (int(data[at + 1]) + 2) * 4
    found[0] = at + size
    found[1] = p["length"] - p["header"] - size
    found[2] = int(data[at])
    return 0


# -- output


@compiled(numba.void(ROWS, DATA, PACKETS, *[int64] * 4, JOBS, int64))
def seal(
    rows: Any,
    data: Bytes,
    packets: Any,
    i: int,
    row: int,
    at: int,
    next_header: int,
    jobs: Int64s,
    number: int,
) -> None:
    """Write packet i's header at `at`, its ICV and padding zero, and describe the packet as a job."""
    p, x = packets[i], rows[row]
    size = header_bytes(rows, row, int64(x["icv_bytes"]))
    write32(data, at, next_header << 24 | (size // 4 - 2) << 16)
    write32(data, at + 4, x["spi"])
    write32(data, at + 8, p["seq"])
    for k in range(at + HEADER, at + size):
        data[k] = 0
    _job(jobs, number, i, row, p["seq_hi"] if x["esn"] else -1)


# -- what may change on the way


@compiled(numba.void(DATA, int64, int64))
def _zero(text: Bytes, at: int, size: int) -> None:
    for k in range(at, at + size):
        text[k] = 0


@compiled(numba.boolean(DATA, int64, int64, numba.boolean))
def clear_options4(text: Bytes, at: int, header: int, sent: bool) -> bool:
    """Zero the options of the IPv4 header at `at` that may change; False where they cannot be walked.

    With a source route the packet that is sent is authenticated as bound for the route's end.
    """
    k, end = at + 20, at + header
    while k < end:
        kind = int(text[k])
        if kind == 0:
            break
        if kind == 1:
            k += 1
            continue
        size = int(text[k + 1]) if k + 1 < end else 0
        if size < 2 or size > end - k:
            return False
        if kind in _SOURCE_ROUTES:
            if size < 6:
                return False
            if sent:
                copy(text, at + 16, text, k + size - 4, 4)
        if kind not in _IMMUTABLE4:
            _zero(text, k, size)
        k += size
    return True


@compiled(numba.boolean(DATA, int64, int64))
def clear_options6(text: Bytes, at: int, size: int) -> bool:
    """Zero the values of hop-by-hop or destination options that may change; False where they do not fit."""
    k, end = at + 2, at + size
    while k < end:
        if text[k] == 0:
            k += 1
            continue
        length = int(text[k + 1]) if k + 1 < end else 256
        if k + 2 + length > end:
            return False
        if int(text[k]) & _MAY_CHANGE:
            _zero(text, k + 2, length)
        k += 2 + length
    return True


@compiled(numba.void(DATA, int64, int64))
def _swap(text: Bytes, a: int, b: int) -> None:
    """Exchange two IPv6 addresses."""
    for k in range(0, 16, 4):
        word = read32(text, a + k)
        write32(text, a + k, read32(text, b + k))
        write32(text, b + k, word)


@compiled(numba.void(DATA, int64, int64, int64))
def _take_home_address(text: Bytes, at: int, option: int, size: int) -> None:
    """Authenticate a packet that is sent with its source as the receiver will have it (RFC 6275 11.3.1)."""
    k, end = option + 2, option + size
    while k < end:
        length = int(text[k + 1]) if text[k] and k + 1 < end else -1
        if int(text[k]) == _HOME_ADDRESS and length == 16 and k + 18 <= end:
            _swap(text, k + 2, at + 8)
            return
        k += 2 + length


@compiled(numba.boolean(DATA, int64, int64, int64))
def follow_route(text: Bytes, at: int, routing: int, size: int) -> bool:
    """Make the routing header what it will be at the end of the route, and the destination with it."""
    left, segments = int(text[routing + 3]), (size - 8) // 16
    if left == 0:
        return True
    if left > segments or size % 16 != 8:
        return False
    text[routing + 3] = 0
    for k in range(segments - left, segments):
        _swap(text, at + 24, routing + 8 + 16 * k)
    return True


@compiled(numba.boolean(DATA, int64, int64, numba.boolean))
def clear_extensions(text: Bytes, at: int, header: int, sent: bool) -> bool:
    """The same for the extension headers between IPv6 header and AH. False where they cannot be walked."""
    kind, k, end = int(text[at + 6]), at + 40, at + header
    while k < end and kind in (_HOP_BY_HOP, _ROUTING, _DESTINATION):
        size = (int(text[k + 1]) + 1) * 8
        if size > end - k:
            return False
        if kind == _DESTINATION and sent:
            _take_home_address(text, at, k, size)
        if not (follow_route(text, at, k, size) if kind == _ROUTING else clear_options6(text, k, size)):
            return False
        kind = int(text[k])
        k += size
    return True


@compiled(numba.boolean(DATA, int64, int64, int64, numba.boolean))
def clear(text: Bytes, at: int, family: int, header: int, sent: bool) -> bool:
    """Zero what may change on the way of the IP header and its options at `at`; False for malformed ones."""
    if family == AF_INET6:
        write32(text, at, 0x60000000)
        text[at + 7] = 0
        return bool(clear_extensions(text, at, header, sent))
    text[at + 1] = 0
    _zero(text, at + 6, 3)
    _zero(text, at + 10, 2)
    return bool(clear_options4(text, at, header, sent))


# -- jobs by the burst


@compiled(int64(ROWS, DATA, PACKETS, JOBS, int64, DATA, int64, numba.boolean, numba.boolean))
def _write(
    rows: Any,
    data: Bytes,
    packets: Any,
    jobs: Int64s,
    number: int,
    text: Bytes,
    at: int,
    sent: bool,
    check: bool,
) -> int:
    """Write what job `number` authenticates to `at`; return how long it is, or -1 for malformed headers."""
    p, x = packets[jobs[number, _PACKET]], rows[jobs[number, _ROW]]
    length = p["length"]
    copy(text, at, data, p["offset"], length)
    _zero(text, at + p["header"] + HEADER, int64(x["icv_bytes"]))
    if not sent:
        text[at + p["nexthdr"] - p["offset"]] = named(rows, packets, jobs[number, _PACKET])
    if not clear(text, at, p["family"], p["header"], sent):
        return -1
    icv_bytes = int64(x["icv_bytes"])
    end = at + length
    if jobs[number, SEQ_HI] >= 0:
        write32(text, end, jobs[number, SEQ_HI])
        end += 4
    if check:
        copy(text, end, data, p["offset"] + p["header"] + HEADER, icv_bytes)
    return int(end - at)


@compiled(
    numba.types.UniTuple(int64, 2)(ROWS, DATA, PACKETS, JOBS, int64, DATA, JOBS, numba.boolean, numba.boolean)
)
def gather(
    rows: Any,
    data: Bytes,
    packets: Any,
    jobs: Int64s,
    start: int,
    text: Bytes,
    messages: Int64s,
    sent: bool,
    check: bool,
) -> tuple[int, int]:
    """Write the messages of jobs from `start` on, as many as there is room for; return (stop, messages).

    A job's SPARE is its message's number, from 1.
    """
    at, made = 0, 0
    for number in range(start, jobs.shape[0]):
        jobs[number, SPARE] = 0
        if jobs[number, KEY] != _NOT_A_KEY:
            continue
        if made == messages.shape[0] or at + _MESSAGE_MAX > text.shape[0]:
            return number, made
        length = _write(rows, data, packets, jobs, number, text, at, sent, check)
        if length < 0:
            continue
        x = rows[jobs[number, _ROW]]
        job(messages, made, int64(x["key"]), at, 0, length - 8, -1)
        made += 1
        jobs[number, SPARE] = made
        at += length + int64(x["icv_bytes"])
    return int(jobs.shape[0]), made


@compiled(numba.void(ROWS, DATA, PACKETS, JOBS, int64, int64, DATA, JOBS, numba.boolean))
def scatter(
    rows: Any,
    data: Bytes,
    packets: Any,
    jobs: Int64s,
    start: int,
    stop: int,
    text: Bytes,
    messages: Int64s,
    check: bool,
) -> None:
    """Give the jobs of [start, stop) what became of their messages, and packets that need one their ICV."""
    for number in range(start, stop):
        message = jobs[number, SPARE] - 1
        if jobs[number, KEY] != _NOT_A_KEY or message < 0:
            continue
        jobs[number, RESULT] = messages[message, RESULT]
        if not check and jobs[number, RESULT] == 1:
            p, x = packets[jobs[number, _PACKET]], rows[jobs[number, _ROW]]
            end = messages[message, TEXT] + messages[message, LENGTH]
            copy(data, p["offset"] + p["header"] + HEADER, text, end, int64(x["icv_bytes"]))


class Authenticator:
    """Makes and compares the ICVs of a namespace's AH packets."""

    def __init__(self) -> None:
        self._text: Bytes = np.zeros(_TEXT_BYTES, np.uint8)
        self._messages: Int64s = np.zeros((_BURST, COLUMNS), np.int64)

    def sign(self, keyring: Keyring, rows: Any, batch: Batch, jobs: Int64s) -> None:
        """Give the packets of AH's jobs their ICVs; RESULT is 1 where that is done."""
        self._run(keyring, rows, batch, jobs, True, False)

    def verify(self, keyring: Keyring, rows: Any, batch: Batch, jobs: Int64s, sent: bool = False) -> None:
        """Compare the ICVs of AH's jobs: RESULT is 1 where it is right, 0 where wrong, -1 for no message.

        With `sent` the packets are what this host sent, not what it received.
        """
        self._run(keyring, rows, batch, jobs, sent, True)

    def _run(self, keyring: Keyring, rows: Any, batch: Batch, jobs: Int64s, sent: bool, check: bool) -> None:
        text, messages = self._text, self._messages
        cipher = crypto.open_ if check else crypto.seal
        at, count = 0, jobs.shape[0]
        while at < count:
            stop, made = gather(rows, batch.data, batch.packets, jobs, at, text, messages, sent, check)
            if made:
                cipher(keyring.functions, keyring.rows, keyring.scratch, text, messages, made)
            scatter(rows, batch.data, batch.packets, jobs, at, stop, text, messages, check)
            at = stop
