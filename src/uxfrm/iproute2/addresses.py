"""Addresses and prefixes as `ip` reads them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from uxfrm.iproute2.words import Cursor, ParseError, shown, unsigned, wrong
from uxfrm.model.address import AF_INET, AF_INET6, AF_UNSPEC, ANY4, BITS, Address, any_address, family

_WILD = ("any", "all", "default")


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
    mask = parse_address4(text) if bits == 32 else None
    if mask is None:
        return None
    ones = f"{int.from_bytes(mask):032b}".rstrip("0")
    return None if "0" in ones else len(ones)


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
    """The two addresses of an identity or a selector while they are read, of family `wanted` if not 0."""

    wanted: int = AF_UNSPEC
    src: tuple[Address, int] | None = None
    dst: tuple[Address, int] | None = None
    last: str = ""

    def take(self, keyword: str, cursor: Cursor) -> None:
        """Take the address after `keyword`, which is src or dst."""
        if cursor.here in _WILD and self.wanted == AF_UNSPEC:
            why = f'value after "{keyword}" has an unrecognized address family'
            raise wrong(cursor.here, why)
        self.last = cursor.here
        found = take_prefix(cursor, self.wanted)
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
