"""What IP-TFS keeps beside the states' rows: registers, pieces of inner packets, packets that wait.

Follows: struct xfrm_iptfs_data. A state in this mode has a slot here, which its row names; what its packets
change of it is in datapath.aggfrag and datapath.aggregate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from uxfrm.datapath import satable
from uxfrm.datapath.aggfrag import MADE_COLUMNS, NEVER, OUTER_COLUMNS, PIECE_COLUMNS, SIDE_DTYPE
from uxfrm.datapath.batch import Bytes, Int64s
from uxfrm.model.iptfs import ECN_PERCENT, UNSAID
from uxfrm.model.state import SaDir, StateConfig
from uxfrm.model.template import Mode
from uxfrm.tables.states import State

_START = 8
_STORE_START = 1 << 12
_PART_MIN = 1 << 11
# Room for what one payload can make whole, whatever was said of its length.
INNER_MAX = 65535 + 40
_MICRO = 1e-6


class Kept(NamedTuple):
    """A payload that waits for those before it: its bytes, its record."""

    data: bytes
    record: Any


class Place:
    """A place of the reorder window: when it is given up, and what is in it."""

    __slots__ = ("drop_time", "kept")

    def __init__(self) -> None:
        self.drop_time = NEVER
        self.kept: Kept | None = None


class Chunk(NamedTuple):
    """Inner packets of one batch that wait for the initial delay, and the states they have yet to pass."""

    data: Bytes
    records: Any
    states: tuple[State, ...]


class IpTfs:
    """All states in IP-TFS mode of a namespace. `waiting` is whether packets of this batch are queued."""

    def __init__(self) -> None:
        self.sides: Any = np.zeros(_START, SIDE_DTYPE)
        self.store: Bytes = np.zeros(_STORE_START, np.uint8)
        self.made: Int64s = np.zeros((1024, MADE_COLUMNS), np.int64)
        self.extra: Bytes = np.zeros(2 * INNER_MAX, np.uint8)
        self.links: Int64s = np.zeros(256, np.int64)
        self.outers: Int64s = np.zeros((256, OUTER_COLUMNS), np.int64)
        self.pieces: Int64s = np.zeros((1024, PIECE_COLUMNS), np.int64)
        self.windows: dict[int, list[Place]] = {}
        self.chunks: dict[int, list[Chunk]] = {}
        self.states: dict[int, State] = {}
        self._free = list(range(_START - 1, 0, -1))
        self._parts: dict[int, list[int]] = {}
        self._used = 0

    def __len__(self) -> int:
        return len(self.states)

    # -- states come and go

    def open(self, state: State) -> None:
        """Give a state in this mode its slot. Follows: iptfs_init_state, iptfs_user_init."""
        config = state.config
        if config.mode != Mode.IPTFS or not isinstance(config, StateConfig):
            return
        if not self._free:
            self._free = list(range(2 * len(self.sides) - 1, len(self.sides) - 1, -1))
            self.sides = np.concatenate([self.sides, np.zeros_like(self.sides)])
        slot = self._free.pop()
        self.states[slot] = state
        x = self.sides[slot]
        x["due"] = NEVER
        options = config.rare.iptfs or UNSAID
        if config.direction == SaDir.IN:
            delay, x["window"] = options.receiving()
        else:
            x["uncut"], delay, x["limit"], size = options.sending()
            x["marked"] = int(x["limit"]) * ECN_PERCENT // 100
            x["payload"] = size - satable.header_bytes(state) if size else 0
        x["delay"] = delay * _MICRO
        state.record["iptfs"] = slot

    def inherit(self, old: State, new: State) -> None:
        """Let a migrated state wait for the number that the old one waits for. Follows: iptfs_clone_state."""
        before, after = int(old.record["iptfs"]), int(new.record["iptfs"])
        if before and after:
            for name in ("seen", "wanted"):
                self.sides[after][name] = self.sides[before][name]

    def close(self, state: State) -> tuple[list[Kept], list[Chunk]]:
        """Take a state's slot back; returns the payloads and the inner packets that waited.

        Follows: iptfs_destroy_state, which drops them.
        """
        slot = int(state.record["iptfs"])
        if not slot:
            return [], []
        kept = [place.kept for place in self.windows.pop(slot, []) if place.kept is not None]
        x = self.sides[slot]
        if x["came"]:
            at = int(x["at"])
            kept.insert(0, Kept(self.store[at : at + int(x["came"])].tobytes(), None))
        if x["room"]:
            self._parts.setdefault(int(x["room"]), []).append(int(x["at"]))
        self.sides[slot] = np.zeros((), SIDE_DTYPE)
        del self.states[slot]
        self._free.append(slot)
        state.record["iptfs"] = 0
        return kept, self.chunks.pop(slot, [])

    # -- room

    def widen(self, slot: int, wanted: int) -> None:
        """Give a state a part of `store` with room for `wanted` bytes."""
        x, room = self.sides[slot], _PART_MIN
        while room < wanted:
            room *= 2
        free = self._parts.get(room)
        if free:
            at = free.pop()
        else:
            at = self._used
            self._used += room
            if self._used > self.store.shape[0]:
                store = np.zeros(max(self._used, 2 * self.store.shape[0]), np.uint8)
                store[: self.store.shape[0]] = self.store
                self.store = store
        came, old = int(x["came"]), int(x["at"])
        self.store[at : at + came] = self.store[old : old + came]
        if x["room"]:
            self._parts.setdefault(int(x["room"]), []).append(old)
        x["at"], x["room"] = at, room

    def make_extra(self) -> None:
        """More room for inner packets that are whole now."""
        extra = np.zeros(2 * self.extra.shape[0], np.uint8)
        extra[: self.extra.shape[0]] = self.extra
        self.extra = extra

    def make_plans(self) -> None:
        """More lines for payloads to be put together."""
        self.outers = np.concatenate([self.outers, np.zeros_like(self.outers)])
        self.pieces = np.concatenate([self.pieces, np.zeros_like(self.pieces)])

    def make_more(self) -> None:
        """More lines for what is made."""
        self.made = np.concatenate([self.made, np.zeros_like(self.made)])

    # -- time

    def next_deadline(self) -> float | None:
        """When the next timer runs out."""
        if not self.states:
            return None
        soonest = float(self._dues().min())
        return None if soonest == NEVER else soonest

    def horizon(self, now: float) -> float | None:
        """When a timer may run out that does not run yet, or the next does."""
        if not self.states:
            return None
        delays = [float(self.sides[slot]["delay"]) for slot in self.states]
        soonest = now + min(delays)
        running = self.next_deadline()
        return soonest if running is None else min(running, soonest)

    def due(self, now: float) -> list[int]:
        """The slots whose timers have run out, soonest first; the timers do not run any more."""
        if not self.states:
            return []
        dues = self._dues()
        found = np.flatnonzero(dues <= now)
        slots: list[int] = found[np.argsort(dues[found], kind="stable")].tolist()
        self.sides["due"][found] = NEVER
        return slots

    def _dues(self) -> Any:
        dues = self.sides["due"].copy()
        dues[dues == 0] = NEVER
        return dues

    @property
    def waiting_bytes(self) -> int:
        """Bytes of inner packets that wait to be sent."""
        return sum(chunk.data.shape[0] for chunks in self.chunks.values() for chunk in chunks)

    @property
    def nbytes(self) -> int:
        """Memory of registers and pieces."""
        return int(self.sides.nbytes + self.store.nbytes + self.made.nbytes + self.extra.nbytes)
