"""Classic BPF programs that let a packet socket see IPsec alone, or everything but IPsec.

What is expected by the million and what must not be there at all are apart: the latter are few, so that
none of them is lost. Source: Linux filter.txt; SKF_AD offsets of linux/filter.h.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

IPV4, IPV6 = 0x0800, 0x86DD
ESP, AH, IPCOMP, UDP, FRAGMENT = 50, 51, 108, 17, 44
NAT_T = 4500
_LDB, _LDH, _LDW, _JEQ, _JSET, _RET = 0x30, 0x28, 0x20, 0x15, 0x45, 0x06
_LDXMSH, _LDHX, _LDWX = 0xB1, 0x48, 0x40
_PROTOCOL, _PKTTYPE = 0xFFFFF000, 0xFFFFF000 + 4
_OUTGOING = 4
_SNAP = 128


class _Step(NamedTuple):
    """One instruction; `yes` and `no` are labels, "" for the next one."""

    label: str
    code: int
    k: int
    yes: str = ""
    no: str = ""


_STEPS = (
    _Step("", _LDB, _PKTTYPE),
    _Step("", _JEQ, _OUTGOING, "never"),
    _Step("", _LDH, _PROTOCOL),
    _Step("", _JEQ, IPV4, "ipv4"),
    _Step("", _JEQ, IPV6, "ipv6", "never"),
    _Step("ipv4", _LDB, 9),
    _Step("", _JEQ, ESP, "ipsec"),
    _Step("", _JEQ, AH, "ipsec"),
    _Step("", _JEQ, IPCOMP, "ipsec"),
    _Step("", _JEQ, UDP, "", "other"),
    _Step("", _LDH, 6),
    _Step("", _JSET, 0x1FFF, "other"),
    _Step("", _LDXMSH, 0),
    _Step("", _LDHX, 0),
    _Step("", _JEQ, NAT_T, "marker4"),
    _Step("", _LDHX, 2),
    _Step("", _JEQ, NAT_T, "marker4", "other"),
    _Step("marker4", _LDWX, 8),
    _Step("", _JEQ, 0, "other", "ipsec"),
    _Step("ipv6", _LDB, 6),
    _Step("", _JEQ, ESP, "ipsec"),
    _Step("", _JEQ, AH, "ipsec"),
    _Step("", _JEQ, IPCOMP, "ipsec"),
    _Step("", _JEQ, UDP, "", "other"),
    _Step("", _LDH, 40),
    _Step("", _JEQ, NAT_T, "marker6"),
    _Step("", _LDH, 42),
    _Step("", _JEQ, NAT_T, "marker6", "other"),
    _Step("marker6", _LDW, 48),
    _Step("", _JEQ, 0, "other", "ipsec"),
)
"""Of the received IP packets: is it ESP, AH, IPComp, or ESP in UDP? A load beyond the packet is "never"."""

_ENDS = ("never", "ipsec", "other")


def program(wanted: str) -> bytes:
    """The instructions (struct sock_filter) that let "ipsec" or "other" through, cut to 128 bytes."""
    labels = {step.label: number for number, step in enumerate(_STEPS) if step.label}
    labels |= {end: len(_STEPS) + number for number, end in enumerate(_ENDS)}

    def jump(at: int, label: str) -> int:
        return labels[label] - at - 1 if label else 0

    code = b"".join(
        struct.pack("=HBBI", step.code, jump(at, step.yes), jump(at, step.no), step.k)
        for at, step in enumerate(_STEPS)
    )
    ends = (_SNAP if end == wanted else 0 for end in _ENDS)
    return code + b"".join(struct.pack("=HBBI", _RET, 0, 0, k) for k in ends)
