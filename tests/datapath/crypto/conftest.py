"""One keyring per choice of engines for all tests; a test that changes a keyring makes its own."""

from __future__ import annotations

from functools import cache

import pytest

from uxfrm.datapath.crypto.keyring import Keyring


@cache
def _ring(engines: tuple[str, ...]) -> Keyring:
    return Keyring(engines)


@pytest.fixture(scope="session")
def all_engines() -> Keyring:
    return _ring(("ipsec_mb", "libcrypto", "libnettle"))


@pytest.fixture(scope="session")
def without_ipsec_mb() -> Keyring:
    return _ring(("libcrypto", "libnettle"))
