"""The parts that states and policies are spelled with alike: addresses, identities, selectors, limits, marks.

Answers to wrong words are those of `ip`; where `ip` says nothing, the model does when the object is made.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field

from uxfrm.iproute2 import names
from uxfrm.iproute2.words import Cursor, ParseError, shown, twice, unsigned, wrong
from uxfrm.model.address import AF_INET, AF_INET6, AF_UNSPEC, ANY4, BITS, Address, any_address, family
from uxfrm.model.flow import PROTO_COMP, PROTO_DSTOPTS, PROTO_ROUTING
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.mark import Mark
from uxfrm.model.policy import SecurityContext
from uxfrm.model.selector import Selector

Resolve = Callable[[str], int | None]
"""From an interface's name to its index; None where there is no such interface."""

MIP6 = (PROTO_DSTOPTS, PROTO_ROUTING)
_WILD = ("any", "all", "default")
_DOI_LSM, _ALG_SELINUX = 1, 1


# -- addresses


def parse_address4(text: str) -> Address | None:
    """IPv4 as `ip` reads it: one to four numbers in C's notations, missing ones are 0."""
    parts = text.split(".")
    numbers = [unsigned(part, 8) for part in parts if part]
    if len(parts) > 4 or len(numbers) != len(parts) or None in numbers:
        return None
    return bytes([number for number in numbers if number is not None]).ljust(4, b"\0")


def parse_address(text: str, af: int = AF_UNSPEC) -> Address | None:
    """IPv6 where there is a colon, else IPv4; None for neither, or for another family than `af`."""
    if ":" not in text:
        return parse_address4(text) if af != AF_INET6 else None
    try:
        found = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    return found.packed if af != AF_INET and found.scope_id is None else None


def parse_prefix(text: str, af: int = AF_UNSPEC) -> tuple[Address, int] | None:
    """ADDR[/PLEN], where PLEN may also be an IPv4 netmask; None for anything else."""
    head, slash, tail = text.partition("/")
    address = parse_address(head, af)
    if address is None:
        return None
    bits = BITS[family(address)]
    length = _prefix_length(tail, bits) if slash else bits
    return None if length is None else (address, length)


def _prefix_length(text: str, bits: int) -> int | None:
    length = unsigned(text, 32)
    if length is not None:
        return length if length <= bits else None
    try:
        mask = int(ipaddress.IPv4Address(text)) if bits == 32 else -1
    except ValueError:
        return None
    ones = f"{mask:032b}".rstrip("0") if mask > 0 else ""
    return len(ones) if mask >= 0 and "0" not in ones else None


def take_prefix(cursor: Cursor, af: int = AF_UNSPEC) -> tuple[Address, int]:
    """Take ADDR[/PLEN]; `any` is the wildcard where the family is known."""
    word = cursor.take()
    if word in _WILD and af != AF_UNSPEC:
        return any_address(af), 0
    found = parse_prefix(word, af)
    if found is None:
        kind = {AF_INET: "inet", AF_INET6: "inet6"}.get(af, "any valid")
        raise ParseError(0, f'Error: {kind} prefix is expected rather than "{shown(word)}".')
    return found


def take_address(cursor: Cursor) -> Address:
    """Take an address of either family."""
    word = cursor.take()
    found = ANY4 if word in _WILD else parse_address(word)
    if found is None:
        raise ParseError(0, f'Error: any valid address is expected rather than "{shown(word)}".')
    return found


@dataclass
class Ends:
    """The two addresses of an identity or a selector while they are read."""

    src: tuple[Address, int] | None = None
    dst: tuple[Address, int] | None = None
    last: str = ""

    def take(self, keyword: str, cursor: Cursor) -> None:
        """Take the address after `keyword`, which is src or dst."""
        if cursor.here in _WILD:
            why = f'value after "{keyword}" has an unrecognized address family'
            raise wrong(cursor.here, why)
        self.last = cursor.here
        found = take_prefix(cursor)
        if keyword == "src":
            self.src = found
        else:
            self.dst = found

    @property
    def family(self) -> int:
        """The addresses' family, AF_UNSPEC without any. ParseError when they are not of one."""
        families = {family(end[0]) for end in (self.src, self.dst) if end is not None}
        if len(families) > 1:
            why = 'the same address family is required between values after "src" and "dst"'
            raise wrong(self.last, why)
        return families.pop() if families else AF_UNSPEC


# -- identities


@dataclass
class Identity:
    """src, dst, proto and spi of a state or a template; `proto` is None when it is not said."""

    family: int = AF_UNSPEC
    saddr: Address | None = None
    daddr: Address | None = None
    proto: int | None = None
    spi: int = 0

    def addresses(self, af: int) -> tuple[Address, Address]:
        """Source and destination, wildcards of family `af` where they are not said."""
        wild = any_address(af)
        return self.saddr or wild, self.daddr or wild


def take_identity(cursor: Cursor, loose: bool = False) -> Identity:
    """Take ID; `loose` does without a protocol."""
    ends, found = Ends(), Identity()
    while cursor:
        keyword = cursor.here
        if not cursor.follows("src", "dst", "proto", "spi"):
            break
        if keyword in ("src", "dst"):
            ends.take(keyword, cursor)
            continue
        ends.last = cursor.here
        if keyword == "proto":
            found.proto = take_xfrm_proto(cursor)
        else:
            found.spi = cursor.number(32, "SPI value is invalid")
    found.family = ends.family
    found.saddr = ends.src[0] if ends.src else None
    found.daddr = ends.dst[0] if ends.dst else None
    _check_identity(found, loose)
    return found


def _check_identity(found: Identity, loose: bool) -> None:
    if found.proto is None:
        if not loose:
            raise ParseError(0, 'Error: argument "XFRM-PROTO" is required')
        return
    of_proto = f'with XFRM-PROTO value "{names.name(names.XFRM_PROTO, found.proto)}"'
    if found.proto == PROTO_COMP and found.spi >= 0x10000:
        raise ParseError(0, f"SPI value is too large {of_proto}")
    if found.proto in MIP6 and found.spi:
        raise ParseError(0, f'"spi" is invalid {of_proto}')


def take_xfrm_proto(cursor: Cursor) -> int:
    """Take esp, ah, comp, route2 or hao."""
    return take_word(cursor, names.XFRM_PROTO, "XFRM-PROTO value is invalid")


def take_word(cursor: Cursor, table: names.Table, why: str) -> int:
    """Take a word of `table`."""
    word = cursor.take()
    value = names.number(table, word)
    if value is None:
        raise wrong(word, why)
    return value


def take_mode(cursor: Cursor) -> int:
    """Take the name of a mode."""
    return take_word(cursor, names.MODE, "MODE value is invalid")


def take_flags(cursor: Cursor, table: names.Table) -> int:
    """Take names of flags as long as there are any, or one number in hexadecimal."""
    word = cursor.take()
    if word.startswith(("0x", "0X")):
        value = unsigned(word, 8, 16)
        if value is None:
            raise wrong(word, "FLAG value is invalid")
        return value
    cursor.back()
    flags, bit = 0, names.number(table, cursor.here)
    while cursor and bit is not None:
        cursor.take()
        flags |= bit
        bit = names.number(table, cursor.here)
    return flags


# -- selectors


@dataclass
class Upper:
    """The upper-layer part of a selector while it is read: which words said the ports, and what."""

    proto: int = 0
    ports: dict[str, int] = field(default_factory=dict)
    key: int | None = None
    strict: bool = True

    def check(self) -> None:
        """Refuse words that do not go with the protocol."""
        if not self.strict:
            return
        name = names.name(names.PROTOCOL, self.proto)
        rules = (
            (("sport", "dport"), names.PORTED | {0}, '"sport" and "dport" are'),
            (("type", "code"), names.TYPED, '"type" and "code" are'),
            (("key",), frozenset({names.GRE}), '"key" is'),
        )
        said = {*self.ports, *(("key",) if self.key is not None else ())}
        for words, protocols, subject in rules:
            if said.intersection(words) and self.proto not in protocols:
                raise ParseError(0, f'{subject} invalid with PROTO value "{name}"')

    def fields(self) -> dict[str, int]:
        """Selector's fields: ports with their masks."""
        if self.key is not None:
            sport, dport = self.key >> 16, self.key & 0xFFFF
            return {"sport": sport, "sport_mask": 0xFFFF, "dport": dport, "dport_mask": 0xFFFF}
        found: dict[str, int] = {}
        for word, value in self.ports.items():
            side = "sport" if word in ("sport", "type") else "dport"
            found[side] = value
            found[f"{side}_mask"] = 0xFFFF
        return found


def take_selector(
    cursor: Cursor, resolve: Resolve, default: int = AF_UNSPEC, strict: bool = True
) -> Selector:
    """Take SELECTOR, possibly of no words; its family is `default` where no address says one.

    Not `strict`, it takes ports with any protocol, as dumps have them.
    """
    ends, upper, ifindex = Ends(), Upper(strict=strict), 0
    while cursor:
        keyword = cursor.here
        if cursor.follows("src", "dst"):
            ends.take(keyword, cursor)
        elif cursor.follows("dev"):
            ends.last = cursor.here
            ifindex = _take_device(cursor, resolve)
        elif cursor.follows("proto"):
            _take_upper(cursor, upper)
            ends.last = cursor.behind
        elif cursor.follows(*_UPPER):
            cursor.back()
            _take_upper_words(cursor, upper)
            upper.check()
            ends.last = cursor.behind
        else:
            break
    af = ends.family or default
    src, dst = ends.src or (any_address(af), 0), ends.dst or (any_address(af), 0)
    return Selector(af, dst[0], src[0], dst[1], src[1], proto=upper.proto, ifindex=ifindex, **upper.fields())


def _take_device(cursor: Cursor, resolve: Resolve) -> int:
    name = cursor.take()
    ifindex = resolve(name)
    if not ifindex:
        raise wrong(name, "DEV value is invalid")
    return ifindex


_UPPER = ("sport", "dport", "type", "code", "key")
_PORT_BITS = {"sport": 16, "dport": 16, "type": 8, "code": 8}


def _take_upper(cursor: Cursor, upper: Upper) -> None:
    word = cursor.take()
    found = names.protocol_number(word)
    if found is None:
        found = unsigned(word, 8)
    if found is None:
        raise wrong(word, "PROTO value is invalid")
    upper.proto = found
    _take_upper_words(cursor, upper)
    upper.check()


def _take_upper_words(cursor: Cursor, upper: Upper) -> None:
    while True:
        keyword = cursor.here
        if cursor.follows("key"):
            upper.key = _take_key(cursor)
        elif cursor.follows("proto"):
            upper.proto = cursor.chosen(_protocol, "PROTO value is invalid")
        elif cursor.follows(*_PORT_BITS):
            why = f'value after "{keyword}" is invalid'
            bits = _PORT_BITS[keyword] if upper.strict else 16
            upper.ports[keyword] = cursor.number(bits, why)
        else:
            return


def _protocol(word: str) -> int | None:
    found = names.protocol_number(word)
    return unsigned(word, 8) if found is None else found


def _take_key(cursor: Cursor) -> int:
    word = cursor.take()
    dotted = parse_address4(word) if "." in word else None
    value = int.from_bytes(dotted) if dotted else unsigned(word, 32) if "." not in word else None
    if value is None:
        raise ParseError(0, 'value after "key" is invalid')
    return value


# -- limits, marks, contexts

_LIMITS = {
    "time-soft": "soft_add",
    "time-hard": "hard_add",
    "time-use-soft": "soft_use",
    "time-use-hard": "hard_use",
    "byte-soft": "soft_byte",
    "byte-hard": "hard_byte",
    "packet-soft": "soft_packet",
    "packet-hard": "hard_packet",
}


def take_limit(cursor: Cursor, limits: LifetimeConfig) -> LifetimeConfig:
    """Take one LIMIT and put it into `limits`."""
    word = cursor.take()
    if word not in _LIMITS:
        raise wrong(word, "LIMIT value is invalid")
    value = cursor.number(64, f'value after "{word}" is invalid')
    return limits._replace(**{_LIMITS[word]: value})


def take_mark(cursor: Cursor) -> Mark:
    """Take MARK [ mask MASK ]."""
    value, mask = cursor.number(32, "MARK value is invalid"), 0xFFFFFFFF
    if cursor.follows("mask"):
        mask = cursor.number(32, "MASK value is invalid")
    return Mark(value, mask)


def take_context(cursor: Cursor) -> SecurityContext:
    """Take a security context, as SELinux writes them."""
    return SecurityContext(_DOI_LSM, _ALG_SELINUX, cursor.take())


class Once:
    """Keywords that may be said once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def say(self, keyword: str) -> None:
        """Note `keyword`; ParseError when it was said before."""
        if keyword in self._said:
            raise twice(keyword, keyword)
        self._said.add(keyword)

    def said(self, keyword: str) -> bool:
        """True when `keyword` was said."""
        return keyword in self._said
