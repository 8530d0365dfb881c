"""Known-answer tests: an engine seals and opens what a Linux kernel sealed, or is not used.

They run through the compiled functions, once per process and algorithm, when the algorithm is first asked
for. Algorithms without a recorded packet (Serpent, SM4, SM3) rest on the tests alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from uxfrm.datapath.crypto import batch, single
from uxfrm.datapath.crypto.known_answers_data import ROWS, Row
from uxfrm.model import algorithm as algo
from uxfrm.model.algorithm import Algorithm

if TYPE_CHECKING:
    from uxfrm.datapath.crypto.keyring import Keyring

Make = Callable[[], "Keyring"]


def rows_for(algorithm: Algorithm) -> list[Row]:
    """The recorded packets of an algorithm, those with its key length first."""
    found = [row for row in ROWS for part in row[1:4] if part is not None and part[0] == algorithm.name]
    return sorted(found, key=lambda row: _key_bytes(row, algorithm.name) != len(algorithm.key))


def _key_bytes(row: Row, name: str) -> int:
    return next(len(part[1]) // 2 for part in row[1:4] if part is not None and part[0] == name)


def holds(keyring: Keyring, row: Row) -> bool:
    """True when `keyring` opens the recorded packet, refuses it damaged, and seals it to the same bytes."""
    _, aead, auth, crypt, esn, packet = row
    slot = keyring.add(
        aead=None if aead is None else algo.aead(aead[0], bytes.fromhex(aead[1]), aead[2]),
        auth=None if auth is None else algo.auth_trunc(auth[0], bytes.fromhex(auth[1]), auth[2]),
        crypt=None if crypt is None else algo.crypt(crypt[0], bytes.fromhex(crypt[1])),
    )
    try:
        return _round(keyring, slot, bytes.fromhex(packet), 0 if esn else -1)
    finally:
        keyring.remove(slot)


def _round(keyring: Keyring, slot: int, packet: bytes, high: int) -> bool:
    key = keyring.rows[slot]
    icv, text = int(key["icv_bytes"]), 8 + int(key["iv_bytes"])
    job = [slot, 0, 8, text, len(packet) - text - icv, high, 0, 0]
    sealed = np.frombuffer(bytearray(packet), np.uint8)
    if icv:
        damaged = sealed.copy()
        damaged[-1] ^= 1
        if _run(batch.open_, keyring, damaged, job) != single.MISMATCH:
            return False
    opened = sealed.copy()
    if _run(batch.open_, keyring, opened, job) != single.OK:
        return False
    plain = opened.tobytes()[text : len(packet) - icv]
    padding = plain[-2]
    if plain[-1] not in (4, 41) or plain[-2 - padding : -2] != bytes(range(1, padding + 1)):
        return False
    return _run(batch.seal, keyring, opened, job) == single.OK and opened.tobytes() == packet


def _run(function: Any, keyring: Keyring, data: Any, job: list[int]) -> int:
    jobs = np.array([job], np.int64)
    function(keyring.functions, keyring.rows, keyring.scratch, data, jobs, 1)
    return int(jobs[0, single.RESULT])
