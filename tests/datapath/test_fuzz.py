"""Whatever comes in, packets end, each counted: always the same changed packets of every transform.

Millions, for whoever changes the path: `python tests/datapath/fuzz.py --packets 10000000`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath import fuzz
from datapath.fuzz_packets import CHANGES, Change, corpus, mended
from datapath.fuzz_target import Receiver, check_one_by_one

PACKETS, SEED = 25_000, 20261128
FEW = 1024

SCRIPT = Path(fuzz.__file__)


@pytest.fixture(scope="module")
def packets() -> list[bytes]:
    return corpus()


@pytest.fixture(scope="module")
def host() -> Receiver:
    return Receiver()


@pytest.mark.compiled
def test_changed_packets() -> None:
    """Bounds, counters, and two batches that are taken packet by packet too."""
    fuzz.run(PACKETS, SEED, alone_every=60, talk=False)


@pytest.mark.compiled
def test_compiled_and_interpreted_agree() -> None:
    digests = set()
    for more in ({}, {"NUMBA_DISABLE_JIT": "1"}):
        command = [sys.executable, str(SCRIPT), "--digest", "--packets", str(FEW), "--seed", "7"]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | more)
        digests.add(done.stdout)
    assert len(digests) == 1
    assert len(digests.pop()) == 33


def test_other_packets_give_another_digest(packets: list[bytes]) -> None:
    """What the two are compared by can differ."""
    first, second = Receiver(), Receiver()
    first.take(packets[:40])
    second.take([packets[1], *packets[:39]])
    assert first.digest.hexdigest() != second.digest.hexdigest()


def test_what_nobody_sealed_is_noticed(packets: list[bytes]) -> None:
    with pytest.raises(AssertionError, match="nobody sealed"):
        Receiver(frozenset()).take(packets)


Chosen = tuple[int, Change, random.Random]


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 1000), st.sampled_from(CHANGES), st.randoms(use_true_random=False)),
        min_size=1,
        max_size=12,
    )
)
def test_single_changes(packets: list[bytes], host: Receiver, chosen: list[Chosen]) -> None:
    """Each change by itself, for hypothesis to make a finding smaller."""
    made = [change(chance, packets[i % len(packets)]) for i, change, chance in chosen]
    host.take([mended(one)[:0xFFFF] for some in made for one in some])


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=120), min_size=1, max_size=8))
def test_any_bytes(host: Receiver, wire: list[bytes]) -> None:
    host.take(wire)
    host.check_bounds()


def test_a_batch_is_its_packets_one_by_one(packets: list[bytes]) -> None:
    check_one_by_one(fuzz.batch(packets, SEED, 1)[:128])
