"""Limits of states and policies: bytes, packets, seconds since they came and since their first use."""

from __future__ import annotations

from linux.hosts import Host, sealed_by
from linux.scenarios import ENDS, ENDS_IN, FLOW, FLOW_IN, POLICY, POLICY_IN, TEMPLATE, scenario, state
from uxfrm.model.address import parse
from uxfrm.model.dump import PolicyId, StateId
from uxfrm.model.policy import Direction

OUT_1 = StateId(parse("10.0.0.1"), 0x1, 50, 2)


@scenario("hard 0", "hard 1")
def bytes_soft_then_hard(host: Host) -> None:
    host.listen()
    host.ip(state(1, "limit byte-soft 80 limit byte-hard 150"), POLICY)
    for _ in range(6):
        host.send()


@scenario("hard 0", "hard 1")
def packets_soft_then_hard_in_one_burst(host: Host) -> None:
    host.listen()
    host.ip(state(1, "limit packet-soft 2 limit packet-hard 4"), POLICY)
    host.send(5)
    host.send(2)


@scenario("hard 1")
def hard_limit_in_a_burst_that_arrives(host: Host) -> None:
    host.listen()
    peer = sealed_by(state(1, ends=ENDS_IN), POLICY_IN.replace("dir in", "dir out"))
    host.ip(state(1, "limit packet-hard 3 limit packet-soft 2", ENDS_IN), POLICY_IN)
    host.receive(peer(*(b"%d" % i for i in range(4))))
    host.receive(peer(b"late"))


@scenario("hard 0")
def soft_limit_of_what_arrives(host: Host) -> None:
    host.listen()
    peer = sealed_by(state(1, ends=ENDS_IN), POLICY_IN.replace("dir in", "dir out"))
    host.ip(state(1, "limit byte-soft 100", ENDS_IN), POLICY_IN)
    for i in range(4):
        host.receive(peer(b"%d" % i))


@scenario("hard 0", "hard 1")
def seconds_since_added(host: Host) -> None:
    host.listen()
    host.ip(state(1, "limit time-soft 1 limit time-hard 3"), POLICY)
    host.send()
    host.wait(1)
    host.send()
    host.wait(1)
    host.tables()
    host.wait(1)
    host.send()


@scenario("hard 0", "hard 1")
def seconds_since_first_used(host: Host) -> None:
    host.listen()
    host.ip(state(1, "limit time-use-soft 1 limit time-use-hard 2"), POLICY)
    host.wait(1)
    host.send()
    for _ in range(3):
        host.wait(1)
        host.send()


@scenario("hard 0", "hard 1")
def states_expired_by_a_key_manager(host: Host) -> None:
    host.listen()
    host.ip(state(1), POLICY)
    host.ask(lambda: host.client.expire_state(OUT_1, hard=False))
    host.send()
    host.ask(lambda: host.client.expire_state(OUT_1, hard=True))
    host.send()
    host.ask(lambda: host.client.expire_state(OUT_1, hard=True))


@scenario("hard 0", "hard 1", "clear")
def policies_expire(host: Host) -> None:
    host.listen()
    host.ip(state(1), f"{POLICY} limit time-soft 1 limit time-hard 2")
    host.send()
    host.wait(1)
    host.send()
    host.wait(1)
    host.send()


@scenario("hard 1")
def policies_expire_by_their_use(host: Host) -> None:
    host.listen()
    host.ip(f"{POLICY} limit time-use-soft 1 limit time-use-hard 2", state(1))
    host.send()
    host.wait(1)
    host.send()
    host.wait(2)
    host.wait(1)
    host.send()


@scenario("hard 1")
def a_policy_that_nobody_uses_expires_by_its_use(host: Host) -> None:
    host.listen()
    host.ip(f"xfrm policy add {FLOW_IN} dir in limit time-use-hard 1")
    host.wait(1)


@scenario("hard 1", "clear")
def policies_expired_by_a_key_manager(host: Host) -> None:
    host.listen()
    host.ip(state(1), POLICY)
    host.send()
    policy = next(iter(host.client.dump_policies())).config
    identity = PolicyId(Direction.OUT, policy.selector)
    host.ask(lambda: host.client.expire_policy(identity, hard=False))
    host.send()
    host.ask(lambda: host.client.expire_policy(identity, hard=True))
    host.send()
    host.ask(lambda: host.client.expire_policy(identity, hard=True))


@scenario("hard 1")
def a_state_ends_while_another_is_there(host: Host) -> None:
    """The flow goes over without a packet lost."""
    host.listen()
    host.ip(state(1, "limit packet-hard 3"), state(2), POLICY)
    host.send(2)
    host.ip(f"xfrm state delete {ENDS} spi 2")
    host.send(4)
    host.send()
    host.ip(state(3))
    host.send(2)


@scenario("hard 0")
def limits_given_by_an_update(host: Host) -> None:
    host.listen()
    host.ip(state(1), POLICY)
    host.send(3)
    host.ip(state(1, "limit packet-soft 4 limit packet-hard 6", do="update"))
    host.send()
    host.send()
    host.send(2)
    host.send()


@scenario("hard 1")
def a_policy_update_begins_its_time_anew(host: Host) -> None:
    host.listen()
    host.ip(f"{POLICY} limit time-hard 2", state(1))
    host.wait(1)
    host.ip(f"xfrm policy update {FLOW} dir out {TEMPLATE} limit time-hard 2")
    host.wait(1)
    host.send()
    host.wait(1)
    host.send()
    host.wait(1)
    host.send()
