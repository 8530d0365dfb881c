"""`uxfrm replay` on a capture of 1,000,000 packets: packets a second end to end, and peak memory.

    python bench/replay.py [--json FILE] [--quick] [--keep DIR]

The capture is made here: 100 AES-GCM-128 tunnels, both directions, IMIX, one packet in a thousand replayed.
The command is run as a user would, its output to a file: the whole listing, the listing as JSON, and the
summary alone.
"""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common import finish, options, packet, ready
from uxfrm.datapath.batch import Batch
from uxfrm.model import algorithm as algo
from uxfrm.model.address import show
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

TUNNELS = 100
BATCH = 256
SIZES = (64,) * 7 + (576,) * 4 + (1420,)
OURS, THEIRS = bytes.fromhex("02000000000b"), bytes.fromhex("02000000000a")
START = 1_790_000_000


def ends(tunnel: int) -> tuple[bytes, bytes]:
    """Our and their gateway of a tunnel."""
    return bytes((192, 0, 2, 1)), bytes((198, 51, 100, tunnel + 1))


def inner(tunnel: int, sent: bool) -> tuple[bytes, bytes]:
    """Source and destination inside a tunnel."""
    ours, theirs = bytes((10, 1, 0, tunnel + 1)), bytes((10, 2, 0, tunnel + 1))
    return (ours, theirs) if sent else (theirs, ours)


def config(tunnel: int, sent: bool, key: bytes) -> StateConfig:
    """A state of a tunnel; the inbound ones with a replay window."""
    ours, theirs = ends(tunnel)
    source, destination = (ours, theirs) if sent else (theirs, ours)
    return StateConfig(
        daddr=destination, saddr=source, spi=0x10000 * (1 + sent) + tunnel, reqid=tunnel + 1,
        mode=Mode.TUNNEL, replay_window=0 if sent else 32, aead=algo.aead("rfc4106(gcm(aes))", key, 128),
    )  # fmt: skip


def batch_lines(tunnel: int, keys: dict[bool, bytes]) -> list[str]:
    """What `ip -batch` takes for a tunnel on our side."""
    lines = []
    for sent, direction in ((False, "in"), (True, "out")):
        c = config(tunnel, sent, keys[sent])
        source, destination = show(c.saddr), show(c.daddr)
        window = f"replay-window {c.replay_window} " if c.replay_window else ""
        lines.append(
            f"xfrm state add src {source} dst {destination} proto esp spi {c.spi:#x} reqid {c.reqid} "
            f"mode tunnel {window}aead 'rfc4106(gcm(aes))' 0x{keys[sent].hex()} 128"
        )
        inside = inner(tunnel, sent)
        lines.append(
            f"xfrm policy add src {show(inside[0])}/32 dst {show(inside[1])}/32 dir {direction} "
            f"tmpl src {source} dst {destination} proto esp reqid {c.reqid} mode tunnel"
        )
    return lines


def sender(keys: list[dict[bool, bytes]], sent: bool) -> Namespace:
    """The side that makes the packets of one direction."""
    namespace = Namespace(randbytes=os.urandom)
    for tunnel in range(TUNNELS):
        c = config(tunnel, sent, keys[tunnel][sent])
        namespace.add_state(c)
        source, destination = inner(tunnel, sent)
        template = Template(c.daddr, c.saddr, family=2, reqid=c.reqid, mode=Mode.TUNNEL)
        selector = Selector(2, destination, source, 32, 32)
        namespace.add_policy(PolicyConfig(Direction.OUT, selector, (template,)))
    return namespace


def plain(tunnel: int, sent: bool, size: int) -> bytes:
    """An inner packet with the tunnel's addresses."""
    body = bytearray(packet(0, size))
    source, destination = inner(tunnel, sent)
    body[10:12], body[12:16], body[16:20] = b"\0\0", source, destination
    total = sum(struct.unpack(">10H", body[:20]))
    total = (total & 0xFFFF) + (total >> 16)
    body[10:12] = struct.pack(">H", 0xFFFF - ((total & 0xFFFF) + (total >> 16)))
    return bytes(body)


def make(folder: Path, count: int) -> tuple[Path, Path]:
    """Write the capture and the setup."""
    keys = [{sent: os.urandom(20) for sent in (False, True)} for _ in range(TUNNELS)]
    setup, capture = folder / "setup.batch", folder / "wire.pcap"
    setup.write_text("\n".join(line for n in range(TUNNELS) for line in batch_lines(n, keys[n])) + "\n")
    setup.chmod(0o600)
    sides = {sent: sender(keys, sent) for sent in (False, True)}
    random = np.random.default_rng(1)
    with capture.open("wb", buffering=1 << 20) as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        done = 0
        while done < count:
            for sent in (False, True):
                some = min(BATCH, count - done)
                done += write_batch(file, sides[sent], sent, random, done, some)
    return capture, setup


def write_batch(
    file: BinaryIO, side: Namespace, sent: bool, random: np.random.Generator, done: int, some: int
) -> int:
    """Write one batch of frames; a repeated one now and then."""
    tunnels, sizes = random.integers(0, TUNNELS, some), random.integers(0, len(SIZES), some)
    pairs = zip(tunnels.tolist(), sizes.tolist(), strict=True)
    batch = Batch.pack([plain(tunnel, sent, SIZES[size]) for tunnel, size in pairs], START)
    side.output(batch)
    head = (THEIRS + OURS if sent else OURS + THEIRS) + b"\x08\0"
    frames = [head + batch.packet(i) for i in range(some)]
    for i in range(some):
        frame = frames[i - 1] if (done + i) % 1000 == 999 else frames[i]
        moment = (done + i) * 10
        stamp = START + moment // 1_000_000, moment % 1_000_000
        file.write(struct.pack("<IIII", *stamp, len(frame), len(frame)) + frame)
    return some


# A process of its own measures: a child's peak counts what its parent held when it was made.
CHILD = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
with open(sys.argv[1], "wb") as output:
    done = subprocess.run(sys.argv[2:], stdout=output, stderr=subprocess.STDOUT)
spent = time.perf_counter() - start
print(json.dumps([done.returncode, spent, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
"""


def measure(capture: Path, setup: Path, options: list[str], output: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of one run."""
    command = [sys.executable, "-m", "uxfrm.cli.main", "replay", str(capture), "--setup", str(setup),
               "--mac", OURS.hex(":"), *options]  # fmt: skip
    child = [sys.executable, "-c", CHILD, str(output), *command]
    done = subprocess.run(child, check=True, capture_output=True)
    status, seconds, peak = json.loads(done.stdout)
    if status or not re.search(rb"delivered", output.read_bytes()):
        raise SystemExit("the replay failed: the figures would mean nothing")
    return seconds, peak


def main() -> None:
    given = options(__doc__, keep=Path)
    ready()
    count = 50_000 if given.quick else 1_000_000
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        capture, setup = folder / "wire.pcap", folder / "setup.batch"
        if not (capture.exists() and setup.exists()):
            make(folder, count)
        for what, flags in (("summary only", ["-q"]), ("listing", []), ("JSON", ["--json"])):
            seconds, peak = measure(capture, setup, flags, folder / "output")
            rows.append({"output": what, "packets": count, "MB": capture.stat().st_size // 1_000_000,
                         "seconds": seconds, "packets/s": count / seconds, "peak MB": peak})  # fmt: skip
    finish(rows, given.json)


if __name__ == "__main__":
    main()
