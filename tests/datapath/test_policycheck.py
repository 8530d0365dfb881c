"""The policy check of received packets, case by case (xfrm-semantics 6.7, 6.8, 12, 13)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from uxfrm import compiled
from uxfrm.datapath.policycheck import Decision, check
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.flow import Flow
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Action, DefaultAction, Direction, PolicyConfig, PolicyType
from uxfrm.model.selector import EVERYTHING, Selector
from uxfrm.model.state import AF_UNSPEC_FLAG, LifeState, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.tables.policies import PolicyTable
from uxfrm.tables.states import State, StateTable

compiled.ready()  # the tables of cases below are made of live objects

A, B, C, OTHER = (parse(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.9.9.9"))
A6, B6 = parse("2001:db8::1"), parse("2001:db8::2")
INNER = Flow(parse("10.2.0.1"), parse("10.1.0.1"), 17, 5000, 53)
INNER6 = Flow(parse("fd02::1"), parse("fd01::1"), 6, 5000, 443)
ESP, AH, COMP = 50, 51, 108
IN, FWD = Direction.IN, Direction.FWD
SHA1, SHA256 = algo.auth("sha1", b"k"), algo.auth("sha256", b"k")
NULL = algo.crypt("cipher_null", b"")
TABLE = StateTable(seed=1)


def state(**change: Any) -> State:
    fields: dict[str, Any] = {"daddr": B, "saddr": A, "spi": 0x1000, "reqid": 1, "mode": Mode.TUNNEL}
    fields |= {"auth": SHA1} if change.get("proto") == AH else {"auth": SHA1, "crypt": NULL}
    return TABLE.insert(StateConfig(**(fields | change)), LifeState.VALID, 0)


def tmpl(**change: Any) -> Template:
    fields: dict[str, Any] = {"daddr": B, "saddr": A, "family": AF_INET, "mode": Mode.TUNNEL, "reqid": 1}
    return Template(**(fields | change))


def policies(*templates: Template, direction: Direction = IN, **change: Any) -> PolicyTable:
    table = PolicyTable()
    selector = change.pop("selector", EVERYTHING[AF_INET])
    table.add(PolicyConfig(direction, selector, templates, **change), 0)
    return table


def outcome(table: PolicyTable, *path: State, flow: Flow = INNER, **more: Any) -> Outcome:
    return check(table, flow, path, more.pop("direction", IN), **more).outcome


TUNNEL = state()
TRANSPORT = state(mode=Mode.TRANSPORT, spi=0x2000, reqid=2)
OUTER = state(saddr=C, spi=0x3000, reqid=3)
AUTH = state(mode=Mode.TRANSPORT, proto=AH, spi=0x4000, reqid=4)
NARROW = state(selector=Selector(AF_INET, parse("10.2.0.0"), parse("10.1.0.0"), 24, 24))
ELSEWHERE = state(selector=Selector(AF_INET, parse("10.3.0.0"), parse("10.1.0.0"), 24, 24))
SIX = state(daddr=B6, saddr=A6, family=AF_INET6)

TRANSPORT_TMPL = tmpl(mode=Mode.TRANSPORT, reqid=2)
OUTER_TMPL = tmpl(saddr=C, reqid=3)
AUTH_TMPL = tmpl(mode=Mode.TRANSPORT, proto=AH, reqid=4)

DELIVERED, MISMATCH, NO_POLICY = Outcome.DELIVERED, Outcome.IN_TEMPLATE, Outcome.IN_NO_POLICY
CLEAR_OK, OPTIONAL = Outcome.CLEAR_ALLOWED, Outcome.CLEAR_OPTIONAL
USE = tmpl(optional=True)

# (templates, path outermost first, outcome); one IN policy for everything.
ONE_POLICY: list[tuple[tuple[Template, ...], tuple[State, ...], Outcome]] = [
    # the golden table of section 12, as far as it is policy
    ((tmpl(reqid=2),), (TUNNEL,), MISMATCH),
    ((tmpl(),), (TUNNEL,), DELIVERED),
    ((tmpl(),), (), MISMATCH),
    ((USE,), (), OPTIONAL),
    ((USE,), (TUNNEL,), DELIVERED),
    ((tmpl(saddr=OTHER),), (TUNNEL,), MISMATCH),
    ((tmpl(daddr=OTHER, reqid=0),), (TUNNEL,), DELIVERED),
    ((), (TUNNEL,), MISMATCH),
    ((), (), CLEAR_OK),
    # what a template compares
    ((tmpl(saddr=parse("0.0.0.0"), reqid=0),), (TUNNEL,), DELIVERED),
    ((tmpl(spi=0x1000),), (TUNNEL,), DELIVERED),
    ((tmpl(spi=0x1001),), (TUNNEL,), MISMATCH),
    ((tmpl(proto=AH),), (TUNNEL,), MISMATCH),
    ((tmpl(mode=Mode.TRANSPORT),), (TUNNEL,), MISMATCH),
    ((tmpl(mode=Mode.BEET),), (TUNNEL,), MISMATCH),
    ((tmpl(aalgos=1 << 3),), (TUNNEL,), DELIVERED),  # 3 is hmac(sha1)
    ((tmpl(aalgos=1 << 5),), (TUNNEL,), MISMATCH),
    ((tmpl(ealgos=0, calgos=0),), (TUNNEL,), DELIVERED),  # only aalgos is enforced
    # transport: the source is not compared, and what a policy does not ask for may pass
    ((TRANSPORT_TMPL,), (TRANSPORT,), DELIVERED),
    ((replace(TRANSPORT_TMPL, saddr=OTHER),), (TRANSPORT,), DELIVERED),
    ((), (TRANSPORT,), DELIVERED),
    ((tmpl(),), (TRANSPORT,), MISMATCH),
    ((TRANSPORT_TMPL,), (AUTH,), MISMATCH),
    ((TRANSPORT_TMPL,), (AUTH, TRANSPORT), DELIVERED),
    ((TRANSPORT_TMPL,), (TRANSPORT, AUTH), DELIVERED),
    ((replace(TRANSPORT_TMPL, optional=True),), (), OPTIONAL),
    ((replace(TRANSPORT_TMPL, optional=True),), (TRANSPORT,), DELIVERED),
    # nested: the last template is the outermost transform, which the path has first
    ((TRANSPORT_TMPL, AUTH_TMPL), (AUTH, TRANSPORT), DELIVERED),
    ((TRANSPORT_TMPL, AUTH_TMPL), (TRANSPORT, AUTH), MISMATCH),
    ((tmpl(), OUTER_TMPL), (OUTER, TUNNEL), DELIVERED),
    ((tmpl(), OUTER_TMPL), (TUNNEL, OUTER), MISMATCH),
    ((tmpl(), OUTER_TMPL), (TUNNEL,), MISMATCH),
    ((tmpl(), OUTER_TMPL), (OUTER,), MISMATCH),
    ((tmpl(),), (OUTER, TUNNEL), MISMATCH),
    ((tmpl(),), (TUNNEL, OUTER), MISMATCH),
    ((OUTER_TMPL,), (OUTER, TUNNEL), MISMATCH),
    # a tunnel that nobody asked for stops the search, a transport does not
    ((tmpl(),), (AUTH, TUNNEL), DELIVERED),
    ((tmpl(),), (TUNNEL, TRANSPORT), DELIVERED),
    ((tmpl(), AUTH_TMPL), (AUTH, TUNNEL), DELIVERED),
    # level use between required ones
    ((tmpl(), replace(OUTER_TMPL, optional=True)), (TUNNEL,), DELIVERED),
    ((tmpl(), replace(OUTER_TMPL, optional=True)), (OUTER, TUNNEL), DELIVERED),
    ((USE, OUTER_TMPL), (OUTER,), DELIVERED),
    ((USE, OUTER_TMPL), (TUNNEL,), MISMATCH),
    ((USE,), (OUTER,), MISMATCH),
    # the states' own selectors come before any policy
    ((tmpl(),), (NARROW,), DELIVERED),
    ((tmpl(),), (ELSEWHERE,), Outcome.IN_STATE_SELECTOR),
    ((tmpl(), OUTER_TMPL), (OUTER, ELSEWHERE), Outcome.IN_STATE_SELECTOR),
    # five templates are still allowed
    ((tmpl(),) * 5, (TUNNEL,) * 5, DELIVERED),
    ((tmpl(),) * 5, (TUNNEL,) * 4, MISMATCH),
]


@pytest.mark.parametrize(("templates", "path", "expected"), ONE_POLICY)
def test_templates_against_the_path(
    templates: tuple[Template, ...], path: tuple[State, ...], expected: Outcome
) -> None:
    assert outcome(policies(*templates), *path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), Outcome.CLEAR),
        ((TRANSPORT,), Outcome.DELIVERED_NO_POLICY),
        ((AUTH, TRANSPORT), Outcome.DELIVERED_NO_POLICY),
        ((TUNNEL,), NO_POLICY),
        ((TUNNEL, TRANSPORT), NO_POLICY),
        ((AUTH, TUNNEL), NO_POLICY),
        ((ELSEWHERE,), Outcome.IN_STATE_SELECTOR),
    ],
)
def test_without_a_policy_only_transport_mode_passes(path: tuple[State, ...], expected: Outcome) -> None:
    assert outcome(PolicyTable(), *path) == expected


@pytest.mark.parametrize("path", [(), (TRANSPORT,), (TUNNEL,)])
@pytest.mark.parametrize("direction", [IN, FWD])
def test_default_block_drops_what_no_policy_takes(path: tuple[State, ...], direction: Direction) -> None:
    table = PolicyTable()
    table.set_default(DefaultAction.BLOCK, DefaultAction.BLOCK, DefaultAction.ACCEPT)
    assert outcome(table, *path, direction=direction) == Outcome.IN_DEFAULT_BLOCK


def test_default_block_of_one_direction_is_of_that_direction_alone() -> None:
    table = PolicyTable()
    table.set_default(DefaultAction.BLOCK, DefaultAction.ACCEPT, DefaultAction.BLOCK)
    assert outcome(table) == Outcome.IN_DEFAULT_BLOCK
    assert outcome(table, direction=FWD) == Outcome.CLEAR


@pytest.mark.parametrize("path", [(), (TUNNEL,), (TRANSPORT,)])
def test_block_drops_everything(path: tuple[State, ...]) -> None:
    assert outcome(policies(action=Action.BLOCK), *path) == Outcome.IN_POLICY_BLOCK


def test_forwarded_packets_are_judged_by_forward_policies() -> None:
    table = policies(tmpl(), direction=FWD)
    assert outcome(table, TUNNEL, direction=FWD) == Outcome.FORWARDED
    assert outcome(table, TUNNEL) == NO_POLICY
    assert outcome(policies(tmpl()), TUNNEL, direction=FWD) == NO_POLICY


def test_packets_of_an_interface_need_states_of_it() -> None:
    bound = state(if_id=7)
    table = policies(tmpl(), if_id=7)
    assert outcome(table, bound, if_id=7) == DELIVERED
    assert outcome(table, TUNNEL, if_id=7) == MISMATCH
    assert outcome(table, bound, if_id=8) == NO_POLICY
    assert outcome(policies(tmpl()), bound) == DELIVERED  # without an interface nobody asks


def test_ipv6_goes_the_same_way() -> None:
    six = policies(tmpl(daddr=B6, saddr=A6, family=AF_INET6), selector=EVERYTHING[AF_INET6])
    assert outcome(six, SIX, flow=INNER6) == DELIVERED
    assert outcome(six, flow=INNER6) == MISMATCH
    other = policies(tmpl(daddr=B6, saddr=B6, family=AF_INET6), selector=EVERYTHING[AF_INET6])
    assert outcome(other, SIX, flow=INNER6) == MISMATCH
    assert outcome(six) == Outcome.CLEAR  # and has no say over IPv4


def test_a_state_for_any_family_carries_both() -> None:
    any_family = state(flags=AF_UNSPEC_FLAG)
    table = policies(tmpl())
    table.add(PolicyConfig(IN, EVERYTHING[AF_INET6], (tmpl(),)), 0)
    assert outcome(table, any_family) == DELIVERED
    assert outcome(table, any_family, flow=INNER6) == DELIVERED


def both(sub: tuple[Template, ...], main: tuple[Template, ...], **main_more: Any) -> PolicyTable:
    table = policies(*main, **main_more)
    table.add(PolicyConfig(IN, EVERYTHING[AF_INET], sub, type=PolicyType.SUB), 0)
    return table


def test_an_allowing_sub_policy_adds_the_main_ones_templates() -> None:
    table = both((TRANSPORT_TMPL,), (tmpl(),))
    assert outcome(table, TUNNEL, TRANSPORT) == DELIVERED  # main's template is the outer one
    assert outcome(table, TRANSPORT) == MISMATCH
    assert outcome(table, TUNNEL) == MISMATCH


def test_either_policy_may_block() -> None:
    table = both((), (), action=Action.BLOCK)
    assert outcome(table) == Outcome.IN_POLICY_BLOCK
    table = policies()
    table.add(PolicyConfig(IN, EVERYTHING[AF_INET], action=Action.BLOCK, type=PolicyType.SUB), 0)
    assert outcome(table) == Outcome.IN_POLICY_BLOCK


def test_the_main_policy_behind_a_forwarding_sub_policy_is_the_one_of_direction_in() -> None:
    """Follows: __xfrm_policy_check, which expands with XFRM_POLICY_IN whatever the direction."""
    table = policies(tmpl(reqid=99), direction=FWD)
    table.add(PolicyConfig(FWD, EVERYTHING[AF_INET], (), type=PolicyType.SUB), 0)
    assert outcome(table, TUNNEL, direction=FWD) == MISMATCH  # no IN policy: nothing asks for the tunnel
    table.add(PolicyConfig(IN, EVERYTHING[AF_INET], (tmpl(),)), 0)
    assert outcome(table, TUNNEL, direction=FWD) == Outcome.FORWARDED


def test_six_templates_of_two_policies_are_too_many() -> None:
    assert outcome(both((tmpl(),) * 2, (tmpl(),) * 3), *[TUNNEL] * 5) == DELIVERED
    assert outcome(both((tmpl(),) * 3, (tmpl(),) * 3), *[TUNNEL] * 6) == Outcome.IN_TOO_MANY_TEMPLATES


def test_the_decision_names_the_policy_and_says_what_was_wrong() -> None:
    table = policies(tmpl(reqid=5, spi=0x77))
    decision = check(table, INNER, [TUNNEL], IN)
    assert isinstance(decision, Decision)
    assert decision.policy is not None
    assert decision.policy.config.templates == (tmpl(reqid=5, spi=0x77),)
    for words in ("0x00000077", "reqid 5", "0x00001000"):
        assert words in decision.detail
    assert "clear" in check(table, INNER, [], IN).detail
    assert "10.2.0.1" in check(table, INNER, [ELSEWHERE], IN).detail
