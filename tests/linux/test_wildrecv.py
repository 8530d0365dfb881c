"""Flag wildrecv: a state that receives, and with which neither Linux nor uxfrm sends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from linux.guest import LinuxGuest, Sending
from linux.suites import GCM
from linux.twin import (
    HOST_PORT,
    SHAPES,
    Case,
    Shape,
    counters,
    delivered_by,
    figures,
    outcomes,
    packets,
    prepare,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import WILDRECV

pytestmark = pytest.mark.linux

PAYLOADS = [b"", b"wild", bytes(700)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_it_receives(guest: LinuxGuest, shape: Shape) -> None:
    """In both: what a state without the flag sent."""
    case = Case(GCM[2], shape)
    batch = Batch.pack([shape.datagram(payload) for payload in PAYLOADS])
    case.namespace().output(batch)
    wild = replace(case, flags=WILDRECV)
    before = prepare(guest, wild)
    assert [datagram.payload for datagram in delivered_by(guest, packets(batch))] == PAYLOADS
    assert guest.xfrm_moved(before) == {}
    twin, received = wild.twin(), Batch.pack(packets(batch))
    twin.input(received)
    assert outcomes(received) == [Outcome.DELIVERED] * len(PAYLOADS)
    assert figures(twin) == guest.xfrm_states()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_it_does_not_send(guest: LinuxGuest, shape: Shape) -> None:
    """Nobody is there who could make another state: the same is counted. Follows: xfrm_state_find."""
    wild = replace(Case(GCM[2], shape), flags=WILDRECV).reversed()
    before = prepare(guest, wild)
    guest.udp_send("u", (shape.inner_ends[0], HOST_PORT), [Sending(b"no")])
    assert guest.take_ip(1, timeout=0.1) == []
    twin, batch = wild.twin(), Batch.pack([wild.shape.datagram(b"no")])
    twin.output(batch)
    assert outcomes(batch) == [Outcome.OUT_NO_STATE]
    assert counters(twin) == guest.xfrm_moved(before)
