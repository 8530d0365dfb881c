"""The policy check of received packets: may this packet, having passed these states, go on?

Follows: __xfrm_policy_check, xfrm_policy_ok, xfrm_state_ok in net/xfrm/xfrm_policy.c. Asked once per flow and
path; the flow table remembers the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from uxfrm.model.address import AF_INET6, AF_UNSPEC, any_address, is_any, show
from uxfrm.model.algorithm import Algorithm, auth_spec
from uxfrm.model.flow import PROTO_ICMP, PROTO_ICMPV6, PROTO_IPIP, PROTO_IPV6, Flow
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Action, DefaultAction, Direction, PolicyType
from uxfrm.model.state import ICMP, StateConfig
from uxfrm.model.template import IPSEC_PROTOCOLS, MAX_DEPTH, Mode, Template
from uxfrm.tables.policies import Policy, PolicyTable
from uxfrm.tables.states import State

# What an IPComp peer did not compress came through these.
_COMPANIONS = (PROTO_IPIP, PROTO_IPV6)


class Decision(NamedTuple):
    """What a flow gets: the outcome, the policy that took it, and words where the outcome wants some."""

    outcome: Outcome
    policy: Policy | None = None
    detail: str = ""


Embedded = Callable[[], Flow | None]
"""The reversed flow of the packet inside an ICMP error, if one can be read."""


def nothing_embedded() -> Flow | None:
    """There is no packet inside."""
    return None


def check(
    policies: PolicyTable,
    flow: Flow,
    path: Sequence[State],
    direction: Direction,
    if_id: int = 0,
    embedded: Embedded = nothing_embedded,
    own: Policy | None = None,
) -> Decision:
    """Decide over a flow that came through `path`, the states in order of decapsulation (outermost first).

    `embedded` is asked only where the answer depends on the packet inside an ICMP error; `own` is the policy
    of the socket it is for.

    1. the states' own selectors  2. the policy: the socket's, else sub before main
    3. no policy: default, and tunnels need one  4. block  5. templates against the path
    """
    for state in reversed(path):
        if not _selects(state, flow, embedded):
            return Decision(Outcome.IN_STATE_SELECTOR, None, _selector_words(state, flow))
    found = _lookup(policies, flow, direction, if_id) if own is None else [own]
    if not found and direction == Direction.FWD and flow.is_icmp_error:
        inner = embedded()
        found = [] if inner is None else _lookup(policies, inner, direction, if_id)
    if not found:
        return _without_policy(policies, path, direction)
    policy = found[0]
    if any(p.config.action != Action.ALLOW for p in found):
        return Decision(Outcome.IN_POLICY_BLOCK, policy)
    templates = [template for p in found for template in p.config.templates]
    if len(found) > 1 and flow.family == AF_INET6:
        templates.sort(key=_rank)
    if len(templates) >= MAX_DEPTH:
        return Decision(Outcome.IN_TOO_MANY_TEMPLATES, policy)
    refusal = _match(templates, path, if_id)
    if refusal:
        return Decision(Outcome.IN_TEMPLATE, policy, refusal)
    return Decision(_accepted(path, direction, policy), policy)


def _selects(state: State, flow: Flow, embedded: Embedded) -> bool:
    """True where the state's selector takes the flow or, with flag icmp, what an ICMP error is about.

    Follows: xfrm_selector_inner_icmp_match (Linux 6.9 and later).
    """
    config = _config(state)
    if config.selector.family == AF_UNSPEC or config.selector.matches(flow):
        return True
    if not config.flags & ICMP or not flow.is_icmp_error:
        return False
    inner = embedded()
    return inner is not None and config.selector.matches(inner)


def lets_icmp_in(path: Sequence[State], flow: Flow) -> bool:
    """True where a refused ICMP message for the host itself gets a second try, by the packet inside it.

    Follows: icmp_rcv, icmpv6_rcv, which ask the flag of the innermost state.
    """
    return bool(path) and flow.proto in (PROTO_ICMP, PROTO_ICMPV6) and bool(_config(path[-1]).flags & ICMP)


def _rank(template: Template) -> int:
    """The order in which the templates of two IPv6 policies are compared: transport, tunnels, others.

    Unlike the states they ask for, AH is not told apart. Follows: __xfrm6_tmpl_sort_cmp.
    """
    ranks = {Mode.TRANSPORT: 1, Mode.ROUTEOPTIMIZATION: 2, Mode.TUNNEL: 3, Mode.BEET: 3}
    return ranks.get(Mode(template.mode), 4)


def _config(state: State) -> StateConfig:
    config = state.config
    assert isinstance(config, StateConfig)
    return config


def _lookup(policies: PolicyTable, flow: Flow, direction: Direction, if_id: int) -> list[Policy]:
    """The policy of a flow, and behind an allowing sub policy the main one (always of direction in)."""
    sub = policies.lookup(PolicyType.SUB, direction, flow, if_id)
    if sub is None:
        main = policies.lookup(PolicyType.MAIN, direction, flow, if_id)
        return [] if main is None else [main]
    if sub.config.action != Action.ALLOW:
        return [sub]
    main = policies.lookup(PolicyType.MAIN, Direction.IN, flow, if_id)
    return [sub] if main is None else [sub, main]


def _without_policy(policies: PolicyTable, path: Sequence[State], direction: Direction) -> Decision:
    if default_action(policies, direction) == DefaultAction.BLOCK:
        return Decision(Outcome.IN_DEFAULT_BLOCK)
    if any(state.config.mode != Mode.TRANSPORT for state in path):
        return Decision(Outcome.IN_NO_POLICY)
    return Decision(Outcome.DELIVERED_NO_POLICY if path else Outcome.CLEAR)


def default_action(policies: PolicyTable, direction: Direction) -> int:
    """The default policy of a direction."""
    return int(policies.default[direction])


def _accepted(path: Sequence[State], direction: Direction, policy: Policy) -> Outcome:
    if not path:
        return Outcome.CLEAR_ALLOWED if not policy.config.templates else Outcome.CLEAR_OPTIONAL
    return Outcome.FORWARDED if direction == Direction.FWD else Outcome.DELIVERED


# -- templates against the path


def _match(templates: Sequence[Template], path: Sequence[State], if_id: int) -> str:
    """Return why the path does not satisfy the templates, or nothing where it does.

    The last template is the outermost transform, which the path has first.
    """
    k = 0
    for number in range(len(templates) - 1, -1, -1):
        template = templates[number]
        following = _policy_ok(template, path, k, if_id)
        if following < 0:
            return _mismatch(number, template, path, k, if_id)
        k = following
    for state in path[k:]:
        if state.config.mode != Mode.TRANSPORT:
            asked = "asks for no more transforms" if templates else "has no templates"
            return f"it came through {_name(state)}, but the policy {asked}"
    return ""


def _policy_ok(template: Template, path: Sequence[State], start: int, if_id: int) -> int:
    """The place in the path behind the state that satisfies `template`, or -1."""
    if template.optional and template.mode == Mode.TRANSPORT:
        return start
    for k in range(start, len(path)):
        if not _difference(template, path[k], if_id):
            return k + 1
        if path[k].config.mode != Mode.TRANSPORT:
            break
    return start if template.optional else -1


def _difference(template: Template, state: State, if_id: int) -> str:
    """Return what of the state is not as the template asks, or nothing. Follows: xfrm_state_ok."""
    x = _config(state)
    if x.proto in _COMPANIONS and template.optional and template.saddr in (any_address(x.family), x.saddr):
        return ""
    if x.proto != template.proto:
        return f"protocol {x.proto}"
    if template.spi and x.spi != template.spi:
        return f"SPI {x.spi:#010x}"
    if template.reqid and x.reqid != template.reqid:
        return f"reqid {x.reqid}"
    if x.mode != template.mode:
        return f"mode {Mode(x.mode).name.lower()}"
    if not template.any_algorithm and template.proto in IPSEC_PROTOCOLS:
        number = _auth_number(x.auth)
        if not template.aalgos >> number & 1:
            return f"authentication algorithm number {number}"
    if x.mode != Mode.TRANSPORT and not is_any(template.saddr) and template.saddr != x.saddr:
        return f"source {show(x.saddr)}"
    if if_id and x.if_id != if_id:
        return f"if_id {x.if_id:#x}"
    return ""


def _auth_number(auth: Algorithm | None) -> int:
    """The PF_KEY number that the kernel keeps in props.aalgo: 0 for AEADs."""
    return 0 if auth is None else auth_spec(auth).pfkey


# -- words


def _name(state: State) -> str:
    c = state.config
    return f"the state with SPI {c.spi:#010x} (reqid {c.reqid}, mode {Mode(c.mode).name.lower()})"


def _wanted(template: Template) -> str:
    parts = [f"mode {Mode(template.mode).name.lower()}"]
    if template.reqid:
        parts.append(f"reqid {template.reqid}")
    if template.spi:
        parts.append(f"SPI {template.spi:#010x}")
    if not is_any(template.saddr):
        parts.append(f"source {show(template.saddr)}")
    return ", ".join(parts)


def _mismatch(number: int, template: Template, path: Sequence[State], k: int, if_id: int) -> str:
    wanted = f"template {number + 1} wants {_wanted(template)}"
    if k >= len(path):
        came = "in clear" if not path else "through no further state"
        return f"{wanted}; the packet came {came}"
    return f"{wanted}; {_name(path[k])} has {_difference(template, path[k], if_id)}"


def _selector_words(state: State, flow: Flow) -> str:
    sel = _config(state).selector
    inside = f"{show(sel.saddr)}/{sel.prefixlen_s} to {show(sel.daddr)}/{sel.prefixlen_d}"
    return f"{show(flow.saddr)} to {show(flow.daddr)} proto {flow.proto} is not in {inside}"
