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
