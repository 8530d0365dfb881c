"""Generated combinations, side by side: what uxfrm seals Linux 6.1 opens, and the other way round."""

from __future__ import annotations

import pytest

from linux.groups import FROM_LINUX, GROUPS
from linux.guest import LinuxGuest
from linux.lanes import Lanes
from linux.test_ipcomp import linuxs, ours
from linux.test_nested import without_fragment_header
from linux.twin import counters, figures, outcomes, packets
from uxfrm.model.outcome import Outcome

pytestmark = pytest.mark.linux


@pytest.mark.parametrize("lanes", GROUPS, ids=lambda lanes: lanes.name)
def test_linux_opens_what_uxfrm_seals(guest: LinuxGuest, lanes: Lanes) -> None:
    linux_opens(guest, lanes)


@pytest.mark.parametrize("lanes", FROM_LINUX, ids=lambda lanes: lanes.name)
def test_uxfrm_opens_what_linux_seals(guest: LinuxGuest, lanes: Lanes) -> None:
    uxfrm_opens(guest, lanes)


def linux_opens(guest: LinuxGuest, lanes: Lanes) -> None:
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


def uxfrm_opens(guest: LinuxGuest, lanes: Lanes) -> None:
    """A uxfrm that sends in Linux's place makes packets as long, and has the same figures."""
    before = lanes.prepare(guest)
    wire = lanes.sent(guest)
    assert guest.xfrm_moved(before) == {}

    namespace = lanes.namespace()
    got = lanes.delivered(namespace, wire)
    if lanes.lossless:
        assert got == lanes.whole
        assert counters(namespace) == {}
    if lanes.compresses:
        return
    twin, batch = lanes.twin(), lanes.inner()
    twin.output(batch)
    assert list(map(len, packets(batch))) == list(map(len, map(without_fragment_header, wire)))
    assert figures(twin) == guest.xfrm_states()
    if lanes.lossless and not lanes.pads:
        assert [(state.bytes, state.packets) for state in figures(namespace)] == guest.xfrm_usage()
