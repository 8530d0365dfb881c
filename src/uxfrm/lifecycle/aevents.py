"""Aevents: a state's running figures read and set, so that another host can carry on with it.

Follows: xfrm_get_ae, xfrm_new_ae, xfrm_update_ae_params.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from uxfrm.lifecycle.database import StateDatabase
from uxfrm.model.aevent import Aevent, AeventUpdate
from uxfrm.model.dump import StateId
from uxfrm.model.error import XfrmError, invalid
from uxfrm.model.state import LifeState, ReplayEsn, StateConfig
from uxfrm.model.unchecked import changed
from uxfrm.tables.states import State
from uxfrm.tables.statesearch import bump_rivals

REPLAY_MAXDIFF, REPLAY_MAXAGE = 2, 10
"""net.core.xfrm_aevent_rseqth in packets, net.core.xfrm_aevent_etime in 100 ms."""


def _found(sad: StateDatabase, identity: StateId) -> State:
    state = sad.table.find(identity.daddr, identity.spi, identity.proto, identity.family, identity.mark)
    if state is None:
        raise XfrmError(errno.ESRCH)
    return state


def report(state: State, flags: int) -> Aevent:
    """What NEWAE tells of a state; a larval one has no thresholds. Follows: build_aevent."""
    config = state.config
    if not isinstance(config, StateConfig):
        return Aevent(state.dump(), flags, 0, 0)
    maxdiff, maxage = config.rare.replay_maxdiff, config.rare.replay_maxage
    return Aevent(
        state.dump(),
        flags,
        REPLAY_MAXDIFF if maxdiff is None else maxdiff,
        REPLAY_MAXAGE if maxage is None else maxage,
    )


def get(sad: StateDatabase, identity: StateId, flags: int) -> Aevent:
    """GETAE: ESRCH for none."""
    return report(_found(sad, identity), flags)


def update(sad: StateDatabase, identity: StateId, wanted: AeventUpdate) -> State:
    """NEWAE: ESRCH for none; EINVAL for a state that is not valid, and for another replay geometry."""
    state = _found(sad, identity)
    config = state.config
    if state.life != LifeState.VALID or not isinstance(config, StateConfig):
        raise invalid("SA must be in VALID state")
    if config.replay_esn is not None and wanted.replay_esn is not None:
        _check_geometry(config.replay_esn, wanted.replay_esn)
    _set_replay(state, config, wanted)
    if wanted.current is not None:
        state.table.set_current(state.record, wanted.current)
        # The time of addition is one of the figures, and the newest state is preferred.
        state.table.bump(state)
        bump_rivals(state.table, state)
    _set_thresholds(state, wanted)
    sad.timers.arm(state)
    return state


def _check_geometry(old: ReplayEsn, new: ReplayEsn) -> None:
    """Follows: xfrm_replay_verify_len."""
    if len(new.bitmap) < new.words:
        raise invalid("ESN attribute is too short")
    if new.words != old.words:
        raise invalid("New ESN size doesn't match the existing SA's ESN size")
    if new.replay_window > new.words * 32:
        raise invalid("ESN replay window is longer than the bitmap")


def _set_replay(state: State, config: StateConfig, wanted: AeventUpdate) -> None:
    """Values of the kind that the state does not have are passed over."""
    x, esn = state.record, wanted.replay_esn
    if config.replay_esn is None:
        if wanted.replay is not None:
            x["oseq"], x["seq"], x["bitmap"] = wanted.replay
        return
    if esn is not None:
        state.table.set_replay(x, esn)
        geometry = replace(config.replay_esn, replay_window=esn.replay_window)
        state.config = changed(config, replay_esn=geometry)


def _set_thresholds(state: State, wanted: AeventUpdate) -> None:
    config = state.config
    assert isinstance(config, StateConfig)
    rare = config.rare
    if wanted.maxdiff is not None:
        rare = replace(rare, replay_maxdiff=wanted.maxdiff)
    if wanted.maxage is not None:
        rare = replace(rare, replay_maxage=wanted.maxage)
    if wanted.mtimer_thresh is not None:
        rare = replace(rare, mtimer_thresh=wanted.mtimer_thresh)
    if rare is not config.rare:
        state.config = changed(config, rare=rare)
