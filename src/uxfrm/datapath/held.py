"""Packets that wait for a state to be negotiated (larval_drop 0): a queue for each policy.

Follows: xdst_queue_output, xfrm_policy_queue_process. As in Linux nothing but a queue's timer looks whether
the states have come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from uxfrm.datapath.batch import ARRIVED, Batch
from uxfrm.tables.deadlines import Timers
from uxfrm.tables.policies import Policy

QUEUE_MAX = 101
"""Packets that wait at one policy."""

BYTES_MAX = 64 << 20
"""Bytes that wait in all. Linux bounds them by the senders' socket buffers."""

_FIRST_S, _LAST_S = 0.1, 60.0


class Queue:
    """Packets in their order; `timeout_s` is how long the next look is away."""

    def __init__(self) -> None:
        self.packets: list[tuple[bytes, Any]] = []
        self.timeout_s = 0.0

    def batch(self, count: int, time_s: int) -> Batch:
        """The first `count` packets, as they came."""
        batch = Batch.pack([data for data, _ in self.packets[:count]], time_s)
        for number, (_, record) in enumerate(self.packets[:count]):
            for name in ARRIVED:
                batch.packets[number][name] = record[name]
        return batch


class Held:
    """All queues of a namespace. `given_up` counts packets whose states never came."""

    def __init__(self) -> None:
        self.queues: dict[Policy, Queue] = {}
        self.timers: Timers[Policy] = Timers()
        self.bytes = 0
        self.given_up = 0

    def __len__(self) -> int:
        return sum(len(queue.packets) for queue in self.queues.values())

    def hold(self, policy: Policy, packet: bytes, record: Any, now_s: float) -> bool:
        """Keep a packet; False where there is no room for it."""
        queue = self.queues.setdefault(policy, Queue())
        if len(queue.packets) >= QUEUE_MAX or self.bytes + len(packet) > BYTES_MAX:
            return False
        queue.packets.append((packet, record))
        self.bytes += len(packet)
        queue.timeout_s = queue.timeout_s or _FIRST_S
        self.timers.plan(policy, now_s + queue.timeout_s)
        return True

    def due(self, now_s: float) -> Iterator[tuple[Policy, Queue]]:
        """The queues at which it is time to look."""
        for _, policy in self.timers.due(now_s):
            yield policy, self.queues[policy]

    def wait(self, policy: Policy, now_s: float) -> bool:
        """Look again, after twice as long as before; False where that was the last time."""
        queue = self.queues[policy]
        if queue.timeout_s >= _LAST_S:
            return False
        queue.timeout_s *= 2
        self.timers.plan(policy, now_s + queue.timeout_s)
        return True

    def take(self, policy: Policy, time_s: int) -> Batch | None:
        """Take all packets of a policy out, in their order."""
        self.timers.forget(policy)
        queue = self.queues.pop(policy, None)
        if queue is None:
            return None
        self.bytes -= sum(len(packet) for packet, _ in queue.packets)
        return queue.batch(len(queue.packets), time_s)

    def move(self, old: Policy, new: Policy, now_s: float) -> None:
        """Let the packets of a policy wait at the one that replaces it, which looks at once.

        Follows: xfrm_policy_requeue.
        """
        queue = self.queues.pop(old, None)
        self.timers.forget(old)
        if queue is not None:
            queue.timeout_s = _FIRST_S
            self.queues[new] = queue
            self.timers.plan(new, now_s)
