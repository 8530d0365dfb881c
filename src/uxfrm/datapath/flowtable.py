"""The flow table: what was decided for a flow, so that Python decides once.

A hash table with few probes and bounded size: whatever arrives, it never grows beyond its limit, and a flood
of flows only evicts. Entries are overwritten, never removed, so a probe may stop at an empty one. A key is
the whole flow with the genids of the states a received packet passed; an entry holds for as long as the
generations it was made under stand.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, I64S, JOBS, PACKETS, Bytes, Int64s
from uxfrm.datapath.headers import ports
from uxfrm.datapath.wire import read32
from uxfrm.model.template import MAX_DEPTH
from uxfrm.tables.statehash import mix

_AF_INET = 2
_PROBES = 16
_START = 1024
_LIMIT = 1 << 20

# Key: family, proto, direction, depth and CPU; ports; addresses; mark and link; interface and if_id; owner;
# genids of the path.
_PATH_AT = 13
KEY_COLUMNS = _PATH_AT + MAX_DEPTH
OUTCOME, POLICY, BUNDLE, DETAIL, POLICIES, STATES = range(6)
VALUE_COLUMNS = 6
ANY_GENERATION = -1

INPUT, OUTPUT, INSPECT = 0, 1, 2

_CPU_AT = 26


def cpu_of(key: Int64s) -> int:
    """The CPU of a key's packet, on output."""
    return int(key[0]) >> _CPU_AT


@compiled(numba.void(DATA, PACKETS, int64, int64, I64S))
def flow_key(data: Bytes, packets: Any, i: int, direction: int, key: Int64s) -> None:
    """Write the flow of packet i, as the policy lookup of `direction` sees it, into `key`."""
    p = packets[i]
    at = p["offset"]
    depth = p["depth"] if direction != OUTPUT else 0
    key[0] = p["family"] | p["proto"] << 8 | direction << 16 | depth << 20 | p["fragment"] << 24
    if direction == OUTPUT:
        # States may be bound to CPUs, so that each has bundles of its own.
        key[0] |= p["cpu"] << _CPU_AT
    key[1] = ports(data, packets, i)
    if p["family"] == 2:
        key[2] = read32(data, at + 12)
        key[6] = read32(data, at + 16)
        for k in range(1, 4):
            key[2 + k] = 0
            key[6 + k] = 0
    else:
        for k in range(4):
            key[2 + k] = read32(data, at + 8 + 4 * k)
            key[6 + k] = read32(data, at + 24 + 4 * k)
    key[10] = p["mark"] | p["link"] << 32
    key[11] = p["ifindex"] | p["if_id"] << 31
    key[12] = p["owner"]
    for k in range(MAX_DEPTH):
        key[_PATH_AT + k] = p["pathgen"][k] if k < depth else 0


@compiled(int64(int64, I64S))
def flow_hash(seed: int, key: Int64s) -> int:
    """A 32-bit hash of a key: only of the words that its family and depth use."""
    value = mix(mix(seed, key[0]), key[1])
    words = 1 if key[0] & 0xFF == _AF_INET else 4
    for k in range(words):
        value = mix(mix(value, key[2 + k]), key[6 + k])
    # Of a word only the low half is mixed in. The owner is folded over the interface, which is small: what a
    # socket changes must not crowd one place.
    value = mix(mix(value, key[10] ^ key[10] >> 32), key[11] ^ key[11] >> 31 ^ key[12] << 7)
    for k in range(_PATH_AT, _PATH_AT + (key[0] >> 20 & 7)):
        value = mix(value, key[k])
    return value


@compiled(numba.boolean(JOBS, int64, I64S))
def _same(keys: Int64s, entry: int, key: Int64s) -> bool:
    different = 0
    for k in range(KEY_COLUMNS):
        different |= keys[entry, k] ^ key[k]
    return bool(different == 0)


@compiled(int64(JOBS, JOBS, int64, I64S, int64, int64))
def _find(keys: Int64s, values: Int64s, seed: int, key: Int64s, policies: int, states: int) -> int:
    """The entry of `key` if it still holds, or -1."""
    mask = keys.shape[0] - 1
    first = flow_hash(seed, key)
    for step in range(_PROBES):
        entry = (first + step) & mask
        if keys[entry, 0] == 0:
            return -1
        if _same(keys, entry, key):
            if values[entry, POLICIES] != policies:
                return -1
            if values[entry, STATES] != ANY_GENERATION and values[entry, STATES] != states:
                return -1
            return entry
    return -1


@compiled(int64(JOBS, int64, I64S))
def _place(keys: Int64s, seed: int, key: Int64s) -> int:
    """The entry that `key` may take: its own, the first empty one, or, in a full table, a victim's."""
    mask = keys.shape[0] - 1
    first = flow_hash(seed, key)
    for step in range(_PROBES):
        entry = (first + step) & mask
        if keys[entry, 0] == 0 or _same(keys, entry, key):
            return entry
    return (first + (first >> 20) % _PROBES) & mask


@compiled(int64(DATA, PACKETS, I64S, int64, int64, JOBS, JOBS, *[int64] * 3, I64S, I64S, I64S))
def look_up(
    data: Bytes,
    packets: Any,
    candidates: Int64s,
    count: int,
    direction: int,
    keys: Int64s,
    values: Int64s,
    seed: int,
    policies: int,
    states: int,
    used: Int64s,
    missed: Int64s,
    key: Int64s,
) -> int:
    """Settle the packets whose flow is known; list the others in `missed` and return how many.

    `used[slot]` becomes the time of the last packet that a policy took, but on output (see output.note_use);
    `key` is scratch.
    """
    misses, entry = 0, -1
    for k in range(count):
        i = candidates[k]
        p = packets[i]
        if p["outcome"]:
            continue
        flow_key(data, packets, i, direction, key)
        # Packets of a flow come in trains: the entry of the one before is often it.
        if entry < 0 or not _same(keys, entry, key):
            entry = _find(keys, values, seed, key, policies, states)
        if entry < 0:
            missed[misses] = i
            misses += 1
            continue
        p["outcome"] = values[entry, OUTCOME]
        p["policy"] = values[entry, POLICY]
        p["bundle"] = values[entry, BUNDLE]
        p["detail"] = values[entry, DETAIL]
        p["unsettled"] = 0 if values[entry, STATES] == ANY_GENERATION else 1
        if direction != OUTPUT and p["policy"] >= 0:
            used[p["policy"]] = p["time"]
    return misses


class FlowTable:
    """The cache; `seed` keys its hash."""

    def __init__(self, seed: int) -> None:
        self.seed = seed & 0x7FFFFFFF
        self.hits = 0
        self.misses = 0
        self._entries = 0
        self._make(_START)

    def _make(self, capacity: int) -> None:
        self.keys: Int64s = np.zeros((capacity, KEY_COLUMNS), np.int64)
        self.values: Int64s = np.zeros((capacity, VALUE_COLUMNS), np.int64)
        self._entries = 0

    def clear(self) -> None:
        """Forget every flow."""
        self._make(_START)

    def insert(self, key: Int64s, value: tuple[int, int, int, int, int, int]) -> None:
        """Remember a decision: (outcome, policy slot, bundle, detail, policy and state generation)."""
        if self._entries * 2 >= self.keys.shape[0] and self.keys.shape[0] < _LIMIT:
            self._double()
        entry = _place(self.keys, self.seed, key)
        if self.keys[entry, 0] == 0:
            self._entries += 1
        self.keys[entry] = key
        self.values[entry] = value

    def stale(self, policies: int, states: int) -> int:
        """Entries that do not hold under these generations; a look at all of them."""
        values = self.values[self.keys[:, 0] != 0]
        of_states = values[:, STATES]
        other = (of_states != ANY_GENERATION) & (of_states != states)
        return int(np.count_nonzero(other | (values[:, POLICIES] != policies)))

    def _double(self) -> None:
        keys, values = self.keys, self.values
        self._make(keys.shape[0] * 2)
        for entry in np.flatnonzero(keys[:, 0]):
            place = _place(self.keys, self.seed, keys[entry])
            self.keys[place] = keys[entry]
            self.values[place] = values[entry]
        self._entries = int(np.count_nonzero(self.keys[:, 0]))

    @property
    def entries(self) -> int:
        """Entries in use, stale ones included."""
        return self._entries
