"""The parts that states and policies are spelled with alike: identities, flags, limits, marks, contexts.

Answers to wrong words are those of `ip`; where `ip` says nothing, the model does when the object is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from uxfrm.iproute2 import names
from uxfrm.iproute2.addresses import Ends
from uxfrm.iproute2.words import Cursor, ParseError, twice, unsigned, wrong
from uxfrm.model.address import AF_UNSPEC, Address, any_address
from uxfrm.model.flow import PROTO_COMP, PROTO_DSTOPTS, PROTO_ROUTING
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.mark import Mark
from uxfrm.model.policy import SecurityContext

MIP6 = (PROTO_DSTOPTS, PROTO_ROUTING)
_DOI_LSM, _ALG_SELINUX = 1, 1


# -- identities


@dataclass
class Identity:
    """src, dst, proto and spi of a state or a template; None for what is not said."""

    family: int = AF_UNSPEC
    src: tuple[Address, int] | None = None
    dst: tuple[Address, int] | None = None
    proto: int | None = None
    spi: int | None = None

    def addresses(self, af: int) -> tuple[Address, Address]:
        """Source and destination, wildcards of family `af` where they are not said."""
        wild = any_address(af)
        return (self.src[0] if self.src else wild), (self.dst[0] if self.dst else wild)


def take_identity(cursor: Cursor, wanted: int, loose: bool = False) -> Identity:
    """Take ID of the family `wanted` if that is one; `loose` does without a protocol."""
    ends, found = Ends(wanted), Identity()
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
    found.family, found.src, found.dst = ends.family, ends.src, ends.dst
    _check_identity(found, loose)
    return found


def _check_identity(found: Identity, loose: bool) -> None:
    if found.proto is None:
        if not loose:
            raise ParseError(0, 'Error: argument "XFRM-PROTO" is required')
        return
    of_proto = f'with XFRM-PROTO value "{names.name(names.XFRM_PROTO, found.proto)}"'
    if found.proto == PROTO_COMP and (found.spi or 0) >= 0x10000:
        raise ParseError(0, f"SPI value is too large {of_proto}")
    if found.proto in MIP6 and found.spi:
        raise ParseError(0, f'"spi" is invalid {of_proto}')


def take_xfrm_proto(cursor: Cursor) -> int:
    """Take esp, ah, comp, route2, hao or ipsec-any."""
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


def take_flags(
    cursor: Cursor, table: names.Table, flags: int, bits: int = 8, why: str = "FLAG value is invalid"
) -> int:
    """`flags` with those that are named, as long as there are any; or one number in hexadecimal instead."""
    word = cursor.take()
    if word.startswith("0x"):
        value = unsigned(word, bits, 16)
        if value is None:
            raise wrong(word, why)
        return value
    cursor.back()
    bit = names.number(table, cursor.here)
    while cursor and bit is not None:
        cursor.take()
        flags |= bit
        bit = names.number(table, cursor.here)
    return flags


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
