"""Reports as lines for people, and as JSON for programs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import msgspec

from uxfrm.explain.oneline import one_line
from uxfrm.explain.report import Report

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

# What needs no explaining in a line that already says so.
_PLAIN = frozenset(
    {"decrypted and allowed by policy", "protected as the policy asks", "no policy asks for IPsec"}
)


def header(colour: bool) -> str:
    """The table's first line."""
    return f"{_DIM}{_HEADER}{_OFF}\n" if colour else _HEADER + "\n"


class Lines:
    """One line per report. What packets of a flow have in common is spelled once."""

    def __init__(self, colour: bool) -> None:
        self._colour = colour
        self._inner: dict[bytes, str] = {}
        self._second = -1
        self._clock = ""

    def write(self, reports: Iterable[Report]) -> str:
        """The lines of a batch of reports."""
        return "".join(map(self._line, reports))

    def _line(self, r: Report) -> str:
        second, rest = divmod(r.time_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._clock = time.strftime("%H:%M:%S", time.localtime(second))
        spi = "-" if r.spi is None else f"0x{r.spi:08x}"
        outer = f"{r.source} > {r.destination}"
        fate = self._fate(r)
        clock = f"{self._clock}.{rest // 1000:06d}"
        return (
            f"{r.frame:>7} {clock} {r.direction:<3} {outer:<33} {r.proto:<6} {spi:<10} "
            f"{'-' if r.seq is None else r.seq:>8} {'-' if r.reqid is None else r.reqid:>6} "
            f"{'-' if r.policy_index is None else r.policy_index:>6} {fate}\n"
        )

    def _fate(self, r: Report) -> str:
        outcome = f"{_COLOURS.get(r.outcome, '')}{r.outcome}{_OFF}" if self._colour else r.outcome
        parts = [outcome]
        if r.inner:
            parts.append(self._one_line(r.inner))
        if r.reason not in _PLAIN:
            why = r.reason if r.counter is None else f"{r.reason} [{r.counter}]"
            parts.append(why)
        return ": ".join(parts[:2]) + "".join(f"; {part}" for part in parts[2:])

    def _one_line(self, packet: bytes) -> str:
        """`one_line`, remembered by what it reads: the headers and the length."""
        key = packet[:10] + packet[12:60] if packet[0] >> 4 == 4 else packet[:62]
        found = self._inner.get(key)
        if found is None:
            if len(self._inner) >= _CACHE_MAX:
                self._inner.clear()
            found = self._inner[key] = one_line(packet)
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
