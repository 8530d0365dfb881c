"""Packets of sockets that have policies of their own; what Linux does with each is in tests/netlink."""

from __future__ import annotations

import pytest

from test_namespace import datagram, namespace, outcomes, policy, sender, template
from uxfrm.datapath.batch import Batch
from uxfrm.model.error import XfrmError
from uxfrm.model.mark import Mark
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Action, Direction, PolicyType
from uxfrm.namespace import Namespace

AF_INET = 2
BLOCK = policy(Direction.OUT, action=Action.BLOCK)
BYPASS = policy(Direction.OUT)
BLOCKED, ALLOWED = Outcome.OUT_POLICY_BLOCK, Outcome.CLEAR_ALLOWED


def sent(ns: Namespace, *sockets: int) -> list[Outcome]:
    """What becomes of one and the same datagram of several sockets, in one batch."""
    batch = Batch.pack([datagram()] * len(sockets), ns.now_s)
    batch.packets["socket"] = sockets
    ns.output(batch)
    return outcomes(batch)


def test_packets_that_are_alike_go_by_their_own_socket() -> None:
    ns = namespace(BLOCK)
    free, same, without = (ns.open_socket(AF_INET) for _ in range(3))
    free.set_policy(BYPASS)
    same.set_policy(BLOCK)
    order = [free.number, same.number, without.number, 0, free.number, 999]
    expected = [ALLOWED, BLOCKED, BLOCKED, BLOCKED, ALLOWED, BLOCKED]
    assert sent(ns, *order) == expected
    assert sent(ns, *order) == expected


def test_every_change_is_felt_by_the_flows_next_packet() -> None:
    ns = namespace(BLOCK)
    own = ns.open_socket(AF_INET)
    found = []
    for config in (BYPASS, BLOCK, BYPASS, None, BYPASS):
        own.clear() if config is None else own.set_policy(config)
        found += sent(ns, own.number)
    assert found == [ALLOWED, BLOCKED, ALLOWED, BLOCKED, ALLOWED]
    own.close()
    assert sent(ns, own.number) == [BLOCKED]
    assert ns.open_socket(AF_INET).number == own.number
    assert sent(ns, own.number) == [BLOCKED]


def test_many_changes_of_one_flow_leave_the_flow_table_small() -> None:
    ns = namespace()
    own = ns.open_socket(AF_INET)
    for _ in range(3000):
        own.set_policy(BYPASS)
        sent(ns, own.number)
    hits = ns.path.flows.hits
    sent(ns, own.number)
    assert ns.path.flows.hits == hits + 1
    assert len(ns.policies) == 1


def test_a_state_protects_what_a_sockets_policy_asks_for() -> None:
    ns = sender()
    ns.flush_policies()
    own = ns.open_socket(AF_INET)
    own.set_policy(policy(Direction.OUT, template()))
    assert sent(ns, own.number, 0) == [Outcome.SENT, Outcome.CLEAR]
    own.set_policy(policy(Direction.OUT, template(reqid=9)))
    assert sent(ns, own.number) == [Outcome.OUT_SOCKET_NO_STATE]
    assert ns.counters() == [0] * len(ns.counters())


@pytest.mark.parametrize(
    "changes", [{"type": PolicyType.SUB}, {"mark": Mark(1, 1)}, {"if_id": 1}, {"direction": Direction.FWD}]
)
def test_what_no_option_can_say_is_refused(changes: dict[str, object]) -> None:
    own = namespace().open_socket(AF_INET)
    with pytest.raises(XfrmError):
        own.set_policy(policy(changes.pop("direction", Direction.OUT), **changes))  # type: ignore[arg-type]
