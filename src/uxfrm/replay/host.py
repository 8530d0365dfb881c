"""A host played from a capture: what it received goes through the input path, what it sent is opened.

Time is the frames' own: before each frame everything happens that time makes happen. Frames are handed to
the path in batches that end where a timer would, so that a batch and a frame at a time give the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np
import numpy.typing as npt

from uxfrm.attach.link import Direction, Placement, locate
from uxfrm.attach.pcap import FrameBatch
from uxfrm.datapath.batch import Batch, Int64s
from uxfrm.datapath.carriers import TCP
from uxfrm.explain.report import HEAD, IN, OUT, Part, Report, Reporter, heads_of
from uxfrm.model.address import Address
from uxfrm.model.outcome import Outcome
from uxfrm.namespace import Namespace
from uxfrm.replay.tcpstreams import TcpStreams, joined

_NS = 1_000_000_000


@dataclass
class Skipped:
    """Frames that concern XFRM in no way."""

    other: int = 0
    not_ip: int = 0
    unknown: int = 0


@dataclass
class Host:
    """Plays the host with Ethernet address `mac`, or the one that has the addresses `local`.

    Where frames have no link addresses (raw IP), `local` tells the directions.
    """

    namespace: Namespace
    mac: bytes | None = None
    local: frozenset[Address] = frozenset()
    skipped: Skipped = field(default_factory=Skipped)
    first_ns: int | None = None
    last_ns: int = 0
    frames: int = 0

    def __post_init__(self) -> None:
        self.reporter = Reporter(self.namespace.path)
        self.streams = TcpStreams(self.namespace)
        if self.local:
            # What is not named as local may still be: then the policies suggest it.
            self.namespace.path.is_local = lambda address: True if address in self.local else None

    def reports(self, parts: Iterable[Part]) -> list[Report]:
        """A Report for each packet, in the order of the frames."""
        found = (report for part in parts for report in self.reporter.reports(part))
        return sorted(found, key=attrgetter("frame"))

    def play(self, frames: FrameBatch) -> Iterator[Part]:
        """Play a batch of frames: the host's frames that carry IP, part by part.

        A part tells of the namespace as it is now: report on it before taking the next.
        """
        if not len(frames):
            return
        if self.first_ns is None:
            self.first_ns = int(frames.time_ns[0])
        self.last_ns = int(frames.time_ns[-1])
        self.frames += len(frames)
        placed = locate(frames, self.mac)
        direction = self._directions(frames, placed)
        whole = frames.wire_length <= frames.length
        yield from self._receive(frames, placed, np.flatnonzero((direction == Direction.IN) & whole))
        yield from self._inspect(frames, placed, np.flatnonzero((direction == Direction.OUT) & whole))
        yield from self._cut(frames, placed, direction, whole)

    def _directions(self, frames: FrameBatch, placed: Placement) -> npt.NDArray[np.int8]:
        """Which way each IP frame went; what is not IP or not the host's is counted as skipped."""
        direction = placed.direction.copy()
        is_ip = placed.ip_offset >= 0
        for i in np.flatnonzero(is_ip & (direction == Direction.UNKNOWN)):
            direction[i] = self._by_address(frames, int(placed.ip_offset[i]), int(placed.ip_length[i]))
        direction[~is_ip] = Direction.OTHER
        self.skipped.not_ip += int(np.count_nonzero(~is_ip))
        self.skipped.other += int(np.count_nonzero(is_ip & (direction == Direction.OTHER)))
        self.skipped.unknown += int(np.count_nonzero(is_ip & (direction == Direction.UNKNOWN)))
        return direction

    def _by_address(self, frames: FrameBatch, at: int, length: int) -> Direction:
        """The direction of a packet without link addresses."""
        packet = frames.data[at : at + min(length, 40)].tobytes()
        if len(packet) < 20:
            return Direction.UNKNOWN
        four = packet[0] >> 4 == 4
        source, destination = (packet[12:16], packet[16:20]) if four else (packet[8:24], packet[24:40])
        if source in self.local:
            return Direction.OUT
        return Direction.IN if destination in self.local else Direction.UNKNOWN

    def _receive(self, frames: FrameBatch, placed: Placement, chosen: Int64s) -> Iterator[Part]:
        """Put received frames through the input path, stopping where a timer is due."""
        namespace = self.namespace
        found = self.streams.find(frames, placed, chosen)
        arrived, chosen = joined(_batch(frames, placed, found.rest), found.rest, found.messages)
        yield from self._told(frames, placed, found.others, IN)
        seconds = frames.time_ns[chosen] // _NS
        low = 0
        while low < chosen.shape[0]:
            namespace.advance(int(seconds[low]))
            yield from self._let_in(frames, int(chosen[low]))
            deadline = namespace.horizon()
            high = chosen.shape[0]
            if deadline is not None:
                due = np.flatnonzero(seconds[low + 1 :] >= deadline)
                high = low + 1 + int(due[0]) if due.shape[0] else high
            batch = arrived.select(low, high)
            heads = heads_of(batch)
            namespace.input(batch)
            yield self._part(frames, batch, heads, chosen[low:high], IN)
            low = high

    def _let_in(self, frames: FrameBatch, before: int) -> Iterator[Part]:
        """Report on what the path had kept of earlier frames, as of the frame before which it went on."""
        for batch in self.namespace.arrived():
            chosen = np.full(len(batch), before, np.int64)
            batch.keep(batch.in_order())
            yield self._part(frames, batch, self._outer_heads(batch), chosen, IN)

    def _outer_heads(self, batch: Batch) -> npt.NDArray[np.uint8]:
        """The headers that packets came with, as their outermost state tells them: they are not kept."""
        heads = np.zeros((len(batch), HEAD), np.uint8)
        for head, packet in zip(heads, batch.packets, strict=True):
            state = self.namespace.path.state_at(int(packet["path"][0]), int(packet["pathgen"][0]))
            if state is not None:
                ends = state.config.saddr + state.config.daddr
                at = 12 if len(ends) == 8 else 8
                head[0] = 0x45 if len(ends) == 8 else 0x60
                head[at : at + len(ends)] = np.frombuffer(ends, np.uint8)
        return heads

    def _inspect(self, frames: FrameBatch, placed: Placement, chosen: Int64s) -> Iterator[Part]:
        """Open what the host sent."""
        found = self.streams.find(frames, placed, chosen)
        batch, chosen = joined(_batch(frames, placed, found.rest), found.rest, found.messages)
        yield from self._told(frames, placed, found.others, OUT)
        if chosen.shape[0]:
            heads = heads_of(batch)
            self.namespace.inspect(batch)
            yield self._part(frames, batch, heads, chosen, OUT)

    def _told(
        self, frames: FrameBatch, placed: Placement, those: list[tuple[int, Outcome]], way: str
    ) -> Iterator[Part]:
        """Report on segments of TCP streams that hold no whole packet."""
        if those:
            chosen = np.array([frame for frame, _ in those], np.int64)
            batch = _batch(frames, placed, chosen)
            batch.packets["outcome"] = [outcome for _, outcome in those]
            batch.packets["wire_proto"] = TCP
            yield self._part(frames, batch, heads_of(batch), chosen, way)

    def _cut(
        self,
        frames: FrameBatch,
        placed: Placement,
        direction: npt.NDArray[np.int8],
        whole: npt.NDArray[np.bool_],
    ) -> Iterator[Part]:
        """Report on frames of which the capture has only the beginning."""
        for way, word in ((Direction.IN, IN), (Direction.OUT, OUT)):
            chosen = np.flatnonzero((direction == way) & ~whole)
            if chosen.shape[0]:
                batch = _batch(frames, placed, chosen)
                batch.packets["outcome"] = Outcome.UNSUPPORTED_CUT
                heads = heads_of(batch)
                yield self._part(frames, batch, heads, chosen, word)

    @staticmethod
    def _part(
        frames: FrameBatch, batch: Batch, heads: npt.NDArray[np.uint8], chosen: Int64s, way: str
    ) -> Part:
        if len(batch) > chosen.shape[0]:
            # What was made of a frame is told behind it, as of the same frame.
            order = batch.in_order()
            origin = batch.packets["origin"][order]
            heads, chosen = heads[origin], chosen[origin]
            batch.keep(order)
        return Part(batch, heads, chosen + frames.number, frames.time_ns[chosen], way)


def _batch(frames: FrameBatch, placed: Placement, chosen: Int64s) -> Batch:
    """The IP packets of the chosen frames, where they lie in the capture's buffer."""
    return Batch.view(
        frames.data,
        placed.ip_offset[chosen],
        placed.ip_length[chosen],
        time_s=frames.time_ns[chosen] // _NS,
    )
