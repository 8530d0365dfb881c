"""Compile once before the first test; ask hypothesis for less where nothing is compiled."""

from __future__ import annotations

import pytest
from hypothesis import settings

from uxfrm import compiled

settings.register_profile("compiled", deadline=None)
settings.register_profile("interpreted", deadline=None, max_examples=20)
settings.load_profile("compiled" if compiled.JIT else "interpreted")


@pytest.fixture(scope="session", autouse=True)
def _ready() -> None:
    """Collecting has declared every batch function that the chosen tests call."""
    compiled.ready()
