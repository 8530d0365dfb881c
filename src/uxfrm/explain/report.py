"""What became of each packet of a batch, as data: one Report a packet, made from the batch's records alone.

The path decides, this module only words it. Nothing here changes a table or a packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uxfrm.datapath.batch import Batch
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

_HEAD = 40
_IPSEC = (50, 51, 108)
_CACHE_MAX = 65536


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
    state: State | None


class _Common(NamedTuple):
    """What packets of one flow with one fate share."""

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
    state: State | None


class Reporter:
    """Words for the packets of one namespace's batches."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._common: dict[tuple[Any, ...], _Common] = {}

    @staticmethod
    def heads(batch: Batch) -> npt.NDArray[np.uint8]:
        """Keep the outer headers of a batch before the path works on it in place: uint8[n, 40]."""
        last = max(batch.data.shape[0] - 1, 0)
        where = np.minimum(batch.packets["offset"][:, None] + np.arange(_HEAD), last)
        heads: npt.NDArray[np.uint8] = batch.data[where]
        return heads

    def reports(
        self,
        batch: Batch,
        heads: npt.NDArray[np.uint8],
        numbers: list[int],
        times_ns: list[int],
        direction: str,
    ) -> Iterator[Report]:
        """Report on every packet of a batch, in order."""
        if len(self._common) > _CACHE_MAX:
            self._common.clear()
        p = batch.packets
        # One list per column: a numpy record costs a microsecond a field.
        columns = [
            p[name].tolist()
            for name in ("outcome", "policy", "detail", "depth", "pathgen", "path", "wire_spi", "wire_seq",
                         "wire_proto", "offset", "length", "spi", "seq", "top", "window")
        ]  # fmt: skip
        raw = heads.tobytes()
        data = batch.data
        for k, values in enumerate(zip(numbers, times_ns, *columns, strict=True)):
            number, time_ns, outcome, policy, detail, depth, gens, rows, spi, seq, proto, at, size, *last = (
                values
            )
            head = raw[k * _HEAD : k * _HEAD + _HEAD]
            addresses = head[12:20] if head[0] >> 4 == 4 else head[8:40]
            key = (outcome, policy, detail, depth, gens[0], gens[depth - 1], proto, addresses, direction)
            common = self._common.get(key)
            if common is None:
                common = self._make(outcome, policy, detail, depth, rows, gens, proto, head, direction)
                self._common[key] = common
            reason = common.reason
            if common.worded:
                reason = _worded(reason, common.proto, self._context.detail_at(detail), *last)
            yield Report(
                number, time_ns, direction, common.outcome, common.counter, reason,
                spi if common.ipsec else None, seq if common.ipsec else None, common.proto, common.reqid,
                common.policy_index, data[at : at + size].tobytes() if common.whole else None,
                common.source, common.destination, common.code, common.state,
            )  # fmt: skip

    def _make(
        self,
        outcome: int,
        policy: int,
        detail: int,
        depth: int,
        rows: list[int],
        gens: list[int],
        proto: int,
        head: bytes,
        direction: str,
    ) -> _Common:
        code = Outcome.of(outcome)
        state = self._context.state_at(rows[0], gens[0]) if depth else None
        found = self._context.policy_at(policy)
        source, destination = _addresses(head)
        words, counter, reason = _fate(code, direction)
        return _Common(
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
            ipsec=proto in _IPSEC and code is not Outcome.IN_HEADER_SHORT,
            code=code,
            state=state,
        )


def _fate(code: Outcome, direction: str) -> tuple[str, str | None, str]:
    """Outcome, counter and reason. What a host sent it sent, whether or not we can open it."""
    if direction == OUT and code.verdict == Verdict.DROPPED:
        return WORDS[Verdict.SENT], None, f"cannot be opened: {code.words}"
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
