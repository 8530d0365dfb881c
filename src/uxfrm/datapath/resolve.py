"""Output decisions: policy, templates, states, bundle.

Follows: xfrm_lookup_with_ifid, xfrm_tmpl_resolve_one, xfrm_state_find, xfrm_state_look_at. Asked once per
flow; the flow table remembers the answer for as long as the bundle's states stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

import numpy as np

from uxfrm.datapath.policycheck import Decision, default_action
from uxfrm.model.address import AF_INET6, AF_UNSPEC, Address, any_address, is_any, show
from uxfrm.model.flow import PROTO_AH, Flow
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import (
    OWN,
    POLICY_CPU_ACQUIRE,
    POLICY_ICMP,
    Action,
    DefaultAction,
    Direction,
    PolicyType,
)
from uxfrm.model.state import LifeState, SaDir, StateConfig
from uxfrm.model.template import MAX_DEPTH, Mode, Template
from uxfrm.tables.hashindex import Int64s
from uxfrm.tables.policies import Policy, PolicyTable
from uxfrm.tables.states import State, StateTable
from uxfrm.tables.statesearch import BEST, FAILED, FAMILY, PENDING, REQID, SADDR, next_candidate, search_key

SourceOf = Callable[[Address], Address | None]

Acquire = Callable[[Flow, Address, Address, Template, Policy, int | None], bool]
"""Asks for a state that a flow wants, between these endpoints (remote, local), for one CPU or (None) for all.

False where nobody listens.
"""


def nobody_asked(
    flow: Flow, daddr: Address, saddr: Address, template: Template, policy: Policy, cpu: int | None
) -> bool:
    """There are no key managers."""
    return False


class Resolution(NamedTuple):
    """A decision, and where it is to protect the packet: the states, innermost first."""

    decision: Decision
    states: tuple[State, ...] = ()
    # False where the answer may change when a state is added: it is then kept no longer than that.
    settled: bool = True


MUST_ASK = Resolution(Decision(Outcome.PENDING), settled=False)
"""Not decided: a state is missing, and whoever resolves did not want key managers asked yet."""


def resolve(
    policies: PolicyTable,
    states: StateTable,
    flow: Flow,
    source_of: SourceOf,
    if_id: int = 0,
    acquire: Acquire | None = nobody_asked,
    cpu: int = 0,
    own: Policy | None = None,
    loopback: bool = False,
) -> Resolution:
    """Decide over an outgoing flow on a CPU; a state that is missing is asked for, or MUST_ASK returned.

    `own` is the policy of its socket. The default policy does not block what goes to a `loopback` device.

    1. policy: the socket's, else sub before main  2. none: the default policy  3. block
    4. templates to states
    """
    found = lookup_output(policies, flow, if_id) if own is None else [own]
    if not found:
        return Resolution(default_output(policies, loopback))
    policy = found[0]
    if any(p.config.action != Action.ALLOW for p in found):
        return Resolution(Decision(Outcome.OUT_POLICY_BLOCK, policy))
    if not any(p.config.templates for p in found):
        return Resolution(Decision(Outcome.CLEAR_ALLOWED, policy))
    return _Resolver(states, flow, source_of, acquire, cpu).resolve(found)


def takes_icmp(policies: PolicyTable, inner: Flow, if_id: int = 0) -> bool:
    """True where ICMP errors about a packet go the way of its answer `inner`, for a policy with flag icmp.

    Follows: xfrm_lookup with XFRM_LOOKUP_ICMP.
    """
    found = lookup_output(policies, inner, if_id)
    return bool(found) and bool(found[0].config.flags & POLICY_ICMP)


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


class _Resolver:
    """One walk over the templates of a flow's policies."""

    def __init__(
        self, states: StateTable, flow: Flow, source_of: SourceOf, acquire: Acquire | None, cpu: int
    ) -> None:
        self.states = states
        self.flow = flow
        self.source_of = source_of
        self.acquire = acquire
        self.cpu = cpu
        self.settled = True

    def resolve(self, policies: list[Policy]) -> Resolution:
        """Find a state for each template, innermost first; endpoints follow from tunnel to tunnel.

        Those of a second policy begin at the packet's again.

        Follows: xfrm_tmpl_resolve, xfrm_tmpl_resolve_one.
        """
        chosen: list[State] = []
        first, ends, room = policies[0], (b"", b""), 0
        for number, template, policy in _numbered(policies):
            if number == 1:
                ends = (self.flow.daddr, self.flow.saddr)
                room = len(chosen) + len(policy.config.templates)
            if room >= MAX_DEPTH:
                detail = "the policies of the packet have 6 or more templates together"
                return Resolution(Decision(Outcome.OUT_POLICY_ERROR, first, detail), settled=False)
            theirs = self._ends(template, *ends)
            found = self._find(*theirs, template, policy)
            if found is None:
                return MUST_ASK
            if isinstance(found, State):
                if found.config.direction == SaDir.IN:
                    return Resolution(Decision(Outcome.OUT_STATE_DIR, first), settled=False)
                chosen.append(found)
                ends = theirs
                continue
            self.settled = False
            if not template.optional:
                words = _missing(number, template, *theirs, found)
                missing = (
                    Outcome.OUT_NO_STATE if first.config.direction < OWN else Outcome.OUT_SOCKET_NO_STATE
                )
                outcome = Outcome.OUT_POLICY_ERROR if found == Lack.TAKEN else missing
                return Resolution(Decision(outcome, first, words), settled=False)
        if len(policies) > 1 and self.flow.family == AF_INET6:
            chosen.sort(key=lambda state: transform_rank(state.config.mode, state.config.proto))
        if not chosen:
            return Resolution(Decision(Outcome.CLEAR_OPTIONAL, first), settled=False)
        return Resolution(Decision(Outcome.PENDING, first), tuple(chosen), self.settled)

    def _ends(self, template: Template, daddr: Address, saddr: Address) -> tuple[Address, Address]:
        """Between which addresses (remote, local) the template wants its state."""
        if not Mode(template.mode).tunnels:
            return daddr, saddr
        local = template.saddr
        if is_any(local):
            local = self.source_of(template.daddr) or any_address(template.family)
        return template.daddr, local

    def _find(
        self, remote: Address, local: Address, template: Template, policy: Policy
    ) -> State | Lack | None:
        """The state to use, or why there is none; None where asking for one has to wait.

        A policy with CPU_ACQUIRE wants a state of the packet's own CPU: another is used until that comes.
        Linux 6.18 uses it for the packet that asks and refuses flows that are looked up before the answer.
        Follows: the end of xfrm_state_find.
        """
        found = find(self.states, remote, local, self.flow, template, policy, self.cpu)
        best, for_each = found.best, policy.config.flags & POLICY_CPU_ACQUIRE
        if best is not None and (not for_each or best.config.cpu == self.cpu):
            return best
        if best is not None:
            self.settled = False
        if found.pending or found.failed:
            return best or (Lack.PENDING if found.pending else Lack.FAILED)
        if _taken(self.states, remote, template, policy):
            return Lack.TAKEN
        if self.acquire is None:
            return None
        cpu = self.cpu if best is not None else None
        if not self.acquire(self.flow, remote, local, template, policy, cpu):
            return Lack.NOBODY
        return best or Lack.PENDING


def transform_rank(mode: int, proto: int) -> int:
    """The order in which IPv6 applies the transforms of two policies: transport ESP, AH, tunnels, others.

    Follows: __xfrm6_state_sort_cmp.
    """
    if mode == Mode.TRANSPORT:
        return 3 if proto == PROTO_AH else 1
    if mode == Mode.ROUTEOPTIMIZATION:
        return 2
    return 4 if mode in (Mode.TUNNEL, Mode.BEET) else 5


def _numbered(policies: list[Policy]) -> Iterator[tuple[int, Template, Policy]]:
    """Every template with its number within its policy."""
    for policy in policies:
        for number, template in enumerate(policy.config.templates, 1):
            yield number, template, policy


class Lack(Enum):
    """Why a template has no state."""

    PENDING = "the state is being negotiated"
    NOBODY = "there is none"
    FAILED = "the one there was has expired"
    TAKEN = "SPI {template.spi:#010x} belongs to a state that does not fit"


def _taken(states: StateTable, remote: Address, template: Template, policy: Policy) -> bool:
    """True when the template's own SPI belongs to a state that does not fit it."""
    mark = policy.config.mark
    other = template.spi and states.find(
        remote, template.spi, template.proto, template.family, mark.v & mark.m
    )
    return bool(other)


def _missing(number: int, template: Template, remote: Address, local: Address, why: Lack) -> str:
    what = why.value.format(template=template)
    return (
        f"template {number} ({Mode(template.mode).name.lower()} from {show(local)} to {show(remote)}, "
        f"proto {template.proto}, reqid {template.reqid}): {what}"
    )


class Found(NamedTuple):
    """What a search among the states brought: the best, whether one is being acquired, whether one failed."""

    best: State | None
    pending: bool = False
    failed: bool = False


def find(
    states: StateTable,
    daddr: Address,
    saddr: Address,
    flow: Flow,
    template: Template,
    policy: Policy,
    cpu: int = 0,
) -> Found:
    """Search the states between two addresses for a template; states of any source come second.

    Which of several valid states is the best, statesearch says. Follows: xfrm_state_find.
    """
    x, p, wide = template, policy.config, any_address(template.family)
    key = search_key(
        daddr, saddr, x.family, x.reqid, x.mode, x.proto, x.spi, p.mark.v & p.mark.m, p.if_id, cpu
    )
    notes = np.array([-1, 0, 0], np.int64)
    best = _best(states, daddr, saddr, key, notes, flow)
    if best is None and not notes[PENDING] and saddr != wide:
        key[SADDR : SADDR + 4] = 0
        best = _best(states, daddr, wide, key, notes, flow)
    return Found(best, bool(notes[PENDING]), bool(notes[FAILED]))


def _best(
    states: StateTable, daddr: Address, saddr: Address, key: Int64s, notes: Int64s, flow: Flow
) -> State | None:
    """Walk one bucket, asking the selectors of the states that would be chosen.

    One in error, or expired and not yet gone, keeps key managers from being asked.
    Follows: xfrm_state_look_at.
    """
    arrays, row, best = states.by_destination.arrays, -1, None
    value = states.destination_hash(daddr, saddr, int(key[REQID]), int(key[FAMILY]))
    while (row := next_candidate(states.rows, *arrays, value, key, row, notes)) >= 0:
        state = states.at(row)
        if not _selects(state, flow):
            continue
        if state.life == LifeState.VALID:
            best, notes[BEST] = state, row
        else:
            notes[FAILED] = 1
    return best


def _selects(state: State, flow: Flow) -> bool:
    x = state.config
    if not isinstance(x, StateConfig) or x.selector.family == AF_UNSPEC:
        return True
    return x.selector.matches(flow)
