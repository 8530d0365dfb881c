"""Packets that uxfrm protects are opened by Linux, which delivers exactly what was put in."""

from __future__ import annotations

import pytest

from linux.groups import GROUPS, GROUPS_612
from linux.guest import LinuxGuest
from linux.lanes import Lanes
from linux.suites import GCM, PAYLOADS
from linux.test_ipcomp import linuxs, ours
from linux.twin import TRANSPORT4, Case, counters, delivered_by, figures, ip_usage, outcomes, packets, prepare
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome

pytestmark = pytest.mark.linux


@pytest.mark.parametrize("lanes", GROUPS, ids=lambda lanes: lanes.name)
def test_linux_opens_what_uxfrm_seals(guest: LinuxGuest, lanes: Lanes) -> None:
    opens(guest, lanes)


@pytest.mark.parametrize("lanes", GROUPS_612, ids=lambda lanes: lanes.name)
def test_linux_6_12_opens_what_uxfrm_seals(guest612: LinuxGuest, lanes: Lanes) -> None:
    opens(guest612, lanes)


def opens(guest: LinuxGuest, lanes: Lanes) -> None:
    """A uxfrm that receives in Linux's place takes the same of it, and has the same figures."""
    before = lanes.prepare(guest)
    namespace, batch = lanes.namespace(), lanes.inner()
    namespace.output(batch)
    assert set(outcomes(batch)) == {Outcome.SENT}

    wire = packets(batch)
    got, moved = lanes.received(guest, wire), guest.xfrm_moved(before)
    if lanes.lossless:
        assert got == lanes.whole
        assert moved == {}
    twin = lanes.twin()
    assert lanes.delivered(twin, wire) == got
    assert counters(twin) == moved
    assert ours(twin) == linuxs(guest)
    if lanes.lossless and not lanes.compresses and not lanes.pads:
        assert guest.xfrm_usage() == [(state.bytes, state.packets) for state in figures(namespace)]


def test_figures_are_what_ip_shows(guest: LinuxGuest) -> None:
    case = Case(GCM[2], TRANSPORT4)
    prepare(guest, case)
    batch = Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    case.namespace().output(batch)
    delivered_by(guest, packets(batch))
    assert guest.xfrm_usage() == [ip_usage(guest)]
    assert ip_usage(guest)[1] == len(PAYLOADS)
