"""The phrases that state and policy commands share: ID, SELECTOR, UPSPEC, LIMIT, mark, flag list, context.

Each function stands behind its keyword and leaves the cursor after its phrase. Follows: ip-xfrm(8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from uxfrm.iproute2 import numbers
from uxfrm.iproute2.cursor import Cursor, Refusal, duplicate, missing, wrong
from uxfrm.iproute2.numbers import Prefix
from uxfrm.iproute2.vocabulary import LIMITS, PROTOCOL_NAMES, PROTOCOLS, XFRM_PROTO_NAMES, XFRM_PROTOS, Words
from uxfrm.model.address import AF_INET, AF_UNSPEC, Address, any_address
from uxfrm.model.flow import PROTO_COMP, PROTO_DSTOPTS, PROTO_ROUTING
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.mark import Mark
from uxfrm.model.policy import SecurityContext
from uxfrm.model.selector import Selector

NO_SPI = (PROTO_ROUTING, PROTO_DSTOPTS)
ALL_ONES = 0xFFFFFFFF


# -- ID


@dataclass
class Id:
    """[ src ADDR ] [ dst ADDR ] [ proto XFRM-PROTO ] [ spi SPI ]; None for what was not given."""

    src: Prefix | None = None
    dst: Prefix | None = None
    proto: int | None = None
    spi: int | None = None
    family: int = AF_UNSPEC

    def addresses(self, family: int) -> tuple[Address, Address]:
        """Destination and source, the any address of `family` where not given."""
        nothing = any_address(family)
        return self.dst.address if self.dst else nothing, self.src.address if self.src else nothing


def parse_id(c: Cursor, *, loose: bool = False) -> Id:
    """Read an ID up to the first word that is none of its keywords; `loose` needs no protocol."""
    found = Id()
    while c.word in _ID:
        keyword = c.take()
        _ID[keyword](c, found)
    found.family = c.same_family(found.src, found.dst)
    if found.src or found.dst:
        c.family = found.family
    if found.proto is None and not loose:
        missing("XFRM-PROTO")
    _check_spi(found)
    return found


def _id_src(c: Cursor, found: Id) -> None:
    found.src = c.prefix_after("src")


def _id_dst(c: Cursor, found: Id) -> None:
    found.dst = c.prefix_after("dst")


def _id_proto(c: Cursor, found: Id) -> None:
    found.proto = c.of(XFRM_PROTOS, "XFRM-PROTO value is invalid")


def _id_spi(c: Cursor, found: Id) -> None:
    found.spi = c.number(32, "SPI value is invalid")


_ID: dict[str | None, Callable[[Cursor, Id], None]] = {
    "src": _id_src,
    "dst": _id_dst,
    "proto": _id_proto,
    "spi": _id_spi,
}


def _check_spi(found: Id) -> None:
    if found.spi is None or found.proto is None:
        return
    name = XFRM_PROTO_NAMES[found.proto]
    if found.proto in NO_SPI:
        raise Refusal(f'"spi" is invalid with XFRM-PROTO value "{name}"')
    if found.proto == PROTO_COMP and found.spi >= 0x10000:
        raise Refusal(f'SPI value is too large with XFRM-PROTO value "{name}"')


# -- SELECTOR


@dataclass
class Selection:
    """A selector while its words are read; what a second `sel` says is laid over the first."""

    selector: Selector = field(default_factory=Selector)
    src: Prefix | None = None
    dst: Prefix | None = None

    def finished(self, family: int) -> Selector:
        """The selector of `family`, with both addresses in its size."""
        src = self.src or Prefix(family, b"", 0)
        dst = self.dst or Prefix(family, b"", 0)
        return replace(
            self.selector,
            family=family,
            saddr=numbers.fitted(src.address, family),
            daddr=numbers.fitted(dst.address, family),
            prefixlen_s=src.length,
            prefixlen_d=dst.length,
        )


def parse_selector(c: Cursor, into: Selection | None = None) -> Selection:
    """Read a SELECTOR up to the first word that is none of its keywords, which may be the first."""
    found = into or Selection()
    src = dst = None
    while True:
        if c.accept("src"):
            found.src = src = c.prefix_after("src")
        elif c.accept("dst"):
            found.dst = dst = c.prefix_after("dst")
        elif c.accept("dev"):
            found.selector = replace(found.selector, ifindex=_device(c))
        elif not _parse_upspec(c, found):
            break
    family = c.same_family(src, dst)
    if src or dst:
        c.family = family
        found.selector = replace(found.selector, family=family)
    return found


def _device(c: Cursor) -> int:
    name = c.take()
    index = c.resolve(name)
    if index is None:
        wrong(name, "DEV value is invalid")
    return index


def _parse_upspec(c: Cursor, found: Selection) -> bool:
    """Read an UPSPEC; False where there is none."""
    seen: set[str] = set()
    while c.word in _UPSPEC:
        keyword = c.take()
        found.selector = _UPSPEC[keyword](c, found.selector)
        seen.add(keyword)
    _check_upspec(seen, found.selector.proto)
    return bool(seen)


def _up_proto(c: Cursor, s: Selector) -> Selector:
    word = c.take()
    proto = PROTOCOLS.get(word)
    if proto is None:
        proto = numbers.unsigned(word, 8)
    if proto is None:
        wrong(word, "PROTO value is invalid")
    return replace(s, proto=proto)


def _up_sport(c: Cursor, s: Selector) -> Selector:
    port = c.number(16, 'value after "sport" is invalid')
    return replace(s, sport=port, sport_mask=0xFFFF if port else 0)


def _up_dport(c: Cursor, s: Selector) -> Selector:
    port = c.number(16, 'value after "dport" is invalid')
    return replace(s, dport=port, dport_mask=0xFFFF if port else 0)


def _up_type(c: Cursor, s: Selector) -> Selector:
    return replace(s, sport=c.number(8, 'value after "type" is invalid'), sport_mask=0xFFFF)


def _up_code(c: Cursor, s: Selector) -> Selector:
    return replace(s, dport=c.number(8, 'value after "code" is invalid'), dport_mask=0xFFFF)


def _up_key(c: Cursor, s: Selector) -> Selector:
    key = _gre_key(c.take())
    return replace(s, sport=key >> 16, dport=key & 0xFFFF, sport_mask=0xFFFF, dport_mask=0xFFFF)


def _gre_key(word: str) -> int:
    if "." in word:
        quad = numbers.address(word, AF_INET)
        if quad is None:
            raise Refusal(f'Error: an IP address is expected rather than "{word}"')
        return int.from_bytes(quad)
    key = numbers.unsigned(word, 32)
    if key is None:
        raise Refusal('value after "key" is invalid')
    return key


_UPSPEC: dict[str | None, Callable[[Cursor, Selector], Selector]] = {
    "proto": _up_proto,
    "sport": _up_sport,
    "dport": _up_dport,
    "type": _up_type,
    "code": _up_code,
    "key": _up_key,
}

# Which protocols may be narrowed by which words; 0 is no protocol at all.
_NARROWED = (
    ({"sport", "dport"}, (0, 6, 17, 33, 132), '"sport" and "dport" are'),
    ({"type", "code"}, (1, 58, 135), '"type" and "code" are'),
    ({"key"}, (47,), '"key" is'),
)


def _check_upspec(seen: set[str], proto: int) -> None:
    for words, protos, subject in _NARROWED:
        if seen & words and proto not in protos:
            raise Refusal(f'{subject} invalid with PROTO value "{PROTOCOL_NAMES.get(proto, proto)}"')


def parse_selector_afresh(c: Cursor, into: Selection | None = None) -> Selection:
    """A SELECTOR behind `sel`, whose addresses may be of another family than those before."""
    before, c.family = c.family, AF_UNSPEC
    found = parse_selector(c, into)
    c.family = c.family or before
    return found


# -- the rest


def parse_limit(c: Cursor, limits: LifetimeConfig) -> LifetimeConfig:
    """limit LIMIT: one word and its number."""
    name = c.take()
    if name not in LIMITS:
        wrong(name, "LIMIT value is invalid")
    return limits._replace(**{LIMITS[name]: c.number(64, f'value after "{name}" is invalid')})


def parse_mark(c: Cursor) -> Mark:
    """mark MARK [ mask MASK ]; a mark whose mask is 0 is none."""
    value = c.number(32, "MARK value is invalid")
    mask = c.number(32, "MASK value is invalid") if c.accept("mask") else ALL_ONES
    return Mark(value, mask) if mask else Mark()


def parse_flags(c: Cursor, table: Words, bits: int) -> int:
    """flag FLAG-LIST: words while they are flags, or one hexadecimal number, which nothing may follow."""
    word = c.take()
    if word.startswith("0x"):
        value = numbers.unsigned(word, bits)
        if value is None:
            wrong(word, "FLAG value is invalid")
        return value
    c.at -= 1
    value = 0
    while c.word in table:
        value |= table[c.take()]
    return value


def parse_context(c: Cursor, before: SecurityContext | None) -> SecurityContext:
    """ctx CTX, given at most once."""
    if before is not None:
        duplicate("ctx", "ctx")
    return SecurityContext(doi=1, alg=1, text=c.take())
