"""Fuzz the packet input: `python tests/datapath/fuzz.py --packets 10000000`.

Changed packets of every transform (fuzz_packets) go to one host, batch by batch; what must hold is in
fuzz_target. Every batch has a seed of its own, so `--from N --packets 256` makes batch N again, though the
host has not seen those before it. `--digest` prints what became of everything: compiled and with
NUMBA_DISABLE_JIT=1 it is the same. `--atheris --seconds N` lets atheris guide the changes by coverage, on the
interpreted functions.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datapath.fuzz_target import Receiver

sys.path.insert(0, str(Path(__file__).parent.parent))

BATCH = 256
ALONE_EVERY = 1000
"""Batches of which one is also taken packet by packet."""
VARIANTS = 3
"""What was changed comes so often again, each time with another byte behind its IP header."""
BOUNDS_EVERY = 16
GROWTH_MOST = 16 << 10
"""Kilobytes by which the process may grow after the first tenth, beside the flow table."""


def batch(packets: list[bytes], seed: int, number: int) -> list[bytes]:
    """The packets of one batch, always the same."""
    from datapath.fuzz_packets import changed

    chance = random.Random(f"{seed} {number}")
    wire: list[bytes] = []
    while len(wire) < BATCH:
        made = changed(chance, chance.choice(packets), 1 + len(wire) // 24)
        wire += made
        wire += [another(chance, one) for one in made for _ in range(VARIANTS)]
    return wire[:BATCH]


def another(chance: random.Random, packet: bytes) -> bytes:
    """The packet with one byte changed, behind an IP header without options where there is something."""
    first = 40 if packet[:1] >= b"\x60" else 20
    if len(packet) <= first:
        return packet
    number = chance.getrandbits(32)
    at = first + (number >> 8) % (len(packet) - first)
    return packet[:at] + bytes([packet[at] ^ number & 0xFF]) + packet[at + 1 :]


def resident() -> int:
    """Kilobytes that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 10


def run(count: int, seed: int, first: int = 0, alone_every: int = ALONE_EVERY, talk: bool = True) -> str:
    """Take `count` packets in; return the digest of what became of them. AssertionError."""
    from datapath.fuzz_packets import corpus
    from datapath.fuzz_target import Receiver, check_one_by_one

    packets, host = corpus(), Receiver()
    batches, early, began, told = -(-count // BATCH), 0, time.monotonic(), 0.0
    for number in range(first, first + batches):
        wire = batch(packets, seed, number)
        try:
            host.take(wire)
            host.pass_time(0.25)
            host.renew()
            if number % BOUNDS_EVERY == 0:
                host.check_bounds()
            if alone_every and number % alone_every == 0:
                check_one_by_one(wire)
        except Exception as error:
            error.add_note(f"batch {number} of seed {seed}")
            raise
        if number - first == batches // 10:
            early = resident() - (host.remembered() >> 10)
        if talk and time.monotonic() - told > 5:
            told = time.monotonic()
            _progress(number - first + 1, batches, began)
    grown = resident() - (host.remembered() >> 10) - early
    if talk:
        _figures(batches, began, grown, host)
    assert grown <= GROWTH_MOST, f"memory grew by {grown} kB"
    return host.digest.hexdigest()


def _progress(done: int, batches: int, began: float) -> None:
    rate = done * BATCH / (time.monotonic() - began)
    print(
        f"{done * BATCH:,} of {batches * BATCH:,} packets, {rate:,.0f} a second", file=sys.stderr, flush=True
    )


def _figures(batches: int, began: float, grown: int, host: Receiver) -> None:
    seconds, flows = time.monotonic() - began, host.remembered() >> 10
    print(f"{batches * BATCH:,} packets in {seconds:,.0f} s; {host.covered:,} delivered as they were sealed")
    print(f"memory {resident():,} kB, {flows:,} kB of flows; else {grown:+,} kB since a tenth of it")
    for outcome, many in sorted(host.tally.items(), key=lambda item: -item[1]):
        print(f"{many:>12,}  {outcome.name}")


def guided(seconds: int, seed: int, directory: Path) -> None:
    """Let atheris choose, by coverage of the functions as ordinary Python. Does not return."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    import atheris

    with atheris.instrument_imports(include=["uxfrm.datapath"]):
        from datapath.fuzz_target import Receiver
    from datapath.fuzz_packets import changed, corpus

    kept = directory / "corpus"
    kept.mkdir(parents=True, exist_ok=True)
    for number, packet in enumerate(corpus()):
        (kept / f"seed-{number}").write_bytes(packet)
    host = Receiver()

    def once(data: bytes) -> None:
        host.take([data])
        host.pass_time(0.01)
        host.check_bounds()

    def mutate(data: bytes, most: int, number: int) -> bytes:
        made = changed(random.Random(number), data or b"\x45") if number % 8 else []
        return made[0][:most] if made else bytes(atheris.Mutate(data, most))

    flags = [f"-max_total_time={seconds}", f"-artifact_prefix={directory}/", f"-seed={seed}", "-max_len=4096",
             "-timeout=20", "-rss_limit_mb=2048", "-len_control=0", "-print_final_stats=1"]  # fmt: skip
    print(f"findings go to {directory}", flush=True)
    atheris.Setup([sys.argv[0], *flags, str(kept)], once, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    """Read the command line."""
    arguments = argparse.ArgumentParser(description="Fuzz the packet input.")
    arguments.add_argument("--packets", type=int, default=1_000_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--from", dest="first", type=int, default=0, help="number of the first batch")
    arguments.add_argument("--digest", action="store_true", help="print the digest and nothing else")
    arguments.add_argument("--atheris", action="store_true", help="guided by coverage; needs atheris")
    arguments.add_argument("--seconds", type=int, default=3600, help="how long, with --atheris")
    arguments.add_argument("--directory", type=Path, help="where findings of --atheris go")
    chosen = arguments.parse_args()
    if chosen.atheris:
        guided(chosen.seconds, chosen.seed, chosen.directory or Path(tempfile.mkdtemp(prefix="uxfrm-fuzz-")))
    digest = run(chosen.packets, chosen.seed, chosen.first, talk=not chosen.digest)
    if chosen.digest:
        print(digest)


if __name__ == "__main__":
    main()
