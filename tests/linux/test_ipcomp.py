"""IPComp, alone and with ESP around it, both ways with Linux: what is compressed, what not, and the figures.

The companions are compared with the rest: `figures` has every state of both sides, in their order.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from linux.bundles import compressed
from linux.guest import Figures, LinuxGuest, Sending
from linux.suites import GCM, nest
from linux.test_nested import without_fragment_header
from linux.twin import (
    BEHIND,
    DEFLATE,
    SHAPES,
    TRANSPORT4,
    TRANSPORT6,
    TUNNELS,
    Case,
    Shape,
    counters,
    delivered_by,
    figures,
    outcomes,
    packets,
    prepare,
    read_datagram,
    sent_by,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.namespace import Namespace

pytestmark = pytest.mark.linux

_COMP = 108

# Below and at the threshold of 90 bytes, compressible and not, and text.
PAYLOADS = (
    b"", b"a", bytes(61), bytes(62), bytes(81), bytes(82), random.Random(1).randbytes(81),
    random.Random(2).randbytes(1000), b"the quick brown fox jumps over the lazy dog. " * 20, bytes(1300),
)  # fmt: skip


def _bundle(*shapes: Shape) -> Case:
    """IPComp inside ESP."""
    return nest((DEFLATE, GCM[2]), *shapes)


_TRANSPORT = {4: TRANSPORT4, 6: TRANSPORT6}
CASES = [
    *(Case(DEFLATE, shape) for shape in SHAPES),
    *(_bundle(shape, shape) for shape in (TRANSPORT4, TRANSPORT6)),
    *(_bundle(tunnel, _TRANSPORT[tunnel.outer]) for tunnel in TUNNELS),
    *(_bundle(replace(_TRANSPORT[tunnel.inner], net=BEHIND), tunnel) for tunnel in TUNNELS),
    *compressed(),
]


def ours(namespace: Namespace) -> list[Figures]:
    return list(map(_without_number, figures(namespace)))


def linuxs(guest: LinuxGuest) -> list[Figures]:
    return list(map(_without_number, guest.xfrm_states()))


def _without_number(state: Figures) -> Figures:
    """An IPv6 companion's SPI counts the source addresses that ever had one, since the machine is up."""
    return state._replace(spi=0) if state.spi < 0x1000 else state


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_linux_opens_what_uxfrm_compresses(guest: LinuxGuest, case: Case) -> None:
    before = prepare(guest, case)
    namespace = case.namespace()
    batch = Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    namespace.output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(PAYLOADS)

    wire = packets(batch)
    got = delivered_by(guest, wire)
    assert guest.xfrm_moved(before) == {}
    # Linux lets what it has to decompress wait: the rest may overtake.
    assert sorted(datagram.payload for datagram in got) == sorted(PAYLOADS)
    twin = case.twin()
    twin.input(Batch.pack(wire))
    assert ours(twin) == linuxs(guest)


@pytest.mark.parametrize("case", [case.reversed() for case in CASES], ids=lambda case: case.name)
def test_uxfrm_opens_what_linux_compresses(guest: LinuxGuest, case: Case) -> None:
    before = prepare(guest, case)
    wire, errors = sent_by(guest, case, list(map(Sending, PAYLOADS)))
    assert errors == [0] * len(PAYLOADS)
    assert guest.xfrm_moved(before) == {}

    namespace, batch = case.namespace(), Batch.pack(wire)
    namespace.input(batch)
    assert {outcome.verdict for outcome in outcomes(batch)} <= {Verdict.DELIVERED, Verdict.CLEAR}
    assert [read_datagram(packet) for packet in packets(batch)] == list(map(case.shape.received, PAYLOADS))
    assert counters(namespace) == {}

    twin, back = case.twin(), Batch.pack(packets(batch))
    twin.output(back)
    assert ours(twin) == linuxs(guest)
    assert list(map(len, packets(back))) == list(map(len, map(without_fragment_header, wire)))


def _compressed(case: Case, body: bytes, cpi: int) -> bytes:
    source, target = case.shape.outer_ends
    load = Raw(bytes((17, 0)) + cpi.to_bytes(2) + body)
    if case.shape.outer == 4:
        return bytes(IP(src=source, dst=target, proto=_COMP) / load)
    return bytes(IPv6(src=source, dst=target, nh=_COMP) / load)


def _deflate(data: bytes, window: int = -11) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, window)
    return stream.compress(data) + stream.flush()


def _stored(data: bytes) -> bytes:
    stream = zlib.compressobj(0, zlib.DEFLATED, -11)
    return stream.compress(data) + stream.flush()


_TEXT = _deflate(b"abcabcabd" * 30)
HOSTILE = [
    b"", b"\0", b"\xff" * 40, _TEXT[:-1], _TEXT[:-2], _TEXT + b"trailing", _TEXT[: len(_TEXT) // 2],
    _stored(b"stored" * 4), b"\3", b"\3\0", _deflate(bytes(65400)), _deflate(bytes(65401)),
    _deflate(bytes(200_000)),
    _deflate(random.Random(3).randbytes(20000)[:3000] * 2, -15)[:1400],
]  # fmt: skip


@pytest.mark.parametrize("case", [Case(DEFLATE, TRANSPORT4), Case(DEFLATE, TRANSPORT6)], ids=lambda c: c.name)
def test_hostile_streams_count_as_in_linux(guest: LinuxGuest, case: Case) -> None:
    """Bombs, stumps and rubbish: one by one, the same counter moves, and the same bytes are counted."""
    for body in HOSTILE:
        before = prepare(guest, case)
        wire = _compressed(case, body, case.state().spi)
        delivered_by(guest, [wire])
        twin = case.twin()
        twin.input(Batch.pack([wire]))
        assert counters(twin) == guest.xfrm_moved(before), body[:20]
        assert ours(twin) == linuxs(guest), body[:20]
