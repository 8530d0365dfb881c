"""Fragments that wait for the rest of their packet: what Linux keeps in front of XFRM, with its bounds.

Follows: ip_defrag, ip_frag_queue, ipv6_frag_rcv, ip6_frag_queue, inet_frag_queue_insert. Nothing is pushed
out for a newcomer: when memory is used up all fragments are refused until others complete or time out. Two
that overlap end the packet (RFC 5722), but what is wholly there already is only a duplicate.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from uxfrm.datapath.checksums import summed
from uxfrm.model.flow import PROTO_AH, PROTO_NONE
from uxfrm.model.outcome import Outcome
from uxfrm.tables.deadlines import Timers

QUEUE_BYTES, FRAGMENT_BYTES = 2048, 256
"""What a queue and each of its fragments cost, beside the bytes that came."""

LENGTH_MAX = 65535

_FRAGMENT, _EXTENSIONS, _EXTENSIONS_MAX = 44, (0, 43, 60), 8
_UPPER_BYTES = {6: 20, 17: 8, 58: 8}

# By the set of ECN fields that came, as bits: what the whole packet's is OR-ed with. Sets that are in none of
# them are refused (RFC 3168 5.3). Follows: ip_frag_ecn_table.
_NOT_ECT, _ECT1, _ECT0, _CE = 1, 2, 4, 8
_ECN = {
    _NOT_ECT: 0, _ECT1: 0, _ECT0: 0, _CE: 0, _ECT0 | _ECT1: 0,
    _CE | _ECT0: 3, _CE | _ECT1: 3, _CE | _ECT0 | _ECT1: 3,
}  # fmt: skip

Key = tuple[bytes, bytes, int, int]
"""Source, destination, identification; IPv4: protocol, IPv6: interface, where the address is of a link."""


class Fragment(NamedTuple):
    """A fragment, read: payload [offset, end) of its packet, `head` what is in front of the payload.

    IPv6: `head` is without the fragment header, and names `following` where that named it (at `named`).
    """

    key: Key
    offset: int
    end: int
    more: bool
    ecn: int
    head: bytes
    payload: bytes
    dont_fragment: bool = False
    named: int = 0
    following: int = 0


class Whole(NamedTuple):
    """A packet that is whole, and the record that came with its first fragment."""

    packet: bytes
    record: Any


@dataclass(slots=True)
class Figures:
    """What is counted: as Linux's Reasm lines of /proc/net/snmp."""

    required: int = 0
    completed: int = 0
    failed: int = 0
    timed_out: int = 0


class Refused(Exception):
    """A fragment that cannot be read: its outcome, and where in the packet a parameter problem is (-1: none).

    `incomplete` tells a chain of headers that is not all there (RFC 8200 4.5) from a field that is wrong.
    """

    def __init__(self, outcome: Outcome, pointer: int = -1, incomplete: bool = False) -> None:
        super().__init__(outcome)
        self.outcome, self.pointer, self.incomplete = outcome, pointer, incomplete


def read(packet: bytes, ifindex: int) -> Fragment:
    """Read a fragment: an IPv4 or IPv6 packet whose lengths are right. Raises Refused."""
    return _read4(packet) if packet[0] >> 4 == 4 else _read6(packet, ifindex)


def _read4(packet: bytes) -> Fragment:
    header, where = (packet[0] & 15) * 4, int.from_bytes(packet[6:8])
    offset, more = (where & 0x1FFF) * 8, bool(where & 0x2000)
    size = len(packet) - header
    # Only the last fragment may end between multiples of 8.
    end = offset + (size & ~7 if more else size)
    key = (packet[12:16], packet[16:20], int.from_bytes(packet[4:6]), packet[9])
    payload = packet[header : header + end - offset]
    return Fragment(key, offset, end, more, packet[1] & 3, packet[:header], payload, bool(where & 0x4000))


def _read6(packet: bytes, ifindex: int) -> Fragment:
    """1. jumbograms have no fragments  2. all headers in the first  3. length  4. multiple of 8 bytes."""
    at, named = _fragment_header(packet, 40, 6)
    where = int.from_bytes(packet[at + 2 : at + 4])
    offset, more = where & 0xFFF8, bool(where & 1)
    end = offset + len(packet) - at - 8
    if len(packet) == 40 or at + 8 > len(packet):
        raise Refused(Outcome.IN_FRAGMENT_HEADER, at)
    if not where & 0xFFF9:
        # A whole packet, in which there are fragments again.
        raise Refused(Outcome.IN_FRAGMENT_HEADER, at + 8)
    if offset == 0 and _cut_short(packet, at):
        raise Refused(Outcome.IN_FRAGMENT_HEADER, 0, True)
    if end > LENGTH_MAX:
        raise Refused(Outcome.IN_FRAGMENT_HEADER, at + 2)
    if more and end & 7:
        raise Refused(Outcome.IN_FRAGMENT_HEADER, 4)
    link_only = packet[24] == 0xFF or int.from_bytes(packet[24:26]) & 0xFFC0 == 0xFE80
    key = (packet[8:24], packet[24:40], int.from_bytes(packet[at + 4 : at + 8]), ifindex if link_only else 0)
    ecn = packet[1] >> 4 & 3
    return Fragment(
        key, offset, end, more, ecn, packet[:at], packet[at + 8 :], named=named, following=packet[at]
    )


def _fragment_header(packet: bytes, at: int, named: int) -> tuple[int, int]:
    """Where the first fragment header is, and where it is named; where the chain ends without one."""
    for _ in range(_EXTENSIONS_MAX):
        if packet[named] not in _EXTENSIONS or at + 8 > len(packet):
            break
        named, at = at, at + (packet[at + 1] + 1) * 8
    return at, named


def _cut_short(packet: bytes, at: int) -> bool:
    """True where the first fragment ends within the headers, as far as these can be followed.

    Follows: ipv6frag_thdr_truncated, ipv6_skip_exthdr.
    """
    upper, named = at + 8, at
    while packet[named] in _EXTENSIONS or packet[named] == PROTO_AH:
        if upper + 2 > len(packet):
            return False
        unit, fixed = (4, 2) if packet[named] == PROTO_AH else (8, 1)
        named, upper = upper, upper + (packet[upper + 1] + fixed) * unit
    return packet[named] != PROTO_NONE and upper + _UPPER_BYTES.get(packet[named], 1) > len(packet)


class Queue:
    """One packet's fragments; `starts` and `ends` are of the runs that came without a gap, in order."""

    __slots__ = (
        "_df", "_largest", "bytes", "ecn", "ends", "first", "got", "key", "last", "length", "parts", "peer",
        "record", "starts",
    )  # fmt: skip

    def __init__(self, key: Key) -> None:
        self.key = key
        self.peer = 0
        self.clear()

    def clear(self) -> None:
        """Forget all that came. Follows: ip_frag_reinit."""
        self.parts: dict[int, bytes] = {}
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.first: Fragment | None = None
        self.record: Any = None
        self.last = False
        self.length = self.got = self.ecn = 0
        self.bytes = QUEUE_BYTES
        self._largest = self._df = 0

    def add(self, fragment: Fragment, record: Any) -> Outcome:
        """Take a fragment: IN_FRAGMENT where it is kept, PENDING where the packet is whole.

        IN_FRAGMENT_OVERLAP and IN_FRAGMENT_LENGTH end the queue, a duplicate only itself.
        """
        if self._contradicts(fragment) or fragment.end == fragment.offset:
            return Outcome.IN_FRAGMENT_LENGTH
        refused = self._insert(fragment.offset, fragment.end)
        if refused:
            return refused
        self.parts[fragment.offset] = fragment.payload
        self.got += len(fragment.payload)
        self.ecn |= 1 << fragment.ecn
        self.bytes += len(fragment.payload) + FRAGMENT_BYTES
        self._note_size(fragment)
        if fragment.offset == 0:
            self.first, self.record = fragment, record
            self.bytes += len(fragment.head) + record.nbytes
        whole = self.last and self.first is not None and self.got == self.length
        return Outcome.PENDING if whole else Outcome.IN_FRAGMENT

    def _contradicts(self, fragment: Fragment) -> bool:
        """Note where the packet ends; True where that does not go with what came before."""
        if not fragment.more:
            if fragment.end < self.length or (self.last and fragment.end != self.length):
                return True
            self.last, self.length = True, fragment.end
        elif fragment.end > self.length:
            if self.last:
                return True
            self.length = fragment.end
        return False

    def _insert(self, offset: int, end: int) -> Outcome | None:
        """Follows: inet_frag_queue_insert."""
        if not self.ends or offset > self.ends[-1]:
            self.starts.append(offset)
            self.ends.append(end)
            return None
        if end > self.ends[-1]:
            if offset < self.ends[-1]:
                return Outcome.IN_FRAGMENT_OVERLAP
            self.ends[-1] = end
            return None
        place = bisect_right(self.starts, offset)
        if place and offset < self.ends[place - 1]:
            inside = end <= self.ends[place - 1]
            return Outcome.IN_FRAGMENT_DUPLICATE if inside else Outcome.IN_FRAGMENT_OVERLAP
        if place < len(self.starts) and end > self.starts[place]:
            return Outcome.IN_FRAGMENT_OVERLAP
        self.starts.insert(place, offset)
        self.ends.insert(place, end)
        return None

    def _note_size(self, fragment: Fragment) -> None:
        size = len(fragment.head) + len(fragment.payload)
        self._largest = max(self._largest, size)
        if fragment.dont_fragment:
            self._df = max(self._df, size)

    def whole(self) -> bytes | Outcome:
        """The packet, all of whose fragments are there. Follows: ip_frag_reasm, ip6_frag_reasm."""
        first = self.first
        assert first is not None
        if (ecn := _ECN.get(self.ecn)) is None:
            return Outcome.IN_FRAGMENT_ECN
        payload = b"".join(self.parts[offset] for offset in sorted(self.parts))
        head, four = bytearray(first.head), first.head[0] >> 4 == 4
        size = len(payload) + (len(head) if four else len(head) - 40)
        if size > LENGTH_MAX:
            return Outcome.IN_FRAGMENT_LENGTH
        if four:
            head[1] |= ecn
            head[2:4] = size.to_bytes(2)
            # DF, where it came with the largest: nobody is to make larger ones of it.
            head[6:8] = b"\x40\0" if self._df == self._largest else bytes(2)
            head[10:12] = bytes(2)
            head[10:12] = summed(head).to_bytes(2)
        else:
            head[1] |= ecn << 4
            head[4:6] = size.to_bytes(2)
            head[first.named] = first.following
        packet = bytes(head) + payload
        if not four and packet[_fragment_header(packet, 40, 6)[1]] == _FRAGMENT:
            return Outcome.IN_FRAGMENT_HEADER
        return packet


class Fragments:
    """All queues of a namespace. Times are wall-clock seconds; thresholds and times those of the sysctls."""

    def __init__(self) -> None:
        self.queues: dict[Key, Queue] = {}
        self.timers: Timers[Key] = Timers()
        self.bytes = {4: 0, 16: 0}
        self.figures = Figures()
        self.high_thresh = {4: 4 << 20, 16: 4 << 20}
        self.time_s = {4: 30, 16: 60}
        self.max_dist = 64
        # Of sources of IPv4 fragments that wait: how many came from there, and for how many packets.
        self._peers: dict[bytes, list[int]] = {}

    def __len__(self) -> int:
        return len(self.queues)

    def add(self, fragment: Fragment, record: Any, now_s: float) -> Whole | Outcome:
        """Take a fragment and the record that came with it: the packet, where it is whole now."""
        size = len(fragment.key[0])
        queue = self._find(fragment.key, now_s)
        if queue is None:
            self.figures.failed += 1
            return Outcome.IN_FRAGMENT_FLOOD
        if size == 4 and self._too_far(queue):
            self.bytes[4] += QUEUE_BYTES - queue.bytes
            queue.clear()
            self.timers.forget(queue.key)
            self.timers.plan(queue.key, now_s + self.time_s[4])
        before = queue.bytes
        found = queue.add(fragment, record)
        self.bytes[size] += queue.bytes - before
        if found in (Outcome.IN_FRAGMENT, Outcome.IN_FRAGMENT_DUPLICATE):
            return found
        self._end(queue)
        whole = queue.whole() if found == Outcome.PENDING else found
        if isinstance(whole, Outcome):
            self.figures.failed += 1
            return whole
        self.figures.completed += 1
        return Whole(whole, queue.record)

    def _find(self, key: Key, now_s: float) -> Queue | None:
        """The queue of a packet, made if need be; None where memory is used up."""
        size = len(key[0])
        self.figures.required += 1
        if self.bytes[size] > self.high_thresh[size] or not self.high_thresh[size]:
            return None
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = Queue(key)
            self.bytes[size] += queue.bytes
            self.timers.plan(key, now_s + self.time_s[size])
            if size == 4:
                self._peers.setdefault(key[0], [0, 0])[1] += 1
        return queue

    def _too_far(self, queue: Queue) -> bool:
        """True where too many fragments came from there since this queue's last for it to be one packet.

        Follows: ip_frag_too_far.
        """
        if not self.max_dist:
            return False
        peer, start = self._peers[queue.key[0]], queue.peer
        peer[0] += 1
        queue.peer = peer[0]
        far = bool(queue.parts) and queue.peer - start > self.max_dist
        self.figures.failed += far
        return far

    def _end(self, queue: Queue) -> None:
        del self.queues[queue.key]
        self.timers.forget(queue.key)
        self.bytes[len(queue.key[0])] -= queue.bytes
        peer = self._peers.get(queue.key[0])
        if peer is not None:
            peer[1] -= 1
            if not peer[1]:
                del self._peers[queue.key[0]]

    def expire(self, now_s: float) -> Iterator[bytes]:
        """End the queues whose time is over: the first fragment of each, where it came, as it came."""
        for _, key in self.timers.due(now_s):
            queue = self.queues[key]
            self._end(queue)
            self.figures.failed += 1
            self.figures.timed_out += 1
            if queue.first is not None:
                yield _as_it_came(queue.first)


def _as_it_came(first: Fragment) -> bytes:
    """A first fragment, with its fragment header if it is IPv6."""
    if first.head[0] >> 4 == 4:
        return first.head + first.payload
    identification = first.key[2].to_bytes(4)
    return first.head + bytes([first.following, 0, 0, first.more]) + identification + first.payload
