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
    I64S,
    JOBS,
    KEY,
    LENGTH,
    MISMATCH,
    OK,
    RESULT,
    SPARE,
    TEXT,
    WAITING,
    cipher,
    equal,
    mac,
    sound,
    wipe,
)  # fmt: skip

_SIGNATURE = numba.void(I64S, k.KEYS, DATA, DATA, JOBS, int64)


@compiled(_SIGNATURE)
def seal(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, count: int) -> None:
    """Encrypt the text of each job in place and write its ICV behind it.

    1. bounds  2. ciphers  3. integrity over the ciphertext  4. what could not be sealed is zeroed
    """
    waiting = False
    for i in range(count):
        jobs[i, SPARE] = 0
        result = ERROR
        if sound(keys, data, jobs, i):
            result = cipher(functions, keys, scratch, data, jobs, i, True)
        jobs[i, RESULT] = result
        waiting = waiting or result == WAITING
    if waiting:
        burst.ciphers(functions, keys, scratch, data, jobs, count, True)
    waiting = False
    for i in range(count):
        if jobs[i, RESULT] == OK and keys[jobs[i, KEY]]["auth"] != k.NO_AUTH:
            result = mac(functions, keys, scratch, data, jobs, i)
            if result == OK:
                end = jobs[i, TEXT] + jobs[i, LENGTH]
                for n in range(keys[jobs[i, KEY]]["icv_bytes"]):
                    data[end + n] = scratch[k.TAG + n]
            jobs[i, RESULT] = result
            waiting = waiting or result == WAITING
    if waiting:
        burst.hashes(functions, keys, scratch, data, jobs, count, True)
    for i in range(count):
        if jobs[i, RESULT] != OK:
            wipe(data, jobs[i, TEXT], jobs[i, LENGTH])


@compiled(_SIGNATURE)
def open_(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, count: int) -> None:
    """Check the ICV of each job and decrypt its text in place.

    1. bounds  2. integrity, where a separate algorithm gives it  3. ciphers of those that pass
    """
    waiting = False
    for i in range(count):
        jobs[i, SPARE] = 0
        if not sound(keys, data, jobs, i):
            jobs[i, RESULT] = ERROR
            continue
        jobs[i, RESULT] = OK
        icv = keys[jobs[i, KEY]]["icv_bytes"]
        if keys[jobs[i, KEY]]["auth"] != k.NO_AUTH:
            result = mac(functions, keys, scratch, data, jobs, i)
            if result == OK and not equal(scratch, k.TAG, data, jobs[i, TEXT] + jobs[i, LENGTH], icv):
                result = MISMATCH
            jobs[i, RESULT] = result
            waiting = waiting or result == WAITING
    if waiting:
        burst.hashes(functions, keys, scratch, data, jobs, count, False)
    waiting = False
    for i in range(count):
        if jobs[i, RESULT] == OK:
            jobs[i, RESULT] = cipher(functions, keys, scratch, data, jobs, i, False)
            waiting = waiting or jobs[i, RESULT] == WAITING
    if waiting:
        burst.ciphers(functions, keys, scratch, data, jobs, count, False)
