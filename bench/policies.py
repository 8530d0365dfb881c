"""Measure the policy table: lookups among 100, 10,000 and 100,000 policies, and adds and deletes.

    python bench/policies.py [--json FILE] [--quick]

The tables: `hosts` has /32 pairs of one priority; `ike` has random prefixes with strongSwan's priorities
(longer prefixes first); `mixed` has random lengths from /0 to /32 on both sides with one priority, so age
decides; `ports` has protocols, ports and port masks on subnets; `ike6` is `ike` in IPv6. Half of the flows
are made to hit a policy of the table, half are random. Everything is drawn from one seed.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

from common import finish, options
from uxfrm.model.address import AF_INET, AF_INET6
from uxfrm.model.flow import Flow
from uxfrm.model.policy import PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.tables.policies import PolicyTable

SIZES = (100, 10_000, 100_000)
OUT = 1
Maker = Callable[[random.Random], PolicyConfig]


def _prefix(draw: random.Random, bits: int, length: int) -> bytes:
    return (draw.getrandbits(bits) >> (bits - length) << (bits - length)).to_bytes(bits // 8)


def _selector(draw: random.Random, bits: int, length_d: int, length_s: int, **more: int) -> Selector:
    family = AF_INET if bits == 32 else AF_INET6
    daddr, saddr = _prefix(draw, bits, length_d), _prefix(draw, bits, length_s)
    return Selector(family, daddr, saddr, length_d, length_s, **more)


def hosts(draw: random.Random) -> PolicyConfig:
    return PolicyConfig(OUT, _selector(draw, 32, 32, 32), priority=1000)


def _ike(draw: random.Random, bits: int, lengths: tuple[int, ...]) -> PolicyConfig:
    length_d, length_s = draw.choice(lengths), draw.choice(lengths)
    priority = 200_000 + 100_000 - 512 * (length_d + length_s)
    return PolicyConfig(OUT, _selector(draw, bits, length_d, length_s), priority=priority)


def ike(draw: random.Random) -> PolicyConfig:
    return _ike(draw, 32, (0, 8, 12, 16, 20, 22, 24, 24, 24, 28, 32, 32, 32))


def ike6(draw: random.Random) -> PolicyConfig:
    return _ike(draw, 128, (0, 32, 48, 48, 56, 64, 64, 128, 128))


def mixed(draw: random.Random) -> PolicyConfig:
    return PolicyConfig(OUT, _selector(draw, 32, draw.randint(0, 32), draw.randint(0, 32)), priority=1000)


def ports(draw: random.Random) -> PolicyConfig:
    lengths = (16, 24, 32)
    more = {"proto": draw.choice((1, 6, 17))}
    if draw.random() < 0.7:
        more |= {"dport": draw.randrange(1, 1024), "dport_mask": 0xFFFF}
    if draw.random() < 0.3:
        more |= {"sport": draw.randrange(1, 1024), "sport_mask": draw.choice((0xFFFF, 0xFFF0, 0xFF00))}
    selector = _selector(draw, 32, draw.choice(lengths), draw.choice(lengths), **more)
    return PolicyConfig(OUT, selector, priority=draw.randrange(1000, 1010))


KINDS: dict[str, Maker] = {"hosts": hosts, "ike": ike, "mixed": mixed, "ports": ports, "ike6": ike6}


def _configs(make: Maker, count: int, draw: random.Random) -> list[PolicyConfig]:
    """`count` configurations with selectors of their own."""
    configs: dict[Selector, PolicyConfig] = {}
    while len(configs) < count:
        config = make(draw)
        configs.setdefault(config.selector, config)
    return list(configs.values())


def _inside(draw: random.Random, prefix: bytes, length: int) -> bytes:
    bits = len(prefix) * 8
    low = draw.getrandbits(bits) & ((1 << (bits - length)) - 1)
    return (int.from_bytes(prefix) | low).to_bytes(len(prefix))


def _flow(draw: random.Random, configs: list[PolicyConfig]) -> Flow:
    selector = draw.choice(configs).selector
    bits = len(selector.daddr) * 8
    if draw.random() < 0.5:
        return Flow(
            _prefix(draw, bits, bits), _prefix(draw, bits, bits), 17, 1024, draw.randrange(1, 1024), 2
        )
    return Flow(
        _inside(draw, selector.daddr, selector.prefixlen_d),
        _inside(draw, selector.saddr, selector.prefixlen_s),
        selector.proto or 17,
        selector.sport or 1024,
        selector.dport or 80,
        2,
    )


def _per_call(seconds: float, calls: int) -> int:
    return round(seconds / calls * 1e9)


def measure(kind: str, size: int, lookups: int) -> dict[str, object]:
    """Fill a table, look flows up in it and empty it; nanoseconds per call."""
    draw = random.Random(f"{kind} {size}")
    configs = _configs(KINDS[kind], size, draw)
    flows = [_flow(draw, configs) for _ in range(lookups)]
    table = PolicyTable()
    start = time.perf_counter()
    policies = [table.add(config, 0) for config in configs]
    add = time.perf_counter() - start
    lookup = min(_sweep(table, flows) for _ in range(3))
    hits = sum(table.lookup(0, OUT, flow) is not None for flow in flows)
    start = time.perf_counter()
    for policy in policies:
        table.remove(policy)
    delete = time.perf_counter() - start
    return {
        "kind": kind,
        "policies": size,
        "lookup_ns": _per_call(lookup, lookups),
        "lookups_per_s": round(lookups / lookup),
        "hits": round(hits / lookups, 3),
        "add_ns": _per_call(add, size),
        "delete_ns": _per_call(delete, size),
    }


def _sweep(table: PolicyTable, flows: list[Flow]) -> float:
    lookup = table.lookup
    start = time.perf_counter()
    for flow in flows:
        lookup(0, OUT, flow)
    return time.perf_counter() - start


def main() -> None:
    """Measure every table at every size."""
    given = options(__doc__)
    lookups = 2_000 if given.quick else 20_000
    rows = []
    for kind in KINDS:
        for size in SIZES:
            rows.append(measure(kind, size, lookups))
            print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    finish(rows, given.json)


if __name__ == "__main__":
    main()
