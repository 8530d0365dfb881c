"""The seccomp filter: which system calls are handed to the supervisor.

Knows: classic BPF over struct seccomp_data. A filter sees the arguments' numbers and no memory, so it takes a
few calls too many (getsockname of every socket) and the supervisor lets those proceed.

1. Another instruction set than the machine's: allow.
2. Each rule: the call's number, then its arguments, any of several sets of values; all fit: notify.
3. Nothing fits: allow. The kernel remembers calls that no rule names and runs no filter for them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from uxfrm.intercept import numbers as n
from uxfrm.intercept.machine import Machine

# One way for a call to fit: argument number -> the values it may have, as the kernel reads them (int, 32
# bits).
Arguments = Mapping[int, Sequence[int]]

RULES: tuple[tuple[str, Arguments], ...] = (
    ("socket", {0: (n.AF_NETLINK,), 2: (n.NETLINK_XFRM,)}),
    ("bind", {2: (n.SOCKADDR_NL_LEN,)}),
    ("connect", {2: (n.SOCKADDR_NL_LEN,)}),
    ("getsockname", {}),
    ("getpeername", {}),
    ("setsockopt", {1: (n.SOL_NETLINK,)}),
    ("setsockopt", {1: (n.SOL_UDP,), 2: (n.UDP_ENCAP,)}),
    ("setsockopt", {1: (n.SOL_IP,), 2: (n.IP_XFRM_POLICY,)}),
    ("setsockopt", {1: (n.SOL_IPV6,), 2: (n.IPV6_XFRM_POLICY,)}),
    ("getsockopt", {1: (n.SOL_NETLINK,)}),
    ("getsockopt", {1: (n.SOL_SOCKET,), 2: (n.SO_TYPE, n.SO_PROTOCOL, n.SO_DOMAIN)}),
)
STRICT_CALLS = ("recvfrom", "recvmsg")

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_OR_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_NUMBER, _ARCH = 0, 4

Instruction = tuple[int, int, int, int]


def program(machine: Machine, strict: bool) -> bytes:
    """The filter as an array of struct sock_filter."""
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 1, 0, machine.audit_arch),
        (_RETURN, 0, 0, _ALLOW),
    ]
    for name, arguments in RULES:
        code += _rule(machine.calls[name], arguments)
    if strict:
        for name in STRICT_CALLS:
            code += _numbered(machine.calls[name], _in_range(0, n.STRICT_FDS))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _rule(number: int, arguments: Arguments) -> list[Instruction]:
    """Notify if the call has this number and all arguments fit; otherwise run into what follows."""
    body: list[Instruction] = [(_RETURN, 0, 0, _NOTIFY)]
    for index, values in reversed(list(arguments.items())):
        checks: list[Instruction] = [(_LOAD, 0, 0, _argument(index))]
        for place, value in enumerate(values):
            last = place == len(values) - 1
            checks.append((_JUMP_EQUAL, len(values) - 1 - place, len(body) if last else 0, value))
        body = checks + body
    return _numbered(number, body)


def _in_range(index: int, values: range) -> list[Instruction]:
    """Notify if the argument lies in the range."""
    return [
        (_LOAD, 0, 0, _argument(index)),
        (_JUMP_GREATER_OR_EQUAL, 0, 2, values.start),
        (_JUMP_GREATER_OR_EQUAL, 1, 0, values.stop),
        (_RETURN, 0, 0, _NOTIFY),
    ]


def _numbered(number: int, body: list[Instruction]) -> list[Instruction]:
    """Run `body` for this call only."""
    return [(_LOAD, 0, 0, _NUMBER), (_JUMP_EQUAL, 0, len(body), number), *body]


def _argument(index: int) -> int:
    """Where the low 32 bits of an argument are; both processors are little-endian."""
    return 16 + 8 * index
