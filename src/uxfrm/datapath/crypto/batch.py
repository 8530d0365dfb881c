"""Sealing and opening batches of packets, whatever mixture of algorithms is in them.

A job names a slot, the ESP header, the IV and the text; the ICV directly follows the text. A batch of one
takes the same way as a batch of 256. Columns of a job: KEY, HEADER, IV, TEXT, LENGTH, SEQ_HI (-1 without
ESN), RESULT (1 done, 0 the ICV is wrong, -1 refused), SPARE.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.crypto import burst
from uxfrm.datapath.crypto import kinds as k
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
    OK,
    RESULT,
    SEQ_HI,
    SPARE,
    TEXT,
    WAITING,
    cipher,
    copy,
    equal,
    imb_gcm,
    mac,
    sound,
    wipe,
)  # fmt: skip

_SIGNATURE = numba.void(I64S, k.KEYS, DATA, DATA, JOBS, int64)


@compiled(int64(I64S, k.KEYS, DATA, DATA, JOBS, int64, numba.boolean))
def _cipher(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, i: int, encrypt: bool) -> int:
    """Run job i's cipher, or leave it WAITING for a burst."""
    key = keys[jobs[i, KEY]]
    if key["kind"] != k.IMB_GCM:
        return cipher(functions, keys, scratch, data, jobs, i, encrypt)
    return imb_gcm(
        functions, key, scratch.ctypes.data, data.ctypes.data,
        jobs[i, HEADER], jobs[i, IV], jobs[i, TEXT], jobs[i, LENGTH], jobs[i, SEQ_HI], encrypt,
    )  # fmt: skip


@compiled(numba.boolean(k.KEYS, DATA, JOBS, int64))
def _sound(keys: Any, data: Any, jobs: Any, i: int) -> bool:
    """True when job i names a slot and lies inside the buffer."""
    slot = jobs[i, KEY]
    if slot < 0 or slot >= keys.shape[0]:
        return False
    return sound(keys[slot], data.shape[0], jobs[i, HEADER], jobs[i, IV], jobs[i, TEXT], jobs[i, LENGTH])


@compiled(_SIGNATURE)
def _authenticate(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, count: int) -> None:
    """Write the ICV of each job whose cipher is done and whose integrity algorithm is a separate one."""
    waiting = False
    for i in range(count):
        if jobs[i, RESULT] == OK and keys[jobs[i, KEY]]["auth"] != k.NO_AUTH:
            result = mac(functions, keys, scratch, data, jobs, i)
            if result == OK:
                to = data.ctypes.data + jobs[i, TEXT] + jobs[i, LENGTH]
                copy(to, scratch.ctypes.data + k.TAG, keys[jobs[i, KEY]]["icv_bytes"])
            jobs[i, RESULT] = result
            waiting = waiting or result == WAITING
    if waiting:
        burst.hashes(functions, keys, scratch, data, jobs, count, True)


@compiled(_SIGNATURE)
def seal(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, count: int) -> None:
    """Encrypt the text of each job in place and write its ICV behind it.

    1. bounds  2. ciphers  3. integrity over the ciphertext  4. what could not be sealed is zeroed
    """
    waiting = separate = False
    for i in range(count):
        jobs[i, SPARE] = 0
        result = ERROR
        if _sound(keys, data, jobs, i):
            result = _cipher(functions, keys, scratch, data, jobs, i, True)
            separate = separate or keys[jobs[i, KEY]]["auth"] != k.NO_AUTH
        jobs[i, RESULT] = result
        waiting = waiting or result == WAITING
    if waiting:
        burst.ciphers(functions, keys, scratch, data, jobs, count, True)
    if separate:
        _authenticate(functions, keys, scratch, data, jobs, count)
    for i in range(count):
        if jobs[i, RESULT] != OK:
            wipe(data, jobs[i, TEXT], jobs[i, LENGTH])


@compiled(int64(I64S, k.KEYS, DATA, DATA, JOBS, int64))
def _verify(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, i: int) -> int:
    """Check job i's ICV where a separate algorithm makes it, or leave it WAITING for a burst."""
    result = mac(functions, keys, scratch, data, jobs, i)
    end = data.ctypes.data + jobs[i, TEXT] + jobs[i, LENGTH]
    if result == OK and not equal(scratch.ctypes.data + k.TAG, end, keys[jobs[i, KEY]]["icv_bytes"]):
        return MISMATCH
    return result


@compiled(_SIGNATURE)
def open_(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, count: int) -> None:
    """Check the ICV of each job and decrypt its text in place.

    1. bounds  2. integrity, where a separate algorithm gives it  3. ciphers of those that pass
    """
    waiting = False
    for i in range(count):
        jobs[i, SPARE] = 0
        result = ERROR
        if _sound(keys, data, jobs, i):
            result = OK
            if keys[jobs[i, KEY]]["auth"] != k.NO_AUTH:
                result = _verify(functions, keys, scratch, data, jobs, i)
        jobs[i, RESULT] = result
        waiting = waiting or result == WAITING
    if waiting:
        burst.hashes(functions, keys, scratch, data, jobs, count, False)
    waiting = False
    for i in range(count):
        if jobs[i, RESULT] == OK:
            jobs[i, RESULT] = _cipher(functions, keys, scratch, data, jobs, i, False)
            waiting = waiting or jobs[i, RESULT] == WAITING
    if waiting:
        burst.ciphers(functions, keys, scratch, data, jobs, count, False)
