"""Sequence numbers that are never used twice with one key, whatever crashes: for keys that stand in a file.

Before a state sends beyond what is noted, the next numbers are noted. A daemon that starts again goes on
behind what was noted before: it passes over some numbers, which receivers do not mind.

Rule 1: what is kept is a digest of the keys, how far numbers may have been used, and the salt of the IVs,
        with which different numbers are different IVs. No key.
Rule 2: a number is noted, and on the disk, long before it is used: `keep` after every batch is enough.
Rule 3: daemons that have the same keys, in namespaces of their own, get numbers of their own. So does a state
        that takes another's place: MIGRATE moves them, and IKE daemons delete one and add it again elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from uxfrm.daemon.wholefile import own_directory, replace
from uxfrm.datapath import satable
from uxfrm.datapath.batch import Int64s
from uxfrm.model.state import StateConfig
from uxfrm.namespace import Namespace
from uxfrm.tables.states import State

AHEAD = 1 << 20
"""Numbers that are noted at a time: far more than any batch uses."""

_LAST = (1 << 32) - 1
_MAGIC = "uxfrm sequence numbers 1"


class NumbersError(Exception):
    """Why states cannot go on; the text names them, without keys."""


class Numbers:
    """What is noted in a directory, for the keys that a namespace's states have now.

    Raises NumbersError where a key has no numbers left, OSError.
    """

    def __init__(self, directory: Path, namespace: Namespace) -> None:
        self.path = own_directory(directory) / "numbers"
        self._table = namespace.states
        self._states = [state for state in self._table if _digest(state)]
        self._digests = frozenset(map(_digest, self._states))
        self._rows: Int64s = np.array([state.row for state in self._states], np.int64)
        self._noted: Int64s = np.zeros(len(self._states), np.int64)
        self._newest, self._seen = self._table.genid, self._table.generation
        self._note(range(len(self._states)))
        for state in self._states:
            if _over(state):
                name = f"{state.config.spi:#010x}"
                raise NumbersError(f"the keys of SPI {name} were used for all sequence numbers: change them")

    def keep(self) -> None:
        """Note more numbers for the states that will need them."""
        if self._digests and self._table.generation != self._seen:
            self._follow()
        if not satable.any_near(self._table.rows, self._rows, self._noted, AHEAD // 2):
            return
        used = satable.numbers_used(self._table.rows, self._rows)
        short = np.flatnonzero(used > self._noted - AHEAD // 2).tolist()
        if short:
            self._note(short)

    def _follow(self) -> None:
        """Let go of the states that went, and take in those that came with keys of which something is noted.

        The latter have nothing noted, so that they go on behind all that was used.
        """
        came = map(self._table.at, np.flatnonzero(self._table.rows["serial"] > self._newest).tolist())
        new = [state for state in came if _digest(state) in self._digests]
        there = [i for i, state in enumerate(self._states) if state.row >= 0]
        self._states = [self._states[i] for i in there] + new
        self._rows = np.array([state.row for state in self._states], np.int64)
        self._noted = np.concatenate([self._noted[there], np.zeros(len(new), np.int64)])
        self._newest, self._seen = self._table.genid, self._table.generation

    def _note(self, which: Sequence[int]) -> None:
        """Note AHEAD numbers more for these states, which go on behind all that were noted for their keys."""
        with self._file() as noted:
            for i in which:
                state = self._states[i]
                digest, used = _digest(state), self._used(i)
                start, salt = noted.get(digest, (used, satable.salt_of(state).hex()))
                if start != self._noted[i]:
                    self._jump(state, max(start, used), salt)
                self._noted[i] = max(start, used) + AHEAD
                noted[digest] = int(self._noted[i]), salt

    def _used(self, i: int) -> int:
        return int(satable.numbers_used(self._table.rows, self._rows[i : i + 1])[0])

    @staticmethod
    def _jump(state: State, start: int, salt: str) -> None:
        most = start if satable.counts_on(state) else _LAST
        satable.go_on(state, min(start, most), bytes.fromhex(salt))

    @contextmanager
    def _file(self) -> Iterator[dict[str, tuple[int, str]]]:
        """What is noted, to be changed; it is on the disk afterwards."""
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            noted = self._read()
            yield noted
            lines = [_MAGIC, *(f"{digest} {upto} {salt}" for digest, (upto, salt) in noted.items())]
            replace(self.path, "\n".join(lines).encode() + b"\n")
        finally:
            os.close(lock)

    def _read(self) -> dict[str, tuple[int, str]]:
        try:
            first, *lines = self.path.read_text("ascii").splitlines()
            rows = [line.split(" ") for line in lines]
            noted = {digest: (int(upto), salt) for digest, upto, salt in rows}
            if first != _MAGIC or any(len(bytes.fromhex(salt)) != satable.SALT_BYTES for _, _, salt in rows):
                raise ValueError
        except FileNotFoundError:
            return {}
        except ValueError:
            # Whatever is guessed here might use a number twice.
            raise NumbersError(f"{self.path}: damaged: with new keys it may be removed") from None
        return noted


def _over(state: State) -> bool:
    """True for a state that can send nothing more."""
    return state.record["oseq"] == _LAST and not satable.counts_on(state)


def _digest(state: State) -> str:
    """A digest of a state's keys; empty if it has none."""
    config = state.config
    if not isinstance(config, StateConfig):
        return ""
    keys = b"".join(part.key for part in (config.aead, config.crypt, config.auth) if part is not None)
    return hashlib.sha256(b"uxfrm sequence numbers" + keys).hexdigest() if keys else ""
