"""A heap of deadlines, in wall-clock seconds, which may have fractions: whoever is idle costs nothing.

An entry that became pointless (its owner is gone, or has another deadline) is dropped when its time comes.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

_SLACK = 1024

Owner = TypeVar("Owner")


class Timers(Generic[Owner]):
    """Planned checks of states or policies, soonest first. An owner has one at a time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Owner]] = []
        self._planned: dict[Owner, float] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def planned(self) -> int:
        """How many checks are planned; not all of the heap are still."""
        return len(self._planned)

    def plan(self, owner: Owner, when: float) -> None:
        """Check `owner` at `when`, if no check comes before: one too early plans the next."""
        planned = self._planned.get(owner)
        if planned is not None and planned <= when:
            return
        self._planned[owner] = when
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, owner))

    def forget(self, owner: Owner) -> None:
        """Drop one that goes; what is left of it in the heap is cleared when it outweighs the rest."""
        self._unplan(owner)

    def _unplan(self, owner: Owner) -> None:
        self._planned.pop(owner, None)
        if len(self._heap) > 2 * len(self._planned) + _SLACK:
            self._heap = [entry for entry in self._heap if self._planned.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def next_deadline(self) -> float | None:
        """When the next check is, or None."""
        while self._heap and self._pointless(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _pointless(self, when: float, _: int, owner: Owner) -> bool:
        """True for a check that another replaced, or whose owner is gone."""
        return self._planned.get(owner) != when

    def due(self, now_s: float) -> Iterator[tuple[float, Owner]]:
        """Take out those whose time has come, with the second for which their check was planned."""
        while self._heap and self._heap[0][0] <= now_s:
            entry = heapq.heappop(self._heap)
            if not self._pointless(*entry):
                when, _, owner = entry
                del self._planned[owner]
                yield when, owner


class SecondTimers(Timers[Owner]):
    """Checks that come whole seconds after the owner's timer was started, as Linux looks at its limits."""

    def __init__(self) -> None:
        super().__init__()
        self._phase: dict[Owner, float] = {}  # where in a second, if not at its beginning

    def start(self, owner: Owner, now: float) -> None:
        """Let checks come whole seconds after `now`."""
        phase = now % 1
        if phase != self._phase.pop(owner, 0):
            self._unplan(owner)
        if phase:
            self._phase[owner] = phase

    def plan_second(self, owner: Owner, second: int, earliest: float = 0) -> None:
        """Check `owner` for the first time in or behind a second, and not before `earliest`."""
        self.plan(owner, max(second + self._phase.get(owner, 0), earliest))

    def forget(self, owner: Owner) -> None:
        """Drop one that goes."""
        self._phase.pop(owner, None)
        super().forget(owner)
