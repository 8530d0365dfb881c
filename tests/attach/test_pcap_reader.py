"""The capture reader against files of scapy and of Wireshark's tools, and against layouts of the draft."""

from __future__ import annotations

import io
import os
import subprocess
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Ether
from scapy.utils import PcapNgReader, PcapReader, RawPcapReader, wrpcap, wrpcapng

from attach import capture_bytes as make
from uxfrm.attach.pcap import PROBLEMS_MAX, CaptureError, FrameBatch, open_capture
from uxfrm.attach.pcap_walk import FRAME_MAX

Row = tuple[int, int, int, int, bytes]  # number, wire length, time in ns, link type, bytes


def rows(batches: list[FrameBatch]) -> list[Row]:
    return [
        (b.number + i, int(b.wire_length[i]), int(b.time_ns[i]), int(b.link[i]), b.frame(i))
        for b in batches
        for i in range(len(b))
    ]


def read(source: Any, **options: int) -> tuple[list[Row], list[str]]:
    with open_capture(source, **options) as capture:
        return rows(list(capture)), capture.problems


def read_bytes(data: bytes, **options: int) -> tuple[list[Row], list[str]]:
    return read(io.BytesIO(data), **options)


def packets(number: int = 60) -> list[Any]:
    out = []
    for i in range(number):
        ip = IPv6(src="fd00::1", dst="fd00::2") if i % 3 == 0 else IP(src="10.0.0.1", dst="10.0.0.2")
        packet = ip / UDP(sport=i, dport=4500) / (b"x" * (i * 37 % 1400))
        packet.time = 1_700_000_000 + i + i * 1e-6
        out.append(packet)
    return out


def framed(layer: Any) -> list[Any]:
    out = []
    for packet in packets():
        frame = layer / packet if layer is not None else packet
        frame.time = packet.time
        out.append(frame)
    return out


LAYERS = {
    "ethernet": (Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"), 1),
    "raw": (None, 101),
    "sll": (CookedLinux(), 113),
    "sll2": (CookedLinuxV2(), 276),
}


# --- files we did not write -------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_reads_what_scapy_writes(name: str, tmp_path: Path) -> None:
    layer, link = LAYERS[name]
    path = tmp_path / f"{name}.pcap"
    wrpcap(str(path), framed(layer), linktype=link)
    got, problems = read(path)
    with RawPcapReader(str(path)) as reader:
        want = [
            (i, meta.wirelen, meta.sec * 10**9 + meta.usec * 1000, link, frame)
            for i, (frame, meta) in enumerate(reader, 1)
        ]
    assert got == want
    assert len(got) == 60
    assert problems == []


def test_reads_nanoseconds_and_big_endian_of_scapy(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    wrpcap(str(path), framed(LAYERS["ethernet"][0]), nano=True, endianness=">")
    got, _ = read(path)
    with PcapReader(str(path)) as reader:
        assert [(round(p.time * 10**9), bytes(p)) for p in reader] == [(r[2], r[4]) for r in got]


def test_reads_pcapng_of_scapy(tmp_path: Path) -> None:
    path = tmp_path / "x.pcapng"
    wrpcapng(str(path), framed(LAYERS["ethernet"][0]))
    got, problems = read(path)
    with PcapNgReader(str(path)) as reader:
        want = [(round(p.time * 10**6), bytes(p)) for p in reader]
    assert [(r[2] // 1000, r[4]) for r in got] == want
    assert problems == []


@pytest.mark.tshark
@pytest.mark.parametrize("kind", ["pcap", "nsecpcap", "modpcap", "pcapng"])
def test_reads_what_editcap_writes(kind: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    wrpcap(str(one), framed(LAYERS["ethernet"][0]))
    subprocess.run(["editcap", "-F", kind, str(one), str(two)], check=True, capture_output=True)
    assert read(two) == read(one)


@pytest.mark.tshark
def test_reads_a_snapped_and_shifted_pcapng_as_tshark_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    wrpcap(str(one), framed(LAYERS["ethernet"][0]))
    subprocess.run(["editcap", "-s", "50", "-t", "-0.25", "-F", "pcapng", one, two], check=True)
    got, _ = read(two)
    assert [(r[0], len(r[4]), r[1], r[2]) for r in got] == tshark_frames(two)
    assert max(len(r[4]) for r in got) == 50 < max(r[1] for r in got)


@pytest.mark.tshark
def test_reads_several_link_types_in_one_pcapng(tmp_path: Path) -> None:
    parts = []
    for name, (layer, link) in LAYERS.items():
        parts.append(tmp_path / f"{name}.pcap")
        wrpcap(str(parts[-1]), framed(layer), linktype=link)
    merged = tmp_path / "merged.pcapng"
    subprocess.run(["mergecap", "-a", "-w", merged, *parts], check=True)
    got, problems = read(merged)
    want = [row[1:] for part in parts for row in read(part)[0]]
    assert [row[1:] for row in got] == want
    assert {row[3] for row in got} == {1, 101, 113, 276}
    assert [(r[0], len(r[4]), r[1], r[2]) for r in got] == tshark_frames(merged)
    assert problems == []


def tshark_frames(path: Path) -> list[tuple[int, int, int, int]]:
    """(number, captured, wire length, nanoseconds) of each frame."""
    fields = ["frame.number", "frame.cap_len", "frame.len", "frame.time_epoch"]
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *(x for f in fields for x in ("-e", f))]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = []
    for line in out.splitlines():
        number, captured, wire, time = line.split("\t")
        seconds, fraction = time.split(".")
        found.append(
            (int(number), int(captured), int(wire), int(seconds) * 10**9 + int(fraction.ljust(9, "0")))
        )
    return found


CAPTURES = sorted((Path(__file__).parents[1] / "captures").rglob("wire.pcap"))


@pytest.mark.skipif(not CAPTURES, reason="no recorded captures")
def test_reads_the_recorded_captures() -> None:
    for path in CAPTURES:
        with RawPcapReader(str(path)) as reader:
            want = [frame for frame, _ in reader]
        assert [row[4] for row in read(path)[0]] == want


# --- layouts of the draft -----------------------------------------------------------------------------

FRAMES = [(1, 999_999, b"a" * 60), (2, 0, b""), (3, 5, b"b" * 1514)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "tick"), [(0xA1B2C3D4, 1000), (0xA1B23C4D, 1)])
def test_pcap_byte_orders_and_clocks(order: str, magic: int, tick: int) -> None:
    got, problems = read_bytes(make.pcap_file(FRAMES, order, magic))
    assert got == [(i, len(f), s * 10**9 + n * tick, 1, f) for i, (s, n, f) in enumerate(FRAMES, 1)]
    assert problems == []


@pytest.mark.parametrize("order", ["<", ">"])
def test_kuznetzov_records_have_24_byte_headers(order: str) -> None:
    got, _ = read_bytes(make.pcap_file(FRAMES, order, 0xA1B2CD34, extra=8))
    assert [row[4] for row in got] == [frame for _, _, frame in FRAMES]


def test_fcs_bits_of_the_link_type_are_ignored() -> None:
    assert read_bytes(make.pcap_file(FRAMES, link=0x24000001))[0][0][3] == 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_blocks(order: str) -> None:
    data = (
        make.section(order)
        + make.interface(101, 96, order=order)
        + make.block(5, b"statistics  ", order)
        + make.enhanced(b"one", 1_000_001, order=order, options=make.option(1, b"comment", order))
        + make.block(0x0BAD, b"unknown", order)
        + make.simple(b"x" * 96, 1500, order=order)
        + make.simple(b"four", 4, order=order)
        + make.obsolete(b"five!", 7, order=order)
    )
    got, problems = read_bytes(data)
    assert got == [
        (1, 3, 1_000_001_000, 101, b"one"),
        (2, 1500, 0, 101, b"x" * 96),
        (3, 4, 0, 101, b"four"),
        (4, 5, 7000, 101, b"five!"),
    ]
    assert problems == []


def test_sections_may_change_byte_order_and_interfaces() -> None:
    data = b"".join(
        make.section(order) + make.interface(link, order=order) + make.enhanced(b"x", order=order)
        for order, link in [("<", 1), (">", 113), (">", 101), ("<", 276)]
    )
    assert [row[3] for row in read_bytes(data)[0]] == [1, 113, 101, 276]


def test_interfaces_of_a_section_do_not_outlive_it() -> None:
    data = make.section() + make.interface() + make.section() + make.enhanced(b"x")
    got, problems = read_bytes(data)
    assert got == []
    assert problems == ["capture: frame 1: skipped: interface 0 was not described"]


def test_a_section_may_describe_many_interfaces() -> None:
    data = make.section() + b"".join(make.interface(n) for n in range(40))
    data += b"".join(make.enhanced(b"x", number=n) for n in range(40))
    assert [row[3] for row in read_bytes(data)[0]] == list(range(40))


@pytest.mark.parametrize(
    ("resolution", "ticks", "want"),
    [
        (0, 3, 3_000_000_000),
        (3, 1_234, 1_234_000_000),
        (6, 1_700_000_000_123_456, 1_700_000_000_123_456_000),
        (9, 1_700_000_000_123_456_789, 1_700_000_000_123_456_789),
        (12, 1_234_567_891_234, 1_234_567_891),
        (18, 1_500_000_000_999_999_999, 1_500_000_000),
        (0x80 | 10, 1024 + 512, 1_500_000_000),
        (0x80 | 30, (1 << 30) + (1 << 29), 1_500_000_000),
        (0x80 | 32, (1_700_000_000 << 32) + (1 << 31), 1_700_000_000_500_000_000),
        (0x80 | 62, (1 << 62) + (1 << 61), 1_500_000_000),
        (19, 5, 0),
        (0x80 | 63, 5, 0),
        (9, (1 << 64) - 1, (1 << 63) - 1),
        (6, (1 << 63) - 1, (1 << 63) - 1),
        (0, 1 << 40, (1 << 63) - 1),
    ],
)
def test_resolution(resolution: int, ticks: int, want: int) -> None:
    data = (
        make.section()
        + make.interface(options=make.option(9, bytes([resolution])))
        + make.enhanced(b"x", ticks)
    )
    assert read_bytes(data)[0][0][2] == want


@pytest.mark.parametrize(
    ("offset", "want"),
    [
        (-3600, (5_000_000 - 3600) * 10**9),
        (7, 5_000_007 * 10**9),
        (-(1 << 63), -(2**63 - 1)),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_time_offset(offset: int, want: int) -> None:
    options = make.option(14, offset.to_bytes(8, "little", signed=True))
    data = make.section() + make.interface(options=options) + make.enhanced(b"x", 5_000_000 * 10**6)
    assert read_bytes(data)[0][0][2] == want


# --- how it reads ------------------------------------------------------------------------------------

MIXED = (
    make.section(">")
    + make.interface(113, order=">")
    + b"".join(make.enhanced(bytes([n]) * (n * 7), n, order=">") for n in range(40))
    + make.block(10, b"k" * 400, ">")
    + make.section("<")
    + make.interface(1, 50)
    + b"".join(make.simple(b"s" * 50, 99) for n in range(3))
)
PLAIN = make.pcap_file([(n, n, bytes([n]) * (n * 7)) for n in range(40)])


class Drip(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, number: int) -> None:
        super().__init__()
        self._file = io.BytesIO(data)
        self._number = number

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        data = self._file.read(min(self._number, len(into)))
        into[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("data", [PLAIN, MIXED], ids=["pcap", "pcapng"])
@pytest.mark.parametrize("drip", [1, 2, 3, 7, 16, 61, 500])
@pytest.mark.parametrize("chunk", [1, 64, 333, 1 << 20])
def test_pieces_make_no_difference(data: bytes, drip: int, chunk: int) -> None:
    whole = read_bytes(data)
    assert len(whole[0]) >= 40
    assert read(Drip(data, drip), chunk_bytes=chunk) == whole


@pytest.mark.parametrize("frames", [1, 2, 39, 40, 41])
def test_batches_are_as_large_as_asked(frames: int) -> None:
    with open_capture(io.BytesIO(PLAIN), max_frames=frames) as capture:
        batches = list(capture)
    assert [len(b) for b in batches] == [min(frames, 40 - n) for n in range(0, 40, frames)]
    assert [b.number for b in batches] == list(range(1, 41, frames))
    assert rows(batches) == read_bytes(PLAIN)[0]


def test_a_batch_may_be_overwritten_before_the_next_is_read() -> None:
    want = read_bytes(MIXED)[0]
    got = []
    with open_capture(Drip(MIXED, 100), max_frames=3, chunk_bytes=256) as capture:
        for batch in capture:
            got += rows([batch])
            batch.data[:] = 0xFF
    assert got == want


def test_a_batch_is_not_touched_by_later_reading() -> None:
    with open_capture(Drip(MIXED, 100), max_frames=3, chunk_bytes=4096) as capture:
        assert rows(list(capture)) == read_bytes(MIXED)[0]


def test_arrays_have_the_promised_types() -> None:
    with open_capture(io.BytesIO(PLAIN)) as capture:
        batch = next(capture)
    assert batch.data.dtype == np.uint8
    assert batch.data.flags.writeable
    assert batch.data.flags.c_contiguous
    for array in (batch.offset, batch.length, batch.wire_length, batch.time_ns, batch.link):
        assert array.dtype == np.int64
        assert array.flags.c_contiguous


@pytest.mark.parametrize("data", [PLAIN, MIXED], ids=["pcap", "pcapng"])
def test_gzip(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(make.zipped(data))
    assert read(path) == read_bytes(data)
    assert read(Drip(make.zipped(data), 5)) == read_bytes(data)


def test_gzip_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(make.zipped(PLAIN)[:-200])
    got, problems = read(path)
    assert got == read_bytes(PLAIN)[0][: len(got)]
    assert problems == [f"{path}: frame {len(got) + 1}: cut short: the gzipped data ends early"]


def test_progress(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(PLAIN)
    with open_capture(path, chunk_bytes=1000) as capture:
        assert capture.progress()[1] == len(PLAIN)
        seen = [capture.progress()[0] for _ in capture]
        assert capture.progress() == (len(PLAIN), len(PLAIN))
    assert seen == sorted(seen)
    with open_capture(io.BytesIO(PLAIN)) as capture:
        assert capture.progress()[1] is None


def test_a_pipe_is_read_as_it_comes() -> None:
    get, put = os.pipe()
    half = 24 + 16 + 0 + 16 + 7
    os.write(put, PLAIN[:half])
    with open(get, "rb") as file, open_capture(file) as capture:
        assert len(next(capture)) == 2
        writer = threading.Thread(target=lambda: (os.write(put, PLAIN[half:]), os.close(put)))
        writer.start()
        assert sum(len(b) for b in capture) == 38
        writer.join()


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(PLAIN)))
    assert read("-") == read_bytes(PLAIN)


def test_memory_does_not_grow_with_the_file() -> None:
    class Endless(io.RawIOBase):
        left = 16 << 20
        front = make.pcap_file([])
        body = make.pcap_file([(0, 0, b"x" * 240)])[24:] * 4096

        def readable(self) -> bool:
            return True

        def readinto(self, into: Any) -> int:
            if self.left <= 0:
                return 0
            data = self.front or self.body
            number = min(len(data), len(into))
            into[:number] = data[:number]
            self.front = data[number:]
            self.left -= number
            return number

    tracemalloc.start()
    with open_capture(Endless(), chunk_bytes=1 << 18) as capture:
        frames = sum(len(batch) for batch in capture)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames > 60_000
    assert peak < 4 << 20


# --- damage --------------------------------------------------------------------------------------------


def refusal(data: bytes) -> str:
    with pytest.raises(CaptureError) as caught:
        read_bytes(data)
    assert caught.value.frame == 0
    assert "\n" not in str(caught.value)
    return caught.value.text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty, not a capture"),
        (b"%PDF-1.7 and so on and so on", "not pcap or pcapng: it starts with 25 50 44 46 2d 31 2e 37"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "not pcap or pcapng: it is compressed with zstd"),
        (PLAIN[:3], "not pcap or pcapng: it starts with d4 c3 b2"),
        (PLAIN[:23], "cut short: 23 of 24 bytes of the file header"),
        (PLAIN[:4] + b"\x09\x00" + PLAIN[6:], "pcap version 9.4, only 2.x is known"),
        (MIXED[:27], "cut short in its section header: 27 bytes"),
        (MIXED[:8] + bytes(4) + MIXED[12:], "section header without byte-order magic: 00 00 00 00"),
        (make.section(major=2), "pcapng version 2.0, only 1.x is known"),
        (make.section()[:-4] + b"\x00\x00\x00\x01", "section header's two lengths differ"),
        (b"\x1f\x8b\x08\x00", "cut short: the gzipped data ends early"),
        (make.zipped(b"hello"), "not pcap or pcapng: it starts with 68 65 6c 6c 6f"),
    ],
)
def test_what_is_no_capture_is_refused(data: bytes, text: str) -> None:
    assert refusal(data) == text


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"/none\.pcap: No such file or directory$"):
        open_capture(tmp_path / "none.pcap")
    with pytest.raises(CaptureError, match="Is a directory"):
        open_capture(tmp_path)


@pytest.mark.parametrize("left", range(1, 46))
def test_a_truncated_pcap_says_where(left: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(make.pcap_file([(0, 0, b"a" * 60), (0, 0, b"b" * 30)])[: 24 + 76 + left])
    got, problems = read(path)
    assert len(got) == 1 + (left == 46)
    if left < 16:
        assert problems == [f"{path}: frame 2: cut short: {left} of 16 bytes of the record header"]
    else:
        assert problems == [f"{path}: frame 2: cut short: {left - 16} of 30 bytes"]


@pytest.mark.parametrize("left", range(1, 64))
def test_a_truncated_pcapng_says_where(left: int) -> None:
    data = make.section() + make.interface() + make.enhanced(b"a" * 60)
    last = make.enhanced(b"b" * 32)
    got, problems = read_bytes(data + last[:left])
    assert len(got) == 1
    if left < 8:
        want = f"{left} of 8 bytes of a block header"
    elif 28 <= left < 60:
        want = f"{left - 28} of 32 bytes"
    else:
        want = f"{left} of 64 bytes of a packet block"
    assert problems == [f"capture: frame 2: cut short: {want}"]


def test_a_header_alone_is_an_empty_capture() -> None:
    assert read_bytes(make.pcap_file([])) == ([], [])
    assert read_bytes(make.section()) == ([], [])


def test_a_record_too_long_ends_the_capture() -> None:
    data = bytearray(PLAIN)
    data[24 + 16 + 8 + 3] = 0x7F
    got, problems = read_bytes(bytes(data))
    assert len(got) == 1
    text = f"record of 2130706439 bytes, more than {FRAME_MAX}: the file is damaged from here on"
    assert problems == [f"capture: frame 2: {text}"]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (make.enhanced(b"x", number=3), "skipped: interface 3 was not described"),
        (make.enhanced(b"x" * 8, length=9), "skipped: 9 bytes in a packet block with room for 8"),
        (make.block(6, b"short"), "skipped: packet block of 20 bytes, at least 32 are needed"),
        (make.block(3, b""), "skipped: packet block of 12 bytes, at least 16 are needed"),
        (make.simple(b"x" * 8, 100), "skipped: 100 bytes in a packet block with room for 8"),
        (
            make.enhanced(b"x" * 300_000),
            f"skipped: 300000 bytes in a packet block with room for {FRAME_MAX}",
        ),
    ],
)
def test_a_bad_frame_in_a_sound_block_is_skipped(bad: bytes, text: str) -> None:
    data = make.section() + make.interface() + make.enhanced(b"one") + bad + make.enhanced(b"three")
    got, problems = read_bytes(data)
    assert [(row[0], row[4]) for row in got] == [(1, b"one"), (3, b"three")]
    assert problems == [f"capture: frame 2: {text}"]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (b"\x06\0\0\0\x08\0\0\0", "block of 8 bytes, which none can have: the file is damaged from here on"),
        (b"\x06\0\0\0\x0d\0\0\0", "block of 13 bytes, which none can have: the file is damaged from here on"),
        (
            b"\x06\0\0\0\0\0\0\x7f",
            "block of 2130706432 bytes, more than 16777216: the file is damaged from here on",
        ),
        (
            make.enhanced(b"x")[:-4] + b"\x28\0\0\0",
            "block of 36 bytes says 40 at its end: the file is damaged from here on",
        ),
        (make.block(1, b""), "interface description of 12 bytes: the rest of the file can't be read"),
        (make.section(major=3), "pcapng version 3.0, only 1.x is known: the rest of the file can't be read"),
    ],
)
def test_a_bad_block_ends_the_capture(bad: bytes, text: str) -> None:
    data = make.section() + make.interface() + make.enhanced(b"one") + bad + make.enhanced(b"three")
    got, problems = read_bytes(data)
    assert [row[4] for row in got] == [b"one"]
    assert problems == [f"capture: frame 2: {text}"]


def test_problems_do_not_grow_without_end() -> None:
    got, problems = read_bytes(make.section() + make.enhanced(b"x") * (PROBLEMS_MAX + 50))
    assert got == []
    assert len(problems) == PROBLEMS_MAX + 1
    assert problems[-1] == "capture: further problems are not listed"


def test_interfaces_do_not_grow_without_end() -> None:
    got, problems = read_bytes(make.section() + make.interface() * 65_537)
    assert got == []
    assert problems == [
        "capture: frame 1: more than 65536 interfaces in one section: the rest of the file can't be read"
    ]


def test_a_read_error_ends_the_capture() -> None:
    class Broken(Drip):
        def readinto(self, into: Any) -> int:
            if self._file.tell() > 500:
                raise OSError(5, "Input/output error")
            return super().readinto(into)

    got, problems = read(Broken(PLAIN, 100))
    assert got == read_bytes(PLAIN)[0][: len(got)]
    assert problems == [f"capture: frame {len(got) + 1}: Input/output error"]


ZIPPED = make.zipped(MIXED)

mutations = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.sampled_from([PLAIN, MIXED, ZIPPED]),
    changes=mutations,
    end=st.integers(0, 8000),
    drip=st.sampled_from([7, 100, 100_000]),
)
@example(data=MIXED, changes=[], end=8000, drip=7)
def test_damaged_captures_only_ever_end(
    data: bytes, changes: list[tuple[int, int]], end: int, drip: int
) -> None:
    damaged = bytearray(data[:end])
    for at, value in changes:
        if damaged:
            damaged[at % len(damaged)] = value
    try:
        got, problems = read(Drip(bytes(damaged), drip), chunk_bytes=512)
    except CaptureError:
        return
    assert len(problems) <= PROBLEMS_MAX + 1
    assert sum(len(row[4]) for row in got) <= max(len(MIXED), len(PLAIN))
    if data is not ZIPPED:  # there it depends on the pieces how much of the damaged end is unzipped
        assert read_bytes(bytes(damaged))[0] == got


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_behind_a_header(tail: bytes) -> None:
    for head in (
        PLAIN[:24],
        make.section() + make.interface(),
        make.section(">") + make.interface(order=">"),
    ):
        got, _ = read_bytes(head + tail)
        assert sum(len(row[4]) for row in got) <= len(tail)
