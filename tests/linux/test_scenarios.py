"""Scenarios played twice, on Linux 6.1 and on uxfrm: the same answers, events, packets, counters, tables."""

from __future__ import annotations

import difflib
from contextlib import suppress

import pytest

from linux.guest import LinuxGuest
from linux.hosts import Host, Late, LinuxHost, UxfrmHost
from linux.scenarios import Scenario, acquires, choices, lifetimes, moves, windows

pytestmark = pytest.mark.linux

ATTEMPTS = 12
SCENARIOS = [
    found
    for module in (acquires, choices, lifetimes, moves, windows)
    for found in vars(module).values()
    if isinstance(found, Scenario)
]


def played(scenario: Scenario, host: Host) -> list[str]:
    scenario.play(host)
    host.note("counters:")
    host.counters()
    host.tables()
    return host.transcript


def played_on_linux(scenario: Scenario, guest: LinuxGuest) -> list[str]:
    for _ in range(ATTEMPTS):
        with suppress(Late):
            return played(scenario, LinuxHost(guest))
    raise Late


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_uxfrm_fares_as_linux(own_guest: LinuxGuest, scenario: Scenario) -> None:
    theirs = played_on_linux(scenario, own_guest)
    missing = [text for text in scenario.shows if not any(text in line for line in theirs)]
    assert not missing, "\n".join(theirs)
    ours = played(scenario, UxfrmHost())
    different = list(difflib.unified_diff(theirs, ours, "Linux 6.1", "uxfrm", n=6, lineterm=""))
    assert not different, "\n".join(different)
