"""Time limits of policies: the same POLEXPIREs at the same seconds as this machine's kernel tells."""

from __future__ import annotations

import random
import struct
import time

import pytest

from netlink.compare import comparable, request
from netlink.kernel import Kernel, Uxfrm
from netlink.test_kernel_answers import DUMP, policy, selector

pytestmark = pytest.mark.linux

SOFT_ADD, HARD_ADD, SOFT_USE, HARD_USE = 32, 40, 48, 56
LIMITS = [
    {HARD_ADD: 1}, {SOFT_ADD: 1}, {SOFT_ADD: 1, HARD_ADD: 2}, {SOFT_USE: 2, HARD_USE: 3},
    {SOFT_ADD: 1, SOFT_USE: 2, HARD_ADD: 3}, {HARD_ADD: 60, SOFT_ADD: 2},
]  # fmt: skip
SECONDS = 4


def limited(number: int, limits: dict[int, int]) -> bytes:
    body = bytearray(policy(sel=selector(dport=number + 1, proto=6)))
    for at, seconds in limits.items():
        struct.pack_into("=Q", body, 56 + at, seconds)
    return bytes(body)


def test_the_same_events_in_the_same_order() -> None:
    """One namespace each, all policies at once; only how often the kernel looks at soft limits is timing."""
    with Kernel() as kernel:
        ours = Uxfrm(kernel.port, random.Random(1).randbytes)
        for number, limits in enumerate(LIMITS):
            datagram = request(0x13, limited(number, limits))
            assert comparable(ours.request(datagram), kernel.port) == comparable(
                kernel.request(datagram), kernel.port
            )
        time.sleep(SECONDS + 0.5)
        theirs, mine = kernel.request(request(0x15, b"", DUMP)), ours.advance(SECONDS)
        events = comparable(theirs, kernel.port)[1]
        assert sorted(comparable(mine, kernel.port)[1]) == sorted(events)
        assert len(events) == 10
        left = comparable(ours.request(request(0x15, b"", DUMP)), kernel.port)
        assert left[0] == comparable(theirs, kernel.port)[0]


def test_a_soft_limit_is_told_again_every_30_seconds() -> None:
    """As XFRM_KM_TIMEOUT says; too long to wait for a kernel here."""
    ours = Uxfrm(7, random.Random(1).randbytes)
    ours.request(request(0x13, limited(0, {SOFT_ADD: 5, HARD_ADD: 100})))
    told = [second for second in range(1, 120) if ours.advance(1).events]
    assert told == [5, 35, 65, 95, 100]
