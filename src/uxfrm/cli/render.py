"""Reports as lines for people, and as JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import msgspec

from uxfrm.explain.oneline import one_line
from uxfrm.explain.report import Fate, Part, Report, Reporter

_HEADER = (
    f"{'frame':>7} {'time':<15} {'':<3} {'outer addresses':<33} {'proto':<6} {'spi':<10} {'seq':>8} "
    f"{'reqid':>6} {'policy':>6} outcome, inner packet, reason"
)

_COLOURS = {
    "delivered": "\x1b[32m",
    "forwarded": "\x1b[32m",
    "sent": "\x1b[36m",
    "passed in clear": "\x1b[33m",
    "dropped": "\x1b[1;31m",
    "unsupported": "\x1b[35m",
    "ignored": "\x1b[2m",
}
_DIM, _OFF = "\x1b[2m", "\x1b[0m"
_CACHE_MAX = 65536
_COMMON = frozenset({1, 6, 17, 58})
_NO_NUMBERS = f"{'-':<10} {'-':>8}"

# What needs no explaining in a line that already says so.
_PLAIN = frozenset(
    {"decrypted and allowed by policy", "protected as the policy asks", "no policy asks for IPsec"}
)


def header(colour: bool) -> str:
    """The table's first line."""
    return f"{_DIM}{_HEADER}{_OFF}\n" if colour else _HEADER + "\n"


class Lines:
    """One line per packet. What packets of a flow have in common is spelled once."""

    def __init__(self, reporter: Reporter, colour: bool, only: frozenset[str]) -> None:
        self._reporter = reporter
        self._colour = colour
        self._only = only
        self._inner: dict[bytes, str] = {}
        self._second = -1
        self._clock = ""
        self._spelled: dict[int, tuple[Fate, str, str, str]] = {}

    def write(self, part: Part) -> list[tuple[int, str]]:
        """The lines of a part, each with its frame's number."""
        data = part.batch.data.tobytes()
        if len(self._spelled) > _CACHE_MAX:
            self._spelled.clear()
        only, spelled, found = self._only, self._spelled, []
        for frame, time_ns, fate, reason, spi, seq, at, size in self._reporter.rows(part):
            if only and fate.outcome not in only:
                continue
            known = spelled.get(id(fate))
            if known is None or known[0] is not fate:
                known = spelled[id(fate)] = (fate, *self._spell(fate))
            _, left, middle, right = known
            second, rest = divmod(time_ns, 1_000_000_000)
            if second != self._second:
                self._second, self._clock = second, time.strftime("%H:%M:%S", time.localtime(second))
            numbers = f"0x{spi:08x} {seq:>8}" if fate.ipsec else _NO_NUMBERS
            inner = f": {self._one_line(data, at, size)}" if fate.whole else ""
            if fate.worded:
                right = self._why(fate, reason)
            clock = f"{self._clock}.{rest // 1000:06d}"
            found.append((frame, f"{frame:>7} {clock} {left} {numbers} {middle}{inner}{right}\n"))
        return found

    def _spell(self, fate: Fate) -> tuple[str, str, str]:
        """What stands left of SPI and sequence number, between them and the inner packet, and behind it."""
        outcome = fate.outcome
        if self._colour:
            outcome = f"{_COLOURS.get(outcome, '')}{outcome}{_OFF}"
        outer = f"{fate.source} > {fate.destination}"
        reqid = "-" if fate.reqid is None else fate.reqid
        policy = "-" if fate.policy_index is None else fate.policy_index
        left = f"{fate.direction:<3} {outer:<33} {fate.proto:<6}"
        return left, f"{reqid:>6} {policy:>6} {outcome}", self._why(fate, fate.reason)

    @staticmethod
    def _why(fate: Fate, reason: str) -> str:
        if reason in _PLAIN:
            return ""
        counter = "" if fate.counter is None else f" [{fate.counter}]"
        return f"{';' if fate.whole else ':'} {reason}{counter}"

    def _one_line(self, data: bytes, at: int, size: int) -> str:
        """`one_line`, remembered by what it reads of plain TCP, UDP and ICMP packets."""
        first = data[at]
        if first == 0x45 and data[at + 9] in _COMMON and not data[at + 6] & 0x3F | data[at + 7]:
            key = data[at + 9 : at + 10] + data[at + 12 : at + 24] + data[at + 32 : at + 34]
        elif first >> 4 == 6 and data[at + 6] in _COMMON:
            key = data[at + 6 : at + 7] + data[at + 8 : at + 44] + data[at + 52 : at + 54]
        else:
            return one_line(data[at : at + size])
        key += size.to_bytes(4)
        found = self._inner.get(key)
        if found is None:
            if len(self._inner) >= _CACHE_MAX:
                self._inner.clear()
            found = self._inner[key] = one_line(data[at : at + size])
        return found


def json_lines(reports: Iterable[Report]) -> Iterator[bytes]:
    """One JSON object a line."""
    encode = msgspec.json.Encoder().encode
    for r in reports:
        yield encode(
            {
                "frame": r.frame,
                "time": r.time_ns / 1e9,
                "direction": r.direction,
                "outcome": r.outcome,
                "counter": r.counter,
                "reason": r.reason,
                "spi": r.spi,
                "seq": r.seq,
                "proto": r.proto,
                "reqid": r.reqid,
                "policy_index": r.policy_index,
                "inner": None if r.inner is None else r.inner.hex(),
                "src": r.source,
                "dst": r.destination,
            }
        )
