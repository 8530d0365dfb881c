"""Rules that are changed piece by piece decide as the policies do, whatever came and went in which order.

An interpreter of the few lines of nft that are used stands for the kernel; that the kernel takes them, and
finds packets with them, test_detour shows. A packet is what it matches: pairs of a shape and a value.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from uxfrm.daemon import screen
from uxfrm.daemon.following import Following
from uxfrm.daemon.screen import Entry, Screen, Shape, entries
from uxfrm.model.dump import PolicyId
from uxfrm.model.mark import Mark
from uxfrm.model.policy import Action, Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.tables.policies import PolicyTable

Packet = set[tuple[Shape, str]]
_HOOKS = {Direction.IN: "input", Direction.FWD: "forward"}
_LINE = re.compile(r"(add|delete|flush) (table|chain|set|element|rule) inet uxfrm ?(\S*) ?(.*)")


class Kernel:
    """What nft would have: sets of values, chains of rules. It takes nothing twice and misses nothing."""

    def __init__(self) -> None:
        self.sets: dict[str, set[str]] = {}
        self.chains: dict[str, list[str]] = {}
        self.runs = self.lines = 0

    def install(self, text: str) -> None:
        self.runs += 1
        for line in text.splitlines():
            self.lines += 1
            found = _LINE.fullmatch(line)
            assert found is not None, line
            verb, what, name, rest = found.groups()
            getattr(self, f"{verb}_{what}")(name, rest)

    def add_table(self, name: str, rest: str) -> None:
        pass

    def delete_table(self, name: str, rest: str) -> None:
        self.sets, self.chains = {}, {}

    def add_chain(self, name: str, rest: str) -> None:
        assert name not in self.chains
        self.chains[name] = []

    def flush_chain(self, name: str, rest: str) -> None:
        self.chains[name].clear()

    def add_rule(self, name: str, rest: str) -> None:
        assert all(used in self.sets for used in re.findall(r"@(set-\d+)", rest))
        self.chains[name].append(rest)

    def add_set(self, name: str, rest: str) -> None:
        assert name not in self.sets
        self.sets[name] = set()

    def delete_set(self, name: str, rest: str) -> None:
        assert not any(f"@{name} " in rule for rules in self.chains.values() for rule in rules)
        del self.sets[name]

    def add_element(self, name: str, rest: str) -> None:
        self.sets[name] |= set(rest.strip("{} ").split(", "))

    def delete_element(self, name: str, rest: str) -> None:
        gone = set(rest.strip("{} ").split(", "))
        assert gone <= self.sets[name]
        self.sets[name] -= gone

    def decide(self, chain: str, packet: Packet) -> str:
        for rule in self.chains[chain]:
            words = rule.split()
            if words[0] == "jump" and (verdict := self.decide(words[1], packet)):
                return verdict
            if words[-1] in ("drop", "accept") and any(self._matches(rule, *pair) for pair in packet):
                return words[-1]
        return ""

    def _matches(self, rule: str, shape: Shape, value: str) -> bool:
        for used in re.findall(r"@(set-\d+)", rule):
            head = f"{shape.head} {' . '.join(shape.keys)} @{used} "
            return rule.startswith(head) and value in self.sets[used]
        return not shape.keys and rule.rsplit(" ", 1)[0] == shape.head


def some_policy(draw: random.Random, number: int) -> PolicyConfig:
    """Of few values, so that many say the same and overlap; ports, marks, ICMP types and interfaces too."""
    four = draw.random() < 0.7
    size = 4 if four else 16
    lengths = [0, 8, 9, size * 8]
    selector = Selector(
        2 if four else 10,
        bytes([draw.choice((10, 11))]) * size,
        bytes([draw.choice((10, 11))]) * size,
        draw.choice(lengths),
        draw.choice(lengths),
    )
    kind = draw.randrange(5)
    if kind == 1:
        selector = replace(selector, proto=draw.choice((6, 17)), dport=5, dport_mask=0xFFFF)
    elif kind == 2:
        selector = replace(selector, proto=1, sport=8, sport_mask=0xFFFF)
    elif kind == 3:
        selector = replace(selector, ifindex=draw.choice((1, 2)))
    return PolicyConfig(
        draw.choice((Direction.IN, Direction.FWD, Direction.OUT)),
        selector,
        action=Action.BLOCK if draw.random() < 0.8 else Action.ALLOW,
        priority=draw.choice((1, 2, 3)) if draw.random() < 0.5 else 4,
        mark=Mark(5, 0xFF) if kind == 4 else Mark(0, 0),
    )


@pytest.mark.parametrize("seed", range(4))
def test_rules_changed_piece_by_piece_decide_as_the_policies_do(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    draw, kernel, table = random.Random(seed), Kernel(), PolicyTable()
    monkeypatch.setattr(screen, "install", kernel.install)
    made, following = Screen("tun"), Following(table, entries)
    live = []
    for step in range(150):
        for _ in range(draw.choice((1, 1, 4))):
            config = some_policy(draw, step)
            if live and draw.random() < 0.4:
                table.remove(live.pop(draw.randrange(len(live))))
            else:
                policy, old = table.update(config, 0)
                live = [each for each in live if each is not old] + [policy]
        made.change(*following.changes(), [])
        assert all(kernel.sets.values())
        known = sorted(following.all())
        for _ in range(8):
            packet = {(entry.shape, entry.value) for entry in draw.sample(known, min(3, len(known)))}
            for direction, hook in _HOOKS.items():
                assert kernel.decide(hook, packet) == expected(known, direction, packet)


def expected(known: list[Entry], direction: Direction, packet: Packet) -> str:
    """The verdict of the first entry in order that the packet matches."""
    mine = [x for x in known if x.direction == direction and (x.shape, x.value) in packet]
    return min(mine, key=lambda entry: entry.order).verdict if mine else ""


def test_one_policy_more_is_one_line_more(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, table = Kernel(), PolicyTable()
    monkeypatch.setattr(screen, "install", kernel.install)
    made, following = Screen("tun"), Following(table, entries)
    added = []
    for number in range(200):
        source = number.to_bytes(4)
        config = PolicyConfig(Direction.IN, Selector(2, bytes(4), source, 0, 32), action=Action.BLOCK)
        added.append(table.add(config, 0))
        if number >= 100:
            kernel.lines = 0
            made.change(*following.changes(), [])
            assert kernel.lines == 1 or number == 100
    assert {len(values) for values in kernel.sets.values()} == {200}
    kernel.lines = 0
    table.delete(PolicyId(Direction.IN, index=added[7].index))
    made.change(*following.changes(), [])
    assert kernel.lines == 1


def test_what_is_closed_opens_one_by_one_and_policies_go_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, table = Kernel(), PolicyTable()
    monkeypatch.setattr(screen, "install", kernel.install)
    made, following = Screen("tun"), Following(table, entries)
    closed = [f"10.0.{n}.0/24" for n in range(20)]
    made.close(closed)
    made.change([], [], [])
    first, second = (next(screen.shut(prefix)) for prefix in closed[:2])
    here = Selector(2, bytes(4), bytes([10, 0, 0, 7]), 0, 32)
    table.add(PolicyConfig(Direction.IN, here), 0)
    made.change(*following.changes(), [])
    allowed = (next(iter(following.all())).shape, "10.0.0.7")
    assert kernel.decide("input", {allowed, (first.shape, first.value)}) == "accept"
    assert kernel.decide("forward", {allowed, (first.shape, first.value)}) == "drop"
    kernel.lines = 0
    made.change([], list(screen.shut(closed[0])), [])
    assert kernel.lines == 2
    assert kernel.decide("input", {(first.shape, first.value)}) == ""
    assert kernel.decide("input", {(second.shape, second.value)}) == "drop"


def test_rules_that_somebody_else_took_away_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, table = Kernel(), PolicyTable()

    def install(text: str) -> None:
        if not kernel.chains and "delete table" not in text:
            raise screen.AttachmentError("nft: no such table")
        kernel.install(text)

    monkeypatch.setattr(screen, "install", install)
    made, following = Screen("tun"), Following(table, entries)
    for number in range(2):
        kernel.chains.clear()
        source = bytes([10, 0, 0, number])
        table.add(PolicyConfig(Direction.IN, Selector(2, bytes(4), source, 0, 32), action=Action.BLOCK), 0)
        made.change(*following.changes(), [])
    assert set.union(*kernel.sets.values()) == {"10.0.0.0", "10.0.0.1"}
