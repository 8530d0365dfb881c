"""Replay windows against a set of all numbers ever seen (xfrm-semantics 8.1, RFC 4303 3.4.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uxfrm.datapath.replay import advance, blame, check, infer_high, seq_high
from uxfrm.model import algorithm as algo
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import ESN, LifeState, ReplayEsn, ReplayLegacy, StateConfig
from uxfrm.tables.states import State, StateTable

LOW = 2**32
OLD, REPLAYED, ZERO = int(Outcome.IN_SEQ_OLD), int(Outcome.IN_SEQ_REPLAYED), int(Outcome.IN_SEQ_ZERO)
AEAD = algo.aead("rfc4106(gcm(aes))", bytes(20), 128)
CAPTURES = Path(__file__).parents[1] / "captures" / "data"


@dataclass
class Window:
    """A live replay window."""

    engine: str
    window: int
    top: int = 0
    state: State = field(init=False)

    def __post_init__(self) -> None:
        self.table = StateTable(seed=1)
        low, high = self.top % LOW, self.top // LOW
        more: dict[str, Any] = {}
        if self.engine == "legacy":
            more = {"replay_window": self.window, "replay": ReplayLegacy(seq=low)}
        else:
            words = (self.window + 31) // 32
            more["replay_esn"] = ReplayEsn(words, self.window, seq=low, seq_hi=high)
            more["flags"] = ESN if self.engine == "esn" else 0
        config = StateConfig(bytes(4), bytes(4), spi=1, aead=AEAD, **more)
        self.state = self.table.insert(config, LifeState.VALID, 0)

    def check(self, seq: int) -> int:
        return int(check(self.table.rows, self.table.words, self.state.row, seq % LOW))

    def advance(self, seq: int) -> None:
        advance(self.table.rows, self.table.words, self.state.row, seq % LOW)

    def take(self, seq: int) -> bool:
        """What happens to an authentic packet."""
        passed = self.check(seq) == 0
        if passed:
            self.advance(seq)
        return passed

    @property
    def replay(self) -> ReplayLegacy | ReplayEsn:
        return self.state.dump().replay

    @property
    def bits(self) -> int:
        """The visible bitmap as one number."""
        replay = self.replay
        if isinstance(replay, ReplayLegacy):
            return replay.bitmap
        return sum(word << 32 * at for at, word in enumerate(replay.bitmap))


@dataclass
class Slow:
    """All numbers, for ever: 64-bit ones where the engine extends them."""

    engine: str
    window: int
    top: int
    seen: set[int] = field(default_factory=set)

    def number(self, seq: int) -> int:
        """With ESN the one number that `seq` can mean within 2^32 from the window's bottom."""
        if self.engine != "esn":
            return seq
        bottom = self.top - self.window + 1
        return bottom + (seq - bottom) % LOW

    def check(self, seq: int) -> int:
        number = self.number(seq)
        # With ESN the kernel knows 0 only for as long as its window reaches below 0.
        if number == 0 and (self.engine != "esn" or self.top < self.window - 1):
            return ZERO
        if number <= self.top - self.window:
            return OLD
        return REPLAYED if number in self.seen else 0

    def advance(self, seq: int) -> None:
        number = self.number(seq)
        self.seen.add(number)
        self.top = max(self.top, number)

    @property
    def bits(self) -> int:
        """Where the window's seen numbers must be: the low half s at (s-1) mod window; top-s for legacy."""
        inside = [n for n in self.seen if n > self.top - self.window]
        if self.engine == "legacy":
            return sum(1 << (self.top - n) for n in inside)
        return sum(1 << (n % LOW - 1) % self.window for n in inside)


@st.composite
def walks(draw: st.DrawFn) -> tuple[str, int, int, list[tuple[int, bool]]]:
    """An engine, a window, where it starts, and steps relative to its top (and whether authentic)."""
    engine = draw(st.sampled_from(["legacy", "bitmap", "esn", "esn"]))
    windows = [1, 2, 31, 32] if engine == "legacy" else [1, 2, 31, 32, 33, 64, 100, 128, 4096]
    w = draw(st.sampled_from(windows))
    starts = [1, 2, 1000, w, 2**31]
    if LOW % w == 0 or engine == "legacy":
        starts += [0, 0, LOW - 2 if engine == "esn" else LOW - w - 2]
    if engine == "esn":
        starts += [LOW + w + 5, 2**63 + 2**16]
        starts += [LOW, LOW - 1, LOW + w - 1, 2**40, 5 * LOW - 3] if LOW % w == 0 else []
    edges = [-w - 1, -w, -w + 1, -2, -1, 0, 1, 2, 3, w - 1, w, w + 1, 3 * w]
    step = st.one_of(st.sampled_from(edges), st.integers(-w - 2, w + 2))
    return engine, w, draw(st.sampled_from(starts)), draw(st.lists(st.tuples(step, st.booleans())))


@given(walks())
def test_a_window_decides_as_one_that_forgets_nothing(
    walk: tuple[str, int, int, list[tuple[int, bool]]],
) -> None:
    engine, w, start, steps = walk
    fast, slow = Window(engine, w, start), Slow(engine, w, start)
    for step, authentic in steps:
        target = slow.top + step
        if target < 0 or (engine != "esn" and target >= LOW):
            continue
        seq = target % LOW
        if LOW % w and slow.number(seq) // LOW != slow.top // LOW:
            continue  # see the test of windows that do not divide 2^32
        assert fast.check(seq) == slow.check(seq)
        if not slow.check(seq) and authentic and slow.number(seq) >= 0:
            assert seq_high(fast.table.rows, fast.state.row, seq) == (
                slow.number(seq) // LOW if engine == "esn" else 0
            )
            fast.advance(seq)
            slow.advance(seq)
        replay = fast.replay
        high = replay.seq_hi if isinstance(replay, ReplayEsn) else 0
        assert high * LOW + replay.seq == slow.top
        assert fast.bits & (1 << w) - 1 == slow.bits


@pytest.mark.parametrize("engine", ["legacy", "bitmap", "esn"])
@pytest.mark.parametrize("w", [1, 2, 31, 32, 33, 64, 100, 128])
def test_a_jump_out_of_a_full_window_forgets_what_it_leaves_behind(engine: str, w: int) -> None:
    """Every old bit that is not cleared would refuse a packet that was never received."""
    if engine == "legacy":
        w = min(w, 32)
    for jump in {1, 2, 3, w // 2 + 1, w - 1, w, w + 1} - {0}:
        fast, slow = Window(engine, w, 1), Slow(engine, w, 1)
        for seq in (*range(2, 2 * w + 2), 2 * w + 1 + jump):
            assert fast.take(seq)
            slow.advance(seq)
        assert fast.bits & (1 << w) - 1 == slow.bits
        for seq in range(2 * w + 1 + jump, w + 1, -1):
            assert fast.check(seq) == slow.check(seq)


@given(st.integers(0, 2**64 - LOW), st.sampled_from([1, 2, 33, 64, 4096]), st.integers(0, LOW - 1))
def test_the_high_half_is_that_of_the_only_number_above_the_bottom(top: int, w: int, seq: int) -> None:
    expected = Slow("esn", w, top).number(seq)
    assert infer_high(seq, top % LOW, top // LOW, w) == expected // LOW % LOW


@pytest.mark.parametrize(
    ("start", "seq", "top"),
    [
        (0, LOW - 1, 0),  # below 0: only a bit is set
        (5, LOW - 3, 5),
        (LOW, LOW - 1, LOW),
        (2**64 - 1, 1, 1),  # beyond 2^64: the high half starts again
    ],
)
def test_the_difference_of_high_halves_is_a_signed_32_bit_number(start: int, seq: int, top: int) -> None:
    """Follows: xfrm_replay_advance_esn, int wrap = seq_hi - replay_esn->seq_hi."""
    window = Window("esn", 64, start)
    assert window.take(seq)
    assert not window.take(seq)
    replay = window.replay
    assert isinstance(replay, ReplayEsn)
    assert replay.seq_hi * LOW + replay.seq == top


W = 32  # the widest that all three engines have
TABLE = [
    (0, False),
    (1, True),
    (1, False),
    (9, True),
    (8, True),
    (7, True),
    (7, False),
    (W, True),
    (W - 1, True),
    (W - 1, False),
    (W - 2, True),
    (2, True),
    (2, False),
    (W + 16, True),
    (17, True),
    (17, False),
    (W + 16, False),
    (4 * W, True),
    (3 * W + 1, True),
    (3 * W + 1, False),
    (4 * W + 1, True),
    (3 * W + 2, True),
    (5 * W + 1, True),
    (5 * W, True),
    (4 * W + 2, True),
    (4 * W + 2, False),
    (2**31, True),
    (2**31 - W + 1, True),
    (2**31 - W + 1, False),
    (2**32 - 1, True),
    (2**32 - 1, False),
    (2**32 - W, True),
    (2**32 - W, False),
]
BELOW = [(3, False), (3 * W, False), (2**31 - W, False)]  # where 2^32 is the end, smaller is older


@pytest.mark.parametrize("engine", ["legacy", "bitmap", "esn"])
def test_the_numbered_table(engine: str) -> None:
    window = Window(engine, W)
    for row, (seq, passes) in enumerate(TABLE):
        assert window.take(seq) is passes, f"row {row}: {seq}"
    if engine != "esn":
        assert [window.take(seq) for seq, _ in BELOW] == [passes for _, passes in BELOW]


CROSSING = [
    (LOW - 40, True),
    (LOW - 2, True),
    (2, True),  # 2^32 + 2: the window now straddles both halves
    (2, False),
    (LOW - 2, False),
    (LOW - 1, True),
    (0, True),
    (0, False),
    (LOW - 40, False),
    (LOW - 61, True),  # the bottom, 64 numbers in all
    (LOW - 61, False),
    (200, True),
    (2, True),  # below the window: it can only mean 2 * 2^32 + 2
    (200, True),  # and 200 is then ahead again, for the numbers go on
    (200, False),
]


def test_extended_numbers_go_on_behind_two_to_the_thirty_second() -> None:
    window = Window("esn", 64, LOW - 100)
    for row, (seq, passes) in enumerate(CROSSING):
        assert window.take(seq) is passes, f"row {row}: {seq}"
    replay = window.replay
    assert isinstance(replay, ReplayEsn)
    assert (replay.seq_hi, replay.seq) == (2, 200)


@pytest.mark.parametrize("engine", ["legacy", "bitmap"])
def test_what_linux_did_with_window_32_at_100(engine: str) -> None:
    window = Window(engine, 32)
    assert window.take(100)
    assert window.check(68) == OLD
    assert window.take(69)
    assert window.check(69) == REPLAYED


@pytest.mark.parametrize("engine", ["legacy", "bitmap"])
def test_a_window_of_nothing_lets_everything_pass(engine: str) -> None:
    window = Window(engine, 0, 5)
    assert [window.take(seq) for seq in (0, 1, 1, 5, 2**32 - 1, 1)] == [True] * 6
    assert window.replay.seq == 5


def test_the_state_counts_what_it_refused_and_why() -> None:
    window = Window("bitmap", 64)
    window.advance(100)
    for outcome in (OLD, OLD, REPLAYED, ZERO):
        blame(window.table.rows, window.state.row, outcome)
    assert window.state.dump().stats == (2, 1, 0)


@pytest.mark.parametrize("engine", ["bitmap", "esn"])
@pytest.mark.parametrize("w", [33, 100])
def test_windows_that_do_not_divide_two_to_the_thirty_second(engine: str, w: int) -> None:
    """The kernel takes (top - 1) modulo the window in 32 bits, so the first number from 0 is misplaced.

    It may pass twice, once; whoever reads the bitmap from outside sees it where Linux puts it.
    Follows: xfrm_replay_advance_bmp, pos = (seq - 1) % replay_window.
    """
    window = Window(engine, w)
    assert window.take(1)
    assert window.bits == 1 << ((LOW - 1) % w + 1) % w
    assert [window.take(1), window.take(1), window.take(2), window.take(2)] == [True, False, True, False]


def recorded() -> list[Any]:
    """(engine, window, printed words) of states that received 16 packets in recorded runs, each kind once."""
    found: dict[str, Any] = {}
    for path in sorted(CAPTURES.glob("*/state-b.txt")):
        text = path.read_text()
        for seq, window, words in re.findall(
            r"seq-hi 0x0, seq (0x\w+), .*\n\s+replay_window (\d+), .*\n\s+([0-9a-f ]+)\n", text
        ):
            if seq == "0x10":
                engine = "esn" if "flag esn" in text else "bitmap"
                found[engine + window] = pytest.param(engine, int(window), words.split(), id=path.parent.name)
        for bitmap in re.findall(r"anti-replay context: seq 0x10, oseq 0x0, bitmap 0x(\w+)", text):
            found["legacy" + bitmap] = pytest.param("legacy", 32, [bitmap], id=path.parent.name)
    return list(found.values())


@pytest.mark.parametrize(("engine", "w", "words"), recorded())
def test_the_bitmap_looks_as_linux_showed_it(engine: str, w: int, words: list[str]) -> None:
    """`ip` prints the highest word first."""
    window = Window(engine, w)
    assert all(window.take(seq) for seq in range(1, 17))
    assert window.bits == int("".join(words), 16)


def test_there_are_recordings_of_all_engines() -> None:
    assert {case.values[0] for case in recorded()} == {"legacy", "bitmap", "esn"}
