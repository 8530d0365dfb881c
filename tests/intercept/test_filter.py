"""The seccomp program, run by a small interpreter: which calls it takes, on which processors."""

from __future__ import annotations

import struct

import pytest

from uxfrm.intercept import numbers as n
from uxfrm.intercept.filter import program
from uxfrm.intercept.machine import MACHINES, Machine

NOTIFY, ALLOW = 0x7FC00000, 0x7FFF0000


def verdict(code: bytes, arch: int, number: int, *arguments: int) -> int:
    """What the program says of a call."""
    words = [value & (1 << 64) - 1 for value in arguments]
    data = struct.pack("=IIQ6Q", number, arch, 0, *words, *[0] * (6 - len(words)))
    lines = list(struct.iter_unpack("=HBBI", code))
    at = accumulator = 0
    while True:
        kind, if_true, if_false, value = lines[at]
        at += 1
        if kind == 0x06:
            return int(value)
        if kind == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif kind == 0x15:
            at += if_true if accumulator == value else if_false
        else:
            assert kind == 0x35
            at += if_true if accumulator >= value else if_false


CASES = [
    ("socket", (16, 3, 6), True),
    ("socket", (16, 2, 0), False),
    ("socket", (2, 2, 6), False),
    ("socket", (1 << 32 | 16, 3, 1 << 32 | 6), True),
    ("bind", (3, 4096, 12), True),
    ("bind", (3, 4096, 16), False),
    ("connect", (3, 4096, 12), True),
    ("connect", (3, 4096, 110), False),
    ("getsockname", (3,), True),
    ("getpeername", (3,), True),
    ("setsockopt", (3, 270, 11), True),
    ("setsockopt", (3, 17, 100), True),
    ("setsockopt", (3, 17, 101), False),
    ("setsockopt", (3, 0, 17), True),
    ("setsockopt", (3, 0, 18), False),
    ("setsockopt", (3, 41, 35), True),
    ("setsockopt", (3, 41, 17), False),
    ("setsockopt", (3, 1, 17), False),
    ("getsockopt", (3, 270, 1), True),
    ("getsockopt", (3, 1, 3), True),
    ("getsockopt", (3, 1, 38), True),
    ("getsockopt", (3, 1, 39), True),
    ("getsockopt", (3, 1, 4), False),
    ("getsockopt", (3, 0, 3), False),
]


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("name", "arguments", "taken"), CASES)
def test_calls_are_taken_by_their_arguments(
    machine: Machine, strict: bool, name: str, arguments: tuple[int, ...], taken: bool
) -> None:
    code = program(machine, strict)
    assert verdict(code, machine.audit_arch, machine.calls[name], *arguments) == (NOTIFY if taken else ALLOW)
    assert verdict(code, 0x40000003, machine.calls[name], *arguments) == ALLOW


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
@pytest.mark.parametrize("name", ["recvfrom", "recvmsg"])
def test_receiving_is_taken_in_strict_mode_alone(machine: Machine, name: str) -> None:
    number = machine.calls[name]
    for fd in (0, 3, 899, 900, 950, 1023, 1024, -1):
        strict = verdict(program(machine, True), machine.audit_arch, number, fd)
        assert strict == (NOTIFY if fd in n.STRICT_FDS else ALLOW)
        assert verdict(program(machine, False), machine.audit_arch, number, fd) == ALLOW


@pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))
def test_every_other_call_is_allowed(machine: Machine) -> None:
    code = program(machine, True)
    for number in set(range(600)) - set(machine.calls.values()):
        assert verdict(code, machine.audit_arch, number, 16, 3, 6) == ALLOW
