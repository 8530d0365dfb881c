"""ESP: the lengths and the trailer (RFC 4303), for one packet of a batch.

Follows: net/ipv4/esp4.c, net/ipv6/esp6.c. `open_` names the text to decrypt and, afterwards, finds the
payload in it; `seal` writes header, IV and trailer around a payload and names the text to encrypt.
The ciphers themselves are datapath.crypto's.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, I64S, JOBS, PACKETS, Bytes, Int64s
from uxfrm.datapath.wire import copy, write32
from uxfrm.model.outcome import Outcome
from uxfrm.tables.rows import ROWS

HEADER = 8

# Columns of a crypto job.
KEY, AAD, IV, TEXT, LENGTH, SEQ_HI, RESULT, SPARE = range(8)
COLUMNS = 8

_LENGTH = int(Outcome.IN_ESP_LENGTH)
_ICV = int(Outcome.IN_ICV)
_PADDING = int(Outcome.IN_PADDING)
_DUMMY = int(Outcome.IN_DUMMY)

_NEXT_NONE = 59


@compiled(numba.void(JOBS, *[int64] * 6))
def job(jobs: Int64s, number: int, key: int, aad: int, iv_bytes: int, length: int, seq_hi: int) -> None:
    """Fill job `number`: what is authenticated begins at `aad`, IV and text follow; SEQ_HI -1 without ESN."""
    jobs[number, KEY] = key
    jobs[number, AAD] = aad
    jobs[number, IV] = aad + HEADER
    jobs[number, TEXT] = aad + HEADER + iv_bytes
    jobs[number, LENGTH] = length
    jobs[number, SEQ_HI] = seq_hi
    jobs[number, RESULT] = -1
    jobs[number, SPARE] = 0


@compiled(int64(ROWS, PACKETS, int64, int64, JOBS, int64))
def open_(rows: Any, packets: Any, i: int, row: int, jobs: Int64s, number: int) -> int:
    """Describe packet i's ciphertext as job `number`; return 0, or the outcome where the lengths lie.

    1. what is left of header, IV and ICV  2. whole cipher blocks, where no ICV would catch it
    """
    p = packets[i]
    x = rows[row]
    iv_bytes, icv_bytes = int64(x["iv_bytes"]), int64(x["icv_bytes"])
    rest = p["length"] - p["header"] - HEADER - iv_bytes
    text = rest - icv_bytes
    if rest <= 0 or text < 0:
        return _LENGTH
    if x["iv_random"] and text % int64(x["block"]):
        return _LENGTH if icv_bytes == 0 else _ICV
    seq_hi = p["seq_hi"] if x["esn"] else -1
    job(jobs, number, int64(x["key"]), p["offset"] + p["header"], iv_bytes, text, seq_hi)
    return 0


@compiled(int64(DATA, JOBS, int64, I64S))
def payload(data: Bytes, jobs: Int64s, number: int, found: Int64s) -> int:
    """Find what job `number` decrypted: found = (offset, length, next header); return 0 or the outcome.

    Follows: esp_remove_trailer: padding values are not looked at, only the padding's length.
    """
    start, length = jobs[number, TEXT], jobs[number, LENGTH]
    if length < 3:
        return _PADDING
    next_header = int(data[start + length - 1])
    rest = length - 2 - int(data[start + length - 2])
    if rest <= 0:
        return _PADDING
    if next_header == _NEXT_NONE:
        return _DUMMY
    found[0] = start
    found[1] = rest
    found[2] = next_header
    return 0


@compiled(int64(ROWS, int64, int64, int64))
def tfc_padding(rows: Any, row: int, length: int, mtu: int) -> int:
    """Bytes of traffic flow confidentiality padding behind a payload of `length` bytes."""
    wanted = min(int64(rows[row]["tfcpad"]), mtu)
    return wanted - length if wanted > length else 0


@compiled(int64(ROWS, int64, int64))
def trailer(rows: Any, row: int, length: int) -> int:
    """Bytes of padding, pad length and next header behind `length` bytes of payload and TFC padding."""
    block = int64(rows[row]["block"])
    return (length + 2 + block - 1) // block * block - length


@compiled(numba.void(ROWS, DATA, PACKETS, int64, int64, DATA, int64))
def write_header(rows: Any, data: Bytes, packets: Any, i: int, row: int, pool: Bytes, at: int) -> None:
    """Write SPI, sequence number and IV of packet i at `at`; a CBC IV is taken from the random pool."""
    p = packets[i]
    x = rows[row]
    write32(data, at, x["spi"])
    write32(data, at + 4, p["seq"])
    iv_bytes = int64(x["iv_bytes"])
    if x["iv_random"]:
        copy(data, at + HEADER, pool, i * 16, iv_bytes)
    elif iv_bytes:
        # Unique for the life of the key, as the kernel's seqiv: the sequence number, salted.
        high = p["seq_hi"] if x["esn"] else x["wraps"]
        write32(data, at + HEADER, (high ^ x["iv_salt_hi"]) & 0xFFFFFFFF)
        write32(data, at + HEADER + 4, (p["seq"] ^ x["iv_salt_lo"]) & 0xFFFFFFFF)


@compiled(numba.void(DATA, int64, int64, int64, int64))
def write_trailer(data: Bytes, at: int, tfc: int, size: int, next_header: int) -> None:
    """Write `tfc` zeros, then `size` bytes: padding 1, 2, 3 ..., pad length, next header."""
    for k in range(tfc):
        data[at + k] = 0
    at += tfc
    padding = size - 2
    for k in range(padding):
        data[at + k] = k + 1
    data[at + padding] = padding
    data[at + padding + 1] = next_header


@compiled(numba.void(ROWS, PACKETS, int64, int64, int64, int64, JOBS, int64))
def seal(rows: Any, packets: Any, i: int, row: int, at: int, length: int, jobs: Int64s, number: int) -> None:
    """Describe the text of `length` bytes (payload and trailer) behind the ESP header at `at` as a job."""
    x = rows[row]
    seq_hi = packets[i]["seq_hi"] if x["esn"] else -1
    job(jobs, number, int64(x["key"]), at, int64(x["iv_bytes"]), length, seq_hi)
