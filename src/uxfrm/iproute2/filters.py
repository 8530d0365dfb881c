"""What `list` and `deleteall` pick: states and policies of which every field that was said agrees."""

from __future__ import annotations

from dataclasses import dataclass

from uxfrm.iproute2 import names
from uxfrm.iproute2.grammar import (
    Resolve,
    take_flags,
    take_identity,
    take_mode,
    take_selector,
    take_word,
)
from uxfrm.iproute2.words import Cursor, wrong
from uxfrm.model.address import AF_UNSPEC, Address, is_any
from uxfrm.model.dump import PolicyDump, StateDump
from uxfrm.model.policy import Direction
from uxfrm.model.selector import Selector
from uxfrm.model.state import StateConfig


@dataclass(frozen=True, slots=True)
class StateFilter:
    """Fields that a state must have; None for any."""

    saddr: Address | None = None
    daddr: Address | None = None
    proto: int | None = None
    spi: int | None = None
    mode: int | None = None
    reqid: int | None = None
    flags: int | None = None

    def picks(self, dump: StateDump) -> bool:
        """True for a state that has them all."""
        x = dump.config
        flags = x.flags if isinstance(x, StateConfig) else 0
        return (
            _same_address(self.saddr, x.saddr)
            and _same_address(self.daddr, x.daddr)
            and self.proto in (None, x.proto)
            and self.spi in (None, x.spi)
            and self.mode in (None, x.mode)
            and self.reqid in (None, x.reqid)
            and (self.flags is None or bool(flags & self.flags))
        )


def _same_address(wanted: Address | None, found: Address) -> bool:
    return wanted is None or wanted == found


EVERY_STATE = StateFilter()


def take_state_filter(cursor: Cursor) -> tuple[StateFilter, bool]:
    """All words of `state list` and `deleteall`: the filter, and whether `nokeys` was among them."""
    found: dict[str, int | None] = {}
    ends: dict[str, Address | None] = {}
    nokeys = seen = False
    while cursor:
        if cursor.follows("nokeys"):
            nokeys = True
        elif cursor.follows("mode"):
            found["mode"] = take_mode(cursor)
        elif cursor.follows("reqid"):
            found["reqid"] = cursor.number(32, "REQID value is invalid")
        elif cursor.follows("flag"):
            found["flags"] = _flags(cursor, names.STATE_FLAG)
        elif not seen:
            seen = True
            identity = take_identity(cursor, loose=True)
            ends |= {"saddr": identity.saddr, "daddr": identity.daddr}
            found |= {"proto": identity.proto, "spi": identity.spi or None}
        else:
            raise wrong(cursor.take(), "unknown")
    return StateFilter(ends.get("saddr"), ends.get("daddr"), **found), nokeys


def _flags(cursor: Cursor, table: names.Table) -> int:
    cursor.peek()
    flags = take_flags(cursor, table)
    if not flags:
        raise wrong(cursor.here, "unknown")
    return flags


@dataclass(frozen=True, slots=True)
class PolicyFilter:
    """Fields that a policy must have; None for any."""

    selector: Selector | None = None
    direction: int | None = None
    index: int | None = None
    type: int | None = None
    action: int | None = None
    priority: int | None = None
    flags: int | None = None
    nosock: bool = False

    def picks(self, dump: PolicyDump) -> bool:
        """True for a policy that has them all."""
        p = dump.config
        return (
            (self.selector is None or _same_selector(self.selector, p.selector))
            and self.direction in (None, p.direction)
            and self.index in (None, p.index)
            and self.type in (None, p.type)
            and self.action in (None, p.action)
            and self.priority in (None, p.priority)
            and (self.flags is None or bool(p.flags & self.flags))
            and not (self.nosock and p.index & 7 > Direction.FWD)
        )


def _same_selector(wanted: Selector, found: Selector) -> bool:
    """True when every field that `wanted` says is the same in `found`."""
    if wanted.family not in (AF_UNSPEC, found.family):
        return False
    pairs = (
        (wanted.saddr, wanted.prefixlen_s, found.saddr, found.prefixlen_s),
        (wanted.daddr, wanted.prefixlen_d, found.daddr, found.prefixlen_d),
    )
    ends = all((is_any(a) and not n) or (a == b and n == m) for a, n, b, m in pairs)
    return (
        ends
        and wanted.proto in (0, found.proto)
        and wanted.ifindex in (0, found.ifindex)
        and (not wanted.sport_mask or wanted.sport == found.sport)
        and (not wanted.dport_mask or wanted.dport == found.dport)
    )


EVERY_POLICY = PolicyFilter()


def take_policy_filter(cursor: Cursor, resolve: Resolve) -> PolicyFilter:
    """All words of `policy list` and `deleteall`."""
    found: dict[str, int | None] = {}
    selector: Selector | None = None
    nosock = False
    while cursor:
        keyword = cursor.here
        if cursor.follows("nosock"):
            nosock = True
        elif cursor.follows("flag"):
            found["flags"] = _flags(cursor, names.POLICY_FLAG)
        elif cursor.follows(*_WORDS):
            name, table = _WORDS[keyword]
            found[name] = take_word(cursor, table, f"{keyword.upper()} value is invalid")
        elif cursor.follows("index", "priority"):
            found[keyword] = cursor.number(32, f"{keyword.upper()} value is invalid")
        elif selector is None:
            selector = take_selector(cursor, resolve)
        else:
            raise wrong(cursor.take(), "unknown")
    return PolicyFilter(selector, nosock=nosock, **found)


_WORDS = {
    "dir": ("direction", names.DIRECTION),
    "ptype": ("type", names.PTYPE),
    "action": ("action", names.ACTION),
}
