"""Sealing and opening in batches beside the crypto library alone on the same buffers.

    python bench/crypto.py [--json FILE] [--quick]

`raw` is a compiled loop that calls nothing but libipsec-mb: arguments, nonces and jobs are made beforehand,
no bounds are checked, no tag is compared or moved. `of raw` is how much of its speed `seal` and `open_`
keep. Batches of 256, one slot, text lengths as given, one core.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import int64

from common import finish, options
from uxfrm import compiled
from uxfrm.compiled import compiled as declare
from uxfrm.datapath.crypto import kinds as k
from uxfrm.datapath.crypto import single
from uxfrm.datapath.crypto.batch import open_, seal
from uxfrm.datapath.crypto.calls import call
from uxfrm.datapath.crypto.keyring import Keyring
from uxfrm.model import algorithm as algo

BATCH = 256
STEP = 2048
HEADER = 64
SIZES = (64, 576, 1420)

_SHA256 = 3  # IMB_AUTH_HMAC_SHA_256
_TABLE = int64[:, ::1]


@declare(numba.void(int64, _TABLE, int64))
def raw_gcm(function: int, table: Any, count: int) -> None:
    """One direct call a packet."""
    for i in range(count):
        call(
            function,
            (table[i, 0], table[i, 1], table[i, 2], table[i, 3], table[i, 4], table[i, 5], table[i, 6],
             table[i, 7], table[i, 8], table[i, 9]),
        )  # fmt: skip


@declare(numba.void(int64[::1], int64, int64, int64, int64, int64))
def raw_cbc_hmac(functions: Any, ciphers: int, hashes: int, count: int, way: int, key_bytes: int) -> None:
    """Two bursts over job arrays that are ready, at most 128 jobs each."""
    for first in range(0, count, 128):
        number = min(128, count - first)
        at = first * k.JOB_WORDS * 8
        manager = functions[k.MANAGER]
        if way == 2:
            call(functions[k.HASH_BURST], (manager, hashes + at, number, _SHA256))
        call(functions[k.CIPHER_BURST], (manager, ciphers + at, number, 1, way, key_bytes))
        if way == 1:
            call(functions[k.HASH_BURST], (manager, hashes + at, number, _SHA256))


@declare(numba.void(int64[::1], int64, int64))
def raw_jobs(functions: Any, jobs: int, count: int) -> None:
    """One submitted job a packet."""
    for i in range(count):
        place = call(functions[k.NEXT_JOB], (functions[k.MANAGER],))
        call(functions[k.MEMCPY], (place, jobs + i * k.JOB_WORDS * 8, k.JOB_WORDS * 8))
        call(functions[k.SUBMIT_JOB], (functions[k.MANAGER],))


class Bench:
    """One slot, its buffers and jobs."""

    def __init__(self, length: int, **algorithms: algo.Algorithm) -> None:
        self.ring = Keyring(("ipsec_mb",))
        self.slot = self.ring.add(**algorithms)
        self.row = self.ring.rows[self.slot]
        self.length = length - length % int(self.row["block"])
        self.data = np.frombuffer(bytearray(os.urandom(STEP * BATCH)), np.uint8)
        self.jobs = np.zeros((BATCH, 8), np.int64)
        iv_bytes = int(self.row["iv_bytes"])
        for i in range(BATCH):
            header = STEP * i + HEADER
            self.jobs[i, :6] = (self.slot, header, header + 8, header + 8 + iv_bytes, self.length, -1)
        self.side = np.zeros((BATCH, 64), np.uint8)  # tags and nonces of the raw loops

    def ours(self, encrypt: bool) -> Callable[[], object]:
        """One batch through seal or open_."""
        ring, run = self.ring, seal if encrypt else open_
        arguments = (ring.functions, ring.rows, ring.scratch, self.data, self.jobs, BATCH)
        return lambda: run(*arguments)

    def table(self) -> Any:
        """Arguments of the direct AES-GCM function."""
        table = np.zeros((BATCH, 10), np.int64)
        where, side = self.data.ctypes.data, self.side.ctypes.data
        for i, (_, header, _, text, length, *_) in enumerate(self.jobs):
            context = self.ring.scratch.ctypes.data + k.CONTEXT
            table[i] = (self.row["encrypt"], context, where + text, where + text, length, side + 64 * i + 16,
                        where + header, 8, side + 64 * i, self.row["icv_bytes"])  # fmt: skip
        return table

    def words(self, encrypt: bool) -> Any:
        """IMB_JOBs, whole: cipher, hash and AEAD fields."""
        words = np.zeros((BATCH, k.JOB_WORDS), np.int64)
        where, side = self.data.ctypes.data, self.side.ctypes.data
        for i, (_, header, iv, text, length, *_) in enumerate(self.jobs):
            words[i, :15] = (self.row["encrypt"], self.row["decrypt"] or self.row["encrypt"], 16,
                             where + text, where + text, 0, length, 0, length, where + iv, 16,
                             side + 64 * i, 16, where + header, 8)  # fmt: skip
            if self.row["kind"] == k.IMB_CHACHA20_POLY1305:
                words[i, [2, 9, 10]] = 32, side + 64 * i + 16, 12
        words[:, 16] = 19 << 32
        words[:, 17] = (1 if encrypt else 2) | 29 << 32
        words[:, 18] = 1 if encrypt else 2
        return words

    def hash_words(self) -> Any:
        """IMB_JOBs of the HMAC."""
        words = self.words(True)
        for i, (_, header, _, text, length, *_) in enumerate(self.jobs):
            words[i, 3] = self.data.ctypes.data + header
            words[i, 8] = text + length - header
            words[i, 12] = 32
            words[i, 13:15] = self.row["mac"], self.row["mac"] + 64
        return words


def gcm(length: int) -> tuple[Bench, list[Callable[[], object]]]:
    bench = Bench(length, aead=algo.aead("rfc4106(gcm(aes))", os.urandom(20), 128))
    table, functions = bench.table(), bench.ring.functions
    encrypt, decrypt = int(functions[k.GCM_ENCRYPT]), int(functions[k.GCM_DECRYPT])
    return bench, [lambda: raw_gcm(encrypt, table, BATCH), lambda: raw_gcm(decrypt, table, BATCH)]


def cbc_hmac(length: int) -> tuple[Bench, list[Callable[[], object]]]:
    bench = Bench(
        length,
        crypt=algo.crypt("cbc(aes)", os.urandom(16)),
        auth=algo.auth_trunc("hmac(sha256)", os.urandom(32), 128),
    )
    ciphers, hashes, functions = bench.words(True), bench.hash_words(), bench.ring.functions

    def run(way: int) -> Callable[[], object]:
        return lambda: raw_cbc_hmac(functions, ciphers.ctypes.data, hashes.ctypes.data, BATCH, way, 16)

    return bench, [run(1), run(2)]


def chacha(length: int) -> tuple[Bench, list[Callable[[], object]]]:
    bench = Bench(length, aead=algo.aead("rfc7539esp(chacha20,poly1305)", os.urandom(36), 128))
    functions = bench.ring.functions

    def run(encrypt: bool) -> Callable[[], object]:
        words = bench.words(encrypt)
        return lambda: raw_jobs(functions, words.ctypes.data, BATCH)

    return bench, [run(True), run(False)]


ALGORITHMS = {"AES-GCM-128": gcm, "AES-CBC-128+SHA256": cbc_hmac, "ChaCha20-Poly1305": chacha}


def in_turns(actions: list[Callable[[], object]], seconds: float) -> list[float]:
    """Seconds of each action, the best of many rounds in which they take turns."""
    found = [1e9] * len(actions)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, action in enumerate(actions):
            start = time.perf_counter()
            for _ in range(8):
                action()
            found[i] = min(found[i], (time.perf_counter() - start) / 8)
    return found


def check(bench: Bench) -> None:
    """A batch must come back as it was: otherwise the figures would mean nothing."""
    before = bench.data.copy()
    bench.ours(True)()
    bench.ours(False)()
    texts = [slice(int(job[single.TEXT]), int(job[single.TEXT] + job[single.LENGTH])) for job in bench.jobs]
    if (bench.jobs[:, single.RESULT] != single.OK).any():
        raise SystemExit("a packet was not opened")
    if not all((before[text] == bench.data[text]).all() for text in texts):
        raise SystemExit("a packet was changed")


def main() -> None:
    given = options(__doc__)
    compiled.ready()
    seconds = 0.5 if given.quick else 3.0
    rows: list[dict[str, Any]] = []
    for name, make in ALGORITHMS.items():
        for size in SIZES:
            bench, raw = make(size)
            check(bench)
            found = in_turns([raw[0], bench.ours(True), raw[1], bench.ours(False)], seconds)
            gigabits = [bench.length * BATCH * 8 / each / 1e9 for each in found]
            names = ("raw seal Gb/s", "seal Gb/s", "raw open Gb/s", "open Gb/s")
            row: dict[str, Any] = {"algorithm": name, "bytes": bench.length}
            row |= dict(zip(names, gigabits, strict=True))
            row |= {"seal of raw": found[0] / found[1], "open of raw": found[2] / found[3]}
            row |= {"seal +ns": (found[1] - found[0]) / BATCH * 1e9}
            row |= {"open +ns": (found[3] - found[2]) / BATCH * 1e9}
            rows.append(row)
    finish(rows, given.json)


if __name__ == "__main__":
    main()
