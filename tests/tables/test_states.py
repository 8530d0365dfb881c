"""The state table against a plain list, newest first: whatever happens, it finds what the list finds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from uxfrm import compiled
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.dump import LarvalConfig
from uxfrm.model.lifetime import LifetimeConfig, LifetimeCurrent
from uxfrm.model.mark import Mark
from uxfrm.model.state import ESN, LifeState, Rare, ReplayEsn, ReplayLegacy, StateConfig
from uxfrm.tables.states import State, StateTable

ESP, AH, COMP = 50, 51, 108
ALGORITHMS: dict[int, dict[str, Any]] = {
    ESP: {"aead": algo.aead("rfc4106(gcm(aes))", bytes(20), 128)},
    AH: {"auth": algo.auth("sha1", b"")},
    COMP: {"comp": algo.comp("deflate")},
}
ENDS = [
    (AF_INET, parse("10.0.0.1"), parse("10.0.0.2")),
    (AF_INET, parse("10.0.0.2"), parse("10.0.0.1")),
    (AF_INET, parse("10.0.0.1"), parse("0.0.0.0")),
    (AF_INET6, parse("2001:db8::1"), parse("2001:db8::2")),
    # the same first word as the one before, and as 10.0.0.1 in the row's form
    (AF_INET6, parse("2001:db8::3"), parse("2001:db8::2")),
    (AF_INET6, parse("a00:1::"), parse("::")),
]
MARKS = [Mark(), Mark(1, 1), Mark(1, 3), Mark(2, 3), Mark(3, 3), Mark(0, 0xFFFFFFFF)]
PACKET_MARKS = [0, 1, 2, 3, 7, 0xFFFFFFFF]


@dataclass
class Entry:
    """What the table must tell of one state."""

    state: State
    config: StateConfig | LarvalConfig
    bitmap: list[int] = field(default_factory=list)


def some_config(rng: random.Random) -> StateConfig | LarvalConfig:
    family, daddr, saddr = rng.choice(ENDS)
    proto = rng.choice([ESP, ESP, AH, COMP])
    fields: dict[str, Any] = {
        "daddr": daddr,
        "saddr": saddr,
        "family": family,
        "proto": proto,
        "spi": rng.choice([0, 1, 2, 3, 0xFFFF]),
        "reqid": rng.choice([0, 1]),
        "seq": rng.choice([0, 0, 1, 2]),
        "mark": rng.choice(MARKS),
    }
    if rng.random() < 0.2:
        return LarvalConfig(**fields)
    if proto != COMP and rng.random() < 0.5:
        words = rng.choice([1, 2, 4])
        bitmap = tuple(rng.getrandbits(32) for _ in range(rng.randint(0, words)))
        fields["replay_esn"] = ReplayEsn(words, words * 32, bitmap=bitmap)
        fields["flags"] = rng.choice([0, ESN])
    return StateConfig(**fields, **ALGORITHMS[proto])


class Machine(RuleBasedStateMachine):
    """hypothesis chooses the order of insertions, removals, packets and questions; seeds fill them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = StateTable(seed=0xFEEDBEEF)
        self.entries: list[Entry] = []
        self.gone: list[tuple[State, tuple[int, ...]]] = []

    @rule(seed=st.integers(0, 2**32), count=st.sampled_from([1, 2, 5, 40]))
    def insert(self, seed: int, count: int) -> None:
        rng = random.Random(seed)
        for _ in range(count):
            config = some_config(rng)
            life = LifeState.ACQ if isinstance(config, LarvalConfig) else LifeState.VALID
            entry = Entry(self.table.insert(config, life, now_s=100), config)
            if isinstance(config, StateConfig) and config.replay_esn is not None:
                esn = config.replay_esn
                entry.bitmap = [*esn.bitmap, *[0] * (esn.words - len(esn.bitmap))]
            self.entries.insert(0, entry)

    @precondition(lambda self: self.entries)
    @rule(seed=st.integers(0, 2**32), count=st.sampled_from([1, 3, 30]))
    def remove(self, seed: int, count: int) -> None:
        rng = random.Random(seed)
        for _ in range(min(count, len(self.entries))):
            entry = self.entries.pop(rng.randrange(len(self.entries)))
            self.table.remove(entry.state)
            self.gone.append((entry.state, tuple(entry.bitmap)))

    @precondition(lambda self: self.entries)
    @rule(seed=st.integers(0, 2**32))
    def packets_change_a_bitmap(self, seed: int) -> None:
        rng = random.Random(seed)
        entry = rng.choice(self.entries)
        entry.bitmap = [rng.getrandbits(32) for _ in entry.bitmap]
        at = int(entry.state.record["words_at"])
        self.table.words[at : at + len(entry.bitmap)] = entry.bitmap

    @rule(seed=st.integers(0, 2**32))
    def look_up(self, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(8):
            family, daddr, saddr = rng.choice(ENDS)
            proto, spi = rng.choice([ESP, AH, COMP]), rng.choice([1, 2, 3, 0xFFFF, 5])
            reqid, seq, mark = rng.choice([0, 1]), rng.choice([1, 2, 3]), rng.choice(PACKET_MARKS)
            to = [e for e in self.entries if (e.config.family, e.config.daddr) == (family, daddr)]
            between = [e.state for e in to if e.config.saddr == saddr]
            for_mark = [e for e in to if mark & e.config.mark.m == e.config.mark.v]
            by_spi = [e.state for e in for_mark if (e.config.spi, e.config.proto) == (spi, proto)]
            by_addresses = [e.state for e in for_mark if (e.config.saddr, e.config.proto) == (saddr, proto)]
            assert self.table.find(daddr, spi, proto, family, mark) is next(iter(by_spi), None)
            found = self.table.find_by_addresses(daddr, saddr, proto, family, mark)
            assert found is next(iter(by_addresses), None)
            bucket = [s for s in between if s.config.reqid == reqid]
            assert list(self.table.candidates(daddr, saddr, reqid, family)) == bucket
            assert self.table.find_by_seq(seq) == [e.state for e in self.entries if e.config.seq == seq]
            used = any((e.config.spi, e.config.proto) == (spi, proto) for e in self.entries)
            assert self.table.spi_in_use(spi, proto) is used

    @invariant()
    def it_tells_of_all_states_newest_first(self) -> None:
        assert len(self.table) == len(self.entries)
        assert list(self.table) == [e.state for e in self.entries]

    @invariant()
    def bitmaps_are_their_owners_alone(self) -> None:
        for entry in self.entries:
            replay = entry.state.dump().replay
            assert (list(replay.bitmap) if isinstance(replay, ReplayEsn) else []) == entry.bitmap

    @invariant()
    def free_rows_hold_nothing(self) -> None:
        rows = self.table.rows
        free = np.ones(rows.shape[0], bool)
        free[[e.state.row for e in self.entries]] = False
        assert not rows[free].view(np.uint8).any()

    @invariant()
    def a_removed_state_keeps_its_last_word(self) -> None:
        for state, bitmap in self.gone:
            assert (state.row, state.life) == (-1, LifeState.DEAD)
            replay = state.dump().replay
            assert (replay.bitmap if isinstance(replay, ReplayEsn) else ()) == bitmap


class TestTable(Machine.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(
        deadline=None, max_examples=50 if compiled.JIT else 10, stateful_step_count=25 if compiled.JIT else 12
    )


def test_the_newest_of_overlapping_marks_wins_whichever_is_narrower() -> None:
    """Follows: __xfrm_state_lookup takes the first of the bucket, not the best mask."""
    table = StateTable(seed=1)

    def add(mark: Mark) -> State:
        config = StateConfig(ENDS[0][1], ENDS[0][2], spi=5, mark=mark, **ALGORITHMS[ESP])
        return table.insert(config, LifeState.VALID, 0)

    narrow = add(Mark(1, 0xFF))
    wide = add(Mark(0, 0))
    assert table.find(ENDS[0][1], 5, ESP, AF_INET, mark=1) is wide
    table.remove(wide)
    assert table.find(ENDS[0][1], 5, ESP, AF_INET, mark=0x101) is narrow
    assert table.find(ENDS[0][1], 5, ESP, AF_INET, mark=2) is None
    newer = add(Mark(1, 1))
    assert table.find(ENDS[0][1], 5, ESP, AF_INET, mark=1) is newer


def test_rows_stand_after_many_insertions_and_the_index_still_finds_them() -> None:
    table = StateTable(seed=7)
    made = {}
    for spi in range(1, 501):
        config = StateConfig(ENDS[0][1], ENDS[0][2], spi=spi, reqid=spi % 7, **ALGORITHMS[ESP])
        made[spi] = table.insert(config, LifeState.VALID, spi)
    for spi, state in made.items():
        assert table.find(ENDS[0][1], spi, ESP, AF_INET) is state
        assert table.at(state.row) is state
        assert state.dump().current.add_time == spi


@pytest.mark.parametrize(
    ("limits", "current"),
    [
        (LifetimeConfig(), LifetimeCurrent(0, 0, 100, 0)),
        (LifetimeConfig(1, 2, 3, 4, 5, 6, 7, 8), LifetimeCurrent(10, 20, 30, 40)),
        (LifetimeConfig(2**63, 2**64 - 2, 2**63, 2**64 - 1), LifetimeCurrent(2**40, 1, 2**31, 2**32)),
    ],
)
def test_a_dump_tells_what_was_configured(limits: LifetimeConfig, current: LifetimeCurrent) -> None:
    table = StateTable(seed=0)
    rare = Rare(current=current)
    config = StateConfig(
        *(ENDS[0][1], ENDS[0][2]),
        spi=0xFFFFFFFF,
        lifetime=limits,
        rare=rare,
        replay=ReplayLegacy(2**32 - 1, 5, 0xFFFFFFFF),
        replay_window=32,
        **ALGORITHMS[ESP],
    )
    dump = table.insert(config, LifeState.VALID, 100).dump()
    assert isinstance(dump.config, StateConfig)
    assert dump.config.lifetime == limits
    assert dump.current == current
    assert dump.replay == ReplayLegacy(2**32 - 1, 5, 0xFFFFFFFF)
    assert dump.life == LifeState.VALID


def test_every_change_is_a_new_generation() -> None:
    """Cached flows hold for one generation; a genid is never given twice, or a stale bundle would live."""
    table = StateTable(seed=0)
    config = StateConfig(ENDS[0][1], ENDS[0][2], spi=1, **ALGORITHMS[ESP])
    genids, generations = set(), {table.generation}
    for _ in range(5):
        state = table.insert(config, LifeState.VALID, 0)
        genids.add(state.genid)
        generations.add(table.generation)
        table.bump(state)
        genids.add(state.genid)
        generations.add(table.generation)
        table.remove(state)
        generations.add(table.generation)
        assert state.genid == 0
    assert len(genids) == 10
    assert len(generations) == 16
