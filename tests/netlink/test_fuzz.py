"""Whatever clients send, replies come out: inputs that are kept, and new ones, always the same.

An hour under atheris, guided by coverage, is `python tests/netlink/fuzz.py --seconds 3600`.
"""

from __future__ import annotations

import pytest

from netlink import fuzz_target
from netlink.fuzz_input import Mutator, corpus

INPUTS = 1500
GENERATIONS = 4
SEED = 20261123


def test_inputs_that_are_kept() -> None:
    for data in corpus():
        fuzz_target.run(data)


@pytest.mark.compiled
def test_changed_inputs() -> None:
    seeds = corpus()
    mutator = Mutator(seeds)
    for number in range(INPUTS):
        data = seeds[number % len(seeds)]
        for generation in range(number % GENERATIONS + 1):
            data = mutator.mutate(data, SEED + number * GENERATIONS + generation)
        try:
            fuzz_target.run(data)
        except Exception as error:
            raise AssertionError(f"for corpus.txt: found-{number} {data.hex()}") from error
