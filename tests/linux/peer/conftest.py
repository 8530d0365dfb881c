"""One Linux kernel for the test session, one network namespace for each test that wants one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from linux.peer.guest import LinuxGuest, Namespace


@pytest.fixture(scope="session")
def _linux_guest() -> Iterator[LinuxGuest]:
    with LinuxGuest() as guest:
        yield guest


@pytest.fixture
def linux_guest(_linux_guest: LinuxGuest) -> LinuxGuest:
    """The session's guest. One that a test has killed is booted again, so that the next can run."""
    if not _linux_guest.alive:
        _linux_guest.restart()
    return _linux_guest


@pytest.fixture
def linux_namespace(linux_guest: LinuxGuest) -> Iterator[Callable[..., Namespace]]:
    """Call it with the arguments of LinuxGuest.namespace; the namespaces go when the test ends."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Namespace:
            return stack.enter_context(linux_guest.namespace(**settings))

        yield make
