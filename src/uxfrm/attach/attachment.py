"""What every attachment is: a place that packets come from and go to.

    while (batch := tun.receive(now)) is not None:
        namespace.output(batch)
        udp.send(batch, chosen(batch, Verdict.SENT))

Rule 1: an attachment moves IP packets and knows nothing of XFRM: who holds it decides by the outcomes.
Rule 2: nothing here reads a clock: `now` (wall-clock seconds) is given, and becomes the packets' `time`.
Rule 3: what cannot be sent or was no packet is counted in `counts` with its reason; only faults of the
        attachment itself (a device that is gone) raise OSError.
Rule 4: opening takes all the rights that there is need of. Afterwards none are needed.
"""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Protocol

import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import I64S, PACKETS, Batch, Int64s
from uxfrm.model.outcome import Outcome, Verdict

OWN_MARK = 0x10000000
"""The bit of the packet mark that uxfrm's own packets carry, so that they are not taken a second time."""

CHECKED_MARK = 0x20000000
"""The bit that packets carry which Namespace.input has let in."""


class AttachmentError(Exception):
    """An attachment that can't be opened; the text says what is missing, for whoever starts it."""


class Way(IntEnum):
    """Which way the packets go that an attachment receives, hence who is to be asked about them."""

    IN = 0  # from the network: Namespace.input
    OUT = 1  # from the host's programs, or forwarded: Namespace.output


class Loss(Enum):
    """Why an attachment did not send a packet, or did not hand one on."""

    FULL = "the other side does not take more now"
    TOO_LONG = "longer than the link's MTU"
    REFUSED = "the kernel refused to send it"
    MALFORMED = "not an IP packet, or not what its header says"
    FOREIGN = "not for this attachment"


@dataclass
class Counts:
    """Packets received, sent, and lost by reason: each that was to be sent is in one of the last two."""

    received: int = 0
    sent: int = 0
    lost: Counter[Loss] = field(default_factory=Counter)


class Attachment(Protocol):
    """Receive a batch, send a batch, mtu, close.

    `way` says what the batches that `receive` gives are for; `counts` what happened so far.
    """

    @property
    def way(self) -> Way:
        """Which way the packets go that are received."""

    @property
    def counts(self) -> Counts:
        """What happened so far."""

    def receive(self, now: float) -> Batch | None:
        """The packets that are there, with room around each for headers and trailers; None when none are.

        Never waits. What it gives at a time is bounded: ask again until it is None. The memory is the
        caller's until the next call.
        """

    def send(self, batch: Batch, those: Int64s) -> int:
        """Send packets `those` (indices, in this order) of the batch as they are now; return how many went.

        Never waits, and keeps nothing of the batch.
        """

    def mtu(self) -> int:
        """The longest IP packet, in bytes, that can be sent now."""

    def close(self) -> None:
        """Give everything back; a second time does nothing."""


class Waitable(Attachment, Protocol):
    """An attachment of the kernel's: something to wait for in an event loop."""

    def fileno(self) -> int:
        """The descriptor that is readable when `receive` has something to give."""


VERDICTS = np.array([int(outcome.verdict) for outcome in Outcome], np.int64)
"""The verdict of each outcome, by its number."""


@functools.cache
def _table(verdicts: tuple[Verdict, ...]) -> Any:
    """By an outcome's number, 1 where its verdict is one of these."""
    return np.isin(VERDICTS, [int(v) for v in verdicts]).astype(np.int64)


@compiled(int64(PACKETS, I64S, I64S))
def _choose(packets: Any, wanted: Int64s, found: Int64s) -> int:
    """List the packets whose outcome is wanted; return how many, -1 where they go on in another order."""
    count, last = 0, -1
    for i in range(packets.shape[0]):
        p = packets[i]
        if p["origin"] < last:
            return -1
        last = p["origin"]
        if wanted[p["outcome"]]:
            found[count] = i
            count += 1
    return count


def chosen(batch: Batch, *verdicts: Verdict) -> Int64s:
    """The indices of the batch's packets that ended in one of these verdicts, in the order to send them."""
    wanted, found = _table(verdicts), np.empty(len(batch), np.int64)
    count = _choose(batch.packets, wanted, found)
    if count >= 0:
        return found[:count]
    order = batch.in_order()
    return order[wanted[batch.packets["outcome"]][order] > 0]
