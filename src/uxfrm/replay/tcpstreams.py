"""TCP streams of a capture that carry ESP (RFC 9329): their segments put in order, their messages cut out.

A stream is one direction of a connection, to the address and port that a state's encapsulation names. Frames
may be missing, come twice or out of order, and a capture may begin in the middle: then reading begins, and
goes on behind a gap, with a segment that looks like the beginning of a message.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from uxfrm.attach.link import Placement
from uxfrm.attach.pcap import FrameBatch
from uxfrm.datapath.batch import Batch, Int64s
from uxfrm.datapath.espintcp import MARKER, PREFIX
from uxfrm.datapath.streams import Ends, Framing, packed
from uxfrm.model.address import Address
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import ENCAP_ESPINTCP, StateConfig
from uxfrm.namespace import Namespace

_NS = 1_000_000_000
_TCP = 6
_SYN = 2
_STREAMS_MAX = 4096
# What waits behind a gap: bytes and segments. What is missing then was not captured.
_HELD_MAX, _SEGMENTS_MAX = 1 << 17, 256
_HALF = 1 << 31
_MASK = 0xFFFFFFFF
_DAEMONS_PREFIX = b"IKETCP"
_SEGMENT_MIN = 40


class Segment(NamedTuple):
    """A TCP segment; `ends` are the receiver's and then the sender's."""

    ends: Ends
    seq: int
    syn: bool
    payload: bytes
    tos: int


class Found(NamedTuple):
    """What frames hold: those without streams' segments; messages, as (frame, packets) each; the other
    segments, as (frame, outcome)."""

    rest: Int64s
    messages: list[tuple[int, Batch]]
    others: list[tuple[int, Outcome]]


def read_segment(packet: bytes) -> Segment | None:
    """Read a TCP segment of an IP packet without extension headers; None where it is none."""
    four = packet[0] >> 4 == 4
    if four:
        header, total, proto = (packet[0] & 15) * 4, int.from_bytes(packet[2:4]), packet[9]
        whole, tos = not int.from_bytes(packet[6:8]) & 0x3FFF, packet[1]
        source, target = packet[12:16], packet[16:20]
    else:
        header, total, proto = 40, 40 + int.from_bytes(packet[4:6]), packet[6]
        whole, tos = True, int.from_bytes(packet[:2]) >> 4 & 0xFF
        source, target = packet[8:24], packet[24:40]
    tcp = packet[header:total]
    if proto != _TCP or not whole or len(tcp) < 20 or (offset := (tcp[12] >> 4) * 4) < 20:
        return None
    ends = Ends(target, int.from_bytes(tcp[2:4]), source, int.from_bytes(tcp[:2]))
    return Segment(ends, int.from_bytes(tcp[4:8]), bool(tcp[13] & _SYN), tcp[offset:], tos)


class Reassembly:
    """One stream: segments in any order, messages in theirs. It holds back a bounded number of bytes."""

    def __init__(self, known: set[tuple[Address, int]]) -> None:
        self._known = known
        self._begin(None)

    def _begin(self, seq: int | None) -> None:
        self._next, self._framing = seq, Framing()
        self._held: dict[int, bytes] = {}
        self._first = True

    def take(self, segment: Segment) -> tuple[list[bytes], Outcome]:
        """The messages that a segment completes; what it is itself where it completes none."""
        if segment.syn:
            self._begin((segment.seq + 1) & _MASK)
            return [], Outcome.STREAM_SEGMENT
        seq, payload = segment.seq, segment.payload
        if not payload:
            return [], Outcome.STREAM_SEGMENT
        if self._next is None:
            if not self._looks_right(segment.ends.local, payload):
                return [], Outcome.UNSUPPORTED_STREAM
            self._begin(seq)
        if len(payload) > len(self._held.get(seq, b"")):
            self._held[seq] = payload
        found = self._read()
        if len(self._held) > _SEGMENTS_MAX or sum(map(len, self._held.values())) > _HELD_MAX:
            self._skip(segment.ends.local)
            found += self._read()
        return found, Outcome.STREAM_BROKEN if self._framing.broken else Outcome.STREAM_SEGMENT

    def _read(self) -> list[bytes]:
        """The messages that are complete with what was held back."""
        found = []
        while (payload := self._following()) is not None:
            found += self._feed(payload)
        return found

    def _skip(self, target: Address) -> None:
        """Go on behind a gap, where a message seems to begin."""
        first = self._next or 0
        self._next, self._framing = None, Framing()
        for seq in sorted(self._held, key=lambda seq: (seq - first) & _MASK):
            if self._looks_right(target, self._held[seq]):
                self._next = seq
                return
            del self._held[seq]

    def _feed(self, payload: bytes) -> list[bytes]:
        assert self._next is not None
        self._next = (self._next + len(payload)) & _MASK
        if self._first and payload:
            self._first = False
            payload = payload.removeprefix(_DAEMONS_PREFIX)
        return self._framing.feed(payload)

    def _following(self) -> bytes | None:
        """What is new of a segment that is not ahead of the stream; it is held back no longer."""
        if self._next is None:
            return None
        for seq, payload in self._held.items():
            behind = (self._next - seq) & _MASK
            if behind < _HALF:
                del self._held[seq]
                return payload[behind:]
        return None

    def _looks_right(self, target: Address, payload: bytes) -> bool:
        """True where a message seems to begin: IKE's marker, the SPI of a state, or a keepalive."""
        if payload.startswith(_DAEMONS_PREFIX):
            return True
        length, start = int.from_bytes(payload[:PREFIX]), payload[PREFIX : PREFIX + MARKER]
        if length == PREFIX + 1:
            return start[:1] == b"\xff"
        spi = int.from_bytes(start)
        return length > PREFIX + MARKER and len(start) == MARKER and (not spi or (target, spi) in self._known)


class TcpStreams:
    """All streams of a capture, for the states of a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._targets: set[tuple[Address, int]] = set()
        self._known: set[tuple[Address, int]] = set()
        self._streams: OrderedDict[Ends, Reassembly] = OrderedDict()

    def _learn(self) -> bool:
        """Look at the states once there are some; False where none wants TCP."""
        if not self._targets and self._namespace.path.streamed:
            for dump in self._namespace.dump_states():
                x = dump.config
                if isinstance(x, StateConfig) and x.encap and x.encap.type == ENCAP_ESPINTCP:
                    self._targets.add((x.daddr, x.encap.dport))
                    self._known.add((x.daddr, x.spi))
        return bool(self._targets)

    def find(self, frames: FrameBatch, placed: Placement, chosen: Int64s) -> Found:
        """Take the streams' segments out of the chosen frames."""
        found = Found(chosen, [], [])
        if not self._learn():
            return found
        gone = np.zeros(chosen.shape[0], np.bool_)
        for k in np.flatnonzero(_maybe_tcp(frames, placed, chosen)):
            frame = int(chosen[k])
            at, length = int(placed.ip_offset[frame]), int(placed.ip_length[frame])
            segment = read_segment(frames.data[at : at + length].tobytes())
            if segment is None or (segment.ends.local, segment.ends.local_port) not in self._targets:
                continue
            gone[k] = True
            self._take(frame, segment, int(frames.time_ns[frame]) // _NS, found)
        return found._replace(rest=chosen[~gone])

    def _take(self, frame: int, segment: Segment, time_s: int, found: Found) -> None:
        messages, outcome = self._stream(segment.ends).take(segment)
        esp = [message for message in messages if len(message) <= MARKER or any(message[:MARKER])]
        if esp:
            found.messages.append((frame, packed(segment.ends, esp, time_s, segment.tos)))
        found.others.extend([(frame, Outcome.STREAM_IKE)] * (len(messages) - len(esp)))
        if not messages or outcome == Outcome.STREAM_BROKEN:
            found.others.append((frame, outcome))

    def _stream(self, ends: Ends) -> Reassembly:
        """The stream of these ends; of too many the one that was read longest ago is forgotten."""
        stream = self._streams.pop(ends, None) or Reassembly(self._known)
        self._streams[ends] = stream
        if len(self._streams) > _STREAMS_MAX:
            self._streams.popitem(last=False)
        return stream


def _maybe_tcp(frames: FrameBatch, placed: Placement, chosen: Int64s) -> Int64s:
    """Which of the chosen frames name TCP in their IP header."""
    at = placed.ip_offset[chosen]
    four = frames.data[at] >> 4 == 4
    # A packet shorter than two headers has none; the byte that names the protocol is read of others only.
    enough = placed.ip_length[chosen] >= _SEGMENT_MIN
    where = np.where(enough, at + np.where(four, 9, 6), at)
    named: Int64s = (frames.data[where] == _TCP) & enough
    return named


def joined(plain: Batch, frames: Int64s, messages: list[tuple[int, Batch]]) -> tuple[Batch, Int64s]:
    """Plain packets of `frames` and messages as one batch, in the frames' order; with the frame of each."""
    if not messages:
        return plain, frames
    records, indices, pieces, size = [plain.packets], [frames], [plain.data], plain.data.shape[0]
    for frame, batch in messages:
        for name in ("offset", "low", "high"):
            batch.packets[name] += size
        size += batch.data.shape[0]
        records.append(batch.packets)
        indices.append(np.full(len(batch), frame, np.int64))
        pieces.append(batch.data)
    where = np.concatenate(indices)
    order = np.argsort(where, kind="stable")
    return Batch(np.concatenate(pieces), np.concatenate(records)[order]), where[order]
