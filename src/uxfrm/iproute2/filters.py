"""What `list` and `deleteall` pick: states and policies that agree with every word that was said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from uxfrm.iproute2 import names
from uxfrm.iproute2.grammar import take_flags, take_identity, take_mode, take_word
from uxfrm.iproute2.selectors import Resolve, SelectorDraft
from uxfrm.iproute2.words import Cursor, wrong
from uxfrm.model.address import AF_UNSPEC, Address, in_prefix
from uxfrm.model.dump import PolicyDump, StateDump
from uxfrm.model.policy import Direction
from uxfrm.model.state import StateConfig

Prefix = tuple[Address, int]


def _within(address: Address, prefix: Prefix | None) -> bool:
    return prefix is None or in_prefix(address, *prefix)


@dataclass(frozen=True, slots=True)
class StateFilter:
    """What a state must have; None for anything."""

    family: int = AF_UNSPEC
    src: Prefix | None = None
    dst: Prefix | None = None
    proto: int | None = None
    spi: int | None = None
    mode: int | None = None
    reqid: int | None = None
    flags: int | None = None

    def picks(self, dump: StateDump) -> bool:
        """True for a state that has it all."""
        x = dump.config
        flags = x.flags if isinstance(x, StateConfig) else 0
        return (
            self.family in (AF_UNSPEC, x.family)
            and _within(x.saddr, self.src)
            and _within(x.daddr, self.dst)
            and self.proto in (None, x.proto)
            and self.spi in (None, x.spi)
            and self.mode in (None, x.mode)
            and self.reqid in (None, x.reqid)
            and (self.flags is None or bool(flags & self.flags))
        )


EVERY_STATE = StateFilter()


def take_state_filter(cursor: Cursor) -> tuple[StateFilter, bool]:
    """All words of `state list` and `deleteall`: the filter, and whether `nokeys` was among them."""
    found: dict[str, Any] = {}
    identity = None
    nokeys = False
    while cursor:
        if cursor.follows("nokeys"):
            nokeys = True
        elif cursor.follows("mode"):
            found["mode"] = take_mode(cursor)
        elif cursor.follows("reqid"):
            found["reqid"] = cursor.number(32, "REQID value is invalid")
        elif cursor.follows("flag"):
            found["flags"] = _flags(cursor, names.STATE_FLAG, found.get("flags", 0))
        elif identity is None:
            identity = take_identity(cursor, cursor.family, loose=True)
        else:
            raise wrong(cursor.take(), "unknown")
    if identity is None:
        return StateFilter(cursor.family, **found), nokeys
    family = identity.family or cursor.family
    found |= {"proto": identity.proto, "spi": identity.spi}
    return StateFilter(family, identity.src, identity.dst, **found), nokeys


def _flags(cursor: Cursor, table: names.Table, flags: int) -> int:
    cursor.peek()
    start = cursor.at
    flags = take_flags(cursor, table, flags)
    if cursor.at == start:
        raise wrong(cursor.here, "unknown")
    return flags


@dataclass(frozen=True, slots=True)
class PolicyFilter:
    """What a policy must have; None for anything. Masks of ports do not count, only the ports."""

    family: int = AF_UNSPEC
    src: Prefix | None = None
    dst: Prefix | None = None
    proto: int | None = None
    sport: int | None = None
    dport: int | None = None
    ifindex: int | None = None
    direction: int | None = None
    index: int | None = None
    type: int | None = None
    action: int | None = None
    priority: int | None = None
    flags: int | None = None
    nosock: bool = False

    def picks(self, dump: PolicyDump) -> bool:
        """True for a policy that has it all."""
        p, s = dump.config, dump.config.selector
        return (
            self.family in (AF_UNSPEC, s.family)
            and _within(s.saddr, self.src)
            and _within(s.daddr, self.dst)
            and self.proto in (None, s.proto)
            and self.sport in (None, s.sport)
            and self.dport in (None, s.dport)
            and self.ifindex in (None, s.ifindex)
            and self.direction in (None, p.direction)
            and self.index in (None, p.index)
            and self.type in (None, p.type)
            and self.action in (None, p.action)
            and self.priority in (None, p.priority)
            and (self.flags is None or bool(p.flags & self.flags))
            and not (self.nosock and p.index & 7 > Direction.FWD)
        )


EVERY_POLICY = PolicyFilter()


def take_policy_filter(cursor: Cursor, resolve: Resolve) -> PolicyFilter:
    """All words of `policy list` and `deleteall`."""
    found: dict[str, Any] = {}
    selector: SelectorDraft | None = None
    nosock = False
    while cursor:
        keyword = cursor.here
        if cursor.follows("nosock"):
            nosock = True
        elif cursor.follows("flag"):
            found["flags"] = _flags(cursor, names.POLICY_FLAG, found.get("flags", 0))
        elif cursor.follows(*_WORDS):
            name, table = _WORDS[keyword]
            found[name] = take_word(cursor, table, f"{keyword.upper()} value is invalid")
        elif cursor.follows("index", "priority"):
            found[keyword] = cursor.number(32, f"{keyword.upper()} value is invalid")
        elif selector is None:
            selector = SelectorDraft()
            selector.take(cursor, resolve)
        else:
            raise wrong(cursor.take(), "unknown")
    x = selector or SelectorDraft()
    return PolicyFilter(
        family=x.family or cursor.family,
        src=x.ends.get("src"),
        dst=x.ends.get("dst"),
        proto=x.proto,
        sport=x.ports.get("sport"),
        dport=x.ports.get("dport"),
        ifindex=x.ifindex or None,
        nosock=nosock,
        **found,
    )


_WORDS = {
    "dir": ("direction", names.DIRECTION),
    "ptype": ("type", names.PTYPE),
    "action": ("action", names.ACTION),
}
