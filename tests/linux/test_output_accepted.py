"""Packets that uxfrm protects are opened by Linux, which delivers exactly what was put in."""

from __future__ import annotations

import pytest

from linux.guest import LinuxGuest
from linux.suites import GCM, MATRIX, MATRIX_612, PAYLOADS
from linux.twin import TRANSPORT4, Case, delivered_by, figures, ip_usage, outcomes, packets, prepare
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome

pytestmark = pytest.mark.linux


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case.name)
def test_linux_opens_what_uxfrm_seals(guest: LinuxGuest, case: Case) -> None:
    opens(guest, case)


@pytest.mark.parametrize("case", MATRIX_612, ids=lambda case: case.name)
def test_linux_6_12_opens_what_uxfrm_seals(guest612: LinuxGuest, case: Case) -> None:
    opens(guest612, case)


def opens(guest: LinuxGuest, case: Case, payloads: tuple[bytes, ...] = PAYLOADS) -> None:
    before = prepare(guest, case)
    namespace = case.namespace()
    batch = Batch.pack([case.shape.datagram(payload) for payload in payloads])
    namespace.output(batch)
    assert outcomes(batch) == [Outcome.SENT] * len(payloads)

    got = delivered_by(guest, packets(batch))
    assert guest.xfrm_moved(before) == {}
    assert [datagram.payload for datagram in got] == list(payloads)
    assert {datagram.sender for datagram in got} == {case.shape.inner_ends[0]}
    assert guest.xfrm_usage() == [(state.bytes, state.packets) for state in figures(namespace)]


def test_figures_are_what_ip_shows(guest: LinuxGuest) -> None:
    case = Case(GCM[2], TRANSPORT4)
    prepare(guest, case)
    batch = Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    case.namespace().output(batch)
    delivered_by(guest, packets(batch))
    assert guest.xfrm_usage() == [ip_usage(guest)]
    assert ip_usage(guest)[1] == len(PAYLOADS)
