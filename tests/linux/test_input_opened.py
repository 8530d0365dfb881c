"""Packets that Linux protects are opened by uxfrm, which delivers exactly what was put in."""

from __future__ import annotations

import pytest

from linux.groups import FROM_LINUX, GROUPS_612
from linux.guest import LinuxGuest
from linux.lanes import Lanes
from linux.test_nested import without_fragment_header
from linux.twin import counters, figures, packets

pytestmark = pytest.mark.linux


@pytest.mark.parametrize("lanes", FROM_LINUX, ids=lambda lanes: lanes.name)
def test_uxfrm_opens_what_linux_seals(guest: LinuxGuest, lanes: Lanes) -> None:
    opens(guest, lanes)


@pytest.mark.parametrize("lanes", [lanes.reversed() for lanes in GROUPS_612], ids=lambda lanes: lanes.name)
def test_uxfrm_opens_what_linux_6_12_seals(guest612: LinuxGuest, lanes: Lanes) -> None:
    opens(guest612, lanes)


def opens(guest: LinuxGuest, lanes: Lanes) -> None:
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
