"""What became of each packet of a batch, as data: one Report a packet, made from the batch's records alone.

The path decides, this module only words it. Nothing here changes a table or a packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uxfrm.datapath.batch import Batch, Int64s
from uxfrm.datapath.context import Context
from uxfrm.explain.oneline import protocol
from uxfrm.model.address import show
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.tables.states import State

IN, OUT = "in", "out"

WORDS = {
    Verdict.PENDING: "undecided",
    Verdict.DELIVERED: "delivered",
    Verdict.FORWARDED: "forwarded",
    Verdict.CLEAR: "passed in clear",
    Verdict.SENT: "sent",
    Verdict.DROPPED: "dropped",
    Verdict.UNSUPPORTED: "unsupported",
    Verdict.IGNORED: "ignored",
    Verdict.HELD: "held",
    Verdict.SPLIT: "split",
    Verdict.RETURNED: "returned",
    Verdict.STREAMED: "sent in a stream",
}

_OPENED = frozenset({Verdict.DELIVERED, Verdict.FORWARDED, Verdict.CLEAR, Verdict.SENT})
_BY_POLICY = frozenset(
    {
        Outcome.IN_STATE_SELECTOR,
        Outcome.IN_NO_POLICY,
        Outcome.IN_DEFAULT_BLOCK,
        Outcome.IN_POLICY_BLOCK,
        Outcome.IN_TOO_MANY_TEMPLATES,
        Outcome.IN_TEMPLATE,
    }
)
# Outcomes of packets that are whole: the batch holds an IP packet, not a half-opened one.
WHOLE = frozenset(o for o in Outcome if o.verdict in _OPENED) | _BY_POLICY

# Their SPI cannot be read, or is nobody's yet.
_WITHOUT_SPI = frozenset({Outcome.IN_HEADER_SHORT} | {o for o in Outcome if o.name.startswith("IN_FRAGMENT")})

HEAD = 40
_IPSEC = (50, 51, 108)
_CACHE_MAX = 65536
_COLUMNS = (
    "outcome", "policy", "detail", "depth", "wire_spi", "wire_seq", "wire_proto", "offset", "length",
    "ifindex", "spi", "seq", "top", "window",
)  # fmt: skip


class Report(NamedTuple):
    """One packet. `spi` and `seq` are those on the wire; `inner` is the IP packet inside, if there is one."""

    frame: int
    time_ns: int
    direction: str
    outcome: str
    counter: str | None
    reason: str
    spi: int | None
    seq: int | None
    proto: str
    reqid: int | None
    policy_index: int | None
    inner: bytes | None
    source: str
    destination: str
    code: Outcome


class Part(NamedTuple):
    """Packets of one direction that the path has worked on, before anything else happens to the namespace.

    `heads` are their outer headers as they came, uint8[n, 40]; `numbers` and `times_ns` (int64[n]) tell
    which frames they were, and when.
    """

    batch: Batch
    heads: npt.NDArray[np.uint8]
    numbers: Int64s
    times_ns: Int64s
    direction: str


class Fate(NamedTuple):
    """What packets of one flow with one end share."""

    direction: str
    outcome: str
    counter: str | None
    reason: str  # with fields where they differ by packet
    worded: bool
    proto: str
    reqid: int | None
    policy_index: int | None
    source: str
    destination: str
    whole: bool
    ipsec: bool
    code: Outcome


# One packet, as cheaply as it can be told: frame, time in ns, fate, reason, SPI, sequence number, and the
# inner packet's place, data[at : at + size].
Row = tuple[int, int, Fate, str, int, int, int, int]


def heads_of(batch: Batch) -> npt.NDArray[np.uint8]:
    """Keep the outer headers of a batch before the path works on it in place: uint8[n, 40]."""
    last = max(batch.data.shape[0] - 1, 0)
    where = np.minimum(batch.packets["offset"][:, None] + np.arange(HEAD), last)
    heads: npt.NDArray[np.uint8] = batch.data[where]
    return heads


class Reporter:
    """Words for the packets of one namespace's batches."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._fates: dict[tuple[Any, ...], Fate] = {}

    def rows(self, part: Part) -> Iterator[Row]:
        """Every packet of a part, in order."""
        if len(self._fates) > _CACHE_MAX:
            self._fates.clear()
        p, direction = part.batch.packets, part.direction
        # One list per column: a numpy record costs a microsecond a field.
        columns = [p[name].tolist() for name in _COLUMNS]
        firsts, rows = p["pathgen"][:, 0].tolist(), p["path"][:, 0].tolist()
        raw = part.heads.tobytes()
        fates, start = self._fates, -HEAD
        frames = zip(part.numbers.tolist(), part.times_ns.tolist(), firsts, rows, *columns, strict=True)
        for (
            frame, time_ns, gen, row, outcome, policy, detail, depth, wire_spi, wire_seq, proto, at, size,
            ifindex, spi, seq, top, window,
        ) in frames:  # fmt: skip
            start += HEAD
            addresses = raw[start + 12 : start + 20] if raw[start] >> 4 == 4 else raw[start + 8 : start + 40]
            key = (outcome, policy, detail, depth and gen, proto, addresses, direction, ifindex)
            fate = fates.get(key)
            if fate is None:
                state = self._context.state_at(row, gen) if depth else None
                fate = self._fate(
                    outcome, policy, state, proto, raw[start : start + HEAD], direction, ifindex
                )
                fates[key] = fate
            reason = fate.reason
            if fate.worded:
                words = self._context.detail_at(detail)
                reason = _worded(reason, fate.proto, words, spi, seq, top, window)
            yield frame, time_ns, fate, reason, wire_spi, wire_seq, at, size

    def reports(self, part: Part) -> Iterator[Report]:
        """Report on every packet of a part, in order."""
        data = part.batch.data
        for frame, time_ns, fate, reason, spi, seq, at, size in self.rows(part):
            yield Report(
                frame, time_ns, fate.direction, fate.outcome, fate.counter, reason,
                spi if fate.ipsec else None, seq if fate.ipsec else None, fate.proto, fate.reqid,
                fate.policy_index, data[at : at + size].tobytes() if fate.whole else None,
                fate.source, fate.destination, fate.code,
            )  # fmt: skip

    def _interface(self, ifindex: int) -> str:
        """Which xfrm interface a packet appeared on, or was routed to."""
        device = self._context.devices.get(ifindex)
        # Braces of a name are no fields of the sentence.
        name = device.name.replace("{", "{{").replace("}", "}}") if device and device.xfrmi else ""
        return f" (on {name})" if name else ""

    def _fate(
        self,
        outcome: int,
        policy: int,
        state: State | None,
        proto: int,
        head: bytes,
        direction: str,
        ifindex: int,
    ) -> Fate:
        code = Outcome.of(outcome)
        found = self._context.policy_at(policy)
        source, destination = _addresses(head)
        words, counter, reason = outcome_words(code, direction)
        reason += self._interface(ifindex)
        return Fate(
            direction=direction,
            outcome=words,
            counter=counter,
            reason=reason,
            worded="{" in reason,
            proto=protocol(proto),
            reqid=state.config.reqid if state else None,
            policy_index=found.index if found else None,
            source=source,
            destination=destination,
            whole=code in WHOLE,
            ipsec=proto in _IPSEC and code not in _WITHOUT_SPI,
            code=code,
        )


def outcome_words(code: Outcome, direction: str) -> tuple[str, str | None, str]:
    """Outcome, counter and reason. What a host sent it sent, whether or not we can open it."""
    if direction == OUT and code.verdict == Verdict.DROPPED:
        return WORDS[Verdict.SENT], None, f"cannot be opened: {code.words}"
    if direction == OUT and code is Outcome.IN_FRAGMENT:
        return WORDS[Verdict.SENT], None, "a fragment: told of with the last one of its packet"
    return WORDS[code.verdict], code.counter.name if code.counter is not None else None, code.words


def _addresses(head: bytes) -> tuple[str, str]:
    version = head[0] >> 4
    if version == 4:
        return show(head[12:16]), show(head[16:20])
    if version == 6:
        return show(head[8:24]), show(head[24:40])
    return "", ""


def _worded(
    reason: str,
    proto: str,
    detail: str,
    spi: int,
    seq: int,
    top: int,
    window: int,
) -> str:
    """Fill in what differs by packet."""
    return reason.format(
        proto=proto.upper(), spi=f"0x{spi:08x}", seq=seq, top=top, window=window, detail=detail
    )
