"""Packets that Linux protects are opened by uxfrm, which delivers exactly what was put in."""

from __future__ import annotations

import pytest

from linux.guest import LinuxGuest, Sending
from linux.suites import MATRIX, PAYLOADS
from linux.twin import GUEST_PORT, HOST_PORT, Case, counters, figures, outcomes, packets, read_datagram
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome

pytestmark = pytest.mark.linux


@pytest.mark.parametrize("case", [case.reversed() for case in MATRIX], ids=lambda case: case.name)
def test_uxfrm_opens_what_linux_seals(guest: LinuxGuest, case: Case) -> None:
    source, target = case.shape.inner_ends
    guest.udp_open("u", source, GUEST_PORT)
    guest.ip_batch(case.batch())
    guest.drain()
    before = guest.xfrm_stat()
    namespace = case.namespace()

    errors = guest.udp_send("u", (target, HOST_PORT), map(Sending, PAYLOADS))
    assert errors == [0] * len(PAYLOADS)
    batch = Batch.pack(guest.take_ip(len(PAYLOADS)))
    assert guest.xfrm_moved(before) == {}
    assert batch.packets.shape == (len(PAYLOADS),)

    namespace.input(batch)
    assert outcomes(batch) == [Outcome.DELIVERED] * len(PAYLOADS)
    assert [read_datagram(packet) for packet in packets(batch)] == list(map(case.shape.received, PAYLOADS))
    assert counters(namespace) == {}
    assert [(state.bytes, state.packets) for state in figures(namespace)] == guest.xfrm_usage()
