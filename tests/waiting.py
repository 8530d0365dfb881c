"""Waiting for what something else has to bring about."""

from __future__ import annotations

import time
from collections.abc import Callable

_BOUND_S = 60.0
"""What has not come about by then never will."""


def until(so: Callable[[], object]) -> None:
    """Wait until something is so. TimeoutError when it never is."""
    end = time.monotonic() + _BOUND_S
    while not so():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)
