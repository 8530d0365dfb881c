"""ESP and the other transforms, in batches: uxfrm's whole path beside crypto alone, Scapy, a plain loop.

    python bench/esp.py [--json FILE] [--quick]

Columns: Mpps and Gb/s (of inner packets, one core) for encapsulation and decapsulation through a Namespace,
batches of 256, one tunnel per flow; `raw` is the crypto library alone on the same buffers; `of raw` is how
much of it is left; `x plain` compares other transforms with AES-GCM-128 alone, `x Scapy` and `x loop` packets
a second with those of Scapy's SecurityAssociation and of a loop over pyca/cryptography.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from scapy.layers.inet import IP
from scapy.layers.ipsec import ESP, SecurityAssociation

from common import (
    ALGORITHMS,
    BENEATH,
    TRANSFORMS,
    best,
    endpoints,
    finish,
    gateways,
    inner,
    options,
    packet,
    ready,
)
from uxfrm.datapath.batch import Batch
from uxfrm.datapath.crypto.batch import open_, seal
from uxfrm.model.outcome import Outcome

BATCH = 256
IMIX = (64,) * 7 + (576,) * 4 + (1420,)
SIZES = {"64": (64,), "576": (576,), "1420": (1420,), "IMIX": IMIX}


def batches(flows: int, sizes: tuple[int, ...]) -> list[Batch]:
    """Enough batches that every flow is used, sixteen at least."""
    count = max(16, -(-flows // BATCH))
    made = []
    number = 0
    order = np.random.default_rng(1).permutation(max(flows, BATCH))
    for _ in range(count):
        packets = []
        for _ in range(BATCH):
            packets.append(packet(int(order[number % len(order)]) % flows, sizes[number % len(sizes)]))
            number += 1
        made.append(Batch.pack(packets))
    return made


class Timer:
    """Seconds spent in each half of a round trip."""

    def __init__(self) -> None:
        self.out = self.back = 0.0
        self.packets = self.bytes = 0


def round_trip(out: Any, back: Any, batch: Batch, timer: Timer) -> None:
    """Encapsulate a batch and decapsulate it again, in place: afterwards it is what it was."""
    size = int(batch.packets["length"].sum())
    start = time.perf_counter()
    out.output(batch)
    middle = time.perf_counter()
    taken = batch.packets.copy()
    batch.packets["depth"] = 0
    begin = time.perf_counter()
    back.input(batch)
    timer.back += time.perf_counter() - begin
    timer.out += middle - start
    if (taken["outcome"] != Outcome.SENT).any() or (batch.packets["outcome"] != Outcome.DELIVERED).any():
        raise SystemExit("a packet was not carried: the figures would mean nothing")
    batch.packets["depth"] = 0
    timer.packets += len(batch)
    timer.bytes += size


def path(flows: int, what: str, sizes: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Measure the whole path."""
    out, back = gateways(flows, what)
    ring = batches(flows, sizes)
    for batch in ring:
        round_trip(out, back, batch, Timer())
    found = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < 3:
        timer = Timer()
        for batch in ring:
            round_trip(out, back, batch, timer)
        found.append(timer)
    fastest_out = min(found, key=lambda t: t.out)
    fastest_back = min(found, key=lambda t: t.back)
    return {
        "encap Mpps": fastest_out.packets / fastest_out.out / 1e6,
        "encap Gb/s": fastest_out.bytes * 8 / fastest_out.out / 1e9,
        "decap Mpps": fastest_back.packets / fastest_back.back / 1e6,
        "decap Gb/s": fastest_back.bytes * 8 / fastest_back.back / 1e9,
    }


def raw(algorithm: str, sizes: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Measure seal and open_ alone: jobs made beforehand, no header, table or counter."""
    out, _ = gateways(1, algorithm)
    ring = out.keyring
    row = next(iter(out.states)).record
    lengths = [(sizes[i % len(sizes)] + 2 + int(row["block"]) - 1) // int(row["block"]) * int(row["block"])
               for i in range(BATCH)]  # fmt: skip
    data = np.frombuffer(bytearray(os.urandom(2048 * BATCH)), np.uint8)
    jobs = np.zeros((BATCH, 8), np.int64)
    for i, length in enumerate(lengths):
        text = 2048 * i + 64 + 8 + int(row["iv_bytes"])
        jobs[i, :6] = (row["key"], 2048 * i + 64, 2048 * i + 72, text, length, -1)
    arguments = (ring.functions, ring.rows, ring.scratch, data, jobs, BATCH)
    size = sum(sizes[i % len(sizes)] for i in range(BATCH))
    sealed = best(lambda: seal(*arguments), seconds / 2)
    opened = best(lambda: open_(*arguments), seconds / 2)
    return {"raw seal Gb/s": size * 8 / sealed / 1e9, "raw open Gb/s": size * 8 / opened / 1e9}


def beneath(what: str, sizes: tuple[int, ...], seconds: float) -> dict[str, float]:
    """The crypto library alone for all transforms of a bundle, one after the other."""
    parts = [raw(part, sizes, seconds) for part in BENEATH.get(what, ())]
    return {name: 1 / sum(1 / part[name] for part in parts) for name in (parts[0] if parts else ())}


def scapy_rate(size: int, seconds: float) -> float:
    """Packets a second that Scapy encapsulates with AES-GCM."""
    (source, remote), (first, second) = endpoints(0), inner(0)
    header = IP(src=".".join(map(str, source)), dst=".".join(map(str, remote)))
    association = SecurityAssociation(
        ESP, spi=0x1000, crypt_algo="AES-GCM", crypt_key=os.urandom(20), tunnel_header=header
    )
    plain = IP(packet(0, size))
    assert first != second
    return 1 / best(lambda: bytes(association.encrypt(plain)), seconds)


def loop_rate(size: int, seconds: float) -> float:
    """Packets a second of a plain loop: header, trailer and AES-GCM by pyca/cryptography."""
    cipher, salt, plain = AESGCM(os.urandom(16)), os.urandom(4), packet(0, size)
    outer = packet(0, 20 + 8)[:20]
    number = 0

    def one() -> bytes:
        nonlocal number
        number += 1
        padding = -(len(plain) + 2) % 4
        text = plain + bytes(range(1, padding + 1)) + bytes((padding, 4))
        iv, head = number.to_bytes(8), (0x1000).to_bytes(4) + number.to_bytes(4)
        return outer + head + iv + cipher.encrypt(salt + iv, text, head)

    return 1 / best(one, seconds)


def main() -> None:
    given = options(__doc__)
    ready()
    seconds = 0.3 if given.quick else 2.0
    rows: list[dict[str, Any]] = []
    scapy = {name: scapy_rate(sizes[0], seconds) for name, sizes in SIZES.items() if len(sizes) == 1}
    loop = {name: loop_rate(sizes[0], seconds) for name, sizes in SIZES.items() if len(sizes) == 1}
    for algorithm in ALGORITHMS:
        for name, sizes in SIZES.items():
            alone = raw(algorithm, sizes, seconds)
            for flows in (1, 1000) if given.quick else (1, 1000, 100_000):
                found = path(flows, algorithm, sizes, seconds)
                row: dict[str, Any] = {"algorithm": algorithm, "bytes": name, "flows": flows}
                row |= found | alone
                row["encap of raw"] = found["encap Gb/s"] / alone["raw seal Gb/s"]
                row["decap of raw"] = found["decap Gb/s"] / alone["raw open Gb/s"]
                if algorithm == "AES-GCM-128" and name in scapy:
                    row["x Scapy"] = found["encap Mpps"] * 1e6 / scapy[name]
                    row["x loop"] = found["encap Mpps"] * 1e6 / loop[name]
                rows.append(row)
                print(".", end="", flush=True, file=sys.stderr)
    rows += transforms(seconds)
    print(file=sys.stderr)
    finish(rows, given.json)


def transforms(seconds: float) -> list[dict[str, Any]]:
    """Measure what there is beside ESP, each beside plain ESP measured just before."""
    rows = []
    for what in TRANSFORMS:
        for name, sizes in SIZES.items():
            alone = beneath(what, sizes, seconds / 2)
            for flows in (1, 1000):
                plain = path(flows, "AES-GCM-128", sizes, seconds / 2)
                found = path(flows, what, sizes, seconds / 2)
                ratio = found["encap Mpps"] / plain["encap Mpps"]
                row = {"algorithm": what, "bytes": name, "flows": flows} | found | alone | {"x plain": ratio}
                for way, half in (("encap", "seal"), ("decap", "open")) if alone else ():
                    row[f"{way} of raw"] = found[f"{way} Gb/s"] / alone[f"raw {half} Gb/s"]
                rows.append(row)
                print(".", end="", flush=True, file=sys.stderr)
    return rows


if __name__ == "__main__":
    main()
