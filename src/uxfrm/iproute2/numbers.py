"""Numbers, addresses and prefixes as iproute2 reads them: C's strtoul with base 0, and its own dotted quads.

Functions return None where the text is none of it; the grammar knows the words of the refusal.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from uxfrm.model.address import AF_INET, AF_INET6, AF_UNSPEC, BITS, Address, any_address

_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*)")

WILDCARDS = frozenset({"any", "all", "default"})


def unsigned(text: str, bits: int) -> int | None:
    """Decimal, 0x hexadecimal or 0 octal, below 2**bits; 64-bit numbers may be negative, as strtoull has it."""
    negative = bits == 64 and text.startswith("-")
    value = _magnitude(text[1:] if negative else text)
    if value is None or value >> bits:
        return None
    return -value % 2**64 if negative else value


def _magnitude(text: str) -> int | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    hexadecimal, octal, decimal = match.groups()
    if hexadecimal:
        return int(hexadecimal, 16)
    return int(octal, 8) if octal else int(decimal)


class Prefix(NamedTuple):
    """An address with the number of bits that count; family AF_UNSPEC for `any` without a known family."""

    family: int
    address: Address
    length: int


def address(text: str, family: int = AF_UNSPEC) -> Address | None:
    """An address of `family` (AF_UNSPEC: either). Missing parts of a dotted quad are zeros: 10.1 is 10.1.0.0."""
    if text in WILDCARDS:
        return any_address(family)
    value = _ipv6(text) if ":" in text else _ipv4(text)
    if value is None or family not in (AF_UNSPEC, AF_INET6 if len(value) == 16 else AF_INET):
        return None
    return value


def _ipv4(text: str) -> Address | None:
    parts = [unsigned(part, 8) for part in text.split(".")]
    if len(parts) > 4 or None in parts:
        return None
    return bytes(part or 0 for part in parts).ljust(4, b"\0")


def _ipv6(text: str) -> Address | None:
    try:
        return ipaddress.IPv6Address(text).packed if "%" not in text else None
    except ValueError:
        return None


def prefix(text: str, family: int = AF_UNSPEC) -> Prefix | None:
    """ADDRESS[/LENGTH], where an IPv4 length may be a contiguous netmask."""
    if text in WILDCARDS:
        return Prefix(family, any_address(family), 0)
    host, slash, width = text.partition("/")
    value = None if host in WILDCARDS else address(host, family)
    if value is None:
        return None
    af = AF_INET if len(value) == 4 else AF_INET6
    length = _length(width, af) if slash else BITS[af]
    return None if length is None else Prefix(af, value, length)


def _length(text: str, family: int) -> int | None:
    value = unsigned(text, 32)
    if value is None:
        return _netmask(text) if family == AF_INET and "." in text else None
    return value if value <= BITS[family] else None


def _netmask(text: str) -> int | None:
    mask = _ipv4(text)
    if mask is None:
        return None
    bits = f"{int.from_bytes(mask):032b}".rstrip("0")
    return len(bits) if "0" not in bits else None


def fitted(value: Address, family: int) -> Address:
    """The union of 16 bytes read as `family`: cut, or filled with zeros."""
    size = 16 if family == AF_INET6 else 4
    return value[:size].ljust(size, b"\0")


_KEY = re.compile(r"[0-9a-fA-F]+")


def key(text: str) -> bytes | None:
    """Key material: 0xHEX (an odd digit stands alone in the first byte), anything else is its own bytes."""
    if not text.startswith("0x") or len(text) == 2:
        return text.encode("utf-8", "surrogateescape")
    digits = text[2:]
    if _KEY.fullmatch(digits) is None:
        return None
    return bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2))
