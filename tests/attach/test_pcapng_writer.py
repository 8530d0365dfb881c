"""What the writer writes, as tshark, scapy and our own reader read it."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader

from uxfrm.attach.pcap import open_capture
from uxfrm.attach.pcapng_writer import PcapngWriter

TIME = 1_700_000_000_123_456_789
V4 = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=7, dport=9) / b"abc")
V6 = bytes(IPv6(src="fd00::1", dst="fd00::2") / UDP(sport=7, dport=9) / b"abcd")
ETHERNET = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02", type=0x0800))


def tshark(path: Path, *fields: str) -> list[list[str]]:
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", *(x for f in fields for x in ("-e", f))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "cut short" not in done.stderr
    assert "damaged" not in done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.mark.tshark
def test_tshark_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    with path.open("wb") as file:
        writer = PcapngWriter(file)
        ethernet = writer.add_interface(1, "eth0")
        writer.write(V4, TIME, "ESP 0x1: opened")
        writer.write(V6, TIME + 1, None)
        writer.write(ETHERNET + V4, TIME + 10**9, "häßlich … 🙂", ethernet)
        writer.write(V4[:24], TIME, "cut", wire_length=1500)
    got = tshark(
        path, "frame.comment", "ip.src", "ipv6.dst", "frame.time_epoch", "frame.len", "frame.cap_len"
    )
    assert got == [
        ["ESP 0x1: opened", "10.0.0.1", "", "1700000000.123456789", str(len(V4)), str(len(V4))],
        ["", "", "fd00::2", "1700000000.123456790", str(len(V6)), str(len(V6))],
        ["häßlich … 🙂", "10.0.0.1", "", "1700000001.123456789", str(len(V4) + 14), str(len(V4) + 14)],
        ["cut", "10.0.0.1", "", "1700000000.123456789", "1500", "24"],
    ]
    assert tshark(path, "frame.interface_name")[2] == ["eth0"]


@pytest.mark.tshark
def test_capinfos_names_the_application(tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    with path.open("wb") as file:
        PcapngWriter(file, application="uxfrm 9.9").write(V4, TIME, "x")
    out = subprocess.run(["capinfos", str(path)], check=True, capture_output=True, text=True).stdout
    assert "uxfrm 9.9" in out
    assert "Raw IP" in out
    assert "nanoseconds (9)" in out


@pytest.mark.tshark
def test_a_comment_too_long_is_cut_with_an_ellipsis(tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    with path.open("wb") as file:
        PcapngWriter(file).write(V4, TIME, "é" * 40_000)
    [[comment]] = tshark(path, "frame.comment")
    assert comment.endswith("é…")
    assert 65_530 <= len(comment.encode()) <= 65_535


def test_scapy_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "out.pcapng"
    with path.open("wb") as file:
        writer = PcapngWriter(file)
        writer.write(V4, TIME, "one")
        writer.write(V6, TIME, "two")
    with RawPcapNgReader(str(path)) as reader:
        got = [(frame, meta.linktype, meta.comments) for frame, meta in reader]
    assert got == [(V4, 101, [b"one"]), (V6, 101, [b"two"])]


def test_an_unknown_interface_is_refused() -> None:
    with pytest.raises(ValueError, match="interface 1 of 1"):
        PcapngWriter(io.BytesIO()).write(V4, TIME, None, 1)


written = st.lists(
    st.tuples(
        st.binary(max_size=200), st.integers(0, 9_223_372_035_999_999_999), st.none() | st.text(max_size=20)
    ),
    max_size=8,
)


@given(written)
def test_what_is_written_is_read(packets: list[tuple[bytes, int, str | None]]) -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file)
    for packet, time, comment in packets:
        writer.write(packet, time, comment)
    file.seek(0)
    with open_capture(file) as capture:
        got = [(b.frame(i), int(b.time_ns[i])) for b in capture for i in range(len(b))]
    assert got == [(packet, time) for packet, time, _ in packets]
    assert capture.problems == []
