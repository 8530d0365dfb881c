"""The words of `ip xfrm policy add` and its siblings, read into the model's objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from uxfrm.iproute2 import names
from uxfrm.iproute2.grammar import (
    Identity,
    Once,
    take_context,
    take_flags,
    take_identity,
    take_limit,
    take_mark,
    take_mode,
    take_word,
)
from uxfrm.iproute2.selectors import Resolve, take_selector
from uxfrm.iproute2.words import Cursor, ParseError, twice, wrong
from uxfrm.model.address import AF_INET, AF_UNSPEC
from uxfrm.model.dump import PolicyId
from uxfrm.model.lifetime import UNLIMITED, LifetimeConfig
from uxfrm.model.mark import NO_MARK, Mark
from uxfrm.model.policy import PolicyConfig, SecurityContext
from uxfrm.model.selector import Selector
from uxfrm.model.template import Template


@dataclass
class TemplateDraft:
    """A template while its words are read; its family may be the policy's."""

    id: Identity | None = None
    mode: int = 0
    reqid: int = 0
    optional: bool = False

    def made(self, policy_family: int) -> Template:
        """The template, with the policy's family where no address says one."""
        identity = self.id or Identity()
        af = identity.family or policy_family
        saddr, daddr = identity.addresses(af)
        return Template(
            daddr=daddr,
            saddr=saddr,
            spi=identity.spi or 0,
            proto=identity.proto or 0,
            family=af,
            reqid=self.reqid,
            mode=self.mode,
            optional=self.optional,
        )


@dataclass
class Draft:
    """A policy while its words are read."""

    resolve: Resolve
    selector: Selector | None = None
    direction: int | None = None
    action: int = 0
    priority: int = 0
    index: int | None = None
    flags: int = 0
    type: int = 0
    limits: LifetimeConfig = UNLIMITED
    mark: Mark = NO_MARK
    if_id: int = 0
    context: SecurityContext | None = None
    templates: list[TemplateDraft] = field(default_factory=list)
    once: Once = field(default_factory=Once)


Reader = Callable[[Cursor, Draft], None]


def _dir(cursor: Cursor, x: Draft) -> None:
    x.once.say("dir")
    x.direction = take_word(cursor, names.DIRECTION, "DIR value is invalid")


def _ctx(cursor: Cursor, x: Draft) -> None:
    x.once.say("ctx")
    x.context = take_context(cursor)


def _mark(cursor: Cursor, x: Draft) -> None:
    x.mark = take_mark(cursor)


def _index(cursor: Cursor, x: Draft) -> None:
    x.index = cursor.number(32, "INDEX value is invalid")


def _index_once(cursor: Cursor, x: Draft) -> None:
    x.once.say("index")
    _index(cursor, x)


def _ptype(cursor: Cursor, x: Draft) -> None:
    x.once.say("ptype")
    x.type = take_word(cursor, names.PTYPE, "PTYPE value is invalid")


def _action(cursor: Cursor, x: Draft) -> None:
    x.action = take_word(cursor, names.ACTION, "ACTION value is invalid")


def _priority(cursor: Cursor, x: Draft) -> None:
    x.priority = cursor.number(32, "PRIORITY value is invalid")


def _flag(cursor: Cursor, x: Draft) -> None:
    cursor.peek()
    x.flags = take_flags(cursor, names.POLICY_FLAG, x.flags)


def _limit(cursor: Cursor, x: Draft) -> None:
    x.limits = take_limit(cursor, x.limits)


def _if_id(cursor: Cursor, x: Draft) -> None:
    x.if_id = cursor.number(32, "IF_ID value is invalid")


def _tmpl(cursor: Cursor, x: Draft) -> None:
    cursor.peek()
    t = TemplateDraft()
    x.templates.append(t)
    while cursor:
        if cursor.follows("mode"):
            t.mode = take_mode(cursor)
        elif cursor.follows("reqid"):
            t.reqid = cursor.number(32, "REQID value is invalid")
        elif cursor.follows("level"):
            t.optional = bool(take_word(cursor, names.LEVEL, "LEVEL value is invalid"))
        elif t.id is None:
            t.id = take_identity(cursor, AF_UNSPEC)
            # `ip` keeps the family: a selector that comes later must be of it
            cursor.family = t.id.family or cursor.family
        else:
            return


ADD: dict[str, Reader] = {
    "dir": _dir,
    "ctx": _ctx,
    "mark": _mark,
    "index": _index,
    "ptype": _ptype,
    "action": _action,
    "priority": _priority,
    "flag": _flag,
    "limit": _limit,
    "if_id": _if_id,
    "tmpl": _tmpl,
}
IDENTITY: dict[str, Reader] = {
    "dir": _dir,
    "ctx": _ctx,
    "mark": _mark,
    "index": _index_once,
    "ptype": _ptype,
    "if_id": _if_id,
}


def take_config(cursor: Cursor, resolve: Resolve) -> PolicyConfig:
    """All words of `policy add` or `update`. Raises ParseError, and XfrmError from the model."""
    x, family = Draft(resolve), cursor.family or AF_INET
    while cursor:
        reader = ADD.get(cursor.here)
        if reader is not None:
            cursor.take()
            reader(cursor, x)
        elif x.selector is None:
            x.selector = take_selector(cursor, resolve, family)
        else:
            raise twice("unknown", cursor.take())
    selector = x.selector or take_selector(cursor, resolve, family)
    return PolicyConfig(
        direction=_direction(x),
        selector=selector,
        templates=tuple(t.made(selector.family) for t in x.templates),
        action=x.action,
        priority=x.priority,
        index=x.index or 0,
        flags=x.flags,
        type=x.type,
        lifetime=x.limits,
        mark=x.mark,
        if_id=x.if_id,
        context=x.context,
    )


def _direction(x: Draft) -> int:
    if x.direction is None:
        raise ParseError(0, "Not enough information: DIR is required.")
    return x.direction


def take_id(cursor: Cursor, resolve: Resolve) -> PolicyId:
    """All words of `policy delete` or `get`."""
    x = Draft(resolve)
    while cursor:
        reader = IDENTITY.get(cursor.here)
        if reader is not None:
            cursor.take()
            reader(cursor, x)
        elif x.selector is None:
            x.selector = take_selector(cursor, resolve, AF_INET)
        else:
            raise wrong(cursor.take(), "unknown")
    direction = _direction(x)
    if x.selector is None and x.index is None:
        raise ParseError(0, "Not enough information: either SELECTOR or INDEX is required.")
    if x.selector is not None and x.index is not None:
        raise ParseError(0, 'Error: either "SELECTOR" is duplicate, or "INDEX" is a garbage.')
    return PolicyId(
        direction=direction,
        selector=x.selector,
        index=x.index or 0,
        type=x.type,
        mark=x.mark,
        if_id=x.if_id,
        context=x.context,
    )
