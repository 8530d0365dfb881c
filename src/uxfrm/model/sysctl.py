"""Sysctls of a network namespace that XFRM reads: names, ranges and defaults are the kernel's.

What is here is what /proc/sys/net has of them; what each does is for those who read them. The sysctls of
single devices are in tables.devices.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from uxfrm.model.error import XfrmError, invalid

_INT, _UNSIGNED, _BYTE = (-(2**31), 2**31 - 1), (0, 2**32 - 1), (0, 255)
_COUNT, _LONG = (0, 2**31 - 1), (0, 2**64 - 1)
# Seconds, which Linux keeps in ticks: this is what fits at 250 a second.
_SECONDS = (-(2**31 // 250), (2**31 - 1) // 250)
_LONGEST = 20
_NUMBER = re.compile(r"[ \t\n\v\f\r]*(?P<number>-?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*))(?=[ \t\n]|$)")


@dataclass(frozen=True, slots=True)
class Sysctls:
    """One namespace's values. Fields have the last part of the kernel's names."""

    xfrm_aevent_etime: int = 10
    """Timer of aevents of states that name none, in 100 ms."""
    xfrm_aevent_rseqth: int = 2
    """Packets after which an aevent comes, for states that name none."""
    xfrm_larval_drop: int = 1
    """0: packets are held while a state is negotiated."""
    xfrm_acq_expires: int = 30
    """Seconds for which a larval state is kept; 0: for ever."""
    xfrm4_gc_thresh: int = 32768
    xfrm6_gc_thresh: int = 32768
    """Kept, without effect: newer kernels have no bundles to collect either."""
    ip_no_pmtu_disc: int = 0
    """Not 0: new IPv4 states get the flag nopmtudisc, unless they are for input only."""
    ipfrag_high_thresh: int = 4 << 20
    """Bytes of IPv4 fragments that wait for the rest of their packets; beyond it none are taken."""
    ipfrag_low_thresh: int = 3 << 20
    """Kept, without effect, as in Linux: not above the other."""
    ipfrag_time: int = 30
    """Seconds after which what came of an IPv4 packet is dropped."""
    ipfrag_max_dist: int = 64
    """Fragments from one source between two of one packet, beyond which they are not of one; 0: any."""
    ip6frag_high_thresh: int = 4 << 20
    ip6frag_low_thresh: int = 3 << 20
    ip6frag_time: int = 60

    def get(self, name: str) -> int:
        """The value by the kernel's name, such as net.core.xfrm_acq_expires. XfrmError ENOENT."""
        value: int = getattr(self, _entry(name).field)
        return value

    def set(self, name: str, value: int) -> Sysctls:
        """With another value. XfrmError ENOENT; EINVAL beyond its range."""
        entry = _entry(name)
        if not entry.low <= value <= entry.high:
            raise invalid()
        made = replace(self, **{entry.field: value})
        if made.ipfrag_low_thresh > made.ipfrag_high_thresh:
            raise invalid()
        if made.ip6frag_low_thresh > made.ip6frag_high_thresh:
            raise invalid()
        return made

    def write(self, name: str, text: str) -> Sysctls:
        """With what writing `text` to the sysctl's file sets. XfrmError ENOENT, EINVAL.

        Decimal, octal after 0, hexadecimal after 0x; what follows a blank does not count, and no text changes
        nothing.
        """
        return self.set(name, _parse(_entry(name), text)) if text else self


@dataclass(frozen=True, slots=True)
class Entry:
    """One sysctl: its field of Sysctls and its range. Follows: proc_dointvec, proc_douintvec."""

    field: str
    low: int
    high: int


def _entries() -> Mapping[str, Entry]:
    """Follows: xfrm_table, xfrm4_policy_table, xfrm6_policy_table, ipv4_net_table, ip4_frags_ns_ctl_table."""
    ranges = {
        "net.core.xfrm_aevent_etime": _UNSIGNED,
        "net.core.xfrm_aevent_rseqth": _UNSIGNED,
        "net.core.xfrm_larval_drop": _INT,
        "net.core.xfrm_acq_expires": _INT,
        "net.ipv4.xfrm4_gc_thresh": _INT,
        "net.ipv6.xfrm6_gc_thresh": _INT,
        "net.ipv4.ip_no_pmtu_disc": _BYTE,
        "net.ipv4.ipfrag_high_thresh": _LONG,
        "net.ipv4.ipfrag_low_thresh": _LONG,
        "net.ipv4.ipfrag_time": _SECONDS,
        "net.ipv4.ipfrag_max_dist": _COUNT,
        "net.ipv6.ip6frag_high_thresh": _LONG,
        "net.ipv6.ip6frag_low_thresh": _LONG,
        "net.ipv6.ip6frag_time": _SECONDS,
    }
    return {name: Entry(name.rpartition(".")[2], *ends) for name, ends in ranges.items()}


SYSCTLS = _entries()
"""Every sysctl by the kernel's name."""


def _entry(name: str) -> Entry:
    found = SYSCTLS.get(name)
    if found is None:
        raise XfrmError(errno.ENOENT)
    return found


def number(value: int | str) -> int:
    """What setting an int sysctl to a number, or writing a text to it, sets. XfrmError EINVAL."""
    read = value if isinstance(value, int) else _parse(Entry("", *_INT), value)
    if not _INT[0] <= read <= _INT[1]:
        raise invalid()
    return read


def _parse(entry: Entry, text: str) -> int:
    """Follows: proc_get_long."""
    found = _NUMBER.match(text)
    if found is None or len(found["number"]) > _LONGEST:
        raise invalid()
    # An int that may not be below 0 may be "-0"; what is unsigned may not.
    if found["number"][0] == "-" and entry.low == 0 and (entry.low, entry.high) != _COUNT:
        raise invalid()
    digits = found["number"].lstrip("-")
    octal = digits.isdigit() and digits.startswith("0")
    value = int(digits, 8 if octal else 0)
    return -value if found["number"][0] == "-" else value
