"""Sysctls beside those of Linux 6.1: names, defaults, what is taken and refused, what new states get."""

from __future__ import annotations

import json
import os
import random
import sys

import pytest

import netlink.kernel
from linux.guest import LinuxGuest
from linux.test_netlink_states import (
    ALLOCSPI,
    EVERY,
    GETAE,
    GETSA,
    MIGRATE,
    NEWPOLICY,
    NEWSA,
    UPDSA,
    in_fewer_words,
    messages_of,
    spi,
    u32,
)
from netlink.compare import attribute as attr
from netlink.compare import comparable, request
from netlink.kernel import Uxfrm
from netlink.test_kernel_answers import (
    AEAD,
    DUMP,
    aevent,
    migrate,
    policy,
    policy_id,
    spi_range,
    state,
    template,
)
from uxfrm.model.error import XfrmError
from uxfrm.model.sysctl import SYSCTLS, Sysctls

pytestmark = pytest.mark.linux

TEXTS = (
    "0", "1", "-1", "4", "255", "256", "2147483647", "2147483648", "4294967295", "4294967296",
    "18446744073709551617", "-2147483648", "-2147483649", "-0", "--5", "- 5", "+5", "-", "abc", "x", "7x",
    "5,6", "0x", "0x10", "0X1f", "010", "08", "", " ", "7 8", "7\t8", "7\n", " 7", "\n7", "\v7", "7\v",
    "5 x", "00000000000000000005", "000000000000000000005", "-0000000000000000005",
    "-00000000000000000005", "0x0000000000000000ff", " " * 30 + "5",
)  # fmt: skip

NAMESPACE = ["unshare", "--net", os.path.realpath(sys.executable), "-I", "-S"]

# In the namespace: reads [name, text], or [name, null] to read only; answers [errno, the value afterwards].
WRITER = """
import json, os, sys
for line in sys.stdin:
    name, text = json.loads(line)
    path, number = "/proc/sys/" + name.replace(".", "/"), 0
    if text is not None:
        file = os.open(path, os.O_WRONLY)
        try:
            os.write(file, text.encode())
        except OSError as error:
            number = error.errno
        os.close(file)
    print(json.dumps([number, int(open(path).read())]))
"""


Lines = list[tuple[str, str | None]]


def linux(guest: LinuxGuest, lines: Lines) -> list[list[int]]:
    """What the kernel makes of each line, one after the other."""
    code, out, err = guest.run([*NAMESPACE, "-c", WRITER], "".join(json.dumps(line) + "\n" for line in lines))
    assert code == 0, err
    return [json.loads(line) for line in out.splitlines()]


def ours(lines: Lines) -> list[list[int]]:
    sysctls, found = Sysctls(), []
    for name, text in lines:
        number = 0
        try:
            sysctls = sysctls if text is None else sysctls.write(name, text)
        except XfrmError as error:
            number = error.number
        found.append([number, sysctls.get(name)])
    return found


def test_names_and_defaults(guest: LinuxGuest) -> None:
    lines: Lines = [(name, None) for name in SYSCTLS]
    assert ours(lines) == linux(guest, lines)


def test_what_is_taken_and_refused(guest: LinuxGuest) -> None:
    lines: Lines = [(name, text) for name in SYSCTLS for text in TEXTS]
    theirs = linux(guest, lines)
    assert list(zip(lines, ours(lines), strict=True)) == list(zip(lines, theirs, strict=True))


# A request, or a sysctl and its value.
Step = bytes | tuple[str, int]

EFFECTS: list[Step] = [
    ("net.core.xfrm_acq_expires", 77), request(ALLOCSPI, spi_range(0x100, 0x100)),
    ("net.core.xfrm_acq_expires", 0), request(ALLOCSPI, spi_range(0x101, 0x101)),
    ("net.core.xfrm_acq_expires", -1), request(ALLOCSPI, spi_range(0x102, 0x102)),
    request(GETSA, b"", DUMP),
    ("net.ipv4.ip_no_pmtu_disc", 1),
    request(NEWSA, state(spi=spi(1), mode=1) + AEAD), request(UPDSA, state(spi=spi(0x100)) + AEAD),
    request(NEWSA, state(spi=spi(2), mode=1, flags=8) + AEAD),
    request(NEWSA, state(spi=spi(3), mode=1, family=10) + AEAD),
    ("net.ipv4.ip_no_pmtu_disc", 0), request(NEWSA, state(spi=spi(4), mode=1) + AEAD),
    request(UPDSA, state(spi=spi(1), mode=1) + AEAD), request(GETSA, b"", DUMP),
    request(NEWPOLICY, policy(direction=1) + attr(5, template())), ("net.ipv4.ip_no_pmtu_disc", 1),
    request(MIGRATE, policy_id() + attr(17, migrate())), request(GETSA, b"", DUMP),
    ("net.core.xfrm_aevent_rseqth", 9), ("net.core.xfrm_aevent_etime", 0),
    request(NEWSA, state(spi=spi(5), mode=1) + AEAD),
    request(NEWSA, state(spi=spi(6), mode=1) + AEAD + u32(11, 4)),
    *(request(GETAE, aevent(spi(number), flags=EVERY)) for number in (1, 5, 6)),
]  # fmt: skip


def test_what_new_states_get_of_them(guest: LinuxGuest) -> None:
    said = [
        f"{step.hex()}\n" if isinstance(step, bytes) else f"sh sysctl -qw {step[0]}={step[1]}\n"
        for step in EFFECTS
    ]
    code, out, err = guest.run([*NAMESPACE, netlink.kernel.__file__], "".join(said))
    assert code == 0, err
    port, *lines = out.splitlines()
    uxfrm = Uxfrm(int(port), random.Random(1).randbytes)
    for step, line in zip(EFFECTS, lines, strict=True):
        if isinstance(step, tuple):
            uxfrm.namespace.set_sysctl(*step)
            continue
        theirs = messages_of(json.loads(line))
        found = in_fewer_words(uxfrm.request(step), theirs)
        assert comparable(found, int(port)) == comparable(theirs, int(port)), step[:32].hex()
