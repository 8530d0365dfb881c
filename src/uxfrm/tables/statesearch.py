"""Walks over the states of one destination bucket, compiled: a bucket may hold thousands of them.

What is looked for is a key, an array of KEY_COLUMNS numbers. Follows: the walks of xfrm_state_find,
__find_acq_core and __xfrm_state_bump_genids over xfrm_dst_hash's chains.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.model.address import Address, any_address
from uxfrm.model.dump import LarvalConfig
from uxfrm.model.state import StateConfig
from uxfrm.tables.hashindex import I32, I64, Int32s, Int64s
from uxfrm.tables.rows import NO_CPU, ROWS, words
from uxfrm.tables.states import State, StateTable

DADDR, SADDR, FAMILY, REQID, MODE, PROTO, SPI, MARK, IF_ID, CPU = 0, 4, 8, 9, 10, 11, 12, 13, 14, 15
KEY_COLUMNS = 16

# What a walk has found out besides the best state so far.
BEST, PENDING, FAILED = 0, 1, 2
FOUND_COLUMNS = 3

_VALID, _ACQ, _ERROR, _EXPIRED = 1, 2, 3, 4
_WILDRECV = 8


def search_key(
    daddr: Address,
    saddr: Address,
    family: int,
    reqid: int,
    mode: int = 0,
    proto: int = 0,
    spi: int = 0,
    mark: int = 0,
    if_id: int = 0,
    cpu: int | None = None,
) -> Int64s:
    """What a walk looks for; `mark` is the value that the states' marks are to cover."""
    number = NO_CPU if cpu is None else cpu
    return np.array(
        [*words(daddr), *words(saddr), family, reqid, mode, proto, spi, mark, if_id, number], np.int64
    )


@compiled(numba.boolean(ROWS, int64, I64))
def _between(rows: Any, row: int, key: Int64s) -> bool:
    """True for a state between the key's addresses, of its family and reqid."""
    x = rows[row]
    if x["reqid"] != key[REQID] or x["family"] != key[FAMILY]:
        return False
    different = 0
    for k in range(4):
        different |= x["daddr"][k] ^ key[DADDR + k] | x["saddr"][k] ^ key[SADDR + k]
    return bool(different == 0)


@compiled(numba.boolean(ROWS, int64, I64))
def _fits(rows: Any, row: int, key: Int64s) -> bool:
    """The comparisons that xfrm_state_find makes of every state."""
    x = rows[row]
    return bool(
        x["mode"] == key[MODE]
        and x["proto"] == key[PROTO]
        and (key[SPI] == 0 or x["spi"] == key[SPI])
        and key[MARK] & x["mark_m"] == x["mark_v"]
        and x["if_id"] == key[IF_ID]
        and not x["flags"] & _WILDRECV
    )


@compiled(numba.boolean(ROWS, int64, int64, int64))
def _beats(rows: Any, row: int, best: int, cpu: int) -> bool:
    """True when a valid state takes the place of the best so far, as far as its selector lets it.

    1. there is none  2. that is for any CPU, this for ours  3. that is dying  4. this was added later
    The order of the walk decides between the rules. Follows: xfrm_state_look_at.
    """
    if best < 0:
        return True
    x, b = rows[row], rows[best]
    if b["pcpu"] == NO_CPU and x["pcpu"] == cpu:
        return True
    if b["dying"] != x["dying"]:
        return bool(b["dying"])
    return bool(b["add_time"] < x["add_time"])


@compiled(int64(ROWS, I32, I32, I64, int64, I64, int64, I64))
def next_candidate(
    rows: Any,
    heads: Int32s,
    links: Int32s,
    hashes: Int64s,
    value: int,
    key: Int64s,
    row: int,
    found: Int64s,
) -> int:
    """The next row behind `row` (-1: from the newest on) whose selector is to be asked, or -1.

    Larval states are never asked: they set found[PENDING].
    """
    row = links[row] if row >= 0 else heads[value & (heads.shape[0] - 1)]
    while row >= 0:
        if hashes[row] == value and _between(rows, row, key) and _fits(rows, row, key):
            x = rows[row]
            life = x["life"]
            if life == _VALID:
                ours = x["pcpu"] == NO_CPU or x["pcpu"] == key[CPU]
                if ours and _beats(rows, row, found[BEST], key[CPU]):
                    return int(row)
            elif life == _ACQ:
                if found[BEST] < 0 or x["pcpu"] == key[CPU]:
                    found[PENDING] = 1
            elif life in (_ERROR, _EXPIRED) and not found[FAILED]:
                return int(row)
        row = links[row]
    return -1


@compiled(int64(ROWS, I32, I32, I64, int64, I64))
def larval_row(rows: Any, heads: Int32s, links: Int32s, hashes: Int64s, value: int, key: Int64s) -> int:
    """The newest larval row without an SPI that stands for what the key says, or -1."""
    row = heads[value & (heads.shape[0] - 1)]
    while row >= 0:
        if hashes[row] == value and _between(rows, row, key):
            x = rows[row]
            same = x["mode"] == key[MODE] and x["proto"] == key[PROTO] and x["pcpu"] == key[CPU]
            if same and x["life"] == _ACQ and x["spi"] == 0 and key[MARK] & x["mark_m"] == x["mark_v"]:
                return int(row)
        row = links[row]
    return -1


@compiled(numba.boolean(ROWS, int64, int64))
def _rivals(rows: Any, row: int, other: int) -> bool:
    """True when some policy may choose between the two: one interface, marks that agree where both look."""
    x, y = rows[row], rows[other]
    both = x["mark_m"] & y["mark_m"]
    return bool(x["if_id"] == y["if_id"] and (x["mark_v"] ^ y["mark_v"]) & both == 0)


@compiled(int64(ROWS, I32, I32, I64, int64, I64, int64, int64))
def bump_rows(
    rows: Any, heads: Int32s, links: Int32s, hashes: Int64s, value: int, key: Int64s, state: int, genid: int
) -> int:
    """Give every rival of row `state` in a bucket a genid above `genid`; return the last one given."""
    row = heads[value & (heads.shape[0] - 1)]
    while row >= 0:
        if row != state and hashes[row] == value and _between(rows, row, key) and _rivals(rows, row, state):
            genid += 1
            rows[row]["genid"] = genid
        row = links[row]
    return genid


def find_larval(table: StateTable, wanted: StateConfig | LarvalConfig) -> State | None:
    """The larval state without an SPI that stands for `wanted`. Follows: __find_acq_core."""
    mark = wanted.mark.v & wanted.mark.m
    key = search_key(
        wanted.daddr, wanted.saddr, wanted.family, wanted.reqid, wanted.mode, wanted.proto,
        mark=mark, cpu=wanted.cpu,
    )  # fmt: skip
    value = table.destination_hash(wanted.daddr, wanted.saddr, wanted.reqid, wanted.family)
    row = larval_row(table.rows, *table.by_destination.arrays, value, key)
    return None if row < 0 else table.at(row)


def bump_rivals(table: StateTable, state: State) -> None:
    """Have bundles asked for anew wherever `state`, which came or changed, may be chosen instead.

    These are the states of its own bucket and, as those without source come second, the ones like it without
    a source. Linux's cached bundles outlive some of these changes, but what it forwards asks every time.
    Follows: __xfrm_state_bump_genids.
    """
    c = state.config
    wide = any_address(c.family)
    for saddr in (c.saddr,) if c.saddr == wide else (c.saddr, wide):
        key = search_key(c.daddr, saddr, c.family, c.reqid)
        value = table.destination_hash(c.daddr, saddr, c.reqid, c.family)
        table.genid = bump_rows(table.rows, *table.by_destination.arrays, value, key, state.row, table.genid)
    table.generation += 1
