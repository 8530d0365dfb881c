"""What long runs of tests/test_machine.py and bench/soak.py found wrong."""

from __future__ import annotations

import gc

from test_namespace import B, datagram, expiries, namespace, outcomes, policy, state, template
from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.events import Acquire, Event
from uxfrm.model.dump import StateId
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction
from uxfrm.tables.states import State


def test_limits_that_a_request_sets_in_the_past_pass_at_once() -> None:
    """The soft one, passed as well, is not told before the hard one."""
    ns = namespace(state())
    told = expiries(ns)
    ns.advance(1100)
    ns.update_state(state(lifetime=LifetimeConfig(soft_add=5, hard_add=9)))
    ns.advance(1101)
    assert [event.hard for event in told] == [True]


def test_a_limit_that_is_met_before_any_use_is_a_use() -> None:
    """xfrm-semantics 4.2: use_time is set when limits are first looked at."""
    ns = namespace(state(lifetime=LifetimeConfig(hard_packet=0)), policy(Direction.OUT, template()))
    told = expiries(ns)
    batch = Batch.pack([datagram()], 1000)
    ns.output(batch)
    assert outcomes(batch) == [Outcome.OUT_EXPIRED]
    assert [(event.hard, event.state.current.use_time) for event in told] == [(True, 1000)]


def _states() -> int:
    """How many states there are in the whole process."""
    gc.collect()
    return sum(type(thing) is State for thing in gc.get_objects())


def test_a_key_manager_that_comes_later_is_asked_for_flows_that_found_none() -> None:
    ns = namespace(policy(Direction.OUT, template()))
    for listening in (False, True):
        asked: list[Event] = []
        if listening:
            ns.listen(asked.append)
        batch = Batch.pack([datagram()], 1000)
        ns.output(batch)
        assert outcomes(batch) == [Outcome.OUT_NO_STATE]
    assert [type(event) for event in asked] == [Acquire]


def test_states_that_go_without_packets_leave_nothing_behind() -> None:
    """Only packets made the data path forget states that had gone."""
    ns = namespace()
    before = _states()
    for _ in range(6_000):
        ns.add_state(state())
        ns.delete_state(StateId(B, 0x1000, 50, 2))
    assert _states() - before < 5_000
