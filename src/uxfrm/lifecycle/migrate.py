"""MIGRATE: a policy's templates and the states behind them move to new endpoints, all or none.

Follows: xfrm_migrate.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import replace

from uxfrm.lifecycle.database import StateDatabase
from uxfrm.model.address import BITS
from uxfrm.model.error import XfrmError
from uxfrm.model.flow import PROTO_IPSEC_ANY, Flow
from uxfrm.model.migrate import MigrateEntry, Migration
from uxfrm.model.state import Encap, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.tables.policies import Policy, PolicyTable
from uxfrm.tables.states import State, StateTable


def migrate(
    sad: StateDatabase,
    policies: PolicyTable,
    wanted: Migration,
    now: float,
    inherit: Callable[[State, State], None] = lambda old, new: None,
) -> None:
    """Move what `wanted` names; what is not there is passed over. `inherit` is told each old and new state.

    1. the policy  2. a state at the new endpoints for each old one  3. templates  4. the old states go
    EINVAL; ENOENT for no such policy; ENODATA where no template fits or a state can't move: nothing changed.
    """
    policy = _policy(policies, wanted)
    old: list[State] = []
    new: list[State] = []
    try:
        for entry in wanted.entries:
            state = _state(sad.table, entry, wanted.if_id)
            if state is not None:
                old.append(state)
                new.append(_moved(sad, state, entry, wanted.encap, now))
                inherit(state, new[-1])
        templates = _templates(policy.config.templates, wanted.entries)
    except XfrmError:
        _drop(sad, new)
        raise
    policies.migrate(policy, templates)
    _drop(sad, old)


def _drop(sad: StateDatabase, states: Iterable[State]) -> None:
    """A state that two entries name goes once."""
    for state in states:
        if state.row >= 0:
            sad.drop(state)


def _policy(policies: PolicyTable, wanted: Migration) -> Policy:
    """Look the selector up as if it were a flow. Follows: xfrm_migrate_policy_find."""
    x = wanted.selector
    if x.family not in BITS:
        raise XfrmError(errno.EAFNOSUPPORT, "Target policy not found")
    flow = Flow(x.daddr, x.saddr, x.proto)
    if x.proto != PROTO_IPSEC_ANY:
        flow = flow._replace(sport=x.sport, dport=x.dport, oif=x.ifindex)
    policy = policies.lookup(wanted.type, wanted.direction, flow, wanted.if_id)
    if policy is None:
        raise XfrmError(errno.ENOENT, "Target policy not found")
    return policy


def _state(table: StateTable, entry: MigrateEntry, if_id: int) -> State | None:
    """The newest state between the old endpoints, larval ones included. Follows: xfrm_migrate_state_find."""
    if entry.reqid:
        found = table.candidates(entry.old_daddr, entry.old_saddr, entry.reqid, entry.old_family)
    else:
        found = table.between(entry.old_daddr, entry.old_saddr, entry.old_family)
    for state in found:
        c = state.config
        if (c.mode, c.proto) == (entry.mode, entry.proto) and if_id in (0, c.if_id):
            return state
    return None


def _moved(sad: StateDatabase, state: State, entry: MigrateEntry, encap: Encap | None, now: float) -> State:
    """A state like `state` between the new endpoints; ENODATA where there can be none.

    Follows: xfrm_state_migrate.
    """
    config = state.config
    if not isinstance(config, StateConfig):
        raise XfrmError(errno.ENODATA)
    try:
        moved = sad.constructed(
            replace(
                config, daddr=entry.new_daddr, saddr=entry.new_saddr, family=entry.new_family,
                encap=encap or config.encap,
            )
        )  # fmt: skip
        new = sad.insert(moved, now) if moved.daddr == config.daddr else sad.add(moved, now)
    except XfrmError:
        raise XfrmError(errno.ENODATA) from None
    sad.table.carry_over(state, new)
    sad.timers.begin(new, now)
    return new


def _templates(templates: tuple[Template, ...], entries: tuple[MigrateEntry, ...]) -> tuple[Template, ...]:
    """The templates with new endpoints; ENODATA where no entry fits any. Follows: xfrm_policy_migrate."""
    found, fits = [], False
    for template in templates:
        for entry in entries:
            if not entry.fits(template):
                continue
            fits = True
            if Mode(template.mode).tunnels:
                template = replace(
                    template, daddr=entry.new_daddr, saddr=entry.new_saddr, family=entry.new_family
                )
        found.append(template)
    if not fits:
        raise XfrmError(errno.ENODATA)
    return tuple(found)
