"""ESP in ESP: headers around headers as Linux makes them, and how many transforms Linux takes.

That each side opens what the other seals is shown with the other cases: the matrix has nested ones.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from socket import IPPROTO_FRAGMENT

import pytest

from linux.guest import LinuxGuest, Sending
from linux.suites import CLEAR, TUNNELS_IN_TUNNELS, nest
from linux.test_headers import ECN, MUST_NOT, inside, without_id
from linux.twin import (
    TRANSPORT4,
    TRANSPORT6,
    Case,
    Shape,
    counters,
    delivered_by,
    figures,
    opened,
    outcomes,
    packets,
    prepare,
    read_datagram,
    sent_by,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import DONT_ENCAP_DSCP, NOECN

pytestmark = pytest.mark.linux


def without_fragment_header(packet: bytes) -> bytes:
    """The packet without the fragment header that Linux 6.1 puts before ESP in IPv6 around ESP in IPv4.

    It stands before a whole packet of any size and says nothing, so uxfrm does not do the same.
    """
    if packet[0] >> 4 == 4 or packet[6] != IPPROTO_FRAGMENT:
        return packet
    assert packet[42:44] == bytes(2)
    length = int.from_bytes(packet[4:6]) - 8
    return packet[:4] + length.to_bytes(2) + packet[40:41] + packet[7:40] + packet[48:]


FLAGS = [
    ((0, 0), (0, 0)),
    ((NOECN, 0), (0, 0)),
    ((0, 0), (0, DONT_ENCAP_DSCP)),
    ((0, DONT_ENCAP_DSCP), (NOECN, 0)),
]


def _with_flags(case: Case, flags: tuple[tuple[int, int], ...]) -> Case:
    first, *others = (
        replace(layer, flags=layer.flags | bits, extra_flags=extra)
        for layer, (bits, extra) in zip(case.layers, flags, strict=True)
    )
    return replace(first, around=tuple(others))


@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("shapes", TUNNELS_IN_TUNNELS, ids=lambda shapes: "-in-".join(s.name for s in shapes))
def test_headers_of_two_tunnels_are_linuxs(
    guest: LinuxGuest, shapes: tuple[Shape, Shape], flags: tuple[tuple[int, int], ...]
) -> None:
    """What must not be fragmented has no identification, so all but the outermost header is the same.

    Around an IPv6 tunnel, Linux numbers the outermost: xfrm6_prepare_output sets ignore_df.
    """
    case = _with_flags(nest((CLEAR,), *shapes), flags).reversed()
    datagrams = [Sending(b"%d" % ecn, dscp << 2 | ecn, MUST_NOT, 7) for dscp, ecn in product((0, 46), ECN)]
    prepare(guest, case)
    wire, errors = sent_by(guest, case, datagrams)
    assert errors == [0] * len(datagrams)
    wire = list(map(without_fragment_header, wire))
    assert len(wire) == len(datagrams)

    inner = [inside(inside(packet)) for packet in wire]
    assert [read_datagram(packet)[-1] for packet in inner] == [d.payload for d in datagrams]
    twin, batch = case.twin(), Batch.pack(inner)
    twin.output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(inner)
    assert list(map(without_id, packets(batch))) == list(map(without_id, wire))
    assert figures(twin) == guest.xfrm_states()


# -- depth

DEPTHS = (1, 5, 6, 7)


def _stack(shape: Shape, depth: int) -> Case:
    return nest((CLEAR,), *[shape] * depth)


@pytest.mark.parametrize("depth", [depth for depth in DEPTHS if depth <= 6])
@pytest.mark.parametrize("shape", [TRANSPORT4, TRANSPORT6], ids=lambda shape: shape.name)
def test_the_transforms_that_linux_makes(guest: LinuxGuest, shape: Shape, depth: int) -> None:
    case = _stack(shape, depth).reversed()
    before = prepare(guest, case)
    wire, errors = sent_by(guest, case, [Sending(b"deep")] * 3)
    twin = case.twin()
    batch = Batch.pack([case.shape.datagram(b"deep")] * 3)
    twin.output(batch)
    assert [outcome == Outcome.SENT for outcome in outcomes(batch)] == [not error for error in errors]
    assert counters(twin) == guest.xfrm_moved(before)
    assert figures(twin) == guest.xfrm_states()
    assert list(map(len, wire)) == [len(packet) for packet in packets(batch)][: len(wire)]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("shape", [TRANSPORT4, TRANSPORT6], ids=lambda shape: shape.name)
def test_the_transforms_that_linux_undoes(guest: LinuxGuest, shape: Shape, depth: int) -> None:
    case = _stack(shape, depth)
    wire = [case.shape.datagram(b"deep")] * 3
    for layer in case.layers:
        batch = Batch.pack(wire)
        layer.namespace().output(batch)
        wire = packets(batch)
    before = prepare(guest, case)
    linuxs = [datagram.payload for datagram in delivered_by(guest, wire)]

    twin = case.twin()
    assert [payload for _, payload in opened(twin, wire) if payload is not None] == linuxs
    assert counters(twin) == guest.xfrm_moved(before)
    assert figures(twin) == guest.xfrm_states()
