"""NAT keepalives: which states are due for one. A namespace has one worker for all of its states.

Follows: net/xfrm/xfrm_nat_keepalive.c. So a run that is due for one state also sends for every other one that
has been idle for its interval, and a new state's first run is the one that is planned already.
"""

from __future__ import annotations

from uxfrm.model.state import StateConfig
from uxfrm.tables.states import State


class Keepalives:
    """States with an interval, and when the worker runs next (wall-clock seconds; None: not planned)."""

    def __init__(self) -> None:
        self._states: dict[State, int] = {}  # until when each was known not to need one
        self._due: float | None = None

    def __len__(self) -> int:
        return len(self._states)

    def next_deadline(self) -> float | None:
        """When the worker runs."""
        return self._due

    def watch(self, state: State, now_s: int) -> None:
        """Take note of a state that was added or updated. Follows: xfrm_nat_keepalive_state_updated."""
        if isinstance(state.config, StateConfig) and state.config.rare.nat_keepalive:
            self._states.setdefault(state, 0)
            self._due = now_s if self._due is None else self._due

    def forget(self, state: State) -> None:
        """Drop a state that goes; what is planned stays planned."""
        self._states.pop(state, None)

    def advance(self, now_s: float) -> list[State]:
        """Run if it is time; return the states that want a keepalive now. Follows: nat_keepalive_work."""
        if self._due is None or self._due > now_s:
            return []
        now, due = int(self._due), list[int]()
        idle = [state for state in self._states if self._judge(state, now, due)]
        self._due = min(due, default=None)
        return idle

    def _judge(self, state: State, now: int, due: list[int]) -> bool:
        """True when a state has been idle for its interval; `due` gets when to look again."""
        config = state.config
        assert isinstance(config, StateConfig)
        interval, rest = config.rare.nat_keepalive, now - int(state.record["lastused"])
        if rest < interval:
            self._states[state] = now + interval - rest
            due.append(self._states[state])
            return False
        if self._states[state] > now:
            due.append(self._states[state])
            return False
        due.append(now + interval)
        return True
