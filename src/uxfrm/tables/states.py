"""Where live states are kept, and how they are found.

Four indexes over one array of rows, as in the kernel: by (daddr, SPI, proto, family), by destination
(daddr, saddr, reqid, family), by source (daddr, saddr, family), by key-manager sequence. Marks are compared
while walking. What a request does to the table is lifecycle's; what a packet does to a row is datapath's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from uxfrm.model.address import Address
from uxfrm.model.counts import HASH_MAX, SadInfo
from uxfrm.model.dump import ALL_STATES, LarvalConfig, StateDump, StateFilter, StateStats
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_ESP
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.state import LifeState, ReplayEsn, ReplayLegacy, StateConfig
from uxfrm.tables import rows as r
from uxfrm.tables.hashindex import HashIndex, Int64s
from uxfrm.tables.statefilter import picked
from uxfrm.tables.statehash import address_hash, find_by_spi, mix, spi_hash

SPI_PROTOCOLS = (PROTO_ESP, PROTO_AH, PROTO_COMP)

_START = 64

_FIRST_BUCKETS = 8

_CARRIED = (
    "bytes", "packets", "add_time", "use_time", "lastused", "oseq", "oseq_hi", "seq", "seq_hi", "bitmap",
    "window", "iv_salt_hi", "iv_salt_lo", "ip_id", "ae_maxdiff", "ae_maxage", "pre_seq", "pre_oseq",
)  # fmt: skip

# Columns that are read or written together: one access to several costs a tenth of one to each.
_IDENTITY = [
    "serial", "genid", "daddr", "saddr", "spi", "reqid", "family", "proto", "mode", "if_id", "pcpu", "mark_v",
    "mark_m", "life", "direction", "add_time", "key",
]  # fmt: skip
_LIMITS = ["soft_byte", "hard_byte", "soft_packet", "hard_packet", "watch_use"]
_TOLD = [
    "life", "lastused", "bytes", "packets", "add_time", "use_time", "stat_window", "stat_replay",
    "stat_failed", "oseq", "seq", "bitmap", "oseq_hi", "seq_hi", "words_at",
]  # fmt: skip

_LIVES = tuple(LifeState)
_NO_STATE = np.zeros((), r.STATE_DTYPE)


# A request asks for the same few hashes several times over.


@lru_cache(maxsize=256)
def _address_hash(seed: int, daddr: Address, saddr: Address, family: int) -> int:
    return int(address_hash(seed, *r.words(daddr), *r.words(saddr), family))


@lru_cache(maxsize=256)
def _destination_hash(seed: int, daddr: Address, saddr: Address, reqid: int, family: int) -> int:
    return int(mix(_address_hash(seed, daddr, saddr, family), reqid))


class State:
    """A live state: its frozen configuration and its row.

    A removed state keeps its last dump (`final`), and its row is -1.
    """

    __slots__ = ("config", "final", "row", "table")

    def __init__(self, table: StateTable, row: int, config: StateConfig | LarvalConfig) -> None:
        self.table = table
        self.row = row
        self.config = config
        self.final: StateDump | None = None

    def __repr__(self) -> str:
        c = self.config
        return f"<State proto {c.proto} spi {c.spi:#010x} reqid {c.reqid} {self.life.name.lower()}>"

    @property
    def record(self) -> Any:
        """The row itself (a numpy record)."""
        return self.table.rows[self.row]

    @property
    def life(self) -> LifeState:
        return LifeState.DEAD if self.row < 0 else _LIVES[self.record["life"]]

    @property
    def dying(self) -> bool:
        return self.row >= 0 and bool(self.record["dying"])

    @property
    def genid(self) -> int:
        return 0 if self.row < 0 else int(self.record["genid"])

    def dump(self) -> StateDump:
        """The state as a dump tells it."""
        if self.final is not None:
            return self.final
        life, lastused, *figures = self.table.rows[_TOLD][self.row].item()
        return StateDump(
            config=self.config,
            current=LifetimeCurrent(*figures[:4]),
            replay=self._replay(*figures[7:]),
            stats=StateStats(*figures[4:7]),
            lastused=lastused,
            life=_LIVES[life],
        )

    def _replay(
        self, oseq: int, seq: int, bitmap: int, oseq_hi: int, seq_hi: int, at: int
    ) -> ReplayLegacy | ReplayEsn:
        esn = self.config.replay_esn if isinstance(self.config, StateConfig) else None
        if esn is None:
            return ReplayLegacy(oseq, seq, bitmap)
        words = tuple(self.table.words[at : at + esn.words].tolist())
        return replace(esn, oseq=oseq, seq=seq, oseq_hi=oseq_hi, seq_hi=seq_hi, bitmap=words)


class StateTable:
    """All states of a namespace. `seed` keys the hashes; rows may move when the table grows."""

    def __init__(self, seed: int) -> None:
        self.seed = seed & 0x7FFFFFFF
        self.rows: Any = r.table(_START)
        self.words: Int64s = np.zeros(_START, np.int64)
        self.by_spi = HashIndex(_START)
        self.by_destination = HashIndex(_START)
        self._by_source = HashIndex(_START)
        self._by_seq: dict[int, list[State]] = {}
        self._states: list[State | None] = [None] * _START
        self._free = list(range(_START - 1, -1, -1))
        self._free_words: dict[int, list[int]] = {}
        self._words_used = 0
        self.genid = 0
        self.count = 0
        self.bound = 0  # to CPUs
        self.generation = 0
        self._buckets = _FIRST_BUCKETS

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[State]:
        """All states, newest first."""
        return self.walk(ALL_STATES)

    def walk(self, wanted: StateFilter) -> Iterator[State]:
        """The states that a dump asks for, newest first: without those that go meanwhile, or come."""
        rows = np.flatnonzero(picked(self.rows, wanted))
        serials = self.rows["serial"][rows]
        newest = np.argsort(-serials)
        for row, serial in zip(rows[newest].tolist(), serials[newest].tolist(), strict=True):
            state = self._states[row]
            if state is not None and self.rows[row]["serial"] == serial:
                yield state

    def at(self, row: int) -> State:
        """The live state of a row."""
        state = self._states[row]
        assert state is not None
        return state

    def fresh_genid(self) -> int:
        """A generation id that no row ever had."""
        self.genid += 1
        return self.genid

    def bump(self, state: State) -> None:
        """Make every cached bundle through `state` stale."""
        state.record["genid"] = self.fresh_genid()
        self.generation += 1

    # -- insertion and removal

    def insert(self, config: StateConfig | LarvalConfig, life: LifeState, now_s: int) -> State:
        """Install a state under all its keys. Follows: __xfrm_state_insert."""
        row = self._take_row()
        state = State(self, row, config)
        self._states[row] = state
        self._fill(row, config, life, now_s)
        if config.spi:
            self.by_spi.insert(row, self._spi_hash(config.daddr, config.spi, config.proto, config.family))
        self.by_destination.insert(
            row, self.destination_hash(config.daddr, config.saddr, config.reqid, config.family)
        )
        self._by_source.insert(row, self._address_hash(config.daddr, config.saddr, config.family))
        if config.seq:
            self._by_seq.setdefault(config.seq, []).insert(0, state)
        self.count += 1
        self.bound += config.cpu is not None
        self.generation += 1
        self._grow_buckets()
        return state

    def _grow_buckets(self) -> None:
        """Keep count of the buckets that the kernel would have now; they never shrink.

        It doubles them a little later, and only when states meet in one. Follows: xfrm_hash_grow_check.
        """
        if self.count >= self._buckets < HASH_MAX:
            self._buckets *= 2

    def info(self) -> SadInfo:
        """The figures of GETSADINFO. Follows: xfrm_sad_getinfo."""
        return SadInfo(self.count, self._buckets, HASH_MAX)

    @property
    def indexes(self) -> tuple[HashIndex, HashIndex, HashIndex]:
        """The indexes by SPI, destination and source."""
        return self.by_spi, self.by_destination, self._by_source

    def sequences(self) -> Iterator[int]:
        """How many states have each key-manager sequence number that any has."""
        return map(len, self._by_seq.values())

    def assign_spi(self, state: State, config: LarvalConfig) -> None:
        """Give a larval state without an SPI its SPI, and the direction asked for. Its age stays."""
        state.config = config
        state.record["spi"] = config.spi
        state.record["direction"] = config.direction
        self.by_spi.insert(state.row, self._spi_hash(config.daddr, config.spi, config.proto, config.family))
        self.generation += 1

    def remove(self, state: State) -> None:
        """Take a state out of every index and wipe its row. Follows: __xfrm_state_delete."""
        row, config = state.row, state.config
        state.final = state.dump()
        if config.spi:
            self.by_spi.remove(row)
        self.by_destination.remove(row)
        self._by_source.remove(row)
        if config.seq:
            same = self._by_seq[config.seq]
            same.remove(state)
            if not same:
                del self._by_seq[config.seq]
        self._release_words(row)
        self.rows[row] = _NO_STATE
        self._states[row] = None
        self._free.append(row)
        state.row = -1
        self.count -= 1
        self.bound -= config.cpu is not None
        self.generation += 1

    def _take_row(self) -> int:
        if not self._free:
            self._grow()
        return self._free.pop()

    def _grow(self) -> None:
        """Add a quarter: a million states must not pay for a second million."""
        old = self.rows.shape[0]
        capacity = old * 2 if old < 65536 else old + old // 4
        rows = r.table(capacity)
        rows[:old] = self.rows
        self.rows = rows
        for index in (self.by_spi, self.by_destination, self._by_source):
            index.grow(capacity)
        self._states.extend([None] * (capacity - old))
        self._free.extend(range(capacity - 1, old - 1, -1))

    def _fill(self, row: int, config: StateConfig | LarvalConfig, life: LifeState, now_s: int) -> None:
        genid = self.fresh_genid()
        self.rows[_IDENTITY][row] = (
            genid, genid, r.words(config.daddr), r.words(config.saddr), config.spi, config.reqid,
            config.family, config.proto, config.mode, config.if_id,
            r.NO_CPU if config.cpu is None else config.cpu, *config.mark, life, config.direction, now_s, -1,
        )  # fmt: skip
        if isinstance(config, StateConfig):
            self.rows[row]["flags"] = config.flags
            self.set_limits(row, config)
            if config.rare.current is not None:
                self.set_current(self.rows[row], config.rare.current)
            self._fill_replay(self.rows[row], config)
        else:
            self.rows[_LIMITS][row] = (r.NEVER,) * 4 + (0,)

    @staticmethod
    def set_current(x: Any, current: LifetimeCurrent) -> None:
        """Write counters and times into a row."""
        x["bytes"], x["packets"], x["add_time"], x["use_time"] = map(r.counted, current)

    def set_limits(self, row: int, config: StateConfig) -> None:
        """Write a configuration's lifetime limits into a row."""
        lifetime = config.lifetime
        uses = bool(lifetime.soft_use or lifetime.hard_use)
        self.rows[_LIMITS][row] = (*map(r.limit, lifetime[:4]), uses)

    def _fill_replay(self, x: Any, config: StateConfig) -> None:
        """Choose the replay engine once. Follows: xfrm_init_replay, xfrm_update_ae_params."""
        esn = config.replay_esn
        if esn is None:
            window = config.replay_window
            x["replay"] = r.REPLAY_LEGACY if window else r.REPLAY_OFF
            x["window"] = window
            x["oseq"], x["seq"], x["bitmap"] = config.replay
            return
        x["replay"] = r.REPLAY_ESN if config.esn else r.REPLAY_BITMAP
        x["esn"] = config.esn
        x["words_at"] = self._take_words(esn.words)
        self.set_replay(x, esn)

    def set_replay(self, x: Any, esn: ReplayEsn) -> None:
        """Write window, counters and bitmap, of the size that the row has room for."""
        x["window"] = esn.replay_window
        x["oseq"], x["seq"], x["oseq_hi"], x["seq_hi"] = esn.oseq, esn.seq, esn.oseq_hi, esn.seq_hi
        at = int(x["words_at"])
        self.words[at : at + esn.words] = 0
        self.words[at : at + len(esn.bitmap)] = esn.bitmap

    def carry_over(self, old: State, new: State) -> None:
        """Give a state the counters, sequence numbers, window and IV salt of the one whose place it takes.

        With one salt and ever higher sequence numbers no IV comes twice under their common key.
        """
        x, y = old.record, new.record
        for name in _CARRIED:
            y[name] = x[name]
        esn = old.config.replay_esn if isinstance(old.config, StateConfig) else None
        if esn is not None:
            at, to = int(x["words_at"]), int(y["words_at"])
            self.words[to : to + esn.words] = self.words[at : at + esn.words]

    def _take_words(self, count: int) -> int:
        free = self._free_words.get(count)
        if free:
            return free.pop()
        at = self._words_used
        self._words_used += count
        if self._words_used > self.words.shape[0]:
            words = np.zeros(max(self._words_used, self.words.shape[0] * 2), np.int64)
            words[: self.words.shape[0]] = self.words
            self.words = words
        return at

    def _release_words(self, row: int) -> None:
        config = self.at(row).config
        if isinstance(config, StateConfig) and config.replay_esn is not None:
            free = self._free_words.setdefault(config.replay_esn.words, [])
            free.append(int(self.rows[row]["words_at"]))

    # -- lookups

    def find(self, daddr: Address, spi: int, proto: int, family: int, mark: int = 0) -> State | None:
        """The newest state with this key in any life state. Follows: __xfrm_state_lookup."""
        index = self.by_spi
        row = find_by_spi(
            self.rows, index.heads, index.links, index.hashes, self.seed, *r.words(daddr), spi, proto,
            family, mark,
        )  # fmt: skip
        return None if row < 0 else self.at(row)

    def find_by_addresses(
        self, daddr: Address, saddr: Address, proto: int, family: int, mark: int = 0
    ) -> State | None:
        """The newest state between two addresses. Follows: __xfrm_state_lookup_byaddr."""
        for state in self.between(daddr, saddr, family):
            if state.config.proto == proto and state.config.mark.covers(mark):
                return state
        return None

    def between(self, daddr: Address, saddr: Address, family: int) -> Iterator[State]:
        """States between two addresses, newest first. Follows: xfrm_src_hash's chains."""
        for row in self._by_source.find(self._address_hash(daddr, saddr, family)):
            state = self.at(row)
            c = state.config
            if (c.family, c.daddr, c.saddr) == (family, daddr, saddr):
                yield state

    def candidates(self, daddr: Address, saddr: Address, reqid: int, family: int) -> Iterator[State]:
        """States of one destination bucket, newest first. Follows: xfrm_dst_hash's chains."""
        for row in self.by_destination.find(self.destination_hash(daddr, saddr, reqid, family)):
            state = self.at(row)
            c = state.config
            if (c.reqid, c.family, c.daddr, c.saddr) == (reqid, family, daddr, saddr):
                yield state

    def find_by_seq(self, seq: int) -> list[State]:
        """States with this key-manager sequence, newest first. Follows: __xfrm_find_acq_byseq."""
        return self._by_seq.get(seq, [])

    def spi_in_use(self, spi: int, proto: int) -> bool:
        """True when any state of the namespace has this SPI and protocol (as newer kernels ask)."""
        rows = self.rows
        return bool(np.any((rows["spi"] == spi) & (rows["proto"] == proto) & (rows["serial"] != 0)))

    # -- hashes

    def _spi_hash(self, daddr: Address, spi: int, proto: int, family: int) -> int:
        return int(spi_hash(self.seed, *r.words(daddr), spi, proto, family))

    def _address_hash(self, daddr: Address, saddr: Address, family: int) -> int:
        return _address_hash(self.seed, daddr, saddr, family)

    def destination_hash(self, daddr: Address, saddr: Address, reqid: int, family: int) -> int:
        """The bucket of by_destination."""
        return _destination_hash(self.seed, daddr, saddr, reqid, family)
