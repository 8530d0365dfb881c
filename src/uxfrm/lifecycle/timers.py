"""Time limits of states, in wall-clock seconds; those without limits cost nothing.

Follows: xfrm_timer_handler.
"""

from __future__ import annotations

from uxfrm.model.dump import LarvalConfig
from uxfrm.model.lifetime import UNLIMITED, LifetimeConfig
from uxfrm.tables.deadlines import Timers
from uxfrm.tables.states import State


def time_limits(state: State) -> LifetimeConfig:
    """The limits of a state; a larval one has only its acquire time."""
    config = state.config
    if isinstance(config, LarvalConfig):
        return UNLIMITED._replace(hard_add=config.hard_add)
    return config.lifetime


def hard_deadline(state: State) -> int | None:
    """When time will end the state: since its addition, or since its first use."""
    limits, x = time_limits(state), state.record
    ends = []
    if limits.hard_add:
        ends.append(int(x["add_time"]) + limits.hard_add)
    if limits.hard_use and x["use_time"]:
        ends.append(int(x["use_time"]) + limits.hard_use)
    return min(ends, default=None)


def soft_deadline(state: State) -> int | None:
    """When time will make the state dying, unless it is."""
    if state.dying:
        return None
    limits, x = time_limits(state), state.record
    ends = []
    if limits.soft_add:
        ends.append(int(x["add_time"]) + limits.soft_add)
    if limits.soft_use and x["use_time"]:
        ends.append(int(x["use_time"]) + limits.soft_use)
    return min(ends, default=None)


class StateTimers(Timers[State]):
    """Deadlines of states."""

    def __init__(self) -> None:
        super().__init__()
        # The shortest limit since first use that any state ever had, in seconds.
        self._shortest_use: int | None = None

    def arm(self, state: State) -> None:
        """Plan the state's next check, if time limits it at all."""
        limits = time_limits(state)
        if not (limits.soft_add or limits.hard_add or limits.soft_use or limits.hard_use):
            return
        uses = [limit for limit in (limits.soft_use, limits.hard_use, self._shortest_use) if limit]
        self._shortest_use = min(uses, default=None)
        ends = [end for end in (hard_deadline(state), soft_deadline(state)) if end is not None]
        if ends:
            self.plan(state, min(ends))

    def horizon(self, now_s: int) -> float | None:
        """The first second at which a check may be due, even one that a packet from `now_s` on starts."""
        ends = [self.next_deadline(), None if self._shortest_use is None else now_s + self._shortest_use]
        return min((end for end in ends if end is not None), default=None)
