"""A fault injector around any attachment: loss, duplication, corruption, reordering, delay.

    bad = Injector(left, Faults(loss=0.1, delay=0.05), seed=7)
    bad.send(batch, those)
    bad.advance(now)            # what a delay holds back leaves when its time has come

Faults befall what is sent; what is received passes untouched (put another injector at the other end).
Same seed and same calls give the same faults. Each probability is that of one packet, drawn for each packet
in the order: loss, duplication, corruption (of each copy), reordering, delay. tc-netem names them likewise.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from random import Random

import numpy as np

from uxfrm.attach.attachment import Attachment, Counts, Way
from uxfrm.datapath.batch import ARRIVED, Batch, Int64s


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities of 0 to 1; `delay` and `jitter` in seconds.

    `corrupt`: one bit, anywhere in the packet, is turned. `reorder`: the packet is overtaken by 1 to `gap`
    packets, or leaves at the next `advance`. Every packet is delayed by `delay` plus or minus `jitter`.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    gap: int = 3
    delay: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "corrupt", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, 0 to 1")
        if self.gap < 1 or self.delay < 0 or not 0 <= self.jitter <= self.delay:
            raise ValueError("gap is 1 or more, jitter is at most delay, nothing is negative")


@dataclass
class Injected:
    """How many packets befell what."""

    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0
    delayed: int = 0


@dataclass(order=True)
class _Held:
    """A packet that waits: for a time, or for `behind` others to go before it."""

    due: float
    serial: int
    packet: bytes = field(compare=False)
    columns: tuple[int, ...] = field(compare=False)
    behind: int = field(default=0, compare=False)


_CAPACITY = 1 << 16


class Injector:
    """An Attachment that is another one with faults. `now` is where `advance` last moved it."""

    def __init__(self, attachment: Attachment, faults: Faults, seed: int, now: float = 0.0) -> None:
        self.counts = Counts()
        self.injected = Injected()
        self.now = now
        self._inner = attachment
        self._faults = faults
        self._random = Random(seed)
        self._delayed: list[_Held] = []
        self._overtaken: list[_Held] = []
        self._serial = 0

    @property
    def way(self) -> Way:
        """As the attachment's."""
        return self._inner.way

    def receive(self, now: float) -> Batch | None:
        """What the attachment receives, untouched."""
        batch = self._inner.receive(now)
        self.counts.received += 0 if batch is None else len(batch)
        return batch

    def send(self, batch: Batch, those: Int64s) -> int:
        """Send packets, each with what befalls it; return how many the sender is to think sent."""
        going: list[_Held] = []
        for i in those.tolist():
            self._draw(batch, i, going)
        self._pass_on(going)
        self.counts.sent += len(those)
        return len(those)

    def advance(self, now: float) -> None:
        """Let time pass up to `now` (seconds): what was held back so far leaves."""
        self.now = max(self.now, now)
        going, self._overtaken = self._overtaken, []
        while self._delayed and self._delayed[0].due <= self.now:
            going.append(heapq.heappop(self._delayed))
        self._pass_on(going)

    def next_deadline(self) -> float | None:
        """When `advance` will send something, or None."""
        if self._overtaken:
            return self.now
        return self._delayed[0].due if self._delayed else None

    def mtu(self) -> int:
        """As the attachment's."""
        return self._inner.mtu()

    def close(self) -> None:
        """Close the attachment; what is held back is lost."""
        self._delayed, self._overtaken = [], []
        self._inner.close()

    def _draw(self, batch: Batch, i: int, going: list[_Held]) -> None:
        """Decide about one packet: 1. loss  2. duplication  3. corruption  4. reordering  5. delay."""
        faults, draw = self._faults, self._random.random
        if draw() < faults.loss:
            self.injected.lost += 1
            return
        packet = batch.packet(i)
        columns = tuple(int(batch.packets[name][i]) for name in ARRIVED)
        copies = 1 + (draw() < faults.duplicate)
        self.injected.duplicated += copies - 1
        for _ in range(copies):
            held = _Held(self.now, self._number(), self._corrupted(packet), columns)
            self._place(held, going)

    def _number(self) -> int:
        self._serial += 1
        return self._serial

    def _corrupted(self, packet: bytes) -> bytes:
        if not packet or self._random.random() >= self._faults.corrupt:
            return packet
        self.injected.corrupted += 1
        bit = self._random.randrange(8 * len(packet))
        changed = bytearray(packet)
        changed[bit >> 3] ^= 0x80 >> (bit & 7)
        return bytes(changed)

    def _place(self, held: _Held, going: list[_Held]) -> None:
        """Let a packet go, or hold it back."""
        faults = self._faults
        full = len(self._delayed) + len(self._overtaken) >= _CAPACITY
        if self._random.random() < faults.reorder and not full:
            self.injected.reordered += 1
            held.behind = self._random.randint(1, faults.gap)
            self._overtaken.append(held)
        elif faults.delay and not full:
            self.injected.delayed += 1
            held.due = self.now + faults.delay + self._random.uniform(-faults.jitter, faults.jitter)
            heapq.heappush(self._delayed, held)
        else:
            going.append(held)
            self._overtake(going)

    def _overtake(self, going: list[_Held]) -> None:
        """One went: those it overtook last are let go."""
        for held in self._overtaken:
            held.behind -= 1
        going += [held for held in self._overtaken if not held.behind]
        self._overtaken = [held for held in self._overtaken if held.behind]

    def _pass_on(self, going: list[_Held]) -> None:
        if not going:
            return
        batch = Batch.pack([held.packet for held in going], int(self.now))
        for number, name in enumerate(ARRIVED):
            batch.packets[name] = [held.columns[number] for held in going]
        self._inner.send(batch, np.arange(len(going)))
