"""`ip xfrm policy COMMAND ...`: the words of a policy command into a command.

The same shape as grammar_state: tables of keywords, a small reader for each, checks in `ip`'s order and words,
then the model's as the kernel has them (XfrmError). Follows: ip-xfrm(8); iproute2 6.1 as observed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from uxfrm.iproute2 import fragments
from uxfrm.iproute2.command import (
    PolicyAdd,
    PolicyCommand,
    PolicyCount,
    PolicyDelete,
    PolicyDeleteAll,
    PolicyFilter,
    PolicyFlush,
    PolicyGet,
    PolicyGetDefault,
    PolicyList,
    PolicySetDefault,
    PolicySetThresholds,
    PolicyUpdate,
    PrefixFilter,
)
from uxfrm.iproute2.cursor import Cursor, Refusal, duplicate, wrong
from uxfrm.iproute2.fragments import Id, Selection, parse_flags, parse_id, parse_limit, parse_mark, parse_selector
from uxfrm.iproute2.numbers import Prefix
from uxfrm.iproute2.vocabulary import ACTIONS, DEFAULTS, DIRECTIONS, LEVELS, MODES_READ, POLICY_FLAGS, TYPES
from uxfrm.model.address import AF_INET, AF_UNSPEC
from uxfrm.model.dump import PolicyId
from uxfrm.model.lifetime import UNLIMITED, LifetimeConfig
from uxfrm.model.mark import NO_MARK, Mark
from uxfrm.model.policy import Action, Offload, PolicyConfig, PolicyType, SecurityContext
from uxfrm.model.selector import Selector
from uxfrm.model.template import Mode, Template


@dataclass
class _Template:
    """What a tmpl has said so far."""

    id: Id | None = None
    family: int = AF_UNSPEC
    mode: int = Mode.TRANSPORT
    reqid: int = 0
    level: int = 0

    def finished(self, policy_family: int) -> Template:
        ident = self.id or Id()
        family = self.family or policy_family
        daddr, saddr = ident.addresses(family)
        return Template(
            daddr=daddr,
            saddr=saddr,
            spi=ident.spi or 0,
            proto=ident.proto or 0,
            family=family,
            reqid=self.reqid,
            mode=self.mode,
            optional=bool(self.level),
        )


@dataclass
class _Policy:
    """What a policy command has said so far; None for what was not given."""

    direction: int | None = None
    context: SecurityContext | None = None
    mark: Mark = NO_MARK
    index: int | None = None
    type: int | None = None
    action: int | None = None
    priority: int | None = None
    flags: int = 0
    if_id: int = 0
    limits: LifetimeConfig = UNLIMITED
    templates: list[_Template] = field(default_factory=list)
    selection: Selection | None = None
    offload: Offload | None = None
    nosock: bool = False

    def selector(self, family: int) -> Selector:
        return (self.selection or Selection()).finished(family)


_Read = Callable[[Cursor, _Policy], None]


# -- what follows each keyword


def _dir(c: Cursor, p: _Policy) -> None:
    if p.direction is not None:
        duplicate("dir", "dir")
    p.direction = c.of(DIRECTIONS, "DIR value is invalid")


def _ctx(c: Cursor, p: _Policy) -> None:
    p.context = fragments.parse_context(c, p.context)


def _mark(c: Cursor, p: _Policy) -> None:
    p.mark = parse_mark(c)


def _index(c: Cursor, p: _Policy) -> None:
    p.index = c.number(32, "INDEX value is invalid")


def _index_once(c: Cursor, p: _Policy) -> None:
    if p.index is not None:
        duplicate("index", "index")
    _index(c, p)


def _ptype(c: Cursor, p: _Policy) -> None:
    if p.type is not None:
        duplicate("ptype", "ptype")
    p.type = c.of(TYPES, "PTYPE value is invalid")


def _action(c: Cursor, p: _Policy) -> None:
    p.action = c.of(ACTIONS, "ACTION value is invalid")


def _priority(c: Cursor, p: _Policy) -> None:
    p.priority = c.number(32, "PRIORITY value is invalid")


def _flag(c: Cursor, p: _Policy) -> None:
    p.flags |= parse_flags(c, POLICY_FLAGS, 8)


def _if_id(c: Cursor, p: _Policy) -> None:
    p.if_id = c.number(32, "IF_ID value is invalid")


def _limit(c: Cursor, p: _Policy) -> None:
    p.limits = parse_limit(c, p.limits)


def _nosock(c: Cursor, p: _Policy) -> None:
    p.nosock = True


def _tmpl(c: Cursor, p: _Policy) -> None:
    if c.word is None:
        c.take()
    before, c.family = c.family, AF_UNSPEC
    found = _Template()
    while c.word is not None:
        if c.word in _TMPL:
            keyword = c.take()
            _TMPL[keyword](c, found)
        elif found.id is None:
            found.id = parse_id(c)
        else:
            break
    found.family = c.family or before
    c.family = found.family
    p.templates.append(found)


def _tmpl_mode(c: Cursor, t: _Template) -> None:
    t.mode = c.of(MODES_READ, "MODE value is invalid")


def _tmpl_reqid(c: Cursor, t: _Template) -> None:
    t.reqid = c.number(32, "REQID value is invalid")


def _tmpl_level(c: Cursor, t: _Template) -> None:
    t.level = c.of(LEVELS, "LEVEL value is invalid")


_TMPL: dict[str | None, Callable[[Cursor, _Template], None]] = {
    "mode": _tmpl_mode,
    "reqid": _tmpl_reqid,
    "level": _tmpl_level,
}

_ADD: dict[str | None, _Read] = {
    "dir": _dir,
    "ctx": _ctx,
    "mark": _mark,
    "index": _index,
    "ptype": _ptype,
    "action": _action,
    "priority": _priority,
    "flag": _flag,
    "if_id": _if_id,
    "limit": _limit,
    "tmpl": _tmpl,
}


def _read(c: Cursor, table: dict[str | None, _Read], refuse: Callable[[str], object]) -> _Policy:
    """Read all words: keywords of `table`, and one SELECTOR."""
    p = _Policy()
    while c.word is not None:
        if c.word in table:
            keyword = c.take()
            table[keyword](c, p)
        elif p.selection is None:
            p.selection = parse_selector(c)
        else:
            refuse(c.word)
    return p


def _refuse_second(word: str) -> None:
    duplicate("unknown", word)


def _refuse_unknown(word: str) -> None:
    wrong(word, "unknown")


# -- add and update


def _build(c: Cursor) -> PolicyConfig:
    p = _read(c, _ADD, _refuse_second)
    if p.direction is None:
        raise Refusal("Not enough information: DIR is required.")
    family = _family(c, p)
    return PolicyConfig(
        direction=p.direction,
        selector=p.selector(family),
        templates=tuple(template.finished(family) for template in p.templates),
        action=Action.ALLOW if p.action is None else p.action,
        priority=p.priority or 0,
        index=p.index or 0,
        flags=p.flags,
        type=p.type or PolicyType.MAIN,
        lifetime=p.limits,
        mark=p.mark.normalised(),
        if_id=p.if_id,
        context=p.context,
    )


def _family(c: Cursor, p: _Policy) -> int:
    """The selector's own family; what templates say of theirs does not count."""
    own = p.selection.selector.family if p.selection else AF_UNSPEC
    return own or c.family or AF_INET


def _add(c: Cursor, statistics: int) -> PolicyCommand:
    return PolicyAdd(_build(c))


def _update(c: Cursor, statistics: int) -> PolicyCommand:
    return PolicyUpdate(_build(c))


# -- delete and get

_ONE: dict[str | None, _Read] = {
    "dir": _dir,
    "ctx": _ctx,
    "mark": _mark,
    "index": _index_once,
    "ptype": _ptype,
    "if_id": _if_id,
}


def _identity(c: Cursor) -> PolicyId:
    p = _read(c, _ONE, _refuse_unknown)
    if p.direction is None:
        raise Refusal("Not enough information: DIR is required.")
    if p.selection is None and p.index is None:
        raise Refusal("Not enough information: either SELECTOR or INDEX is required.")
    if p.selection is not None and p.index is not None:
        raise Refusal('Error: either "SELECTOR" is duplicate, or "INDEX" is a garbage.')
    return PolicyId(
        direction=p.direction,
        selector=p.selector(_family(c, p)) if p.selection else None,
        index=p.index or 0,
        type=p.type or PolicyType.MAIN,
        mark=p.mark,
        if_id=p.if_id,
        context=p.context,
    )


def _delete(c: Cursor, statistics: int) -> PolicyCommand:
    return PolicyDelete(_identity(c))


def _get(c: Cursor, statistics: int) -> PolicyCommand:
    return PolicyGet(_identity(c), bool(statistics))


# -- list and deleteall

_LIST: dict[str | None, _Read] = {
    "nosock": _nosock,
    "dir": _dir,
    "index": _index,
    "ptype": _ptype,
    "action": _action,
    "priority": _priority,
    "flag": _flag,
}


def _filter(c: Cursor) -> PolicyFilter:
    p = _read(c, _LIST, _refuse_unknown)
    selection = p.selection or Selection()
    s = selection.selector
    return PolicyFilter(
        family=c.family,
        src=_prefix_filter(selection.src),
        dst=_prefix_filter(selection.dst),
        ifindex=s.ifindex,
        proto=s.proto,
        sport=(s.sport, s.sport_mask),
        dport=(s.dport, s.dport_mask),
        direction=p.direction,
        index=p.index,
        type=p.type,
        action=p.action,
        priority=p.priority,
        flags=p.flags,
        nosock=p.nosock,
    )


def _prefix_filter(prefix: Prefix | None) -> PrefixFilter | None:
    return PrefixFilter(prefix.address, prefix.length) if prefix else None


def _list(c: Cursor, statistics: int) -> PolicyCommand:
    return PolicyList(_filter(c), bool(statistics))


def _deleteall(c: Cursor, statistics: int) -> PolicyCommand:
    return PolicyDeleteAll(_filter(c))


# -- the other commands


def _flush(c: Cursor, statistics: int) -> PolicyCommand:
    type: int | None = None
    while c.word is not None:
        if not c.accept("ptype"):
            wrong(c.word, "unknown")
        if type is not None:
            duplicate("ptype", "ptype")
        type = c.of(TYPES, "PTYPE value is invalid")
    return PolicyFlush(type or PolicyType.MAIN)


def _count(c: Cursor, statistics: int) -> PolicyCommand:
    return PolicyCount(statistics)


_THRESHOLDS = {"hthresh4": 32, "hthresh6": 128}


def _set(c: Cursor, statistics: int) -> PolicyCommand:
    found: dict[str, tuple[int, int]] = {}
    while c.word is not None:
        keyword = c.word
        if keyword not in _THRESHOLDS:
            wrong(keyword, "unknown")
        if keyword in found:
            duplicate(keyword, keyword)
        c.step()
        found[keyword] = _bits(c, keyword, "LBITS"), _bits(c, keyword, "RBITS")
    return PolicySetThresholds(found.get("hthresh4"), found.get("hthresh6"))


def _bits(c: Cursor, keyword: str, name: str) -> int:
    why = f"{keyword} {name} value is invalid"
    value = c.number(8, why)
    if value > _THRESHOLDS[keyword]:
        wrong(c.last, why)
    return value


def _setdefault(c: Cursor, statistics: int) -> PolicyCommand:
    found: dict[str, int] = {}
    while c.word is not None:
        direction = c.word
        if direction not in DIRECTIONS:
            wrong(direction, "unknown direction")
        if direction in found:
            duplicate(direction, direction)
        c.step()
        found[direction] = c.of(DEFAULTS, f"{direction} policy value is invalid")
    return PolicySetDefault(found.get("in", 0), found.get("fwd", 0), found.get("out", 0))


def _getdefault(c: Cursor, statistics: int) -> PolicyCommand:
    return PolicyGetDefault()


COMMANDS: dict[str, Callable[[Cursor, int], PolicyCommand]] = {
    "add": _add,
    "update": _update,
    "delete": _delete,
    "deleteall": _deleteall,
    "delall": _deleteall,
    "list": _list,
    "show": _list,
    "lst": _list,
    "get": _get,
    "flush": _flush,
    "count": _count,
    "set": _set,
    "setdefault": _setdefault,
    "getdefault": _getdefault,
}
