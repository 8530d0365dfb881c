"""Read captures, pcap and pcapng, as a stream of batches.

    with open_capture("x.pcapng") as capture:
        for batch in capture:
            ...  # FrameBatch: numpy arrays over one buffer
        for line in capture.problems:
            print(line, file=sys.stderr)

Knows: files, chunks, frame numbers, and which damage ends a capture. The formats are in pcap_format, the
compiled walks in pcap_walk, link layers in link.

Rule 1: memory does not depend on the file: one chunk and one batch at a time, a record is bounded.
Rule 2: only what is no capture at all raises. Damage further on is a line in `problems`, and what can go on
        goes on.
Rule 3: nothing of a batch is touched again once it is handed out. Its buffer is the receiver's to write into.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from uxfrm import compiled
from uxfrm.attach.pcap_format import (
    PCAP_HEADER,
    PCAP_MAGICS,
    PCAPNG_MAGIC,
    Format,
    FormatError,
    Pcap,
    Pcapng,
    foreign,
)
from uxfrm.attach.pcap_source import Source
from uxfrm.attach.pcap_walk import BAD, CONTROL, FULL, MORE, ROWS, Bytes, Int64s

MAX_FRAMES = 4096
CHUNK_BYTES = 1 << 20
# Lines kept in `problems`; a file of nothing but damage must not fill the memory.
PROBLEMS_MAX = 100

_READ_ERRORS = (OSError, EOFError, zlib.error)


class CaptureError(Exception):
    """A file that is no capture, or can't be read. `frame` is 0 before the first frame."""

    def __init__(self, path: str, frame: int, text: str) -> None:
        super().__init__(path, frame, text)
        self.path = path
        self.frame = frame
        self.text = text

    def __str__(self) -> str:
        return _line(self.path, self.frame, self.text)


def _line(path: str, frame: int, text: str) -> str:
    return f"{path}: frame {frame}: {text}" if frame else f"{path}: {text}"


@dataclass(slots=True)
class FrameBatch:
    """Frames in the capture's order, all in one buffer.

    `data` (uint8) belongs to this batch alone and may be written; it also holds the record headers between
    the frames. The other arrays are int64, one element per frame: `offset` of the link-layer frame in `data`,
    `length` captured and `wire_length` on the wire (bytes), `time_ns` (nanoseconds since 1970, 0 where the
    capture has none), `link` (LINKTYPE_). `number` is the first frame's, counted from 1 as Wireshark counts;
    the others follow without a gap.
    """

    data: Bytes
    offset: Int64s
    length: Int64s
    wire_length: Int64s
    time_ns: Int64s
    number: int
    link: Int64s

    def __len__(self) -> int:
        return int(self.offset.shape[0])

    def frame(self, index: int) -> bytes:
        """A copy of one frame's captured bytes."""
        at = int(self.offset[index])
        return self.data[at : at + int(self.length[index])].tobytes()


class CaptureReader(Iterator[FrameBatch]):
    """An iterator of FrameBatch; see `open_capture`. `problems` grows while it is read."""

    def __init__(self, source: Source, max_frames: int, chunk_bytes: int) -> None:
        self._source = source
        self._max_frames = max_frames
        self._chunk_bytes = chunk_bytes
        self._frame = 1  # number of the next frame
        self._ended = False
        self.problems: list[str] = []
        self._data: Bytes = np.empty(chunk_bytes, np.uint8)
        self._at = self._stop = 0  # what is read and not yet walked over
        self._format = self._begin()
        self._batches = self._run()

    @property
    def path(self) -> str:
        """The name that messages use."""
        return self._source.name

    def progress(self) -> tuple[int, int | None]:
        """Bytes read of the file, and its size (None for a pipe)."""
        return self._source.count, self._source.total

    def close(self) -> None:
        """Close the file if `open_capture` opened it."""
        self._ended = True
        self._batches.close()
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __next__(self) -> FrameBatch:
        compiled.ready()
        return next(self._batches)

    def _begin(self) -> Format:
        """Find out the format. Raises CaptureError."""
        try:
            start = self._source.begin(PCAP_HEADER)
            if start[:4] in PCAP_MAGICS:
                return Pcap(start)
            if start[:4] == PCAPNG_MAGIC:
                return self._begin_pcapng(start)
        except FormatError as error:
            raise CaptureError(self.path, 0, str(error)) from None
        except _READ_ERRORS as error:
            raise CaptureError(self.path, 0, _words(error)) from None
        raise CaptureError(self.path, 0, foreign(start))

    def _begin_pcapng(self, start: bytes) -> Pcapng:
        """Take the first section header: without one this is no capture."""
        self._data = np.empty(max(self._chunk_bytes, len(start)), np.uint8)
        self._data[: len(start)] = np.frombuffer(start, np.uint8)
        self._stop = len(start)
        capture = Pcapng()
        while not (size := capture.control(self._rest())):
            if not self._fill():
                raise FormatError(f"cut short in its section header: {self._stop} bytes")
        self._at += size
        return capture

    def _run(self) -> Generator[FrameBatch, None, None]:
        """Walk, hand out what was found, deal with what stopped the walk; until the end."""
        while not self._ended:
            frames = np.empty((ROWS, self._max_frames), np.int64)
            count, at, why = self._format.walk(self._data, self._at, self._stop, frames)
            first, self._at = self._at, at
            if count:
                self._frame += count
                yield self._batch(frames[:, :count], self._data[first:at], self._frame - count)
            if why != FULL:
                self._ended = not self._go_on(why)

    def _batch(self, frames: Int64s, data: Bytes, number: int) -> FrameBatch:
        offset, length, wire_length, time_ns, link = frames
        return FrameBatch(data, offset, length, wire_length, time_ns, number, link)

    def _go_on(self, why: int) -> bool:
        """Do what the walk asks for; False at the end of the capture."""
        if why == MORE:
            return self._read_on()
        if why == CONTROL:
            return self._control()
        self._problem(self._format.fault(self._rest()))
        if why == BAD:
            return False
        self._at += self._format.size(self._rest())
        self._frame += 1
        return True

    def _control(self) -> bool:
        """Let the format take a block that is no frame."""
        try:
            size = self._format.control(self._rest())
        except FormatError as error:
            self._problem(f"{error}: the rest of the file can't be read")
            return False
        self._at += size
        return size > 0 or self._read_on()

    def _read_on(self) -> bool:
        """Get more of the file; at its end, say what is missing."""
        before = len(self.problems)
        if self._fill():
            return True
        if self._at < self._stop and len(self.problems) == before:
            self._problem(self._format.missing(self._rest()))
        return False

    def _fill(self) -> bool:
        """Read behind what is there, into a new buffer when this one is used up. False at the end."""
        if self._stop == len(self._data):
            rest = self._data[self._at : self._stop]
            self._data = np.empty(max(self._chunk_bytes, 2 * len(rest)), np.uint8)
            self._data[: len(rest)] = rest
            self._at, self._stop = 0, len(rest)
        try:
            number = self._source.read_into(self._data[self._stop :].data)
        except _READ_ERRORS as error:
            self._problem(_words(error))
            return False
        self._stop += number
        return number > 0

    def _rest(self) -> memoryview:
        return self._data[self._at : self._stop].data

    def _problem(self, text: str) -> None:
        """Note what is wrong at the next frame."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(_line(self.path, self._frame, text))
        elif len(self.problems) == PROBLEMS_MAX:
            self.problems.append(f"{self.path}: further problems are not listed")


def _words(error: BaseException) -> str:
    """An error of reading, in words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, EOFError):
        return "cut short: the gzipped data ends early"
    return str(error) or type(error).__name__


def open_capture(
    source: str | os.PathLike[str] | BinaryIO, max_frames: int = MAX_FRAMES, chunk_bytes: int = CHUNK_BYTES
) -> CaptureReader:
    """Open a capture: a path, "-" for standard input, or a binary file; gzipped or not.

    Batches have at most `max_frames` frames. `chunk_bytes` are read at a time; a pipe gives what it has, at
    once.
    Raises CaptureError if it is no capture or can't be read.
    """
    if max_frames < 1 or chunk_bytes < 1:
        raise ValueError("max_frames and chunk_bytes must be positive")
    try:
        opened = Source(source)
    except OSError as error:
        raise CaptureError(str(source), 0, _words(error)) from None
    try:
        return CaptureReader(opened, max_frames, chunk_bytes)
    except BaseException:
        opened.close()
        raise
