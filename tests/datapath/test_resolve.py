"""Which states an outgoing flow gets (xfrm-semantics 6.2-6.4, 12, 13)."""

from __future__ import annotations

from typing import Any

import pytest

from uxfrm.datapath.resolve import Resolution, resolve
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, Address, parse
from uxfrm.model.dump import LarvalConfig
from uxfrm.model.flow import Flow
from uxfrm.model.mark import Mark
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Action, DefaultAction, Direction, PolicyConfig, PolicyType
from uxfrm.model.selector import EVERYTHING, Selector
from uxfrm.model.state import AF_UNSPEC_FLAG, WILDRECV, LifeState, SaDir, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.tables.policies import PolicyTable
from uxfrm.tables.states import State, StateTable

A, B, C, ANY = (parse(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "0.0.0.0"))
A6, B6 = parse("2001:db8::1"), parse("2001:db8::2")
FLOW = Flow(parse("10.2.0.1"), parse("10.1.0.1"), 17, 5000, 53)
FLOW6 = Flow(parse("fd02::1"), parse("fd01::1"), 6, 5000, 443)
GCM = algo.aead("rfc4106(gcm(aes))", bytes(20), 128)
SHA1 = algo.auth("sha1", b"k")
OUT = Direction.OUT


class Host:
    """A policy and a state table."""

    def __init__(self, *templates: Template, **policy: Any) -> None:
        self.policies = PolicyTable()
        self.states = StateTable(seed=1)
        self.source: Address | None = None
        if templates or policy:
            self.policy(*templates, **policy)

    def policy(self, *templates: Template, selector: Selector = EVERYTHING[AF_INET], **more: Any) -> None:
        self.policies.add(PolicyConfig(OUT, selector, templates, **more), 0)

    def state(self, now: int = 100, dying: bool = False, **change: Any) -> State:
        fields: dict[str, Any] = {"daddr": B, "saddr": A, "spi": 1, "reqid": 1, "mode": Mode.TUNNEL}
        fields |= {"auth": SHA1} if change.get("proto") == 51 else {"aead": GCM}
        made = self.states.insert(StateConfig(**(fields | change)), LifeState.VALID, now)
        made.record["dying"] = dying
        return made

    def larval(self, **change: Any) -> State:
        fields: dict[str, Any] = {"daddr": B, "saddr": A, "proto": 50, "reqid": 1, "mode": Mode.TUNNEL}
        return self.states.insert(LarvalConfig(**(fields | change)), LifeState.ACQ, 100)

    def resolve(self, flow: Flow = FLOW, if_id: int = 0) -> Resolution:
        return resolve(self.policies, self.states, flow, lambda _: self.source, if_id)

    def outcome(self, flow: Flow = FLOW, if_id: int = 0) -> Outcome:
        return self.resolve(flow, if_id).decision.outcome


def tmpl(**change: Any) -> Template:
    fields: dict[str, Any] = {"daddr": B, "saddr": A, "family": AF_INET, "mode": Mode.TUNNEL, "reqid": 1}
    return Template(**(fields | change))


TRANSPORT = {"family": AF_INET, "mode": Mode.TRANSPORT, "daddr": ANY, "saddr": ANY}


# Without states.


def test_without_a_policy_the_default_decides() -> None:
    host = Host()
    assert host.outcome() == Outcome.CLEAR
    host.policies.set_default(0, 0, DefaultAction.BLOCK)
    assert host.outcome() == Outcome.OUT_DEFAULT_BLOCK
    host.policy()
    assert host.outcome() == Outcome.CLEAR_ALLOWED
    assert host.outcome(FLOW6) == Outcome.OUT_DEFAULT_BLOCK


def test_policies_of_other_directions_have_no_say() -> None:
    host = Host()
    for direction in (Direction.IN, Direction.FWD):
        host.policies.add(PolicyConfig(direction, EVERYTHING[AF_INET], (tmpl(),)), 0)
    assert host.outcome() == Outcome.CLEAR


def test_block() -> None:
    host = Host(action=Action.BLOCK)
    assert host.outcome() == Outcome.OUT_POLICY_BLOCK
    assert host.resolve().decision.policy is not None


def test_a_template_without_a_state_says_which() -> None:
    host = Host(tmpl(reqid=77))
    resolution = host.resolve()
    assert resolution.decision.outcome == Outcome.OUT_NO_STATE
    for words in ("77", "10.0.0.1", "10.0.0.2", "none"):
        assert words in resolution.decision.detail
    assert not resolution.settled  # a state may come


# The choice among states.


def test_the_newest_addition_wins_and_ties_go_to_the_last_inserted() -> None:
    host = Host(tmpl())
    old = host.state(now=100, spi=1)
    assert host.resolve().states == (old,)
    new = host.state(now=200, spi=2)
    assert host.resolve().states == (new,)
    host.state(now=150, spi=3)  # brought back with an older time: insertion alone does not decide
    assert host.resolve().states == (new,)
    tie = host.state(now=200, spi=4)
    assert host.resolve().states == (tie,)
    host.states.remove(tie)
    assert host.resolve().states == (new,)


def test_the_dying_lose_even_when_they_are_newer() -> None:
    host = Host(tmpl())
    old = host.state(now=100, spi=1)
    dying = host.state(now=200, spi=2, dying=True)
    assert host.resolve().states == (old,)
    host.states.remove(old)
    assert host.resolve().states == (dying,)
    newer = host.state(now=300, spi=3, dying=True)
    assert host.resolve().states == (newer,)


@pytest.mark.parametrize("life", [LifeState.EXPIRED, LifeState.DEAD, LifeState.ERROR, LifeState.VOID])
def test_only_valid_states_are_used(life: LifeState) -> None:
    host = Host(tmpl())
    host.state().record["life"] = life
    assert host.outcome() == Outcome.OUT_NO_STATE


MISFITS = [
    {"reqid": 2},
    {"reqid": 0},
    {"mode": Mode.TRANSPORT},
    {"mode": Mode.BEET},
    {"proto": 51},
    {"daddr": C},
    {"saddr": C},
    {"if_id": 5},
    {"flags": WILDRECV},
    {"mark": Mark(1, 1)},
    {"selector": Selector(AF_INET, FLOW.daddr, FLOW.saddr, 32, 32, dport=54, dport_mask=0xFFFF)},
    {"selector": Selector(AF_INET, A, B, 32, 32)},
    {"selector": EVERYTHING[AF_INET6]},
]


@pytest.mark.parametrize("change", MISFITS)
def test_a_state_that_does_not_fit_is_passed_over(change: dict[str, Any]) -> None:
    """Whether alone, or newer than one that fits."""
    host = Host(tmpl())
    host.state(now=200, spi=2, **change)
    assert host.outcome() == Outcome.OUT_NO_STATE
    fits = host.state(now=100)
    host.state(now=300, spi=3, **change)
    assert host.resolve().states == (fits,)


@pytest.mark.parametrize(
    "change",
    [
        {"selector": Selector(AF_INET, FLOW.daddr, FLOW.saddr, 32, 32, 53, 0xFFFF, 5000, 0xFFFF, 17)},
        {"flags": AF_UNSPEC_FLAG},
        {"direction": SaDir.OUT},
        {"mark": Mark(0, 0)},
    ],
)
def test_a_state_that_fits_is_used(change: dict[str, Any]) -> None:
    host = Host(tmpl())
    fits = host.state(**change)
    resolution = host.resolve()
    assert (resolution.decision.outcome, resolution.states) == (Outcome.PENDING, (fits,))
    assert resolution.settled


def test_a_fixed_spi_in_the_template_is_obeyed() -> None:
    host = Host(tmpl(spi=2))
    host.state(now=300, spi=1)
    assert host.outcome() == Outcome.OUT_NO_STATE
    wanted = host.state(now=100, spi=2)
    assert host.resolve().states == (wanted,)


def test_states_are_found_by_the_policys_mark_and_interface_not_the_packets() -> None:
    host = Host(tmpl(), mark=Mark(0x12, 0xFF))
    host.state(spi=1)  # marks 0/0 cover all
    marked = host.state(now=200, spi=2, mark=Mark(0x2, 0xF))
    host.state(now=300, spi=3, mark=Mark(0x3, 0xF))
    assert host.outcome() == Outcome.CLEAR  # the policy is not for mark 0
    assert host.resolve(FLOW._replace(mark=0xFF12)).states == (marked,)
    host = Host(tmpl(), if_id=5)
    host.state(now=300, spi=1)
    bound = host.state(spi=2, if_id=5)
    assert host.outcome() == Outcome.CLEAR
    assert host.resolve(if_id=5).states == (bound,)


def test_a_state_of_any_source_comes_second_however_new() -> None:
    host = Host(tmpl())
    wildcard = host.state(now=300, spi=1, saddr=ANY)
    assert host.resolve().states == (wildcard,)
    exact = host.state(now=100, spi=2)
    assert host.resolve().states == (exact,)
    host.states.remove(exact)
    host.larval()  # an acquire for the exact pair is waited for
    assert host.outcome() == Outcome.OUT_NO_STATE


def test_a_template_without_source_takes_the_one_of_the_route() -> None:
    host = Host(tmpl(saddr=ANY))
    routed = host.state(spi=2)
    assert host.outcome() == Outcome.OUT_NO_STATE
    host.source = A
    assert host.resolve().states == (routed,)


def test_a_state_for_input_is_not_used_and_not_skipped() -> None:
    """Follows: xfrm_tmpl_resolve_one, which judges the direction only of the state it has chosen."""
    host = Host(tmpl())
    host.state(now=100, spi=1)
    host.state(now=200, spi=2, direction=SaDir.IN)
    assert host.outcome() == Outcome.OUT_STATE_DIR


# Larval states.


def test_a_larval_state_means_waiting_whatever_its_selector() -> None:
    host = Host(tmpl())
    host.larval(selector=Selector(AF_INET, C, C, 32, 32))
    resolution = host.resolve()
    assert resolution.decision.outcome == Outcome.OUT_NO_STATE
    assert "negotiated" in resolution.decision.detail
    assert not resolution.settled
    valid = host.state()
    assert host.resolve().states == (valid,)


# Several templates.


def test_a_tunnels_endpoints_are_those_of_the_transport_around_it() -> None:
    host = Host(tmpl(), tmpl(proto=51, reqid=2, **TRANSPORT))
    tunnel = host.state()
    inside = host.state(proto=51, reqid=2, spi=9, mode=Mode.TRANSPORT, daddr=FLOW.daddr, saddr=FLOW.saddr)
    assert host.outcome() == Outcome.OUT_NO_STATE
    host.states.remove(inside)
    around = host.state(proto=51, reqid=2, spi=9, mode=Mode.TRANSPORT)
    assert host.resolve().states == (tunnel, around)


def test_the_first_transport_template_is_between_the_flows_own_addresses() -> None:
    host = Host(tmpl(**TRANSPORT))
    host.state(mode=Mode.TRANSPORT)
    assert host.outcome() == Outcome.OUT_NO_STATE
    ends = host.state(mode=Mode.TRANSPORT, spi=2, daddr=FLOW.daddr, saddr=FLOW.saddr)
    assert host.resolve().states == (ends,)


def test_level_use_is_skipped_without_a_state() -> None:
    comp = tmpl(reqid=2, optional=True, proto=51, **TRANSPORT)
    host = Host(comp)
    assert host.outcome() == Outcome.CLEAR_OPTIONAL
    assert not host.resolve().settled
    host = Host(comp, tmpl())
    assert host.outcome() == Outcome.OUT_NO_STATE
    tunnel = host.state()
    assert host.resolve().states == (tunnel,)
    inner = host.state(proto=51, reqid=2, spi=5, mode=Mode.TRANSPORT, daddr=FLOW.daddr, saddr=FLOW.saddr)
    assert host.resolve().states == (inner, tunnel)


def test_ipv6_and_mixed_families() -> None:
    six = tmpl(daddr=B6, saddr=A6, family=AF_INET6)
    host = Host(six, selector=EVERYTHING[AF_INET6])
    made = host.state(daddr=B6, saddr=A6, family=AF_INET6)
    assert host.resolve(FLOW6).states == (made,)
    assert host.outcome() == Outcome.CLEAR
    host = Host(six)  # IPv4 in IPv6
    made = host.state(daddr=B6, saddr=A6, family=AF_INET6, selector=EVERYTHING[AF_INET])
    assert host.resolve().states == (made,)


# Sub policies.


def test_an_allowing_sub_policy_is_followed_by_the_main_one() -> None:
    host = Host(tmpl(reqid=2, saddr=C, daddr=B))
    host.policy(tmpl(), type=PolicyType.SUB)
    inner, outer = host.state(), host.state(reqid=2, saddr=C, spi=2)
    assert host.resolve().states == (inner, outer)


@pytest.mark.parametrize("blocking", list(PolicyType))
def test_either_policy_may_block(blocking: PolicyType) -> None:
    host = Host()
    for kind in PolicyType:
        host.policy(type=kind, action=Action.BLOCK if kind == blocking else Action.ALLOW)
    assert host.outcome() == Outcome.OUT_POLICY_BLOCK


def test_six_templates_of_two_policies_are_too_many() -> None:
    host = Host(*[tmpl()] * 3)
    host.policy(*[tmpl()] * 2, type=PolicyType.SUB)
    made = host.state()
    assert host.resolve().states == (made,) * 5
    host = Host(*[tmpl()] * 3)
    host.policy(*[tmpl()] * 3, type=PolicyType.SUB)
    host.state()
    assert host.outcome() == Outcome.OUT_POLICY_ERROR
