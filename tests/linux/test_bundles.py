"""Bundles of two to five transforms, of one policy and of two, both ways with Linux; and TFC padding.

Sizes are Linux's too: what uxfrm sends is as long as what Linux sends of the same. Linux sends no more than
five (test_nested); six it opens, as uxfrm does.
"""

from __future__ import annotations

import os

import pytest

from linux import test_input_opened, test_output_accepted
from linux.bundles import chains, in_beet, merged, names, sorted_by_linux, with_ah
from linux.guest import LinuxGuest, Sending
from linux.suites import CHACHA, CLEAR, GCM
from linux.test_nested import without_fragment_header
from linux.twin import (
    TUNNELS,
    Case,
    counters,
    delivered_by,
    figures,
    opened,
    outcomes,
    packets,
    prepare,
    sent_by,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model.address import AF_INET, AF_INET6, ANY4, ANY6
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.namespace import Namespace

pytestmark = pytest.mark.linux

# Five tunnels take 400 bytes.
PAYLOADS = (b"", b"x", bytes(range(100)), bytes(i & 0xFF for i in range(700)))

BUNDLES = [*chains(40), *with_ah(16), *in_beet(), *merged()]
DEEP = chains(16, seed=4, depths=(6,))
OPENED = [case for case in BUNDLES if not (case.sub and sorted_by_linux(case))]


@pytest.mark.parametrize("case", OPENED, ids=names(OPENED))
def test_linux_opens_a_bundle_of_uxfrms(guest: LinuxGuest, case: Case) -> None:
    test_output_accepted.opens(guest, case, PAYLOADS)


@pytest.mark.parametrize("case", [case.reversed() for case in OPENED], ids=names(OPENED))
def test_uxfrm_opens_a_bundle_of_linuxs(guest: LinuxGuest, case: Case) -> None:
    test_input_opened.opens(guest, case, PAYLOADS)


@pytest.mark.parametrize("case", [case.reversed() for case in BUNDLES], ids=names(BUNDLES))
def test_a_bundle_is_as_long_as_linuxs(guest: LinuxGuest, case: Case) -> None:
    prepare(guest, case)
    wire, errors = sent_by(guest, case, list(map(Sending, PAYLOADS)))
    assert errors == [0] * len(PAYLOADS)
    twin, batch = case.twin(), Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    twin.output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(PAYLOADS)
    assert list(map(len, packets(batch))) == list(map(len, map(without_fragment_header, wire)))
    assert figures(twin) == guest.xfrm_states()


def sealed(layer: Case, inner: list[bytes]) -> list[bytes]:
    """What one state alone makes of any packets."""
    namespace = Namespace(randbytes=os.urandom)
    namespace.add_state(layer.state())
    family, anywhere = {4: (AF_INET, ANY4), 6: (AF_INET6, ANY6)}[layer.shape.inner]
    every = Selector(family, anywhere, anywhere)
    namespace.add_policy(PolicyConfig(Direction.OUT, every, (layer.template(Direction.OUT),)))
    batch = Batch.pack(inner)
    namespace.output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(inner)
    return packets(batch)


@pytest.mark.parametrize("case", DEEP, ids=names(DEEP))
def test_six_are_opened_as_by_linux(guest: LinuxGuest, case: Case) -> None:
    """Sealed layer by layer: nobody would send them at once."""
    wire = [case.shape.datagram(payload) for payload in PAYLOADS]
    for layer in case.layers:
        wire = sealed(layer, wire)
    before = prepare(guest, case)
    theirs = [datagram.payload for datagram in delivered_by(guest, wire)]
    twin = case.twin()
    assert [payload for _, payload in opened(twin, wire) if payload is not None] == theirs
    assert counters(twin) == guest.xfrm_moved(before)
    assert figures(twin) == guest.xfrm_states()


# -- TFC padding: below, around and above the payload and the MTU

# What does not fit with its padding is not padded up to the MTU; what does not fit at all: test_path_mtu.
PADDED = (0, 1, 11, 12, 32, 33, 60, 500, 951, 952, 953, 1000, 1300, 1370)
TFC = [
    Case(suite, shape, tfcpad=size)
    for shape in TUNNELS
    for suite in (GCM[2], CHACHA, CLEAR)
    for size in (1, 60, 128, 1000, 1380, 1400, 1420, 1500, 9000)
]


@pytest.mark.parametrize("case", [case.reversed() for case in TFC], ids=lambda case: case.name)
def test_tfc_padding_is_linuxs(guest: LinuxGuest, case: Case) -> None:
    """As long as Linux's, and opened by either."""
    prepare(guest, case)
    payloads = [bytes(size) for size in PADDED]
    wire, errors = sent_by(guest, case, list(map(Sending, payloads)))
    twin, batch = case.twin(), Batch.pack([case.shape.datagram(payload) for payload in payloads])
    twin.output(batch)
    assert errors == [0] * len(payloads)
    assert list(map(len, packets(batch))) == list(map(len, wire))
    assert figures(twin) == guest.xfrm_states()
    namespace, received = case.namespace(), Batch.pack(wire)
    namespace.input(received)
    assert outcomes(received) == [Outcome.DELIVERED] * len(payloads)
    assert [len(packet) - (28 if case.shape.inner == 4 else 48) for packet in packets(received)] == list(
        PADDED
    )


@pytest.mark.parametrize("case", TFC[::5], ids=lambda case: case.name)
def test_linux_takes_tfc_padding_off(guest: LinuxGuest, case: Case) -> None:
    """And counts it: what was received is longer than what was sent."""
    before = prepare(guest, case)
    batch = Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    case.namespace().output(batch)
    wire = packets(batch)
    assert [datagram.payload for datagram in delivered_by(guest, wire)] == list(PAYLOADS)
    assert guest.xfrm_moved(before) == {}
    twin = case.twin()
    twin.input(Batch.pack(wire))
    assert figures(twin) == guest.xfrm_states()
