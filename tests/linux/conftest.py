"""One guest for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from linux.guest import LinuxGuest


@pytest.fixture(scope="session")
def guest() -> Iterator[LinuxGuest]:
    """A real Linux 6.1; tests leave states and policies behind and flush before they begin."""
    with LinuxGuest() as booted:
        yield booted


@pytest.fixture(scope="module")
def own_guest() -> Iterator[LinuxGuest]:
    """A Linux 6.1 for one file, which asks for so much of it that packets fare otherwise there afterwards.

    Seen: once every algorithm and kind of state has been asked for, the guest loses the security paths of
    nested packets (XfrmInError, XfrmInTmplMismatch).
    """
    with LinuxGuest() as booted:
        yield booted
