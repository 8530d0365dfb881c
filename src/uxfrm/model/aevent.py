"""Aevents: what another host needs to take over a state: replay window and lifetimes."""

from __future__ import annotations

from dataclasses import dataclass

from uxfrm.model.dump import StateDump
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.state import ReplayEsn, ReplayLegacy

AE_RTHR, AE_RVAL, AE_LVAL, AE_ETHR = 1, 2, 4, 8
"""What is asked for: packet threshold, replay values, lifetimes, timer threshold."""

AE_CR, AE_CE, AE_CU = 16, 32, 64
"""Why it is told: sequence numbers moved, the timer ran out, somebody changed them."""


@dataclass(frozen=True, slots=True)
class Aevent:
    """NEWAE (struct xfrm_aevent_id): a state's running figures; `maxdiff` in packets, `maxage` in 100 ms."""

    state: StateDump
    flags: int
    maxdiff: int
    maxage: int


@dataclass(frozen=True, slots=True)
class AeventUpdate:
    """What a NEWAE request sets; None leaves it. `replay_esn` must have the geometry of the state's own."""

    replay: ReplayLegacy | None = None
    replay_esn: ReplayEsn | None = None
    current: LifetimeCurrent | None = None
    maxdiff: int | None = None
    maxage: int | None = None
    mtimer_thresh: int | None = None

    @property
    def empty(self) -> bool:
        """True where nothing counts as an update; the mapping threshold alone does not."""
        rest = (self.replay, self.replay_esn, self.current, self.maxdiff, self.maxage)
        return all(value is None for value in rest)
