"""Read a capture of about 1 GB with every reader we know of: frames and megabytes a second, peak memory.

    python -m venv /tmp/readers
    /tmp/readers/bin/pip install dpkt python-pcapng scapy pcapy-ng fpcap pycapng numpy
    PYTHONPATH=src python bench/pcap_readers.py --python /tmp/readers/bin/python

Each reader runs in a process of its own and touches every frame's length and time. Readers stop after
`--seconds`; the rate is what they did until then. uxfrm runs under this interpreter, the others under
`--python`.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Simple IMIX (7 : 4 : 1), as Ethernet frame lengths.
_MIX = [64, 64, 576, 64, 64, 576, 1514, 64, 576, 64, 64, 576]


def write_pcap(path: Path, size: int) -> int:
    """Write a little-endian microsecond pcap of about `size` bytes; return its number of frames."""
    block = b"".join(
        struct.pack("<IIII", 1_700_000_000, i, n, n) + (bytes(range(256)) * 6)[:n] for i, n in enumerate(_MIX)
    )
    many = 1000
    with path.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1))
        rounds = max(1, size // (len(block) * many))
        for _ in range(rounds):
            out.write(block * many)
    return rounds * many * len(_MIX)


def _convert(pcap: Path, pcapng: Path) -> None:
    subprocess.run(["editcap", "-F", "pcapng", str(pcap), str(pcapng)], check=True)


# --- readers: each yields the number of frames it has just read --------------------------------------


def _dpkt(path: str) -> Iterator[int]:
    import dpkt

    with Path(path).open("rb") as file:
        reader = dpkt.pcapng.Reader(file) if path.endswith("ng") else dpkt.pcap.Reader(file)
        for _time, frame in reader:
            len(frame)
            yield 1


def _python_pcapng(path: str) -> Iterator[int]:
    from pcapng import FileScanner
    from pcapng.blocks import EnhancedPacket

    with Path(path).open("rb") as file:
        for block in FileScanner(file):
            if isinstance(block, EnhancedPacket):
                _ = (block.timestamp, len(block.packet_data))
                yield 1


def _scapy(path: str) -> Iterator[int]:
    from scapy.utils import RawPcapNgReader, RawPcapReader

    for frame, _meta in (RawPcapNgReader if path.endswith("ng") else RawPcapReader)(path):
        len(frame)
        yield 1


def _pcapy_ng(path: str) -> Iterator[int]:
    import pcapy

    reader = pcapy.open_offline(path)
    while True:
        header, frame = reader.next()
        if header is None:
            return
        _ = (header.getts(), len(frame))
        yield 1


def _pcapy_ng_batches(path: str) -> Iterator[int]:
    """What a batch reader on top of libpcap would cost: the same arrays as ours."""
    import numpy as np
    import pcapy

    reader = pcapy.open_offline(path)
    done = False
    while not done:
        frames, times, wire = [], [], []
        for _ in range(4096):
            header, frame = reader.next()
            if header is None:
                done = True
                break
            frames.append(frame)
            times.append(header.getts())
            wire.append(header.getlen())
        np.frombuffer(bytearray(b"".join(frames)), np.uint8)
        np.cumsum(np.fromiter(map(len, frames), np.int64, len(frames)))
        np.array(times, np.int64), np.array(wire, np.int64)
        yield len(frames)


def _fpcap(path: str) -> Iterator[int]:
    import fpcap

    for packet in fpcap.PacketReader(path):
        _ = (packet.timestamp_seconds, len(packet.data))
        yield 1


def _pycapng(path: str) -> Iterator[int]:
    import pycapng

    for packet in pycapng.read_packets(path):
        _ = (packet.timestamp_ns, len(packet.data))
        yield 1


def _uxfrm(path: str) -> Iterator[int]:
    from uxfrm.attach.pcap import open_capture
    from uxfrm.compiled import ready

    ready()
    yield 0  # the clock starts here: compiled functions are loaded
    for batch in open_capture(path):
        _ = (int(batch.time_ns[-1]), int(batch.length.sum()))
        yield len(batch)


def _uxfrm_link(path: str) -> Iterator[int]:
    from uxfrm.attach.link import locate
    from uxfrm.attach.pcap import open_capture
    from uxfrm.compiled import ready

    ready()
    yield 0
    for batch in open_capture(path):
        locate(batch, b"\x06\x07\x08\x09\x0a\x0b")
        yield len(batch)


READERS: dict[str, Callable[[str], Iterator[int]]] = {
    "dpkt": _dpkt,
    "python-pcapng": _python_pcapng,
    "scapy": _scapy,
    "pcapy-ng": _pcapy_ng,
    "pcapy-ng, batched": _pcapy_ng_batches,
    "fpcap": _fpcap,
    "pycapng": _pycapng,
    "uxfrm": _uxfrm,
    "uxfrm + link": _uxfrm_link,
}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_one(name: str, path: str, seconds: float) -> dict[str, Any]:
    """Read `path` with one reader, in this process."""
    frames, before = 0, _peak_mb()
    start = time.perf_counter()
    for number, count in enumerate(READERS[name](path)):
        if count == 0:
            start, before = time.perf_counter(), _peak_mb()
        frames += count
        if (count > 1 or number % 1024 == 0) and time.perf_counter() - start > seconds:
            break
    return {
        "frames": frames,
        "seconds": time.perf_counter() - start,
        "peak_mb": _peak_mb(),
        "grown_mb": _peak_mb() - before,
    }


def _child(python: str, name: str, path: Path, seconds: float) -> dict[str, Any] | str:
    command = [python, __file__, "--run", name, "--file", str(path), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:90]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _warm(path: Path) -> None:
    """Bring the file into the page cache: what is measured is the reader, not the disk."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 22):
            pass


def _report(name: str, path: Path, total: int, result: dict[str, Any] | str) -> None:
    if isinstance(result, str):
        print(f"{name:17} {path.suffix:8} failed: {result}")
        return
    rate = result["frames"] / result["seconds"]
    size = path.stat().st_size * result["frames"] / total
    print(
        f"{name:17} {path.suffix:8} {rate / 1e3:10,.0f} kframes/s {size / result['seconds'] / 1e6:8,.0f} MB/s"
        f" {result['frames'] / total:6.0%} read  peak {result['peak_mb']:6,.0f} MB"
        f" (+{result['grown_mb']:,.0f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the other readers")
    parser.add_argument("--directory", type=Path, default=Path("/tmp/uxfrm-bench"))
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", action="append", choices=READERS)
    parser.add_argument("--run", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run_one(options.run, options.file, options.seconds)))
        return
    options.directory.mkdir(parents=True, exist_ok=True)
    pcap = options.directory / f"imix-{options.megabytes}.pcap"
    total = write_pcap(pcap, options.megabytes * 1_000_000)
    pcapng = pcap.with_suffix(".pcapng")
    _convert(pcap, pcapng)
    print(f"{total:,} frames, {pcap.stat().st_size / 1e6:,.0f} MB as pcap")
    for name in options.only or READERS:
        python = sys.executable if name.startswith("uxfrm") else options.python
        for path in (pcap, pcapng):
            _warm(path)
            _report(name, path, total, _child(python, name, path, options.seconds))
    pcap.unlink()
    pcapng.unlink()


if __name__ == "__main__":
    main()
