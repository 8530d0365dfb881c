"""Corner cases of requests, limits and lookups that an early reading of the code found wrong."""

import pytest

from uxfrm import compiled
from uxfrm.datapath.policycheck import check
from uxfrm.datapath.resolve import resolve
from uxfrm.lifecycle.database import StateDatabase
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.dump import LarvalConfig
from uxfrm.model.error import XfrmError
from uxfrm.model.flow import Flow
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.mark import Mark
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction, Offload, PolicyConfig, PolicyType
from uxfrm.model.selector import EVERYTHING, Selector
from uxfrm.model.state import Encap, LifeState, Rare, ReplayEsn, SaDir, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.tables.policies import PolicyTable
from uxfrm.tables.states import StateTable

compiled.ready()
A, B = parse("10.0.0.1"), parse("10.0.0.2")
A6, B6 = parse("2001:db8::1"), parse("2001:db8::2")
GCM = algo.aead("rfc4106(gcm(aes))", bytes(20), 128)
SHA1 = algo.auth("sha1", b"")
FLOW, FLOW6 = Flow(B, A, 17, 1, 2), Flow(B6, A6, 17, 1, 2)


def sad():
    events = []
    table = StateTable(1)
    db = StateDatabase(table, lambda n: bytes(n), lambda s: None, lambda s: None, events.append)
    return db, table, events


def config(**more):
    return StateConfig(**({"daddr": B, "saddr": A, "spi": 1, "reqid": 1, "aead": GCM} | more))


# one jump over soft and hard loses the soft event.
def test_one_jump_gives_the_same_events_as_second_by_second():
    db, _, events = sad()
    db.add(config(lifetime=LifetimeConfig(soft_add=10, hard_add=20)), 100)
    db.advance(1000)
    assert [e.hard for e in events] == [False, True]


# UPDSA of a live state must have the same dir, also when the request has none (3.4: "dir must be equal").
@pytest.mark.parametrize(("old", "new"), [(SaDir.IN, SaDir.UNSET), (SaDir.OUT, SaDir.UNSET)])
def test_update_without_direction_of_a_directed_state(old, new):
    db, _, _ = sad()
    db.add(config(direction=old), 0)
    with pytest.raises(XfrmError, match="ESRCH"):
        db.update(config(direction=new), 0)


# UPDSA checks byte/packet limits at once when the state was used (3.4, xfrm_state_check_expire).
def test_update_below_the_counters_expires_at_once():
    db, _, _ = sad()
    state = db.add(config(), 0)
    state.record["packets"], state.record["use_time"] = 10, 5
    db.update(config(lifetime=LifetimeConfig(hard_packet=5)), 6)
    assert state.life in (LifeState.EXPIRED, LifeState.DEAD)


# ALLOCSPI min = max = 0 must be ENOENT: 0 is never used (3.6.3).
def test_allocspi_of_zero():
    db, _, _ = sad()
    with pytest.raises(XfrmError, match="No SPI available"):
        db.alloc_spi(LarvalConfig(B, A, 50), 0, 0, 0)


# ALLOCSPI on a waiting acquire must keep its add_time: it expires 30 s after the acquire.
def test_allocspi_keeps_the_age_of_the_acquire():
    db, table, events = sad()
    waiting = table.insert(LarvalConfig(B, A, 50, reqid=1, hard_add=30), LifeState.ACQ, 100)
    db.timers.arm(waiting)
    db.alloc_spi(LarvalConfig(B, A, 50, reqid=1), 7, 7, 120)
    db.advance(130)
    assert [e.hard for e in events] == [True]


# larval lookup by sequence ignores the mark; larval lookup by what was asked compares marks exactly,
# the kernel asks (mark & x.m) == x.v.
def test_by_sequence_the_mark_counts():
    db, table, _ = sad()
    table.insert(LarvalConfig(B, B, 50, seq=5, mark=Mark(1, 1)), LifeState.ACQ, 0)
    db.add(config(seq=5), 0)  # mark 0: 0 & 1 != 1
    assert len(table) == 2


def test_a_larval_state_without_mark_is_completed_by_a_marked_one():
    db, table, _ = sad()
    waiting = table.insert(LarvalConfig(B, A, 50, reqid=1), LifeState.ACQ, 0)
    db.add(config(mark=Mark(5, 0xFF)), 0)
    assert waiting.row < 0


# every update pushes another heap entry that lives as long as the deadline.
def test_updates_do_not_pile_up_deadlines():
    db, _, _ = sad()
    limits = LifetimeConfig(soft_add=10**6, hard_add=10**7)
    db.add(config(lifetime=limits), 0)
    for _ in range(1000):
        db.update(config(lifetime=limits), 0)
    assert len(db.timers) < 100


# 6.7.6 "Sum of templates >= 6 -> XfrmInBufferError" holds for one policy too
# (__xfrm_policy_check: ti + xfrm_nr >= XFRM_MAX_DEPTH with ti = 0); likewise xfrm_tmpl_resolve -> ENOBUFS.
def six_templates(direction):
    policies = PolicyTable()
    tmpl = Template(B, A, family=AF_INET, mode=Mode.TUNNEL, reqid=1)
    policies.add(PolicyConfig(direction, EVERYTHING[AF_INET], (tmpl,) * 6), 0)
    table = StateTable(1)
    state = table.insert(config(mode=Mode.TUNNEL), LifeState.VALID, 0)
    return policies, table, state


def test_six_templates_of_one_policy_on_input():
    policies, _, state = six_templates(Direction.IN)
    assert check(policies, FLOW, [state] * 6, Direction.IN).outcome == Outcome.IN_TOO_MANY_TEMPLATES


def test_six_templates_of_one_policy_on_output():
    policies, table, _ = six_templates(Direction.OUT)
    found = resolve(policies, table, FLOW, lambda _: None)
    assert found.decision.outcome == Outcome.OUT_POLICY_ERROR


# on output only states found count, not templates (cnx): sub with an unused optional + 5 main is fine.
def test_skipped_templates_do_not_count():
    policies, table = PolicyTable(), StateTable(1)
    tmpl = Template(B, A, family=AF_INET, mode=Mode.TUNNEL, reqid=1)
    use = Template(family=AF_INET, reqid=9, optional=True)
    policies.add(PolicyConfig(Direction.OUT, EVERYTHING[AF_INET], (use,), type=PolicyType.SUB), 0)
    policies.add(PolicyConfig(Direction.OUT, EVERYTHING[AF_INET], (tmpl,) * 5), 0)
    table.insert(config(mode=Mode.TUNNEL), LifeState.VALID, 0)
    found = resolve(policies, table, FLOW, lambda _: None)
    assert len(found.states) == 5


# IPv6 sub + main: found states are re-sorted (6.4): transport non-AH, transport AH, tunnels.
def test_ipv6_states_of_two_policies_are_sorted():
    policies, table = PolicyTable(), StateTable(1)
    six = EVERYTHING[AF_INET6]
    ah = Template(bytes(16), bytes(16), proto=51, family=AF_INET6, reqid=1)
    esp = Template(bytes(16), bytes(16), proto=50, family=AF_INET6, reqid=2)
    policies.add(PolicyConfig(Direction.OUT, six, (ah,), type=PolicyType.SUB), 0)
    policies.add(PolicyConfig(Direction.OUT, six, (esp,)), 0)
    ends = {"daddr": B6, "saddr": A6, "family": AF_INET6}
    a = table.insert(StateConfig(**ends, proto=51, spi=1, reqid=1, auth=SHA1), LifeState.VALID, 0)
    e = table.insert(StateConfig(**ends, spi=2, reqid=2, aead=GCM), LifeState.VALID, 0)
    assert resolve(policies, table, FLOW6, lambda _: None).states == (e, a)


# checks of 3.2 that are missing: keepalive, offload.
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rare": Rare(nat_keepalive=20)}, "NAT keepalive is only supported for outbound SAs"),
        (
            {"rare": Rare(nat_keepalive=20), "direction": SaDir.OUT},
            "NAT keepalive is only supported for UDP encapsulation",
        ),
        (
            {"rare": Rare(nat_keepalive=20), "direction": SaDir.OUT, "encap": Encap(7, 1, 2)},
            "NAT keepalive is only supported for UDP encapsulation",
        ),
        ({"rare": Rare(offload=Offload(2, 8))}, "Unrecognized flags in offload request"),
    ],
)
def test_missing_checks(more, words):
    with pytest.raises(XfrmError) as caught:
        config(**more)
    assert caught.value.text == words


# the legacy window is capped at 32 in the table but not in the configuration that dumps show (3.2).
def test_a_legacy_window_is_reported_as_what_it_is():
    table = StateTable(1)
    state = table.insert(config(replay_window=64), LifeState.VALID, 0)
    assert state.dump().config.replay_window == 32


# an IPv6 state with a partly given selector gets IPv4's any address and matches nothing.
def test_a_partial_selector_of_an_ipv6_state():
    six = config(daddr=B6, saddr=A6, family=AF_INET6, selector=Selector(proto=17))
    assert six.selector.matches(FLOW6)


# Template() has family 0, which is the policy's (3.8), but PolicyConfig does not fill it in.
def test_a_template_without_family_has_the_policys():
    made = PolicyConfig(Direction.OUT, EVERYTHING[AF_INET], (Template(B, A, mode=Mode.TUNNEL),))
    assert made.templates[0].family == AF_INET


# a bitmap longer than `words` is written over the neighbour's window.
def test_a_long_bitmap_stays_in_its_words():
    table = StateTable(1)
    a = table.insert(config(spi=1, replay_esn=ReplayEsn(1, 32)), LifeState.VALID, 0)
    b = table.insert(config(spi=2, replay_esn=ReplayEsn(1, 32)), LifeState.VALID, 0)
    table.remove(a)
    try:
        table.insert(config(spi=1, replay_esn=ReplayEsn(1, 32, bitmap=(1, 0xDEAD))), LifeState.VALID, 0)
    except XfrmError:
        return
    assert b.dump().replay.bitmap == (0,)
