"""Selectors as `ip` reads them: addresses, upper-layer protocol, ports, interface."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from uxfrm.iproute2 import names
from uxfrm.iproute2.addresses import Ends, parse_address4
from uxfrm.iproute2.words import Cursor, ParseError, shown, unsigned, wrong
from uxfrm.model.address import AF_UNSPEC, Address, any_address
from uxfrm.model.selector import Selector

Resolve = Callable[[str], int | None]
"""From an interface's name to its index; None where there is no such interface."""

_KEYWORD_SIDE = {"sport": "sport", "dport": "dport", "type": "sport", "code": "dport"}
_PORT_BITS = {"sport": 16, "dport": 16, "type": 8, "code": 8}
_UPPER = (*_KEYWORD_SIDE, "key")
_FULL = 0xFFFF
_SIZE = 16  # of xfrm_address_t: what was said of another family stays in its bytes


@dataclass
class SelectorDraft:
    """A selector while its words are read, which may come in several portions: later ones add to it.

    Not `strict`, it takes ports with any protocol, as dumps have them.
    """

    strict: bool = True
    family: int = AF_UNSPEC
    ends: dict[str, tuple[Address, int]] = field(default_factory=dict)
    proto: int | None = None
    ports: dict[str, int] = field(default_factory=dict)
    masks: dict[str, int] = field(default_factory=dict)
    ifindex: int = 0

    def take(self, cursor: Cursor, resolve: Resolve) -> None:
        """Take SELECTOR, possibly of no words."""
        ends, said = Ends(cursor.family), set[str]()
        while cursor:
            keyword = cursor.here
            if cursor.follows("src", "dst"):
                ends.take(keyword, cursor)
            elif cursor.follows("dev"):
                ends.last = cursor.here
                self.ifindex = _take_device(cursor, resolve)
            elif keyword == "proto" or keyword in _UPPER:
                self._take_upper(cursor, said)
                ends.last = cursor.behind
            else:
                break
        self.family = ends.family or self.family
        for keyword, end in (("src", ends.src), ("dst", ends.dst)):
            if end is not None:
                self.ends[keyword] = end

    def _take_upper(self, cursor: Cursor, said: set[str]) -> None:
        while True:
            keyword = cursor.here
            if cursor.follows("key"):
                key = _take_key(cursor)
                self.ports = {"sport": key >> 16, "dport": key & _FULL}
                self.masks = dict.fromkeys(self.ports, _FULL)
            elif cursor.follows("proto"):
                self.proto = cursor.chosen(names.protocol, "PROTO value is invalid")
            elif cursor.follows(*_PORT_BITS):
                self._take_port(cursor, keyword)
            else:
                break
            said.add(keyword)
        self._check(said)

    def _take_port(self, cursor: Cursor, keyword: str) -> None:
        bits = _PORT_BITS[keyword] if self.strict else _PORT_BITS["sport"]
        side = _KEYWORD_SIDE[keyword]
        self.ports[side] = cursor.number(bits, f'value after "{keyword}" is invalid')
        # `ip` says no mask with port 0, which then is any port
        if self.ports[side] or keyword != side or not self.strict:
            self.masks[side] = _FULL

    def _check(self, said: set[str]) -> None:
        """Refuse words that do not go with the protocol."""
        if not self.strict:
            return
        rules = (
            ({"sport", "dport"}, names.PORTED | {0}, '"sport" and "dport" are'),
            ({"type", "code"}, names.TYPED, '"type" and "code" are'),
            ({"key"}, frozenset({names.GRE}), '"key" is'),
        )
        for words, protocols, subject in rules:
            if said & words and (self.proto or 0) not in protocols:
                name = names.name(names.PROTOCOL, self.proto or 0)
                raise ParseError(0, f'{subject} invalid with PROTO value "{name}"')

    def made(self, default: int = AF_UNSPEC) -> Selector:
        """The selector; its family is `default` where no address said one."""
        af = self.family or default
        src, dst = (self.ends.get(keyword, (any_address(af), 0)) for keyword in ("src", "dst"))
        return Selector(
            family=af,
            daddr=_sized(dst[0], af),
            saddr=_sized(src[0], af),
            prefixlen_d=dst[1],
            prefixlen_s=src[1],
            dport=self.ports.get("dport", 0),
            dport_mask=self.masks.get("dport", 0),
            sport=self.ports.get("sport", 0),
            sport_mask=self.masks.get("sport", 0),
            proto=self.proto or 0,
            ifindex=self.ifindex,
        )


def _sized(address: Address, af: int) -> Address:
    return address.ljust(_SIZE, b"\0")[: len(any_address(af))]


def take_selector(
    cursor: Cursor, resolve: Resolve, default: int = AF_UNSPEC, strict: bool = True
) -> Selector:
    """Take SELECTOR, possibly of no words; its family is `default` where no address says one."""
    draft = SelectorDraft(strict)
    draft.take(cursor, resolve)
    return draft.made(default)


def _take_device(cursor: Cursor, resolve: Resolve) -> int:
    name = cursor.take()
    ifindex = resolve(name)
    if not ifindex:
        raise wrong(name, "DEV value is invalid")
    return ifindex


def _take_key(cursor: Cursor) -> int:
    """A number, or an address whose bytes are one."""
    word = cursor.take()
    if "." in word:
        dotted = parse_address4(word)
        if dotted is None:
            raise ParseError(0, f'Error: an IP address is expected rather than "{shown(word)}"')
        return int.from_bytes(dotted)
    value = unsigned(word, 32)
    if value is None:
        raise ParseError(0, 'value after "key" is invalid')
    return value
