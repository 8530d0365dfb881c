"""IP addresses as the tables keep them: `bytes` of length 4 or 16 in network order.

The kernel's xfrm_address_t is a 16-byte union beside a family; here the length is the family.
Bytes hash and compare at C speed, and a million states hold millions of them.
"""

from __future__ import annotations

import ipaddress

AF_UNSPEC = 0
AF_INET = 2
AF_INET6 = 10

Address = bytes

ANY4: Address = bytes(4)
ANY6: Address = bytes(16)

_DOTTED = ((bytes(12), "::"), (bytes(10) + b"\xff\xff", "::ffff:"))

BITS = {AF_INET: 32, AF_INET6: 128}


def parse(text: str) -> Address:
    """Return the address that `text` spells; ValueError where it spells none."""
    return ipaddress.ip_address(text).packed


def show(address: Address) -> str:
    """Spell `address` as inet_ntop does: dotted after ::ffff: and where only the last 32 bits are used."""
    for prefix, text in _DOTTED:
        if len(address) == 16 and address.startswith(prefix) and (prefix[-1] or any(address[12:14])):
            return f"{text}{ipaddress.IPv4Address(address[12:])}"
    return str(ipaddress.ip_address(address))


def family(address: Address) -> int:
    """AF_INET or AF_INET6, from the length."""
    return AF_INET if len(address) == 4 else AF_INET6


def any_address(af: int) -> Address:
    """The wildcard address of family `af` (IPv4's for AF_UNSPEC)."""
    return ANY6 if af == AF_INET6 else ANY4


def is_any(address: Address) -> bool:
    """True for 0.0.0.0 and ::."""
    return not any(address)


def in_prefix(address: Address, prefix: Address, length: int) -> bool:
    """True when the first `length` bits agree; a length beyond the address never matches.

    Follows: addr_match, addr4_match.
    """
    bits = len(address) * 8
    if length > bits or len(prefix) != len(address):
        return False
    shift = bits - length
    return int.from_bytes(address) >> shift == int.from_bytes(prefix) >> shift


def masked(address: Address, length: int) -> Address:
    """`address` with all bits after the first `length` cleared."""
    bits = len(address) * 8
    shift = max(bits - length, 0)
    return (int.from_bytes(address) >> shift << shift).to_bytes(len(address))
