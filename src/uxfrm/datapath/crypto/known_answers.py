"""Known-answer tests: an engine seals and opens what is known from elsewhere, or is not used.

What is known: packets that a Linux kernel sealed, and published vectors where none was recorded. They run
through the compiled functions, once per process, algorithm and key size, when that is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from uxfrm.datapath.crypto import batch, single
from uxfrm.datapath.crypto.known_answers_data import ROWS, Named, Row
from uxfrm.datapath.crypto.known_answers_published import PUBLISHED, Published
from uxfrm.model import algorithm as algo
from uxfrm.model.algorithm import Algorithm

if TYPE_CHECKING:
    from uxfrm.datapath.crypto.keyring import Keyring

Answer = Row | Published


def rows_for(algorithm: Algorithm) -> list[Answer]:
    """All that is known of an algorithm, what has its key length first."""
    answers: tuple[Answer, ...] = (*ROWS, *PUBLISHED)
    found = [(answer, part) for answer in answers for part in _parts(answer) if part[0] == algorithm.name]
    found.sort(key=lambda pair: len(pair[1][1]) // 2 != len(algorithm.key))
    return [answer for answer, _ in found]


def _parts(answer: Answer) -> list[Named]:
    return [part for part in answer[1:4] if isinstance(part, tuple)]


def holds(keyring: Keyring, answer: Answer) -> bool:
    """True when `keyring` seals as is known, opens that again, and refuses it damaged."""
    if len(answer) == 7:
        _, auth, crypt, *texts = answer
        header, iv, text, sealed = (bytes.fromhex(part) for part in texts)
        slot = _slot(keyring, None, auth, crypt)
        try:
            return _sealed(keyring, slot, header + iv, text, sealed)
        finally:
            keyring.remove(slot)
    _, aead, auth, cipher, esn, packet = answer
    slot = _slot(keyring, aead, auth, cipher)
    try:
        return _round(keyring, slot, bytes.fromhex(packet), 0 if esn else -1)
    finally:
        keyring.remove(slot)


def _slot(keyring: Keyring, aead: Named | None, auth: Named | None, crypt: Named | None) -> int:
    return keyring.add(
        aead=None if aead is None else algo.aead(aead[0], bytes.fromhex(aead[1]), aead[2]),
        auth=None if auth is None else algo.auth_trunc(auth[0], bytes.fromhex(auth[1]), auth[2]),
        crypt=None if crypt is None else algo.crypt(crypt[0], bytes.fromhex(crypt[1])),
    )


def _sealed(keyring: Keyring, slot: int, head: bytes, text: bytes, sealed: bytes) -> bool:
    """Seal a published text, damage and open it."""
    key = keyring.rows[slot]
    icv = int(key["icv_bytes"])
    job = [slot, 0, 8, 8 + int(key["iv_bytes"]), len(text), -1, 0, 0]
    data = np.frombuffer(bytearray(head + text + bytes(icv)), np.uint8)
    if _run(batch.seal, keyring, data, job) != single.OK or data.tobytes() != head + sealed:
        return False
    if icv:
        damaged = data.copy()
        damaged[-1] ^= 1
        if _run(batch.open_, keyring, damaged, job) != single.MISMATCH:
            return False
    return _run(batch.open_, keyring, data, job) == single.OK and data.tobytes().startswith(head + text)


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
