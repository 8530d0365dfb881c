"""Every recorded Linux capture through uxfrm: what was delivered, counted and left in the tables.

data/ was recorded from Linux 6.1 in user-mode-linux (see data/README.md): setup-b.batch is what `ip -batch`
loaded on host b, wire.pcap the frames on its link, truth.json what its applications received, and the rest
b's tables and counters afterwards.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter as Tally
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uxfrm.attach.pcap import open_capture
from uxfrm.datapath.batch import Batch
from uxfrm.explain.report import IN, OUT, Report
from uxfrm.iproute2.output import show_policy, show_state
from uxfrm.model.address import show
from uxfrm.model.dump import StateDump
from uxfrm.model.outcome import Counter, Outcome
from uxfrm.namespace import Namespace
from uxfrm.replay.host import Host
from uxfrm.replay.setup import Interfaces, apply_setup

DATA = Path(__file__).parent / "data"
FROM_B = ("src 10.9.0.2 ", "src fd09::2 ")
MAC_B = bytes.fromhex("02000000000b")

CASES = sorted(path.name for path in DATA.iterdir() if path.is_dir())
# The recording has no frames in which IPComp left a packet alone: see test_ipcomp.py.
PARTLY = ("ipcomp-",)
COVERED = [name for name in CASES if not name.startswith(PARTLY)]


class Played:
    """A case, played once."""

    def __init__(self, case: str) -> None:
        self.folder = DATA / case
        self.truth: dict[str, Any] = json.loads(self.text("truth.json"))
        self.namespace = Namespace(randbytes=os.urandom, now_s=1)
        interfaces = Interfaces()
        lines = self.text("setup-b.batch").splitlines()
        assert apply_setup(self.namespace, lines, "setup-b.batch", False, interfaces) == []
        host = Host(self.namespace, MAC_B)
        self.reports: list[Report] = []
        with open_capture(self.folder / "wire.pcap") as capture:
            for frames in capture:
                self.reports += host.reports(host.play(frames))
            assert capture.problems == []

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def of(self, direction: str) -> list[Report]:
        return [report for report in self.reports if report.direction == direction]


@pytest.fixture(params=COVERED)
def played(request: pytest.FixtureRequest) -> Played:
    return Played(request.param)


def datagram(packet: bytes) -> list[Any]:
    """(source, port, destination, port, payload) of an inner UDP packet, as truth.json has them."""
    four = packet[0] >> 4 == 4
    header = (packet[0] & 15) * 4 if four else 40
    source, destination = (packet[12:16], packet[16:20]) if four else (packet[8:24], packet[24:40])
    upper = packet[header:]
    length = int.from_bytes(upper[4:6])
    ports = int.from_bytes(upper[:2]), int.from_bytes(upper[2:4])
    return [show(source), ports[0], show(destination), ports[1], upper[8:length].hex()]


def kernel_counters(text: str) -> dict[str, int]:
    """/proc/net/xfrm_stat as numbers by name."""
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def without_times(text: str) -> str:
    """Tables with the dates of addition and use blanked."""
    return re.sub(r"add \S+ \S+ use (-|\S+ \S+)", "add ... use ...", text)


def unused(dump: StateDump) -> StateDump:
    """Linux 6.1 tells the time of last use of MIPv6 states only."""
    return replace(dump, lastused=0)


def entries(text: str) -> list[str]:
    """The states or policies of a table, one string each."""
    return re.split(r"(?m)^(?=src )", without_times(text))[1:]


def test_b_receives_what_linux_delivered(played: Played) -> None:
    delivered = [datagram(r.inner or b"") for r in played.of(IN) if r.outcome == "delivered"]
    assert delivered == [d for d in played.truth["delivered"]["b"] if d is not None]


def test_the_counters_are_the_kernels(played: Played) -> None:
    ours = played.namespace.counters()
    for name, value in kernel_counters(played.text("xfrm_stat-b.txt")).items():
        assert ours[Counter[name]] == value, name


def test_every_frame_is_counted_once(played: Played) -> None:
    received = played.of(IN)
    dropped = Tally(r.counter for r in received if r.outcome == "dropped")
    # Of ESP in UDP that was cut off UDP itself sees that it is short: no counter of XFRM moves.
    short = sum("cut" in what for what in played.truth["hostile_to_b"])
    assert dropped.pop(None, 0) == (short if played.folder.name.startswith("udpencap-") else 0)
    ours = played.namespace.counters()
    assert dropped == {c.name: ours[c] for c in Counter if ours[c]}
    assert len(received) == played.truth["sent"] + len(played.truth["hostile_to_b"])


def test_the_inbound_state_is_the_kernels(played: Played) -> None:
    """Bytes, packets, window, failures: all of `ip -s xfrm state` but the dates."""
    assert_inbound_states_are_the_kernels(played)


def assert_inbound_states_are_the_kernels(played: Played, protocol: str = "") -> None:
    ours = [entries(show_state(unused(dump)))[0] for dump in played.namespace.dump_states()]
    kernels = entries(played.text("state-b.txt"))
    assert len(ours) == len(kernels)
    inbound = [k for k, text in enumerate(kernels) if not text.startswith(FROM_B) and protocol in text]
    assert inbound
    assert [ours[k] for k in inbound] == [kernels[k] for k in inbound]


def test_what_b_sent_decrypts_to_what_a_received(played: Played) -> None:
    opened = played.of(OUT)
    assert {r.outcome for r in opened} <= {"sent"}
    assert [datagram(r.inner or b"") for r in opened] == played.truth["delivered"]["a"]
    assert {r.policy_index for r in opened} <= {9}


def test_the_output_path_repeats_what_linux_sent(played: Played) -> None:
    """The packets b sent, opened, go out again: same lengths, same headers, same tables as Linux's."""
    case = played.folder.name
    fresh = Played(case).namespace
    inner = [r.inner or b"" for r in played.of(OUT)]
    assert len(inner) == len(played.truth["delivered"]["a"])
    batch = Batch.pack(inner, 1)
    fresh.output(batch)
    assert {Outcome.of(int(o)) for o in batch.packets["outcome"]} <= {Outcome.SENT}
    wires = wire_packets(played.folder / "wire.pcap")
    for i, wire in enumerate(wires):
        mine = batch.packet(i)
        assert len(mine) == len(wire)
        assert visible(mine) == visible(wire)
    kernels = entries(played.text("state-b.txt"))
    ours = [entries(show_state(unused(dump)))[0] for dump in fresh.dump_states()]
    assert ours == kernels
    ours = [entries(show_policy(dump))[0] for dump in fresh.dump_policies()]
    assert ours == entries(played.text("policy-b.txt"))


def wire_packets(path: Path) -> list[bytes]:
    """The IP packets that b sent."""
    found = []
    with open_capture(path) as capture:
        for frames in capture:
            for i in range(len(frames)):
                frame = frames.frame(i)
                if frame[6:12] == MAC_B:
                    found.append(frame[14:])
    return found


def visible(packet: bytes) -> tuple[bytes, ...]:
    """What of a packet depends neither on keys and IVs nor on the identification and what it changes."""
    if packet[0] >> 4 == 4:
        return packet[:4], packet[6:10], packet[12:28]
    return (packet[:48],)
