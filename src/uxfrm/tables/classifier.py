"""The classifier: of all rules that match a flow, the one with the lowest rank, among 100 as among 100,000.

What it knows: a rule is a destination prefix, and a mask over everything else a flow has, packed into one
integer (source address, ports, protocol, interface, mark); it matches when the masked flow equals its key.
What it must not know: policies, directions, types, what a rank means. One classifier holds one family.

    prefix lengths of the destination, lowest rank first    at most 33 or 129 of them
      -> one hash table per length: the node of a prefix
        -> few rules: a list, lowest rank first
        -> many rules: one hash table per mask ("tuple space search"), lowest rank first

Every level knows the lowest rank below it, so a search skips what cannot beat what it has found, and stops
where nothing that is left can. Such a bound may be too low for a while after removals (which costs a probe,
never a wrong answer); it is computed anew once as much was removed as is left, so that a removal costs O(1)
on average. The kernel's answer to the same question: the trees and lists of struct xfrm_pol_inexact_bin.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from uxfrm.model.address import BITS
from uxfrm.model.flow import Flow
from uxfrm.model.mark import Mark
from uxfrm.model.selector import Selector

LEAF = 8
"""A node keeps up to so many rules in a list; scanning 8 costs about what probing 4 hash tables does."""

NO_RANK = 1 << 128
"""Above every rank."""

_LOW_BITS = 16 + 16 + 8 + 32 + 32
_rank = attrgetter("rank")


def pack(flow: Flow) -> int:
    """Everything but the destination address of `flow`, as one integer: the source is in the high bits."""
    low = ((flow.dport << 16 | flow.sport) << 8 | flow.proto) << 64 | flow.oif << 32 | flow.mark
    return int.from_bytes(flow.saddr) << _LOW_BITS | low


@lru_cache(maxsize=4096)
def _mask(bits: int, prefixlen_s: int, dport: int, sport: int, proto: int, ifindex: int, mark: int) -> int:
    """The bits of a packed flow that count. Cached, so that rules of one shape share one integer."""
    source = ((1 << prefixlen_s) - 1) << (bits - prefixlen_s)
    low = ((dport << 16 | sport) << 8 | proto) << 64 | ifindex << 32 | mark
    return source << _LOW_BITS | low


class Rule:
    """What the classifier files: a rank (unique, lower wins) and a compiled selector with its mark."""

    __slots__ = ("key", "mask", "prefix", "prefixlen", "rank")

    def __init__(self, rank: int, selector: Selector, mark: Mark) -> None:
        bits = BITS[selector.family]
        self.rank = rank
        self.prefixlen = selector.prefixlen_d
        self.prefix = int.from_bytes(selector.daddr) >> (bits - selector.prefixlen_d)
        self.mask = _mask(
            bits,
            selector.prefixlen_s,
            selector.dport_mask,
            selector.sport_mask,
            0xFF if selector.proto else 0,
            0xFFFFFFFF if selector.ifindex else 0,
            mark.m,
        )
        low = (selector.dport << 16 | selector.sport) << 8 | selector.proto
        packed = (int.from_bytes(selector.saddr) << 40 | low) << 64 | selector.ifindex << 32
        # A value with bits outside the mark's mask matches nothing, as (mark & m) == v says.
        self.key = packed & self.mask | mark.v

    def matches_packed(self, packed: int) -> bool:
        """True when all but the destination agrees."""
        return packed & self.mask == self.key


R = TypeVar("R", bound=Rule)


def _file(rules: list[R], rule: R) -> None:
    insort(rules, rule, key=_rank)


def _take(rules: list[R], rule: R) -> None:
    del rules[bisect_left(rules, rule.rank, key=_rank)]


class _Table(Generic[R]):
    """The rules of one mask: by key the first, and behind it those it hides, lowest rank first."""

    __slots__ = ("best", "first", "hidden", "mask", "removed")

    def __init__(self, mask: int) -> None:
        self.mask = mask
        self.best = NO_RANK
        self.first: dict[int, R] = {}
        self.hidden: dict[int, list[R]] = {}
        self.removed = 0

    def add(self, rule: R) -> None:
        self.best = min(self.best, rule.rank)
        first = self.first.setdefault(rule.key, rule)
        if first is rule:
            return
        if rule.rank < first.rank:
            self.first[rule.key] = rule
            rule = first
        _file(self.hidden.setdefault(rule.key, []), rule)

    def remove(self, rule: R) -> None:
        hidden = self.hidden.get(rule.key)
        if self.first[rule.key] is not rule:
            assert hidden is not None
            _take(hidden, rule)
        elif hidden:
            self.first[rule.key] = hidden.pop(0)
        else:
            del self.first[rule.key]
        if hidden is not None and not hidden:
            del self.hidden[rule.key]
        self._tighten()

    def _tighten(self) -> None:
        self.removed += 1
        if self.removed > len(self.first):
            self.removed = 0
            self.best = min(map(_rank, self.first.values()), default=NO_RANK)


class Census(NamedTuple):
    """How full a classifier is (see model.statistics.PolicyFigures)."""

    prefix_lengths: int
    prefixes: int
    listed: int
    masks: int
    masks_of_one: int
    tabled: int
    hidden: int


class _Node(Generic[R]):
    """The rules of one destination prefix: a list while they are few, then tables by mask."""

    __slots__ = ("best", "order", "removed", "rules", "tables")

    def __init__(self) -> None:
        self.best = NO_RANK
        self.rules: list[R] = []
        self.tables: dict[int, _Table[R]] | None = None
        self.order: list[tuple[int, int, Callable[[int], R | None]]] | None = None
        self.removed = 0

    def census(self) -> Census:
        """What is in this one prefix."""
        tables = list(self.tables.values()) if self.tables is not None else []
        firsts = sum(len(table.first) for table in tables)
        hidden = sum(len(rules) for table in tables for rules in table.hidden.values())
        return Census(0, 1, len(self.rules), len(tables), len(tables), firsts + hidden, hidden)

    def lookup(self, packed: int, limit: int) -> R | None:
        """The first match with a rank below `limit`."""
        if self.tables is not None:
            return self._lookup_tables(packed, limit)
        for rule in self.rules:
            if packed & rule.mask == rule.key:
                return rule if rule.rank < limit else None
        return None

    def _lookup_tables(self, packed: int, limit: int) -> R | None:
        found = None
        for best, mask, get in self.order or self._sort():
            if best >= limit:
                break
            rule = get(packed & mask)
            if rule is not None and rule.rank < limit:
                found, limit = rule, rule.rank
        return found

    def _sort(self) -> list[tuple[int, int, Callable[[int], R | None]]]:
        assert self.tables is not None
        tables = sorted(self.tables.values(), key=attrgetter("best"))
        self.order = [(table.best, table.mask, table.first.get) for table in tables]
        return self.order

    def add(self, rule: R) -> None:
        self.best = min(self.best, rule.rank)
        if self.tables is not None:
            self._add_to_table(self.tables, rule)
            return
        _file(self.rules, rule)
        if len(self.rules) > LEAF:
            self._split()

    def _split(self) -> None:
        self.tables = {}
        for rule in self.rules:
            self._add_to_table(self.tables, rule)
        self.rules = []

    def _add_to_table(self, tables: dict[int, _Table[R]], rule: R) -> None:
        table = tables.get(rule.mask)
        if table is None:
            table = tables[rule.mask] = _Table(rule.mask)
        if rule.rank < table.best:
            self.order = None
        table.add(rule)

    def remove(self, rule: R) -> bool:
        """Take `rule` out; True when the node is now empty."""
        if self.tables is not None:
            return self._remove_from_table(self.tables, rule)
        _take(self.rules, rule)
        if self.rules:
            self.best = self.rules[0].rank
        return not self.rules

    def _remove_from_table(self, tables: dict[int, _Table[R]], rule: R) -> bool:
        table = tables[rule.mask]
        best = table.best
        table.remove(rule)
        if not table.first:
            del tables[rule.mask]
        if table.best != best or not table.first:
            self.order = None
        self.removed += 1
        if self.removed > len(tables):
            self.removed = 0
            self.best = min((table.best for table in tables.values()), default=NO_RANK)
        return not tables


class _Length(Generic[R]):
    """The nodes of one destination prefix length, by the prefix as an integer."""

    __slots__ = ("best", "nodes", "removed", "shift")

    def __init__(self, shift: int) -> None:
        self.shift = shift
        self.best = NO_RANK
        self.nodes: dict[int, _Node[R]] = {}
        self.removed = 0

    def add(self, rule: R) -> None:
        self.best = min(self.best, rule.rank)
        node = self.nodes.get(rule.prefix)
        if node is None:
            node = self.nodes[rule.prefix] = _Node()
        node.add(rule)

    def remove(self, rule: R) -> None:
        if self.nodes[rule.prefix].remove(rule):
            del self.nodes[rule.prefix]
        self.removed += 1
        if self.removed > len(self.nodes):
            self.removed = 0
            self.best = min((node.best for node in self.nodes.values()), default=NO_RANK)


class Classifier(Generic[R]):
    """All rules of one address family (`bits` is 32 or 128)."""

    __slots__ = ("_bits", "_lengths", "_order")

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._lengths: dict[int, _Length[R]] = {}
        self._order: list[tuple[int, int, Callable[[int], _Node[R] | None]]] | None = None

    def __bool__(self) -> bool:
        return bool(self._lengths)

    def lookup(self, daddr: int, packed: int, limit: int = NO_RANK) -> R | None:
        """The matching rule of lowest rank below `limit`; the flow comes as integers (see `pack`)."""
        found = None
        for best, shift, get in self._order or self._sort():
            if best >= limit:
                break
            node = get(daddr >> shift)
            if node is not None and node.best < limit:
                rule = node.lookup(packed, limit)
                if rule is not None:
                    found, limit = rule, rule.rank
        return found

    def _sort(self) -> list[tuple[int, int, Callable[[int], _Node[R] | None]]]:
        lengths = sorted(self._lengths.values(), key=attrgetter("best"))
        self._order = [(length.best, length.shift, length.nodes.get) for length in lengths]
        return self._order

    def census(self) -> Census:
        """How many there are of what; it looks at every prefix."""
        nodes = [node.census() for length in self._lengths.values() for node in length.nodes.values()]
        sums = Census(*map(sum, zip(*nodes, strict=True)))
        most = max(node.masks for node in nodes)
        return sums._replace(prefix_lengths=len(self._lengths), masks_of_one=most)

    def add(self, rule: R) -> None:
        """File `rule`; its rank must be unlike all others'."""
        length = self._lengths.get(rule.prefixlen)
        if length is None:
            length = self._lengths[rule.prefixlen] = _Length(self._bits - rule.prefixlen)
        if rule.rank < length.best:
            self._order = None
        length.add(rule)

    def remove(self, rule: R) -> None:
        """Take out a rule that was added."""
        length = self._lengths[rule.prefixlen]
        best = length.best
        length.remove(rule)
        if not length.nodes:
            del self._lengths[rule.prefixlen]
        if length.best != best or not length.nodes:
            self._order = None
