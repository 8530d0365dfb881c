"""Aevents: a state's running figures read, set and told, so that another host can carry on with it.

Follows: xfrm_get_ae, xfrm_new_ae, xfrm_update_ae_params, xfrm_replay_notify, xfrm_replay_timer_handler.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from uxfrm.lifecycle.database import StateDatabase
from uxfrm.lifecycle.events import Event, StateMonitored
from uxfrm.model.aevent import AE_CE, AE_CR, AE_CU, Aevent, AeventUpdate
from uxfrm.model.dump import StateDump, StateId
from uxfrm.model.error import XfrmError, invalid
from uxfrm.model.state import LifeState, ReplayEsn, ReplayLegacy, StateConfig
from uxfrm.model.unchecked import changed
from uxfrm.tables.deadlines import Timers
from uxfrm.tables.states import State
from uxfrm.tables.statesearch import bump_rivals

_MS = 1000
_MAXAGE_MS = 100
"""What replay_maxage counts."""


class Aevents:
    """Running figures of states. `tell` tells an event; `wanted` says whether anybody hears of figures.

    Where nobody does, neither packets nor time cost anything: when each state's timer would have run out is
    in its row, and is looked at once somebody comes.
    """

    def __init__(
        self, sad: StateDatabase, tell: Callable[[Event], object], wanted: Callable[[], bool]
    ) -> None:
        self.on = False
        self.timers: Timers[State] = Timers()
        self._sad = sad
        self._tell = tell
        self._wanted = wanted
        # The figures told last, of states of which any were: those that they began with, of the others.
        self._previous: dict[State, ReplayLegacy | ReplayEsn] = {}

    # -- GETAE, NEWAE

    def get(self, identity: StateId, flags: int) -> Aevent:
        """GETAE: ESRCH for none."""
        return _report(self._found(identity), flags)

    def update(self, identity: StateId, wanted: AeventUpdate) -> None:
        """NEWAE: ESRCH for none; EINVAL for a state that is not valid, and for another replay geometry."""
        state = self._found(identity)
        config = state.config
        if state.life != LifeState.VALID or not isinstance(config, StateConfig):
            raise invalid("SA must be in VALID state")
        if config.replay_esn is not None and wanted.replay_esn is not None:
            _check_geometry(config.replay_esn, wanted.replay_esn)
        if _set_replay(state, config, wanted):
            self._remember(state)
        if wanted.current is not None:
            state.table.set_current(state.record, wanted.current)
            # The time of addition is one of the figures, and the newest state is preferred.
            state.table.bump(state)
            bump_rivals(state.table, state)
        _set_thresholds(state, wanted)
        self._sad.timers.arm(state)
        self._tell(StateMonitored(_report(state, AE_CU)))

    def _found(self, identity: StateId) -> State:
        state = self._sad.table.find(
            identity.daddr, identity.spi, identity.proto, identity.family, identity.mark
        )
        if state is None:
            raise XfrmError(errno.ESRCH)
        return state

    # -- what packets and time cause

    def watch(self, now_s: float) -> bool:
        """Take note of whether anybody listens now; True if so. To be called before packets and time pass."""
        on = self._wanted()
        if on != self.on:
            self.on = on
            self.timers = Timers()
            if on:
                self._resume(int(now_s * _MS))
        return on

    def _resume(self, now_ms: int) -> None:
        """Let the timers that ran out unheard defer their event to the next packet; plan the others."""
        rows = self._sad.table.rows
        rows["ae_deferred"][(rows["ae_due"] > 0) & (rows["ae_due"] <= now_ms)] = 1
        rows["ae_due"][rows["ae_due"] <= now_ms] = 0
        for row in np.flatnonzero(rows["ae_due"]):
            self.timers.plan(self._sad.table.at(int(row)), int(rows[row]["ae_due"]) / _MS)

    def arm(self, state: State, now_s: float) -> None:
        """Start the timer of a state, if it has one."""
        x = state.record
        if x["ae_maxage"]:
            x["ae_due"] = int(now_s * _MS) + int(x["ae_maxage"]) * _MAXAGE_MS
            if self.on:
                self.timers.forget(state)
                self.timers.plan(state, int(x["ae_due"]) / _MS)

    def forget(self, state: State) -> None:
        """Drop a state that goes."""
        self.timers.forget(state)
        self._previous.pop(state, None)

    def inherit(self, old: State, new: State, now_s: float) -> None:
        """Give a state the figures told last of the one whose place it takes, and a timer of its own."""
        self._previous[new] = self._previous.get(old) or _initial(old)
        self.arm(new, now_s)

    def sequence(self, state: State, now_s: float) -> None:
        """A packet moved the sequence numbers far enough, or after the timer had deferred its event."""
        x = state.record
        moved = max((int(x["seq"] - x["pre_seq"])) & 0xFFFFFFFF, int(x["oseq"] - x["pre_oseq"]) & 0xFFFFFFFF)
        far = bool(x["ae_maxdiff"]) and moved >= x["ae_maxdiff"]
        self._notify(state, AE_CR if far else AE_CE, now_s)

    def advance(self, now_s: float) -> None:
        """Let timers run out up to `now_s`. Follows: xfrm_replay_timer_handler."""
        for when, state in self.timers.due(now_s):
            x = state.record
            x["ae_due"] = 0
            if (self._previous.get(state) or _initial(state)) == state.dump().replay:
                x["ae_deferred"] = 1
            else:
                x["told_bytes"], x["told_packets"] = x["bytes"], x["packets"]
                self._notify(state, AE_CE, when)

    def _notify(self, state: State, cause: int, now_s: float) -> None:
        """Follows: the end of xfrm_replay_notify."""
        self._remember(state)
        x = state.record
        told = state.dump()
        current = told.current._replace(bytes=int(x["told_bytes"]), packets=int(x["told_packets"]))
        self._tell(StateMonitored(_report(state, cause, replace(told, current=current))))
        if x["ae_maxage"]:
            x["ae_deferred"] = 0
            self.arm(state, now_s)

    def _remember(self, state: State) -> None:
        x = state.record
        x["pre_seq"], x["pre_oseq"] = x["seq"], x["oseq"]
        self._previous[state] = state.dump().replay


def _initial(state: State) -> ReplayLegacy | ReplayEsn:
    """The figures that a state began with."""
    config = state.config
    if not isinstance(config, StateConfig):
        return ReplayLegacy()
    return config.replay if config.replay_esn is None else config.replay_esn


def _report(state: State, flags: int, told: StateDump | None = None) -> Aevent:
    """What NEWAE tells of a state; a larval one has no thresholds. Follows: build_aevent."""
    x = state.record
    return Aevent(told or state.dump(), flags, int(x["ae_maxdiff"]), int(x["ae_maxage"]))


def _check_geometry(old: ReplayEsn, new: ReplayEsn) -> None:
    """Follows: xfrm_replay_verify_len."""
    if len(new.bitmap) < new.words:
        raise invalid("ESN attribute is too short")
    if new.words != old.words:
        raise invalid("New ESN size doesn't match the existing SA's ESN size")
    if new.replay_window > new.words * 32:
        raise invalid("ESN replay window is longer than the bitmap")


def _set_replay(state: State, config: StateConfig, wanted: AeventUpdate) -> bool:
    """Whether there was anything to set; values of the kind that the state does not have are passed over."""
    x, esn = state.record, wanted.replay_esn
    if config.replay_esn is None:
        if wanted.replay is not None:
            x["oseq"], x["seq"], x["bitmap"] = wanted.replay
        return wanted.replay is not None
    if esn is not None:
        state.table.set_replay(x, esn)
        geometry = replace(config.replay_esn, replay_window=esn.replay_window)
        state.config = changed(config, replay_esn=geometry)
    return esn is not None


def _set_thresholds(state: State, wanted: AeventUpdate) -> None:
    x, config = state.record, state.config
    assert isinstance(config, StateConfig)
    if wanted.maxdiff is not None:
        x["ae_maxdiff"] = wanted.maxdiff
    if wanted.maxage is not None:
        x["ae_maxage"] = wanted.maxage
    if wanted.mtimer_thresh is not None:
        rare = replace(config.rare, mtimer_thresh=wanted.mtimer_thresh)
        state.config = changed(config, rare=rare)
        x["mapping_maxage"] = wanted.mtimer_thresh
