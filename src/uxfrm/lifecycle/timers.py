"""Time limits of states, in wall-clock seconds; those without limits cost nothing.

Follows: xfrm_timer_handler.
"""

from __future__ import annotations

from uxfrm.model.dump import LarvalConfig
from uxfrm.model.lifetime import UNLIMITED, LifetimeConfig
from uxfrm.tables.deadlines import SecondTimers
from uxfrm.tables.states import State

_TIMES = ["add_time", "use_time", "dying"]


def time_limits(state: State) -> LifetimeConfig:
    """The limits of a state; a larval one has only its acquire time."""
    config = state.config
    if isinstance(config, LarvalConfig):
        return UNLIMITED._replace(hard_add=config.hard_add)
    return config.lifetime


def deadlines(state: State) -> tuple[int | None, int | None]:
    """When time will end the state, and when it will make it dying: since its addition, or its first use."""
    limits = time_limits(state)
    added, used, dying = state.table.rows[_TIMES][state.row].item()
    hard = _end(limits.hard_add, limits.hard_use, added, used)
    return hard, None if dying else _end(limits.soft_add, limits.soft_use, added, used)


def _end(add: int, use: int, added: int, used: int) -> int | None:
    """The sooner of two limits, as far as there are any."""
    if not (use and used):
        return added + add if add else None
    return min(added + add, used + use) if add else used + use


class StateTimers(SecondTimers[State]):
    """Deadlines of states."""

    def __init__(self) -> None:
        super().__init__()
        # The shortest limit since first use that any state ever had, in seconds.
        self._shortest_use: int | None = None

    def begin(self, state: State, now: float) -> None:
        """Start the timer of a state that came or was changed: the first check is a second later."""
        if time_limits(state).timed:
            self.start(state, now)
            self.arm(state, now + 1)

    def arm(self, state: State, earliest: float = 0) -> None:
        """Plan the state's next check, if time limits it at all."""
        limits = time_limits(state)
        if not limits.timed:
            return
        if limits.soft_use or limits.hard_use:
            uses = [limit for limit in (limits.soft_use, limits.hard_use, self._shortest_use) if limit]
            self._shortest_use = min(uses)
        ends = [end for end in deadlines(state) if end is not None]
        if ends:
            self.plan_second(state, min(ends), earliest)

    def horizon(self, now_s: int) -> float | None:
        """The first second at which a check may be due, even one that a packet from `now_s` on starts."""
        ends = [self.next_deadline(), None if self._shortest_use is None else now_s + self._shortest_use]
        return min((end for end in ends if end is not None), default=None)
