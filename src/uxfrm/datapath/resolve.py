"""Output decisions: policy, templates, states, bundle.

Follows: xfrm_lookup_with_ifid, xfrm_tmpl_resolve_one, xfrm_state_find, xfrm_state_look_at. Asked once per
flow; the flow table remembers the answer for as long as the bundle's states stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from uxfrm.datapath.policycheck import Decision, default_action, transform_rank
from uxfrm.model.address import AF_INET6, AF_UNSPEC, Address, any_address, is_any, show
from uxfrm.model.flow import Flow
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Action, DefaultAction, Direction, PolicyType
from uxfrm.model.state import WILDRECV, LifeState, SaDir, StateConfig
from uxfrm.model.template import MAX_DEPTH, Mode, Template
from uxfrm.tables.policies import Policy, PolicyTable
from uxfrm.tables.states import State, StateTable

SourceOf = Callable[[Address], Address | None]

Acquire = Callable[[Flow, Address, Address, Template, Policy], bool]
"""Asks for a state that a flow wants, between these endpoints (remote, local); False where nobody listens."""


def nobody_asked(flow: Flow, daddr: Address, saddr: Address, template: Template, policy: Policy) -> bool:
    """There are no key managers."""
    return False


class Resolution(NamedTuple):
    """A decision, and where it is to protect the packet: the states, innermost first."""

    decision: Decision
    states: tuple[State, ...] = ()
    # False where the answer may change when a state is added: it is then kept no longer than that.
    settled: bool = True


def resolve(
    policies: PolicyTable,
    states: StateTable,
    flow: Flow,
    source_of: SourceOf,
    if_id: int = 0,
    acquire: Acquire = nobody_asked,
    loopback: bool = False,
) -> Resolution:
    """Decide over an outgoing flow; a state that is missing is asked for.

    The default policy does not block what is routed to a `loopback` device.

    1. policy, sub before main  2. none: the default policy  3. block  4. templates to states
    """
    found = lookup_output(policies, flow, if_id)
    if not found:
        return Resolution(default_output(policies, loopback))
    policy = found[0]
    if any(p.config.action != Action.ALLOW for p in found):
        return Resolution(Decision(Outcome.OUT_POLICY_BLOCK, policy))
    if not any(p.config.templates for p in found):
        return Resolution(Decision(Outcome.CLEAR_ALLOWED, policy))
    return _resolve_templates(states, flow, found, source_of, acquire)


def default_output(policies: PolicyTable, loopback: bool) -> Decision:
    """What an outgoing packet gets that no policy is looked up for, or found."""
    if not loopback and default_action(policies, Direction.OUT) == DefaultAction.BLOCK:
        return Decision(Outcome.OUT_DEFAULT_BLOCK)
    return Decision(Outcome.CLEAR)


def lookup_output(policies: PolicyTable, flow: Flow, if_id: int) -> list[Policy]:
    """The output policy of a flow, and behind an allowing sub policy the main one."""
    sub = policies.lookup(PolicyType.SUB, Direction.OUT, flow, if_id)
    main = policies.lookup(PolicyType.MAIN, Direction.OUT, flow, if_id)
    if sub is not None and sub.config.action != Action.ALLOW:
        return [sub]
    return [p for p in (sub, main) if p is not None]


def _resolve_templates(
    states: StateTable,
    flow: Flow,
    policies: list[Policy],
    source_of: SourceOf,
    acquire: Acquire,
) -> Resolution:
    """Find a state for each template, innermost first; endpoints follow from tunnel to tunnel.

    Follows: xfrm_tmpl_resolve.
    """
    chosen: list[State] = []
    first, daddr, saddr, room = policies[0], flow.daddr, flow.saddr, 0
    for number, template, policy in _numbered(policies):
        if number == 1:
            room = len(chosen) + len(policy.config.templates)
        if room >= MAX_DEPTH:
            detail = "the policies of the packet have 6 or more templates together"
            return Resolution(Decision(Outcome.OUT_POLICY_ERROR, first, detail), settled=False)
        remote, local = daddr, saddr
        if Mode(template.mode).tunnels:
            remote, local = template.daddr, template.saddr
            if is_any(local):
                local = source_of(remote) or any_address(template.family)
        state, pending = find(states, remote, local, flow, template, policy)
        if state is not None:
            if state.config.direction == SaDir.IN:
                return Resolution(Decision(Outcome.OUT_STATE_DIR, first), settled=False)
            chosen.append(state)
            daddr, saddr = remote, local
            continue
        taken = not pending and _taken(states, remote, template, policy)
        pending = pending or (not taken and acquire(flow, remote, local, template, policy))
        if not template.optional:
            outcome = Outcome.OUT_POLICY_ERROR if taken else Outcome.OUT_NO_STATE
            words = _missing(number, template, remote, local, pending, taken)
            return Resolution(Decision(outcome, first, words), settled=False)
    if len(policies) > 1 and flow.family == AF_INET6:
        chosen.sort(key=lambda state: transform_rank(state.config.mode, state.config.proto))
    if not chosen:
        return Resolution(Decision(Outcome.CLEAR_OPTIONAL, first), settled=False)
    return Resolution(Decision(Outcome.PENDING, first), tuple(chosen))


def _numbered(policies: list[Policy]) -> Iterator[tuple[int, Template, Policy]]:
    """Every template with its number within its policy."""
    for policy in policies:
        for number, template in enumerate(policy.config.templates, 1):
            yield number, template, policy


def _taken(states: StateTable, remote: Address, template: Template, policy: Policy) -> bool:
    """True when the template's own SPI belongs to a state that does not fit it."""
    mark = policy.config.mark
    other = template.spi and states.find(
        remote, template.spi, template.proto, template.family, mark.v & mark.m
    )
    return bool(other)


def _missing(
    number: int, template: Template, remote: Address, local: Address, pending: bool, taken: bool
) -> str:
    what = "the state is being negotiated" if pending else "there is none"
    if taken:
        what = f"SPI {template.spi:#010x} belongs to a state that does not fit"
    return (
        f"template {number} ({Mode(template.mode).name.lower()} from {show(local)} to {show(remote)}, "
        f"proto {template.proto}, reqid {template.reqid}): {what}"
    )


def find(
    states: StateTable, daddr: Address, saddr: Address, flow: Flow, template: Template, policy: Policy
) -> tuple[State | None, bool]:
    """The best valid state for a template, and whether one is being acquired.

    Among valid states one that is not dying beats one that is, then the newest; wildcard sources come second.
    """
    pending = False
    sources = (saddr,) if is_any(saddr) else (saddr, any_address(template.family))
    for source in sources:
        best: State | None = None
        for state in states.candidates(daddr, source, template.reqid, template.family):
            if not _fits(state, template, policy):
                continue
            if state.life == LifeState.ACQ:
                pending = True
            elif state.life == LifeState.VALID and _selects(state, flow):
                best = _better(best, state)
        if best is not None or pending:
            return best, pending
    return None, False


def _fits(state: State, template: Template, policy: Policy) -> bool:
    """The comparisons of xfrm_state_find's walk."""
    x = state.config
    mark = policy.config.mark
    return (
        x.mode == template.mode
        and x.proto == template.proto
        and (not template.spi or x.spi == template.spi)
        and x.mark.covers(mark.v & mark.m)
        and x.if_id == policy.config.if_id
        and not (isinstance(x, StateConfig) and x.flags & WILDRECV)
    )


def _selects(state: State, flow: Flow) -> bool:
    x = state.config
    if not isinstance(x, StateConfig) or x.selector.family == AF_UNSPEC:
        return True
    return x.selector.matches(flow)


def _better(best: State | None, state: State) -> State:
    """Follows: xfrm_state_look_at. Candidates come newest insertion first, which decides ties."""
    if best is None:
        return state
    if best.dying != state.dying:
        return state if best.dying else best
    return state if state.record["add_time"] > best.record["add_time"] else best
