"""IP-TFS beside plain tunnel mode: small packets that share ESP packets, through the whole path.

    python bench/iptfs.py [--json FILE] [--quick]

Columns: Mpps and Gb/s of inner packets (goodput, one core) out and in: `batch` inner packets come together,
and on the other side all outer ones that carry them, 256 at least. `wire` is bytes sent for each byte of
inner packets, in outer packets of up to 1,500 bytes; `x tunnel` compares each with tunnel mode, measured in
turns in the same run. "576 cut" is IP-TFS with outer packets of 300 bytes: every inner packet is cut.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field, replace
from typing import Any

from common import ALGORITHMS, Layer, finish, options, packet, policy, ready, tunnel
from uxfrm.datapath.batch import Batch
from uxfrm.model.iptfs import Iptfs
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction
from uxfrm.model.state import PLAIN, Rare, SaDir
from uxfrm.model.template import Mode
from uxfrm.namespace import Namespace

BATCH = 256
# Name, bytes of inner and of outer packets (0: 1,500), inner packets that come together.
CASES = (
    ("64", 64, 0, BATCH), ("64", 64, 0, 16 * BATCH), ("576", 576, 0, BATCH), ("1420", 1420, 0, BATCH),
    ("576 cut", 576, 300, BATCH),
)  # fmt: skip


def gateways(algorithm: str, mode: Mode, size: int) -> tuple[Namespace, Namespace]:
    """Two ends of one tunnel in a mode; in IP-TFS with outer packets of `size` bytes."""
    ends = Namespace(randbytes=os.urandom), Namespace(randbytes=os.urandom)
    plain = tunnel(0, Layer(ALGORITHMS[algorithm]))
    for made, way, direction in zip(ends, (SaDir.OUT, SaDir.IN), (Direction.OUT, Direction.IN), strict=True):
        rare = Rare(iptfs=Iptfs(pkt_size=size)) if size and way == SaDir.OUT and mode == Mode.IPTFS else PLAIN
        made.add_state(replace(plain, mode=mode, direction=way, rare=rare))
        made.add_policy(policy(0, direction, (Layer(ALGORITHMS[algorithm], mode=mode),)))
    return ends


@dataclass
class Side:
    """One mode: its ends, and the fastest of each direction so far."""

    out: Namespace
    back: Namespace
    out_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    wire: float = 0.0

    def turn(self, inner: Batch, size: int) -> None:
        """Send batches until 256 outer packets are there, and take these in."""
        outer: list[bytes] = []
        sent = 0
        while len(outer) < BATCH:
            batch = Batch(inner.data.copy(), inner.packets.copy())
            start = time.perf_counter()
            self.out.output(batch)
            self.out_s.append((time.perf_counter() - start) / len(inner))
            sent += len(inner)
            there = (batch.packets["outcome"] == Outcome.SENT).nonzero()[0]
            outer += [batch.packet(int(i)) for i in there]
        wanted = Batch.pack(outer)
        start = time.perf_counter()
        self.back.input(wanted)
        seconds = time.perf_counter() - start
        arrived = int((wanted.packets["outcome"] == Outcome.DELIVERED).sum())
        if arrived != sent:
            raise SystemExit("a packet was not carried: the figures would mean nothing")
        self.back_s.append(seconds / arrived)
        self.wire = sum(map(len, outer)) / (sent * size)


def measure(algorithm: str, size: int, outer: int, count: int, seconds: float) -> list[dict[str, Any]]:
    """Both modes in turns."""
    sides = {mode: Side(*gateways(algorithm, mode, outer)) for mode in (Mode.TUNNEL, Mode.IPTFS)}
    inner = Batch.pack([packet(0, size)] * count)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(sides[Mode.IPTFS].out_s) < 5:
        for side in sides.values():
            side.turn(inner, size)
    rows = []
    plain = sides[Mode.TUNNEL]
    for mode, side in sides.items():
        row: dict[str, Any] = {"mode": mode.name.lower(), "wire": side.wire}
        for name, taken, base in (("encap", side.out_s, plain.out_s), ("decap", side.back_s, plain.back_s)):
            row |= {f"{name} Mpps": 1e-6 / min(taken), f"{name} Gb/s": size * 8e-9 / min(taken)}
            row[f"{name} x tunnel"] = min(base) / min(taken)
        rows.append(row)
    return rows


def main() -> None:
    given = options(__doc__)
    ready()
    rows: list[dict[str, Any]] = []
    for algorithm in ALGORITHMS:
        for name, size, outer, count in CASES:
            found = measure(algorithm, size, outer, count, 0.5 if given.quick else 3.0)
            rows += [{"algorithm": algorithm, "bytes": name, "batch": count} | row for row in found]
    finish(rows, given.json)


if __name__ == "__main__":
    main()
