"""The state table: states installed a second, bytes of memory each, and what a lookup costs.

    python bench/states.py [--json FILE] [--quick]

States have AES-GCM-128 keys. Memory is the growth of this process's resident set, one child process a size,
so that no size profits from another's freed memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import ALGORITHMS, Layer, endpoints, finish, options, tunnel
from uxfrm.namespace import Namespace

LOOKUPS = 100_000


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure(count: int) -> dict[str, float]:
    """Install `count` states and look some up."""
    namespace = Namespace(randbytes=os.urandom)
    layer = Layer(ALGORITHMS["AES-GCM-128"])
    namespace.add_state(tunnel(count, layer))
    configs = (tunnel(number, layer) for number in range(count))
    before, spent = resident(), 0.0
    for config in configs:
        start = time.perf_counter()
        namespace.add_state(config)
        spent += time.perf_counter() - start
    grown = resident() - before
    step = max(1, count // 1000)
    keys = [(endpoints(number)[1], 0x1000 + number) for number in range(0, count, step)]
    start = time.perf_counter()
    for number in range(LOOKUPS):
        daddr, spi = keys[number % len(keys)]
        if namespace.states.find(daddr, spi, 50, 2) is None:
            raise SystemExit("a state was not found: the figures would mean nothing")
    looked = (time.perf_counter() - start) / LOOKUPS
    return {
        "states": count,
        "installed/s": count / spent,
        "bytes/state": grown / count,
        "lookup us": looked * 1e6,
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(int(sys.argv[2]))))
        return
    given = options(__doc__)
    sizes = (1_000, 10_000) if given.quick else (10_000, 100_000, 1_000_000)
    rows = []
    for size in sizes:
        child = [sys.executable, __file__, "--child", str(size)]
        rows.append(json.loads(subprocess.run(child, check=True, capture_output=True).stdout))
    finish(rows, given.json)


if __name__ == "__main__":
    main()
