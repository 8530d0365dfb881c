"""Labs need the right to make network namespaces: root's, on whose behalf CI runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_gateways


@pytest.fixture(autouse=True)
def _rights() -> None:
    if os.geteuid():
        pytest.skip("network namespaces need root")


@pytest.fixture
def gateways() -> Iterator[Lab]:
    """Two hosts behind two gateways."""
    with Lab(two_gateways()) as lab:
        yield lab
