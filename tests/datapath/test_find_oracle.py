"""The search for a template's state, against plain loops over all states (xfrm-semantics 6.4)."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uxfrm.datapath.resolve import find
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.dump import LarvalConfig
from uxfrm.model.flow import Flow
from uxfrm.model.mark import Mark
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import ANYTHING, EVERYTHING, Selector
from uxfrm.model.state import WILDRECV, LifeState, Rare, SaDir, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.tables.policies import Policy, PolicyTable
from uxfrm.tables.states import State, StateTable

A, B, C, ANY = (parse(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "0.0.0.0"))
FLOW = Flow(parse("10.2.0.1"), parse("10.1.0.1"), 17, 5000, 53)
GCM = algo.aead("rfc4106(gcm(aes))", bytes(20), 128)
SHA1 = algo.auth("sha1", b"k")
HERE, ELSEWHERE = 1, 0

SELECTORS = [
    ANYTHING,
    EVERYTHING[AF_INET],
    Selector(AF_INET, FLOW.daddr, FLOW.saddr, 32, 32, 53, 0xFFFF, 5000, 0xFFFF, 17),
    Selector(AF_INET, A, B, 32, 32),
    EVERYTHING[AF_INET6],
]
LIVES = [LifeState.VALID] * 4 + [LifeState.ACQ, LifeState.ERROR, LifeState.EXPIRED]


class Wanted(NamedTuple):
    """What a state is looked for by."""

    daddr: bytes
    saddr: bytes
    template: Template
    policy: Policy


class Planned(NamedTuple):
    """A state to be."""

    fields: dict[str, Any]
    life: LifeState
    selector: Selector
    flags: int
    pcpu: int | None
    added: int
    dying: bool


def mostly(value: Any, *others: Any) -> st.SearchStrategy[Any]:
    """Most states fit in most respects, or there would be nothing to choose between."""
    return st.sampled_from([value] * 8 + list(others))


FIELDS = st.fixed_dictionaries(
    {
        "daddr": mostly(B, C, ANY),
        "saddr": mostly(A, C, ANY, ANY, ANY),
        "reqid": mostly(1, 0, 2),
        "mode": mostly(Mode.TUNNEL, Mode.BEET),
        "proto": mostly(50, 51),
        "spi": st.sampled_from([0, 1, 2]),
        "mark": mostly(Mark(0, 0), Mark(1, 1), Mark(2, 2), Mark(1, 3)),
        "if_id": mostly(0, 5),
    }
)
STATES = st.lists(
    st.builds(
        Planned,
        FIELDS,
        st.sampled_from(LIVES),
        st.sampled_from(SELECTORS),
        mostly(0, WILDRECV),
        st.sampled_from([None, None, HERE, ELSEWHERE]),
        st.sampled_from([100, 101, 102]),
        st.booleans(),
    ),
    max_size=8,
)


def _insert(table: StateTable, planned: Planned) -> State:
    f, pcpu = planned.fields, planned.pcpu
    if planned.life == LifeState.ACQ:
        return table.insert(LarvalConfig(**f, pcpu=pcpu, selector=planned.selector), LifeState.ACQ, 100)
    keys: dict[str, Any] = {"auth": SHA1} if f["proto"] == 51 else {"aead": GCM}
    out = SaDir.OUT if pcpu is not None else SaDir.UNSET
    flags = 0 if out else planned.flags
    config = StateConfig(
        **f, **keys, selector=planned.selector, flags=flags, direction=out, rare=Rare(pcpu=pcpu)
    )
    state = table.insert(config, LifeState.VALID, planned.added)
    state.record["life"], state.record["dying"] = planned.life, planned.dying
    return state


def _fits(state: State, saddr: bytes, wanted: Wanted) -> bool:
    x, t, p = state.config, wanted.template, wanted.policy.config
    wild = isinstance(x, StateConfig) and x.flags & WILDRECV
    ends = (x.family, x.daddr, x.saddr, x.reqid) == (t.family, wanted.daddr, saddr, t.reqid)
    spi = t.spi in (0, x.spi)
    mark = p.mark.v & p.mark.m & x.mark.m == x.mark.v
    return ends and (x.mode, x.proto, x.if_id) == (t.mode, t.proto, p.if_id) and spi and mark and not wild


def _selector_of(state: State) -> bool:
    selector = state.config.selector if isinstance(state.config, StateConfig) else None
    return selector is None or selector.family == 0 or selector.matches(FLOW)


def _beats(x: State, best: State, cpu: int) -> bool:
    """The three ways in which a state is better than the best of those before it."""
    for_us = best.config.cpu is None and x.config.cpu == cpu
    healthier = best.dying and not x.dying
    newer = best.dying == x.dying and bool(best.record["add_time"] < x.record["add_time"])
    return for_us or healthier or newer


def oracle(states: list[State], wanted: Wanted, cpu: int) -> tuple[State | None, bool, bool]:
    """The best state, whether an acquire is under way, whether one failed; `states` are newest first."""
    best: State | None = None
    pending = failed = False
    for saddr in (wanted.saddr, ANY):
        for x in states:
            if not _fits(x, saddr, wanted):
                continue
            bound = x.config.cpu
            if x.life == LifeState.VALID:
                if not _selector_of(x) or bound not in (None, cpu):
                    continue
                if best is None or _beats(x, best, cpu):
                    best = x
            elif x.life == LifeState.ACQ:
                pending = pending or best is None or bound == cpu
            elif x.life in (LifeState.ERROR, LifeState.EXPIRED):
                failed = failed or _selector_of(x)
        if best is not None or pending:
            break
    return best, pending, failed


@given(
    planned=STATES,
    daddr=mostly(B, C, ANY),
    saddr=mostly(A, C, ANY),
    spi=mostly(0, 1, 2),
    mark=mostly(Mark(0, 0), Mark(1, 1), Mark(3, 3)),
    if_id=mostly(0, 5),
    gone=st.sets(st.integers(0, 7), max_size=2),
)
def test_the_state_found_is_the_oracles(
    planned: list[Planned], daddr: bytes, saddr: bytes, spi: int, mark: Mark, if_id: int, gone: set[int]
) -> None:
    table, policies = StateTable(seed=3), PolicyTable()
    made = [_insert(table, each) for each in planned]
    for index in sorted(gone):
        if index < len(made):
            table.remove(made[index])
    live = [state for state in reversed(made) if state.row >= 0]
    template = Template(daddr, saddr, spi, 50, AF_INET, 1, Mode.TUNNEL)
    config = PolicyConfig(Direction.OUT, EVERYTHING[AF_INET], (template,), mark=mark, if_id=if_id)
    wanted = Wanted(daddr, saddr, template, policies.add(config, 0))
    for cpu in (HERE, ELSEWHERE, 7):
        found = find(table, daddr, saddr, FLOW, template, wanted.policy, cpu)
        assert tuple(found) == oracle(live, wanted, cpu)


@pytest.mark.compiled
def test_among_thousands_of_states_of_the_same_endpoints() -> None:
    table, policies = StateTable(seed=3), PolicyTable()
    template = Template(B, A, 0, 50, AF_INET, 1, Mode.TUNNEL)
    policy = policies.add(PolicyConfig(Direction.OUT, EVERYTHING[AF_INET], (template,)), 0)
    made = [table.insert(_config(spi), LifeState.VALID, spi) for spi in range(1, 3001)]
    while made:
        newest = made.pop()
        assert find(table, B, A, FLOW, template, policy).best is newest
        table.remove(newest)
    assert find(table, B, A, FLOW, template, policy).best is None


def _config(spi: int) -> StateConfig:
    return StateConfig(B, A, spi=spi, reqid=1, mode=Mode.TUNNEL, aead=GCM)
