"""The policy table, case by case (xfrm-semantics 3.8-3.10, 6.2, 12, 13)."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.counts import HASH_MAX, SpdInfo, Thresholds
from uxfrm.model.dump import PolicyDump, PolicyId
from uxfrm.model.error import XfrmError
from uxfrm.model.flow import Flow
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.mark import Mark
from uxfrm.model.policy import Action, DefaultAction, Direction, PolicyConfig, PolicyType, SecurityContext
from uxfrm.model.selector import Selector
from uxfrm.model.template import Template
from uxfrm.tables.policies import PolicyTable

IN, OUT, FWD = Direction.IN, Direction.OUT, Direction.FWD


def selector(dst: str = "0.0.0.0/0", src: str = "0.0.0.0/0", **more: int) -> Selector:
    daddr, length_d = dst.split("/")
    saddr, length_s = src.split("/")
    family = AF_INET6 if ":" in dst else AF_INET
    return Selector(family, parse(daddr), parse(saddr), int(length_d), int(length_s), **more)


def policy(dst: str = "0.0.0.0/0", src: str = "0.0.0.0/0", **more: Any) -> PolicyConfig:
    """A configuration; what is no field of Selector goes to PolicyConfig."""
    fields = {k: more.pop(k) for k in tuple(more) if k in Selector.__slots__}
    return PolicyConfig(more.pop("direction", OUT), selector(dst, src, **fields), **more)


def flow(dst: str = "10.0.0.2", src: str = "10.0.0.1", *more: int, **named: int) -> Flow:
    return Flow(parse(dst), parse(src), *more, **named)


def name(config: PolicyConfig, **more: Any) -> PolicyId:
    """The id that names `config` by its selector."""
    fields: dict[str, Any] = {
        "direction": config.direction,
        "selector": config.selector,
        "type": config.type,
        "mark": config.mark,
        "if_id": config.if_id,
        "context": config.context,
    }
    return PolicyId(**(fields | more))


def refused(number: int) -> Any:
    return pytest.raises(XfrmError, match=errno.errorcode[number])


# Indexes.


def test_a_fresh_table_numbers_as_the_kernel() -> None:
    table = PolicyTable()
    dirs = (IN, OUT, FWD, IN)
    made = [table.add(policy(f"10.0.0.{n}/32", direction=d), 0) for n, d in enumerate(dirs)]
    assert [p.index for p in made] == [8, 9, 18, 24]
    assert [p.config.index for p in made] == [8, 9, 18, 24]


def test_index_0_becomes_8_and_used_indexes_are_skipped() -> None:
    table = PolicyTable()
    made = [table.add(policy(f"10.0.0.{n}/32", direction=IN), 0).index for n in range(3)]
    assert made == [8, 16, 24]


def test_a_requested_index_is_kept_if_free_and_moves_no_generator() -> None:
    table = PolicyTable()
    assert table.add(policy("10.0.0.1/32", index=4001), 0).index == 4001
    assert table.add(policy("10.0.0.2/32", index=4001), 0).index == 1
    assert table.add(policy("10.0.0.3/32"), 0).index == 9


def test_a_generated_index_avoids_a_requested_one() -> None:
    table = PolicyTable()
    table.add(policy("10.0.0.1/32", index=9), 0)
    assert [table.add(policy(f"10.0.1.{n}/32"), 0).index for n in range(2)] == [1, 17]


def test_a_freed_index_is_not_generated_again() -> None:
    table = PolicyTable()
    table.remove(table.add(policy(), 0))
    assert table.add(policy(), 0).index == 9


def test_the_generator_wraps_at_32_bits() -> None:
    table = PolicyTable()
    table._index_generator = 0xFFFFFFF8
    made = [table.add(policy(f"10.0.0.{n}/32", direction=IN), 0).index for n in range(3)]
    assert made == [0xFFFFFFF8, 8, 16]


# Identity.

SAME = policy("10.0.0.0/24", "10.1.0.0/16", proto=17, dport=53, dport_mask=0xFFFF, mark=Mark(1, 3))


@pytest.mark.parametrize(
    "other",
    [
        policy(
            "10.0.0.0/24", "10.1.0.0/16", proto=17, dport=53, dport_mask=0xFFFF, mark=Mark(1, 3), priority=9
        ),
        policy("10.0.0.0/24", "10.1.0.0/16", proto=17, dport=53, dport_mask=0xFFFF, mark=Mark(1, 3), flags=2),
        policy(
            "10.0.0.0/24", "10.1.0.0/16", proto=17, dport=53, dport_mask=0xFFFF, mark=Mark(1, 3), index=801
        ),
    ],
)
def test_identical_policies_are_refused(other: PolicyConfig) -> None:
    table = PolicyTable()
    table.add(SAME, 0)
    generation = table.generation
    with refused(errno.EEXIST):
        table.add(other, 0)
    assert (len(table), table.generation) == (1, generation)


@pytest.mark.parametrize(
    "change",
    [
        {"direction": IN},
        {"type": PolicyType.SUB},
        {"if_id": 7},
        {"mark": Mark(1, 1)},
        {"mark": Mark(0, 3)},
        {"context": SecurityContext(1, 1, "label")},
        {"user": 1000},
        {"ifindex": 2},
        {"dst": "10.0.0.1/24"},
        {"sport": 1},
        {"dport_mask": 0xFFF0},
    ],
)
def test_any_difference_makes_another_policy(change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"dst": "10.0.0.0/24", "src": "10.1.0.0/16", "proto": 17, "dport": 53}
    fields |= {"dport_mask": 0xFFFF, "mark": Mark(1, 3)}
    table = PolicyTable()
    table.add(policy(**fields), 0)
    other = policy(**(fields | change))
    added = table.add(other, 0)
    assert table.get(name(other)) is added
    assert table.delete(name(other)) is added
    assert len(table) == 1


# Update, delete, get, flush, dump.


def test_an_update_stays_before_others_of_its_list_at_the_same_priority() -> None:
    """Linux 6.18: both are "any destination, any source" to the kernel; only another priority moves it."""
    table = PolicyTable()
    table.add(policy("10.0.0.0/8", priority=5), 0)
    second = table.add(policy("10.0.0.0/9", priority=5), 0)
    new, _ = table.update(policy("10.0.0.0/8", priority=5), 0)
    assert table.lookup(0, OUT, flow()) is new
    assert next(table.dump()) is new
    table.update(policy("10.0.0.0/8", priority=6), 0)
    table.update(policy("10.0.0.0/8", priority=5), 0)
    assert table.lookup(0, OUT, flow()) is second


def test_update_keeps_the_index_and_counts_as_new() -> None:
    table = PolicyTable()
    first = table.add(policy("10.0.0.0/24", priority=5), 100)
    second = table.add(policy("10.0.0.0/8", priority=5), 101)
    assert table.lookup(0, OUT, flow()) is first
    new, old = table.update(policy("10.0.0.0/24", priority=5, index=801), 102)
    assert old is first
    assert (first.dead, first.genid) == (True, 1)
    assert (new.index, new.add_time, new.use_time) == (first.index, 102, 0)
    assert table.lookup(0, OUT, flow()) is second
    assert list(table.dump()) == [new, second]
    assert table.get(PolicyId(OUT, index=first.index)) is new
    assert table.count(OUT) == 2


def test_update_adds_where_there_is_none() -> None:
    table = PolicyTable()
    new, old = table.update(policy(index=801), 1)
    assert old is None
    assert new.index == 801


def test_get_by_index_compares_type_if_id_and_mark() -> None:
    table = PolicyTable()
    config = policy(type=PolicyType.SUB, if_id=3, mark=Mark(1, 1))
    added = table.add(config, 0)
    key = PolicyId(OUT, None, added.index, PolicyType.SUB, Mark(1, 1), 3)
    assert table.get(key) is added
    wrong: tuple[dict[str, Any], ...] = (
        {"type": 0},
        {"if_id": 0},
        {"mark": Mark(1, 3)},
        {"direction": IN},
        {"index": 801},
    )
    fields = {f: getattr(key, f) for f in PolicyId.__slots__}
    for change in wrong:
        with refused(errno.ENOENT):
            table.delete(PolicyId(**(fields | change)))
    assert table.delete(key) is added


@pytest.mark.parametrize(
    "change",
    [
        {"selector": selector("10.0.0.1/24")},
        {"selector": Selector()},
        {"selector": None},
        {"mark": Mark(0, 3)},
        {"type": 1},
        {"if_id": 1},
        {"direction": FWD},
        {"context": SecurityContext(1, 1, "x")},
    ],
)
def test_get_by_selector_is_exact(change: dict[str, Any]) -> None:
    table = PolicyTable()
    config = policy("10.0.0.0/24")
    table.add(config, 0)
    with refused(errno.ENOENT):
        table.get(name(config, **change))


def test_marks_are_cut_on_insert_and_compared_as_sent() -> None:
    """Linux 6.18: added as 4/3 it is 0/3; 4/3 can not delete it."""
    table = PolicyTable()
    added = table.add(policy(mark=Mark(4, 3)), 0)
    assert added.config.mark == Mark(0, 3)
    for mark in (Mark(0, 3), Mark(8, 3)):
        with refused(errno.EEXIST):
            table.add(policy(mark=mark), 0)
    new, old = table.update(policy(mark=Mark(8, 3)), 0)
    assert old is added
    for index in (0, 1):
        with refused(errno.ENOENT):
            table.delete(PolicyId(OUT, selector("0.0.0.0/0"), index, mark=Mark(4, 3)))
    assert table.delete(PolicyId(OUT, selector("0.0.0.0/0"), mark=Mark(0, 3))) is new


def test_ids_are_checked() -> None:
    table = PolicyTable()
    with pytest.raises(XfrmError, match="Invalid policy type"):
        table.get(PolicyId(3, type=2))
    with pytest.raises(XfrmError, match="Invalid policy direction"):
        table.get(PolicyId(3))


def test_flush_takes_one_type_newest_first() -> None:
    table = PolicyTable()
    main = [table.add(policy(f"10.0.0.{n}/32", direction=d), 0) for n, d in enumerate((IN, OUT, FWD))]
    sub = table.add(policy(type=PolicyType.SUB), 0)
    assert table.flush() == main[::-1]
    assert all(p.dead for p in main)
    assert list(table.dump()) == [sub]
    assert table.flush() == []
    assert table.flush(PolicyType.SUB) == [sub]
    assert len(table) == 0
    assert not table._bins


def test_a_dump_survives_changes() -> None:
    table = PolicyTable()
    made = [table.add(policy(f"10.0.0.{n}/32"), 0) for n in range(4)]
    dump = table.dump()
    assert next(dump) is made[3]
    table.remove(made[2])
    table.remove(made[2])
    table.add(policy("10.9.0.0/16"), 0)
    assert list(dump) == [made[1], made[0]]


def test_what_a_dump_tells() -> None:
    table = PolicyTable()
    added = table.add(policy(priority=4), 1000)
    added.use_time = 1005
    assert added.dump == PolicyDump(policy(priority=4, index=1), LifetimeCurrent(0, 0, 1000, 1005))
    assert "Policy 1 " in repr(added)


def test_counts_and_spdinfo() -> None:
    table = PolicyTable()
    assert table.info() == SpdInfo(0, 0, 0, 0, 0, 0, 7, HASH_MAX)
    assert not table.any(IN)
    for n in range(8):
        table.add(policy(f"10.0.0.{n}/32", direction=IN), 0)
    table.add(policy(type=PolicyType.SUB), 0)
    assert table.any(IN)
    assert table.any(OUT)
    assert not table.any(FWD)
    assert [table.count(d) for d in Direction] == [8, 1, 0]
    assert table.info() == SpdInfo(8, 1, 0, 0, 0, 0, 15, HASH_MAX)
    table.flush()
    assert table.info() == SpdInfo(0, 1, 0, 0, 0, 0, 15, HASH_MAX)


def test_defaults() -> None:
    table = PolicyTable()
    assert table.default == [DefaultAction.ACCEPT] * 3
    table.set_default(in_=1, fwd=7, out=0)
    assert table.default == [DefaultAction.BLOCK, DefaultAction.ACCEPT, DefaultAction.ACCEPT]
    table.set_default(in_=2, fwd=1, out=1)
    assert [table.default[d] for d in (IN, OUT, FWD)] == [2, 1, 1]


def test_thresholds() -> None:
    table = PolicyTable()
    assert (table.thresholds4, table.thresholds6) == ((32, 32), (128, 128))
    table.set_thresholds(ipv4=Thresholds(24, 16))
    table.set_thresholds(ipv6=Thresholds(64, 128))
    assert (table.thresholds4, table.thresholds6) == ((24, 16), (64, 128))
    with pytest.raises(XfrmError, match=r"Invalid hash threshold \(must be <= 32 for IPv4\)"):
        table.set_thresholds(Thresholds(32, 33))
    with pytest.raises(XfrmError, match=r"Invalid hash threshold \(must be <= 128 for IPv6\)"):
        table.set_thresholds(Thresholds(0, 0), Thresholds(129, 0))
    assert (table.thresholds4, table.thresholds6) == ((24, 16), (64, 128))


def test_every_change_moves_the_generation() -> None:
    table = PolicyTable()
    seen = [table.generation]

    def moved() -> bool:
        seen.append(table.generation)
        return seen[-1] > seen[-2]

    added = table.add(policy(), 0)
    assert moved()
    new, _ = table.update(policy(), 0)
    assert moved()
    table.migrate(new, (Template(family=AF_INET, reqid=4),))
    assert moved()
    table.set_default(out=1)
    assert moved()
    table.remove(added)
    table.flush(PolicyType.SUB)
    table.lookup(0, OUT, flow())
    assert not moved()
    table.delete(PolicyId(OUT, index=new.index))
    assert moved()


def test_migrate_keeps_index_and_age() -> None:
    table = PolicyTable()
    first = table.add(policy("10.0.0.0/8", action=Action.ALLOW), 5)
    table.add(policy("10.0.0.0/16"), 6)
    table.migrate(first, (Template(family=AF_INET, reqid=4),))
    assert (first.index, first.genid, first.config.templates[0].reqid) == (1, 1, 4)
    assert table.lookup(0, OUT, flow()) is first


# Lookups: which of two is taken (6.2).


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [
        (policy("10.0.0.0/8"), policy("10.0.0.2/32", "10.0.0.1/32"), 0),
        (policy("10.0.0.2/32", "10.0.0.1/32"), policy("10.0.0.0/8"), 0),
        (policy("10.0.0.0/8", priority=2), policy("10.0.0.0/16", priority=1), 1),
        (policy("10.0.0.0/8", priority=0xFFFFFFFF), policy("0.0.0.0/0", priority=0xFFFFFFFE), 1),
        (policy("10.0.0.0/8", mark=Mark(1, 1)), policy("10.0.0.0/8"), 1),
        (policy("10.0.0.0/8", if_id=1), policy("10.0.0.0/8"), 1),
        (policy("10.0.0.0/8", type=PolicyType.SUB), policy("10.0.0.0/8"), 1),
        (policy("10.0.0.0/8", direction=FWD), policy("10.0.0.0/8"), 1),
        (policy("::/0", "::/0"), policy("0.0.0.0/0"), 1),
    ],
)
def test_priority_then_age(first: PolicyConfig, second: PolicyConfig, taken: int) -> None:
    table = PolicyTable()
    made = [table.add(first, 0), table.add(second, 0)]
    assert table.lookup(PolicyType.MAIN, OUT, flow()) is made[taken]


def test_types_directions_and_if_ids_are_tables_of_their_own() -> None:
    table = PolicyTable()
    for type in PolicyType:
        for direction in Direction:
            for if_id in (0, 5):
                config = policy(type=type, direction=direction, if_id=if_id)
                assert table.lookup(type, direction, flow(), if_id) is None
                assert table.add(config, 0) is table.lookup(type, direction, flow(), if_id)


F4 = flow("10.1.2.3", "10.4.5.6", 17, 0x1234, 0x5678, 3, 0xAB)
F6 = flow("fd00::1:2", "fd00::3:4", 6, 1, 2)


@pytest.mark.parametrize(
    ("config", "asked", "match"),
    [
        (policy("1.2.3.4/0", "5.6.7.8/0"), F4, True),
        (policy("10.1.2.3/32", "10.4.5.6/32"), F4, True),
        (policy("10.1.2.2/32"), F4, False),
        (policy("10.1.2.2/31"), F4, True),
        (policy("10.1.2.200/25"), F4, False),
        (policy("10.1.2.99/25"), F4, True),
        (policy("0.0.0.0/0", "10.4.5.7/31"), F4, True),
        (policy("0.0.0.0/0", "10.4.5.5/32"), F4, False),
        (policy("0.0.0.0/1", "128.0.0.0/1"), F4, False),
        (policy(proto=17), F4, True),
        (policy(proto=6), F4, False),
        (policy(sport=0x1234, sport_mask=0xFFFF), F4, True),
        (policy(sport=0x1235, sport_mask=0xFFFF), F4, False),
        (policy(sport=0x1235, sport_mask=0xFFFE), F4, True),
        (policy(sport=0xFFFF, sport_mask=0), F4, True),
        (policy(dport=0xFF78, dport_mask=0x00FF), F4, True),
        (policy(dport=0xFF78, dport_mask=0x81FF), F4, False),
        (policy(ifindex=3), F4, True),
        (policy(ifindex=4), F4, False),
        (policy(mark=Mark(0xAB, 0xFFFFFFFF)), F4, True),
        (policy(mark=Mark(0x0B, 0x0F)), F4, True),
        (policy(mark=Mark(0, 0x54)), F4, True),
        (policy(mark=Mark(0, 1)), F4, False),
        (policy(mark=Mark(0xAB, 0x0F)), F4, True),
        (policy(mark=Mark(0xA0, 0x0F)), F4, False),
        (policy(mark=Mark(1, 0)), F4, True),
        (policy(user=77), F4, True),
        (policy("::/0", "::/0"), F4, False),
        (policy("::/0", "::/0"), F6, True),
        (policy("fd00::1:2/128", "fd00::3:4/128"), F6, True),
        (policy("fd00::1:3/128", "::/0"), F6, False),
        (policy("fd00::1:3/127", "8000::/1"), F6, True),
        (policy("fd00::1:3/127", "::/1"), F6, False),
        (policy("0.0.0.0/0"), F6, False),
    ],
)
def test_matching(config: PolicyConfig, asked: Flow, match: bool) -> None:
    table = PolicyTable()
    added = table.add(config, 0)
    assert table.lookup(0, OUT, asked) is (added if match else None)
    assert (config.selector.matches(asked) and added.config.mark.covers(asked.mark)) is match
    # The same among many of the same destination, where tables by mask take over from the list.
    shape = config.selector
    for n in range(1, 20):
        other = Selector(
            shape.family, shape.daddr, shape.saddr, shape.prefixlen_d, dport=n, dport_mask=0xFFFF, proto=99
        )
        table.add(PolicyConfig(OUT, other), 0)
    assert table.lookup(0, OUT, asked) is (added if match else None)
