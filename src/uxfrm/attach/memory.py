"""A wire in memory: what one end sends the other receives. No rights, no sockets, no clock.

    wire = Wire(mtu=1500)
    left, right = wire.ends
    left.send(batch, chosen(batch, Verdict.SENT))
    received = right.receive(now)

An end is a full Attachment; `faults.Injector` around one makes a bad wire of it.
"""

from __future__ import annotations

from collections import deque

from uxfrm.attach.attachment import Counts, Loss, Way
from uxfrm.datapath.batch import Batch, Int64s

_BATCH = 256


class End:
    """One end of a wire; see `Wire`. What it receives has its `ifindex` and no mark."""

    def __init__(self, mtu: int, capacity: int, way: Way, ifindex: int) -> None:
        self.way = way
        self.counts = Counts()
        self._mtu = mtu
        self._capacity = capacity
        self._ifindex = ifindex
        self._arrived: deque[bytes] = deque()
        self._peer = self

    def receive(self, now: float) -> Batch | None:
        """The next packets that the other end sent, 256 at most; None when there are none."""
        count = min(len(self._arrived), _BATCH)
        if not count:
            return None
        self.counts.received += count
        packets = [self._arrived.popleft() for _ in range(count)]
        return Batch.pack(packets, int(now), ifindex=self._ifindex)

    def send(self, batch: Batch, those: Int64s) -> int:
        """Put packets on the wire: those within its MTU, as long as it takes them."""
        before = self.counts.sent
        for i in those.tolist():
            self._put(batch.packet(i))
        return self.counts.sent - before

    def _put(self, packet: bytes) -> None:
        queue = self._peer._arrived
        if len(packet) > self._mtu:
            self.counts.lost[Loss.TOO_LONG] += 1
        elif len(queue) >= self._capacity:
            self.counts.lost[Loss.FULL] += 1
        else:
            queue.append(packet)
            self.counts.sent += 1

    def mtu(self) -> int:
        """The wire's MTU."""
        return self._mtu

    def close(self) -> None:
        """Forget what had arrived; what is sent here from now on is lost (FULL)."""
        self._arrived.clear()
        self._capacity = self._peer._capacity = 0


class Wire:
    """Two ends joined, each an Attachment of way `way`; `capacity` packets may wait at an end."""

    def __init__(self, mtu: int = 1500, capacity: int = 4096, way: Way = Way.IN, ifindex: int = 1) -> None:
        left, right = End(mtu, capacity, way, ifindex), End(mtu, capacity, way, ifindex)
        left._peer, right._peer = right, left
        self.ends = left, right
