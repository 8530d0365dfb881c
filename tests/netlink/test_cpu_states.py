"""States and acquires of one CPU: this machine's kernel beside uxfrm, sending from every CPU."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from netlink.compare import attribute as attr
from netlink.compare import request
from netlink.kernel import Kernel
from netlink.test_acquires import A4, B4, Both, selector, wide_template
from netlink.test_kernel_answers import DUMP, OUT, policy, spi_range
from uxfrm.model.policy import POLICY_CPU_ACQUIRE

pytestmark = pytest.mark.linux

CPUS = sorted(os.sched_getaffinity(0))
FLAGS = 162  # of struct xfrm_userpolicy_info
DADDR, SADDR, REQID = 56, 80, 208  # of struct xfrm_usersa_info


def on_cpu(cpu: int) -> bytes:
    return attr(35, struct.pack("=I", cpu))


def packet(sport: int) -> tuple[str, str, str, str, str]:
    return ("udp", A4, str(sport), B4, "53")


def cpu_policy() -> bytes:
    body = bytearray(policy(selector(2)))
    body[FLAGS] = POLICY_CPU_ACQUIRE
    return request(0x13, bytes(body) + attr(5, wide_template()))


def wanted(spi: int) -> bytes:
    """ALLOCSPI between the ends of `packet`, for the template's reqid."""
    body = bytearray(spi_range(spi, spi))
    body[DADDR : DADDR + 4], body[SADDR : SADDR + 4] = bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1])
    struct.pack_into("=I", body, REQID, 7)
    return bytes(body)


@pytest.fixture
def both() -> Iterator[Both]:
    with Kernel() as kernel:
        made = Both(kernel)
        made.run_on(CPUS[0])
        yield made


def states(both: Both) -> int:
    return len(both.request(request(0x12, b"", DUMP))[0]) - 1


def test_without_a_state_for_all_the_question_names_no_cpu(both: Both) -> None:
    both.request(cpu_policy())
    assert len(both.send(packet(4000))[1]) == 1
    assert states(both) == 1
    for cpu in CPUS:
        both.run_on(cpu)
        assert both.send(packet(4001 + cpu))[1] == []
    assert states(both) == 1


@pytest.mark.parametrize("flag", [False, True])
def test_a_larval_state_of_any_cpu_is_waited_for(both: Both, flag: bool) -> None:
    plain = request(0x13, policy(selector(2)) + attr(5, wide_template()))
    both.request(cpu_policy() if flag else plain)
    both.request(request(0x16, wanted(0x2001) + OUT + on_cpu(CPUS[-1])))
    for cpu in CPUS:
        both.run_on(cpu)
        assert both.send(packet(4000 + cpu))[1] == []
    assert states(both) == 1


def test_each_cpu_has_larval_states_of_its_own(both: Both) -> None:
    for cpu in CPUS:
        both.request(request(0x16, wanted(0x2000 + cpu) + OUT + on_cpu(cpu)))
    both.request(request(0x16, wanted(0x2800)))
    assert states(both) == len(CPUS) + 1
    both.request(request(0x16, wanted(0x2900) + OUT + on_cpu(os.cpu_count() or 1)))  # there is no such CPU
    assert states(both) == len(CPUS) + 1


def test_a_larval_state_without_spi_is_taken_by_its_own_cpu_only(both: Both) -> None:
    """The range is used up, so that the state stays without an SPI; who asks next gets it, or another."""
    both.request(request(0x16, wanted(0x2001)))
    both.request(request(0x16, wanted(0x2001) + OUT + on_cpu(CPUS[-1])))
    assert states(both) == 2
    both.request(request(0x16, wanted(0x2002)))
    assert states(both) == 3
    both.request(request(0x16, wanted(0x2003) + OUT + on_cpu(CPUS[-1])))
    assert states(both) == 3
