"""Bursts: many jobs of one algorithm in one call of libipsec-mb.

Jobs that wait are gathered by algorithm and key size into an array of IMB_JOB (25 words each) in the scratch
buffer, at most 128 at a time, and handed to the synchronous burst functions. ChaCha20-Poly1305 has none: its
jobs are submitted one by one, which takes 130 ns less than the library's direct functions.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.crypto import kinds as k
from uxfrm.datapath.crypto.calls import call, load, store
from uxfrm.datapath.crypto.single import (
    DATA,
    ERROR,
    HEADER,
    I64S,
    IV,
    JOBS,
    KEY,
    LENGTH,
    MISMATCH,
    NO_ESN,
    OK,
    RESULT,
    SEQ_HI,
    SPARE,
    TEXT,
    WAITING,
    copy,
    equal,
    write_aad,
    write_nonce,
)  # fmt: skip

# Numbers of the library: cipher modes, directions, hashes by the slot's column "hash".
_CBC, _CTR = 1, 2
_ENCRYPT, _DECRYPT = 1, 2

# Words of an IMB_JOB.
_ENC, _DEC, _KEY_LENGTH, _SRC, _DST, _CIPHER_AT, _CIPHER_LENGTH, _HASH_AT, _HASH_LENGTH = range(9)
_IV, _IV_LENGTH, _TAG, _TAG_LENGTH, _INNER, _OUTER = range(9, 15)
_AAD, _AAD_LENGTH = 13, 14
_STATUS_MODE, _DIRECTION_HASH, _ORDER = 16, 17, 18  # the first two: two ints each, the first named one low
_JOB_BYTES = k.JOB_WORDS * 8

_CHACHA20_POLY1305, _HASH_CHACHA20_POLY1305, _CIPHER_HASH, _HASH_CIPHER, _COMPLETED = 19, 29, 1, 2, 3


@compiled(int64(int64))
def _hash_number(which: int) -> int:
    """IMB_AUTH_HMAC_SHA_1, _SHA_256, _SHA_384, _SHA_512."""
    return 1 if which == 0 else which + 2


@compiled(numba.void(k.KEYS, DATA, DATA, JOBS, int64, I64S, int64))
def _cipher_job(keys: Any, scratch: Any, data: Any, jobs: Any, i: int, words: Any, number: int) -> None:
    """Describe job i's cipher as IMB_JOB `number`; a counter block is made in scratch."""
    key = keys[jobs[i, KEY]]
    at = number * k.JOB_WORDS
    words[at + _ENC] = key["encrypt"]
    words[at + _DEC] = key["decrypt"]
    words[at + _KEY_LENGTH] = key["key_bytes"]
    words[at + _SRC] = data.ctypes.data + jobs[i, TEXT]
    words[at + _DST] = data.ctypes.data + jobs[i, TEXT]
    words[at + _CIPHER_AT] = words[at + _STATUS_MODE] = 0
    words[at + _CIPHER_LENGTH] = jobs[i, LENGTH]
    words[at + _IV_LENGTH] = 16
    if key["kind"] == k.IMB_CBC:
        words[at + _IV] = data.ctypes.data + jobs[i, IV]
        return
    block = scratch.ctypes.data + k.IV_AREA + number * 16
    write_nonce(key, data.ctypes.data + jobs[i, IV], block)
    # The counter starts at 1, in network order.
    store(block + 8, (load(block + 8) & 0xFFFFFFFF) | 1 << 56)
    words[at + _IV] = block


@compiled(numba.void(I64S, k.KEYS, DATA, DATA, JOBS, int64, int64, int64, numba.boolean), allocates=True)
def _cipher_burst(
    functions: Any,
    keys: Any,
    scratch: Any,
    data: Any,
    jobs: Any,
    count: int,
    kind: int,
    size: int,
    encrypt: bool,
) -> None:
    """Run all waiting jobs of one cipher and key size."""
    words = scratch[: k.JOB_AREA].view(np.int64)
    mode = _CBC if kind == k.IMB_CBC else _CTR
    way = _ENCRYPT if encrypt else _DECRYPT
    i = 0
    while i < count:
        first, made = i, 0
        while i < count and made < k.BURST:
            key = keys[jobs[i, KEY]] if jobs[i, RESULT] == WAITING else keys[0]
            if jobs[i, RESULT] == WAITING and key["kind"] == kind and key["key_bytes"] == size:
                if jobs[i, LENGTH]:
                    _cipher_job(keys, scratch, data, jobs, i, words, made)
                    made += 1
                jobs[i, SPARE] = 1
            i += 1
        done = 0
        if made:
            burst = (functions[k.MANAGER], scratch.ctypes.data, made, mode, way, size)
            done = call(functions[k.CIPHER_BURST], burst) & 0xFFFFFFFF
        for n in range(first, i):
            if jobs[n, SPARE] == 1:
                jobs[n, SPARE] = 0
                jobs[n, RESULT] = OK if done == made else ERROR


@compiled(int64(I64S, DATA))
def _submit(functions: Any, scratch: Any) -> int:
    """Run the job at the start of scratch; OK, or ERROR when the library did not complete it."""
    manager, s = functions[k.MANAGER], scratch.ctypes.data
    place = call(functions[k.NEXT_JOB], (manager,))
    call(functions[k.MEMCPY], (place, s, _JOB_BYTES))
    done = call(functions[k.SUBMIT_JOB], (manager,))
    while done != 0 and done != place:
        done = call(functions[k.FLUSH_JOB], (manager,))
    if done == 0:
        done = call(functions[k.FLUSH_JOB], (manager,))
    if done != place:
        return ERROR
    call(functions[k.MEMCPY], (s + k.LENGTH_OUT, done + _STATUS_MODE * 8, 4))
    return OK if scratch[k.LENGTH_OUT] == _COMPLETED else ERROR


@compiled(numba.void(I64S, k.KEYS, DATA, DATA, JOBS, int64, numba.boolean), allocates=True)
def _chacha(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, count: int, encrypt: bool) -> None:
    """Run all waiting jobs of ChaCha20-Poly1305."""
    words = scratch[:_JOB_BYTES].view(np.int64)
    s, d = scratch.ctypes.data, data.ctypes.data
    words[:] = 0
    words[_KEY_LENGTH], words[_IV], words[_IV_LENGTH], words[_TAG_LENGTH] = 32, s + k.NONCE, 12, 16
    words[_AAD] = s + k.AAD
    words[_STATUS_MODE] = _CHACHA20_POLY1305 << 32
    words[_DIRECTION_HASH] = (_ENCRYPT if encrypt else _DECRYPT) | _HASH_CHACHA20_POLY1305 << 32
    words[_ORDER] = _CIPHER_HASH if encrypt else _HASH_CIPHER
    for i in range(count):
        if jobs[i, RESULT] != WAITING or keys[jobs[i, KEY]]["kind"] != k.IMB_CHACHA20_POLY1305:
            continue
        text, length = jobs[i, TEXT], jobs[i, LENGTH]
        write_nonce(keys[jobs[i, KEY]], d + jobs[i, IV], s + k.NONCE)
        words[_AAD_LENGTH] = write_aad(d + jobs[i, HEADER], jobs[i, SEQ_HI], s + k.AAD)
        words[_ENC] = words[_DEC] = keys[jobs[i, KEY]]["encrypt"]
        words[_SRC] = words[_DST] = d + text
        words[_CIPHER_LENGTH] = words[_HASH_LENGTH] = length
        words[_TAG] = d + text + length if encrypt else s + k.TAG
        result = _submit(functions, scratch)
        if result == OK and not encrypt and not equal(s + k.TAG, d + text + length, 16):
            result = MISMATCH
        jobs[i, RESULT] = result


@compiled(int64(k.KEYS, int64))
def _group(keys: Any, slot: int) -> int:
    """Which burst a slot's cipher runs in: CBC and CTR by key size, 0 to 5; ChaCha20-Poly1305, 6."""
    key = keys[slot]
    if key["kind"] == k.IMB_CHACHA20_POLY1305:
        return 6
    return int(key["key_bytes"]) // 8 - 2 + (0 if key["kind"] == k.IMB_CBC else 3)


@compiled(numba.void(I64S, k.KEYS, DATA, DATA, JOBS, int64, numba.boolean))
def ciphers(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, count: int, encrypt: bool) -> None:
    """Run every waiting cipher job."""
    wanted = 0
    for i in range(count):
        if jobs[i, RESULT] == WAITING:
            wanted |= 1 << _group(keys, jobs[i, KEY])
    for group in range(6):
        if wanted >> group & 1:
            kind = k.IMB_CBC if group < 3 else k.IMB_CTR
            _cipher_burst(functions, keys, scratch, data, jobs, count, kind, (group % 3 + 2) * 8, encrypt)
    if wanted >> 6 & 1:
        _chacha(functions, keys, scratch, data, jobs, count, encrypt)


@compiled(numba.void(k.KEYS, DATA, DATA, JOBS, int64, I64S, int64))
def _hash_job(keys: Any, scratch: Any, data: Any, jobs: Any, i: int, words: Any, number: int) -> None:
    """Describe job i's HMAC as IMB_JOB `number`; the tag goes to scratch.

    With ESN the high half is hashed where it is not sent: it takes the ICV's place for the moment, and what
    was there is kept in the tag's place until the burst has run.
    """
    key = keys[jobs[i, KEY]]
    at = number * k.JOB_WORDS
    end = jobs[i, TEXT] + jobs[i, LENGTH]
    high = jobs[i, SEQ_HI]
    words[at + _SRC] = data.ctypes.data + jobs[i, HEADER]
    words[at + _HASH_AT] = words[at + _STATUS_MODE] = 0
    words[at + _HASH_LENGTH] = end - jobs[i, HEADER] + (0 if high == NO_ESN else 4)
    words[at + _TAG] = scratch.ctypes.data + k.TAG_AREA + number * 64
    words[at + _TAG_LENGTH] = key["mac_bytes"]
    words[at + _INNER] = key["mac"]
    words[at + _OUTER] = key["mac"] + 64
    if high != NO_ESN:
        for n in range(4):
            scratch[k.IV_AREA + number * 16 + n] = data[end + n]
            data[end + n] = (high >> (24 - 8 * n)) & 0xFF


@compiled(numba.void(k.KEYS, DATA, DATA, JOBS, int64, int64, numba.boolean, numba.boolean))
def _hash_done(
    keys: Any, scratch: Any, data: Any, jobs: Any, i: int, number: int, good: bool, encrypt: bool
) -> None:
    """Write or compare the tag of job i."""
    icv = keys[jobs[i, KEY]]["icv_bytes"]
    end = jobs[i, TEXT] + jobs[i, LENGTH]
    tag = scratch.ctypes.data + k.TAG_AREA + number * 64
    if jobs[i, SEQ_HI] != NO_ESN:
        for n in range(4):
            data[end + n] = scratch[k.IV_AREA + number * 16 + n]
    if not good:
        jobs[i, RESULT] = ERROR
    elif encrypt:
        copy(data.ctypes.data + end, tag, icv)
        jobs[i, RESULT] = OK
    else:
        jobs[i, RESULT] = OK if equal(tag, data.ctypes.data + end, icv) else MISMATCH


@compiled(numba.void(I64S, k.KEYS, DATA, DATA, JOBS, int64, int64, numba.boolean), allocates=True)
def _hash_burst(
    functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, count: int, which: int, encrypt: bool
) -> None:
    """Run all waiting jobs of one hash."""
    words = scratch[: k.JOB_AREA].view(np.int64)
    i = 0
    while i < count:
        first, made = i, 0
        while i < count and made < k.BURST:
            if jobs[i, RESULT] == WAITING and keys[jobs[i, KEY]]["hash"] == which:
                made += 1
                _hash_job(keys, scratch, data, jobs, i, words, made - 1)
                jobs[i, SPARE] = made
            i += 1
        done = 0
        if made:
            burst = (functions[k.MANAGER], scratch.ctypes.data, made, _hash_number(which))
            done = call(functions[k.HASH_BURST], burst) & 0xFFFFFFFF
        for n in range(first, i):
            if jobs[n, SPARE]:
                _hash_done(keys, scratch, data, jobs, n, jobs[n, SPARE] - 1, done == made, encrypt)
                jobs[n, SPARE] = 0


@compiled(numba.void(I64S, k.KEYS, DATA, DATA, JOBS, int64, numba.boolean))
def hashes(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, count: int, encrypt: bool) -> None:
    """Run every waiting HMAC job."""
    wanted = 0
    for i in range(count):
        if jobs[i, RESULT] == WAITING:
            wanted |= 1 << keys[jobs[i, KEY]]["hash"]
    for which in range(4):
        if wanted >> which & 1:
            _hash_burst(functions, keys, scratch, data, jobs, count, which, encrypt)
