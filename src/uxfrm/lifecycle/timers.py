"""Time limits: a heap of deadlines, in wall-clock seconds; idle states and policies cost nothing.

Follows: xfrm_timer_handler, xfrm_policy_timer. An entry that became pointless (its owner is gone, or has a
later deadline) is dropped when its time comes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

from uxfrm.model.dump import LarvalConfig
from uxfrm.model.lifetime import UNLIMITED, LifetimeConfig
from uxfrm.tables.states import State

_SLACK = 1024

Owner = TypeVar("Owner")


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


class Timers(Generic[Owner]):
    """Deadlines of states or policies, soonest first. An owner has one planned check at a time."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Owner]] = []
        self._planned: dict[Owner, int] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    def plan(self, owner: Owner, when: int) -> None:
        """Check `owner` at second `when`, if no check comes before: one too early plans the next."""
        planned = self._planned.get(owner)
        if planned is not None and planned <= when:
            return
        self._planned[owner] = when
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, owner))

    def forget(self, owner: Owner) -> None:
        """Drop one that goes; what is left of it in the heap is cleared when it outweighs the rest."""
        self._planned.pop(owner, None)
        if len(self._heap) > 2 * len(self._planned) + _SLACK:
            self._heap = [entry for entry in self._heap if self._planned.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def next_deadline(self) -> int | None:
        """The wall-clock second of the next check, or None."""
        while self._heap and self._pointless(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _pointless(self, when: int, _: int, owner: Owner) -> bool:
        """True for a check that another replaced, or whose owner is gone."""
        return self._planned.get(owner) != when

    def due(self, now_s: int) -> Iterator[tuple[int, Owner]]:
        """Take out those whose time has come, with the second for which their check was planned."""
        while self._heap and self._heap[0][0] <= now_s:
            entry = heapq.heappop(self._heap)
            if not self._pointless(*entry):
                when, _, owner = entry
                del self._planned[owner]
                yield when, owner


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

    def horizon(self, now_s: int) -> int | None:
        """The first second at which a check may be due, even one that a packet from `now_s` on starts."""
        ends = [self.next_deadline(), None if self._shortest_use is None else now_s + self._shortest_use]
        return min((end for end in ends if end is not None), default=None)
