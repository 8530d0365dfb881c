"""Compile once, before any test is timed."""

from __future__ import annotations

import pytest

import uxfrm.attach.link
import uxfrm.attach.pcap  # noqa: F401
from uxfrm.compiled import ready


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    ready()
