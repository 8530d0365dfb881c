"""One guest of each kernel for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from linux.build import built
from linux.guest import LinuxGuest


@pytest.fixture(scope="session")
def guest() -> Iterator[LinuxGuest]:
    """A real Linux 6.1; tests leave states and policies behind and flush before they begin."""
    with LinuxGuest() as booted:
        yield booted


@pytest.fixture(scope="session")
def guest612() -> Iterator[LinuxGuest]:
    """A real Linux 6.12, for what 6.1 has not; tests flush before they begin here too."""
    with LinuxGuest(built()) as booted:
        yield booted


@pytest.fixture(scope="module")
def own_guest() -> Iterator[LinuxGuest]:
    """A Linux 6.1 for one file, which asks for so much of it that packets fare otherwise there afterwards.

    Seen: once every algorithm and kind of state has been asked for, the guest loses the security paths of
    nested packets (XfrmInError, XfrmInTmplMismatch).
    """
    with LinuxGuest() as booted:
        yield booted
