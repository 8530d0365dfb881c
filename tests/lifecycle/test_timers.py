"""Time limits of states (xfrm-semantics 4.1), against a simulation that looks at every state every second."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uxfrm.lifecycle.database import StateDatabase
from uxfrm.lifecycle.events import Event, StateExpired
from uxfrm.model import algorithm as algo
from uxfrm.model.address import parse
from uxfrm.model.dump import LarvalConfig, StateId
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.state import LifeState, StateConfig
from uxfrm.tables.states import State, StateTable

A, B = parse("10.0.0.1"), parse("10.0.0.2")
GCM = algo.aead("rfc4106(gcm(aes))", bytes(20), 128)
START = 1000


class Told(NamedTuple):
    """One event: when `advance` told it, of which SPI, soft or hard."""

    time: float
    spi: int
    hard: bool


class Clock:
    """A database and its time."""

    def __init__(self) -> None:
        self.table = StateTable(seed=1)
        self.now: float = START
        self.told: list[Told] = []
        self.dumps: list[StateExpired] = []
        self.db = StateDatabase(
            self.table, lambda n: bytes(n - 1) + b"\1", lambda _: None, lambda _: None, self._note
        )

    def _note(self, event: Event) -> None:
        assert isinstance(event, StateExpired)
        self.told.append(Told(self.now, event.state.config.spi, event.hard))
        self.dumps.append(event)

    def add(self, spi: int = 1, **limits: int) -> State:
        return self.db.add(StateConfig(B, A, spi=spi, aead=GCM, lifetime=LifetimeConfig(**limits)), self.now)

    def use(self, state: State) -> None:
        """What the first packet does: the row gets the time, and the namespace arms the timer."""
        if not state.record["use_time"]:
            state.record["use_time"] = int(self.now)
            self.db.timers.arm(state)

    def to(self, now: float) -> list[tuple[int, bool]]:
        """Let time pass in one step; (SPI, hard) of what that brought."""
        before = len(self.told)
        self.now = now
        self.db.advance(now)
        return [(t.spi, t.hard) for t in self.told[before:]]


def test_soft_comes_first_and_hard_ends_the_state() -> None:
    clock = Clock()
    state = clock.add(soft_add=60, hard_add=90)
    assert clock.to(START + 59) == []
    assert not state.dying
    assert clock.to(START + 60) == [(1, False)]
    assert (state.dying, state.life) == (True, LifeState.VALID)
    assert clock.to(START + 89) == []
    assert clock.to(START + 90) == [(1, True)]
    assert (len(clock.table), state.life) == (0, LifeState.DEAD)
    assert clock.to(START + 1000) == []
    soft, hard = clock.dumps
    assert (soft.state.life, hard.state.life) == (LifeState.VALID, LifeState.EXPIRED)


def test_without_limits_nothing_is_planned() -> None:
    clock = Clock()
    clock.add()
    assert clock.db.timers.next_deadline() is None
    assert clock.to(START + 10**9) == []
    assert len(clock.table) == 1


def test_limits_of_use_count_from_the_first_packet() -> None:
    clock = Clock()
    state = clock.add(soft_use=10, hard_use=20)
    assert clock.to(START + 500) == []
    clock.use(state)
    assert clock.db.timers.next_deadline() == START + 510
    assert clock.to(START + 509) == []
    clock.use(state)  # later packets change nothing
    assert clock.to(START + 510) == [(1, False)]
    assert clock.to(START + 519) == []
    assert clock.to(START + 520) == [(1, True)]


@pytest.mark.parametrize(
    ("limits", "soft", "hard"),
    [
        ({"soft_add": 50, "soft_use": 10, "hard_add": 100}, 25, 100),
        ({"soft_add": 20, "soft_use": 10, "hard_use": 80}, 20, 95),
        ({"hard_add": 100, "hard_use": 30}, None, 45),
        ({"soft_use": 40}, 55, None),
    ],
)
def test_the_earliest_limit_counts(limits: dict[str, int], soft: int | None, hard: int | None) -> None:
    """The state is used 15 seconds after it was added."""
    clock = Clock()
    state = clock.add(**limits)
    clock.to(START + 15)
    clock.use(state)
    for second in range(16, 200):
        clock.to(START + second)
    expected = [(soft, False), (hard, True)]
    assert [(t.time - START, t.hard) for t in clock.told] == [e for e in expected if e[0] is not None]


@pytest.mark.parametrize("spi", [0x300, 0])
def test_a_larval_state_lives_for_the_time_of_an_acquire(spi: int) -> None:
    clock = Clock()
    if spi:
        clock.db.alloc_spi(LarvalConfig(B, A, 50), spi, spi, clock.now)
    else:
        waiting = LarvalConfig(B, A, 50, hard_add=30)
        clock.db.timers.arm(clock.table.insert(waiting, LifeState.ACQ, clock.now))
    assert clock.to(START + 29) == []
    assert clock.to(START + 30) == [(spi, True)]
    assert clock.dumps[0].state.life == LifeState.EXPIRED
    assert len(clock.table) == 0


def test_a_completed_larval_state_does_not_expire() -> None:
    clock = Clock()
    clock.db.alloc_spi(LarvalConfig(B, A, 50), 7, 7, clock.now)
    clock.db.update(StateConfig(B, A, spi=7, aead=GCM), clock.now)
    assert clock.to(START + 100) == []
    assert len(clock.table) == 1


def test_a_deleted_state_takes_its_deadline_along() -> None:
    clock = Clock()
    clock.add(hard_add=10)
    clock.db.delete(StateId(B, 1, 50, 2))
    other = clock.add(hard_add=50)  # the same row, later
    assert clock.to(START + 20) == []
    assert other.life == LifeState.VALID
    assert clock.to(START + 50) == [(1, True)]


def test_an_update_starts_the_limits_anew_from_the_old_addition() -> None:
    clock = Clock()
    state = clock.add(soft_add=10, hard_add=20)
    assert clock.to(START + 15) == [(1, False)]
    limits = LifetimeConfig(soft_add=40, hard_add=60)
    clock.db.update(StateConfig(B, A, spi=1, aead=GCM, lifetime=limits), clock.now)
    assert not state.dying
    assert clock.to(START + 39) == []
    assert clock.to(START + 40) == [(1, False)]
    assert clock.to(START + 60) == [(1, True)]


def test_an_update_may_take_the_limits_away() -> None:
    clock = Clock()
    clock.add(soft_add=10, hard_add=20)
    clock.db.update(StateConfig(B, A, spi=1, aead=GCM), clock.now)
    assert clock.to(START + 100) == []


def test_a_clock_that_goes_back_ends_nothing() -> None:
    clock = Clock()
    clock.add(soft_add=10, hard_add=20)
    assert clock.to(START - 500) == []
    assert clock.to(START + 10) == [(1, False)]


# -- any number of states

LIMIT = st.one_of(st.just(0), st.integers(1, 12))


class Plan(NamedTuple):
    """A state: when it is added and first used (0: never), and its limits."""

    add: int
    use: int
    limits: dict[str, int]


PLANS = st.lists(
    st.builds(
        Plan,
        st.integers(0, 8),
        st.integers(0, 20),
        st.fixed_dictionaries({"soft_add": LIMIT, "hard_add": LIMIT, "soft_use": LIMIT, "hard_use": LIMIT}),
    ),
    max_size=5,
)
END = 50


def simulate(plans: list[Plan]) -> list[Told]:
    """Look at every state every second. Follows: xfrm_timer_handler."""
    told = []
    dying, dead = set(), set()
    for t in range(END):
        for spi, plan in enumerate(plans, 1):
            if spi in dead or t < plan.add:
                continue
            used = plan.use if plan.add <= plan.use <= t and plan.use else None

            def over(kind: str, plan: Plan = plan, used: int | None = used, t: int = t) -> bool:
                since_add, since_use = plan.limits[f"{kind}_add"], plan.limits[f"{kind}_use"]
                return bool(since_add and t >= plan.add + since_add) or bool(
                    since_use and used is not None and t >= used + since_use
                )

            if over("hard"):
                told.append(Told(START + t, spi, True))
                dead.add(spi)
            elif over("soft") and spi not in dying:
                told.append(Told(START + t, spi, False))
                dying.add(spi)
    return sorted(told)


def play(plans: list[Plan], by_deadline: bool) -> list[Told]:
    """Drive a database through the plans, second by second or from deadline to deadline."""
    clock = Clock()
    states: dict[int, State] = {}
    for t in range(END):
        clock.now = START + t
        due = clock.db.timers.next_deadline()
        if not by_deadline or (due is not None and due <= clock.now):
            clock.to(clock.now)
        for spi, plan in enumerate(plans, 1):
            if plan.add == t:
                states[spi] = clock.add(spi, **plan.limits)
            if plan.use == t and plan.use and plan.add <= t and states[spi].row >= 0:
                clock.use(states[spi])
    return sorted(clock.told)


@given(PLANS)
def test_events_come_at_their_seconds(plans: list[Plan]) -> None:
    assert play(plans, by_deadline=False) == simulate(plans)


@given(PLANS)
def test_a_loop_may_sleep_until_the_next_deadline(plans: list[Plan]) -> None:
    assert play(plans, by_deadline=True) == simulate(plans)


def test_deadlines_of_many_states_come_in_order() -> None:
    clock = Clock()
    for spi in range(1, 101):
        clock.add(spi, hard_add=1 + spi * 37 % 101)
    assert clock.to(START + 200) == sorted(
        ((spi, True) for spi in range(1, 101)), key=lambda event: event[0] * 37 % 101
    )


def test_checks_come_whole_seconds_after_the_state() -> None:
    """Linux compares seconds, but looks only whole seconds after the moment at which the state came."""
    clock = Clock()
    clock.now = START + 0.75
    used = clock.add(1, hard_use=2)
    clock.add(2, soft_add=1, hard_add=3)
    clock.to(START + 1.25)
    clock.use(used)  # in second 1: its limit is met in second 3
    assert clock.to(START + 1.5) == []
    assert clock.to(START + 1.75) == [(2, False)]
    assert clock.to(START + 3.5) == []
    assert sorted(clock.to(START + 3.75)) == [(1, True), (2, True)]


def test_a_limit_that_is_over_is_met_a_second_later() -> None:
    clock = Clock()
    state = clock.add(1, hard_add=100)
    clock.to(START + 50.5)
    clock.db.update(replace(config_of(state), lifetime=LifetimeConfig(hard_add=10)), clock.now)
    assert clock.to(START + 51.25) == []
    assert clock.to(START + 51.5) == [(1, True)]


def config_of(state: State) -> StateConfig:
    assert isinstance(state.config, StateConfig)
    return state.config
