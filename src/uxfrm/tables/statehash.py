"""The hash of (daddr, SPI, proto, family), and the compiled lookup by it."""

from __future__ import annotations

from typing import Any

import numba

from uxfrm.compiled import compiled
from uxfrm.tables.hashindex import I32, I64, Int32s, Int64s
from uxfrm.tables.rows import ROWS

_MIX = 0x5BD1E995
_LOW = 0xFFFFFFFF


@compiled(numba.int64(numba.int64, numba.int64))
def mix(value: int, word: int) -> int:
    """Fold a 32-bit word into a 32-bit hash; products stay below 2^63, so nothing depends on wrapping."""
    value = (value ^ word) & _LOW
    value = (value * _MIX) & _LOW
    return value ^ (value >> 15)


@compiled(numba.int64(*[numba.int64] * 8))
def spi_hash(seed: int, a0: int, a1: int, a2: int, a3: int, spi: int, proto: int, family: int) -> int:
    """Follows: xfrm_spi_hash, with a seed so that nobody outside can choose collisions."""
    value = mix(seed, spi)
    value = mix(value, a0)
    if family != 2:
        value = mix(mix(mix(value, a1), a2), a3)
    return mix(value, proto * 256 + family)


@compiled(numba.int64(*[numba.int64] * 10))
def address_hash(
    seed: int, a0: int, a1: int, a2: int, a3: int, b0: int, b1: int, b2: int, b3: int, family: int
) -> int:
    """The hash of two addresses, in one call: a call from Python costs more than what it computes."""
    value = mix(mix(mix(mix(mix(seed, family), a0), a1), a2), a3)
    return mix(mix(mix(mix(value, b0), b1), b2), b3)


@compiled(numba.int64(ROWS, I32, I32, I64, *[numba.int64] * 9))
def find_by_spi(
    rows: Any,
    heads: Int32s,
    links: Int32s,
    hashes: Int64s,
    seed: int,
    a0: int,
    a1: int,
    a2: int,
    a3: int,
    spi: int,
    proto: int,
    family: int,
    mark: int,
) -> int:
    """Return the newest row with this key whose mark covers the packet's, or -1.

    Life states are not looked at. Follows: __xfrm_state_lookup.
    """
    value = spi_hash(seed, a0, a1, a2, a3, spi, proto, family)
    row = heads[value & (heads.shape[0] - 1)]
    while row >= 0:
        if hashes[row] == value:
            x = rows[row]
            if (
                x["spi"] == spi
                and x["proto"] == proto
                and x["family"] == family
                and x["daddr"][0] == a0
                and x["daddr"][1] == a1
                and x["daddr"][2] == a2
                and x["daddr"][3] == a3
                and mark & x["mark_m"] == x["mark_v"]
            ):
                return int(row)
        row = links[row]
    return -1
