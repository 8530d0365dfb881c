"""The recorded captures of IPComp through uxfrm.

In their frames are the packets that Linux compressed; what it left alone is in truth.json and in the tables.
"""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from captures.test_captures import (
    CASES,
    Played,
    assert_inbound_states_are_the_kernels,
    datagram,
    entries,
    kernel_counters,
    unused,
    visible,
    wire_packets,
)
from linux.twin import read_datagram
from uxfrm.datapath.batch import Batch
from uxfrm.explain.report import IN, OUT
from uxfrm.iproute2.output import show_state
from uxfrm.model.outcome import Counter, Outcome

_COMP = 108


@pytest.fixture(params=[case for case in CASES if case.startswith("ipcomp-")])
def played(request: pytest.FixtureRequest) -> Played:
    return Played(request.param)


def intact(packet: bytes) -> bool:
    """False for what a frame with a flipped byte became: it has no ICV, and only UDP notices."""
    try:
        read_datagram(packet)
    except ValueError:
        return False
    return True


def test_what_linux_compressed_is_delivered_as_linux_did(played: Played) -> None:
    delivered = [r.inner or b"" for r in played.of(IN) if r.outcome == "delivered"]
    truth = iter(played.truth["delivered"]["b"])
    assert len(delivered) >= 7
    assert all(datagram(one) in truth for one in delivered if intact(one))
    assert_inbound_states_are_the_kernels(played, "proto comp")


def test_the_counters_are_the_kernels(played: Played) -> None:
    ours = played.namespace.counters()
    for name, value in kernel_counters(played.text("xfrm_stat-b.txt")).items():
        assert ours[Counter[name]] == value, name


def sent(one: list[Any]) -> bytes:
    """The packet of a datagram that b's application sent."""
    source, sport, target, dport, payload = one
    upper = UDP(sport=sport, dport=dport) / Raw(bytes.fromhex(payload))
    if ":" in source:
        return bytes(IPv6(src=source, dst=target) / upper)
    return bytes(IP(src=source, dst=target, flags="DF", id=0) / upper)


def test_the_output_path_compresses_what_linux_compressed(played: Played) -> None:
    """Which packets, to which length, and the figures of the states; ids inside a tunnel differ."""
    fresh = Played(played.folder.name).namespace
    batch = Batch.pack([sent(one) for one in played.truth["delivered"]["a"]], 1)
    fresh.output(batch)
    assert {Outcome.of(int(o)) for o in batch.packets["outcome"]} == {Outcome.SENT}
    mine = [batch.packet(i) for i in range(len(batch)) if batch.packets["proto"][i] == _COMP]
    wires = wire_packets(played.folder / "wire.pcap")
    assert len(mine) == len(wires) == len(played.of(OUT))
    for ours, linux in zip(mine, wires, strict=True):
        assert abs(len(ours) - len(linux)) <= (2 if played.truth["mode"] == "tunnel" else 0)
        if played.truth["mode"] == "transport":
            assert visible(ours)[0][4:] == visible(linux)[0][4:]
            assert ours[40:] == linux[40:]
    kernels = entries(played.text("state-b.txt"))
    ours_now = [entries(show_state(unused(dump)))[0] for dump in fresh.dump_states()]
    assert len(ours_now) == len(kernels)
    from_b = [k for k, text in enumerate(kernels) if text.startswith(("src 10.9.0.2 ", "src fd09::2 "))]
    assert [ours_now[k] for k in from_b] == [kernels[k] for k in from_b]
