"""Packets that Linux protects are opened by uxfrm, which delivers exactly what was put in."""

from __future__ import annotations

import pytest

from linux.guest import LinuxGuest, Sending
from linux.suites import MATRIX, MATRIX_612, PAYLOADS
from linux.twin import Case, counters, figures, outcomes, packets, prepare, read_datagram, sent_by
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome

pytestmark = pytest.mark.linux


@pytest.mark.parametrize("case", [case.reversed() for case in MATRIX], ids=lambda case: case.name)
def test_uxfrm_opens_what_linux_seals(guest: LinuxGuest, case: Case) -> None:
    opens(guest, case)


@pytest.mark.parametrize("case", [case.reversed() for case in MATRIX_612], ids=lambda case: case.name)
def test_uxfrm_opens_what_linux_6_12_seals(guest612: LinuxGuest, case: Case) -> None:
    opens(guest612, case)


def opens(guest: LinuxGuest, case: Case, payloads: tuple[bytes, ...] = PAYLOADS) -> None:
    before = prepare(guest, case)
    wire, errors = sent_by(guest, case, list(map(Sending, payloads)))
    assert errors == [0] * len(payloads)
    assert len(wire) == len(payloads)
    assert guest.xfrm_moved(before) == {}

    namespace, batch = case.namespace(), Batch.pack(wire)
    namespace.input(batch)
    assert outcomes(batch) == [Outcome.DELIVERED] * len(payloads)
    assert [read_datagram(packet) for packet in packets(batch)] == list(map(case.shape.received, payloads))
    assert counters(namespace) == {}
    assert [(state.bytes, state.packets) for state in figures(namespace)] == guest.xfrm_usage()
