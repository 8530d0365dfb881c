"""`uxfrm replay` as a user runs it: what it prints, writes and returns."""

from __future__ import annotations

import gzip
import json
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from scapy.layers.l2 import CookedLinux, Ether
from scapy.packet import Packet
from scapy.utils import RawPcapReader, wrpcap, wrpcapng

from uxfrm.cli.main import main

DATA = Path(__file__).parents[1] / "captures" / "data"
CASE = DATA / "esp-gcm128-icv128"
MAC = "02:00:00:00:00:0b"
KEY = "6a48bb8db66e843919b18e854bfb51d219c346da"


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["replay", *map(str, words)])


def replay(
    *options: object, capture: Path = CASE / "wire.pcap", setup: Path = CASE / "setup-b.batch"
) -> Result:
    return run(capture, "--setup", setup, "--mac", MAC, *options)


def objects(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def frames(path: Path = CASE / "wire.pcap") -> list[bytes]:
    return [frame for frame, _ in RawPcapReader(str(path))]


def test_json_has_one_object_a_frame_with_the_promised_keys() -> None:
    result = replay("--json")
    assert result.exit_code == 0
    found = objects(result)
    assert len(found) == 39
    wanted = {"frame", "time", "direction", "outcome", "counter", "reason", "spi", "seq", "proto", "reqid",
              "policy_index", "inner"}  # fmt: skip
    assert all(wanted <= set(one) for one in found)
    last = found[-1]
    assert (last["outcome"], last["counter"], last["inner"]) == ("dropped", "XfrmInStateProtoError", None)
    first = found[0]
    assert (first["direction"], first["spi"], first["seq"], first["reqid"], first["policy_index"]) == (
        "in", 0x1CBF4EBD, 1, 10, 8)  # fmt: skip
    assert [one["frame"] for one in found] == list(range(1, 40))


def test_the_listing_names_state_policy_outcome_and_reason() -> None:
    result = replay()
    assert result.exit_code == 0
    delivered = next(line for line in result.stdout.splitlines() if "delivered" in line)
    assert "10.9.0.1 > 10.9.0.2" in delivered
    assert "0x1cbf4ebd" in delivered
    assert "udp 10.1.0.1:6000 > 10.2.0.1:7000" in delivered
    dropped = [line for line in result.stdout.splitlines() if ": sequence number" in line]
    assert len(dropped) == 5
    assert all("[XfrmInStateSeqError]" in line for line in dropped)


def test_no_key_is_ever_printed() -> None:
    for options in ([], ["--json"], ["-q"]):
        result = replay(*options)
        assert KEY not in result.output
        assert KEY.upper() not in result.output


def test_the_summary_adds_up() -> None:
    summary = json.loads(replay("--json", "--quiet").stdout)
    assert summary["frames"] == 39
    assert sum(row["frames"] for row in summary["outcomes"]) == 39
    assert summary["counters"] == {
        "XfrmInNoStates": 1, "XfrmInStateProtoError": 1, "XfrmInStateSeqError": 5}  # fmt: skip
    inbound = next(state for state in summary["states"] if state["spi"] == 0x1CBF4EBD)
    assert (inbound["bytes"], inbound["packets"], inbound["replay"], inbound["failed"]) == (7027, 16, 5, 1)


def test_only_shows_what_is_asked_for() -> None:
    found = objects(replay("--json", "--only", "dropped"))
    assert len(found) == 7
    assert {one["outcome"] for one in found} == {"dropped"}


def test_tables_are_the_hosts_and_nobody_elses_to_read(tmp_path: Path) -> None:
    assert replay("-q", "--tables", tmp_path / "out").exit_code == 0
    for name in ("state.txt", "policy.txt", "xfrm_stat.txt"):
        mode = stat.S_IMODE((tmp_path / "out" / name).stat().st_mode)
        assert mode == 0o600, name
    ours = dict(line.split() for line in (tmp_path / "out" / "xfrm_stat.txt").read_text().splitlines())
    kernels = dict(line.split() for line in (CASE / "xfrm_stat-b.txt").read_text().splitlines())
    assert kernels.items() <= ours.items()
    entry = (tmp_path / "out" / "state.txt").read_text().split("\nsrc ")[1]
    assert "anti-replay context: seq 0x10, oseq 0x0, bitmap 0x0000ffff" in entry
    assert "replay-window 0 replay 5 failed 1" in entry


@pytest.mark.tshark
def test_written_packets_are_readable_in_wireshark_with_their_fate(tmp_path: Path) -> None:
    out = tmp_path / "inner.pcapng"
    assert replay("-q", "--write", out).exit_code == 0
    fields = ["-T", "fields", "-e", "ip.src", "-e", "udp.dstport", "-e", "frame.comment"]
    seen = subprocess.run(["tshark", "-r", out, *fields], check=True, capture_output=True, text=True)
    rows = [line.split("\t") for line in seen.stdout.splitlines()]
    assert len(rows) == 32
    assert rows[0][:2] == ["10.1.0.1", "7000"]
    assert "delivered" in rows[0][2]
    assert "sent" in rows[1][2]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_pasted_tables_serve_as_setup(tmp_path: Path) -> None:
    pasted = tmp_path / "tables.txt"
    text = "root@gw:~# ip -s xfrm state\n" + (CASE / "state-b.txt").read_text()
    text += "root@gw:~# ip -s xfrm policy\n" + (CASE / "policy-b.txt").read_text()
    pasted.write_text(text.replace("\n", "\r\n"))
    as_pasted = json.loads(replay("--json", "-q", setup=pasted).stdout)
    assert as_pasted["counters"]["XfrmInStateSeqError"] > 16
    fresh = replay("--json", "-q", "--fresh", setup=pasted)
    assert fresh.exit_code == 0
    assert json.loads(fresh.stdout)["counters"] == {
        "XfrmInNoStates": 1, "XfrmInStateProtoError": 1, "XfrmInStateSeqError": 5}  # fmt: skip


def test_tables_from_after_the_capture_get_a_hint() -> None:
    result = run(CASE / "wire.pcap", "--setup", CASE / "state-b.txt", "--setup", CASE / "policy-b.txt",
                 "--mac", MAC, "-q")  # fmt: skip
    assert "--fresh" in result.stdout


# -- other captures of the same packets


def delivered(result: Result) -> list[object]:
    return [one["inner"] for one in objects(result) if one["outcome"] == "delivered"]


@pytest.mark.parametrize("kind", ["pcapng", "gzip", "cooked", "raw"])
def test_the_same_packets_in_other_captures(kind: str, tmp_path: Path) -> None:
    wanted = delivered(replay("--json"))
    path = tmp_path / "other.cap"
    setup = ["--setup", CASE / "setup-b.batch", "--json"]
    if kind == "pcapng":
        wrpcapng(str(path), [Ether(frame) for frame in frames()])
        result = run(path, *setup, "--mac", MAC)
    elif kind == "gzip":
        path.write_bytes(gzip.compress((CASE / "wire.pcap").read_bytes()))
        result = run(path, *setup, "--mac", MAC)
    elif kind == "cooked":
        wrpcap(str(path), [cooked(frame) for frame in frames()], linktype=113)
        result = run(path, *setup)
    else:
        wrpcap(str(path), [Ether(frame).payload for frame in frames()], linktype=101)
        result = run(path, *setup, "--local", "10.9.0.2", "--local", "10.2.0.1")
    assert result.exit_code == 0, result.output
    assert delivered(result) == wanted


def cooked(frame: bytes) -> Packet:
    """A frame as `tcpdump -i any` on host b would have it."""
    sent = frame[6:12] == bytes.fromhex(MAC.replace(":", ""))
    return CookedLinux(pkttype=4 if sent else 0, proto=0x800) / Ether(frame).payload


def test_standard_input_is_a_capture_too() -> None:
    data = (CASE / "wire.pcap").read_bytes()
    command = ["uxfrm", "replay", "-", "--setup", str(CASE / "setup-b.batch"), "--mac", MAC, "--json"]
    path = Path(sys.executable).parent
    done = subprocess.run([path / command[0], *command[1:]], input=data, capture_output=True, check=True)
    assert len(done.stdout.splitlines()) == 39


# -- what goes wrong


def test_bad_setup_lines_are_named_and_the_rest_is_done(tmp_path: Path) -> None:
    setup = tmp_path / "bad.batch"
    good = (CASE / "setup-b.batch").read_text().splitlines()
    state = "xfrm state add src 10.0.0.1 dst 10.0.0.2 proto esp spi {} reqid 1 mode tunnel {}"
    bad = [
        state.format(1, "aead 'rfc4106(gcm(rot13))' 0x" + KEY + " 128"),
        state.format(2, "aead 'rfc4106(gcm(aes))' 0x" + KEY + "00 128"),
        state.format(3, "enc 'cbc(aes)' 0x0011"),
        "xfrm policy add src 10.0.0.0/40 dst 10.0.0.0/8 dir in",
        "xfrm state add src nonsense",
        good[0],
    ]
    setup.write_text("\n".join([*good, "# a comment", *bad]) + "\n")
    result = replay("--json", setup=setup)
    assert result.exit_code == 1
    assert len(delivered(result)) == 16
    lines = result.stderr.splitlines()
    problems = {line.split(":")[1]: line for line in lines if line.startswith(str(setup))}
    assert sorted(problems, key=int) == ["6", "7", "8", "9", "10", "11"]
    assert "Requested AEAD algorithm not found" in problems["6"]
    assert "Kernel was unable to initialize cryptographic operations" in problems["7"]
    assert "File exists" in problems["11"]
    assert KEY not in result.output


def test_hidden_keys_are_said_to_be_hidden(tmp_path: Path) -> None:
    pasted = tmp_path / "tables.txt"
    pasted.write_text((CASE / "state-b.txt").read_text().replace("0x" + KEY, "<<Keys hidden>>"))
    result = replay("-q", setup=pasted)
    assert result.exit_code == 1
    assert "hidden" in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty"), (b"GIF89a" + bytes(100), "not"), (b"\x0a\x0d\x0d\x0a\0", "")],
)
def test_a_foreign_file_is_one_line_and_exit_3(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    result = replay("-q", capture=path)
    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1
    assert str(path) in result.stderr


def test_a_missing_file_is_one_line_and_exit_3(tmp_path: Path) -> None:
    for result in (replay(capture=tmp_path / "no"), replay(setup=tmp_path / "no")):
        assert result.exit_code == 3
        assert "No such file" in result.stderr


def test_a_truncated_capture_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "cut.pcap"
    path.write_bytes((CASE / "wire.pcap").read_bytes()[:-100])
    result = replay("--json", capture=path)
    assert result.exit_code == 1
    assert len(objects(result)) == 38
    assert "frame 39" in result.stderr


def test_frames_cut_by_the_snap_length_are_said_to_be_cut(tmp_path: Path) -> None:
    path = tmp_path / "snap.pcap"
    head = (CASE / "wire.pcap").read_bytes()[:24]
    body = b"".join(struct.pack("<IIII", 1, 0, 60, len(f)) + f[:60] for f in frames())
    path.write_bytes(head + body)
    found = objects(replay("--json", capture=path))
    cut = [one for one in found if one["outcome"] == "unsupported"]
    assert cut
    assert all("snap length" in str(one["reason"]) for one in cut)


def test_without_mac_or_local_the_host_is_asked_for() -> None:
    result = run(CASE / "wire.pcap", "--setup", CASE / "setup-b.batch")
    assert result.exit_code == 2
    assert "--mac" in result.stderr


def test_another_hosts_mac_finds_nothing_and_says_what_to_check() -> None:
    result = run(CASE / "wire.pcap", "--setup", CASE / "setup-b.batch", "--mac", "02:00:00:00:00:99", "-q")
    assert result.exit_code == 0
    assert "check --mac" in result.stdout


@pytest.mark.parametrize("engine", ["libcrypto"])
def test_engines_can_be_chosen(engine: str) -> None:
    assert delivered(replay("--json", "--engine", engine)) == delivered(replay("--json"))


def test_help_is_for_people() -> None:
    text = CliRunner().invoke(main, ["replay", "--help"]).output
    assert "Exit codes" in text
    for option in ("--setup", "--mac", "--local", "--json", "--tables", "--write", "--fresh", "--only"):
        assert option in text
