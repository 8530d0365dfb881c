"""Sockets, as far as they have policies of their own (sk->sk_policy).

What it knows: a small number for each open socket, which its packets carry, and its two policies.
What it must not know: file descriptors, addresses, netlink.

Packets of flows are remembered with their socket's owner number: 0 for sockets without policies, and another
one after each change, so that nothing decided before the change is found again.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from uxfrm.model.flow import Flow
from uxfrm.model.policy import Direction
from uxfrm.tables.policies import Policy

_START = 16
_OWNERS = 1 << 31

Pair = list[Policy | None]


class Sockets:
    """The open sockets of a namespace, by number; 0 is no socket.

    `owners` holds by number what flows are remembered by. A number is given again once its socket is closed.
    """

    def __init__(self) -> None:
        self.owners: npt.NDArray[np.int64] = np.zeros(_START, np.int64)
        self._policies: dict[int, Pair] = {}
        self._free: list[int] = []
        self._last_owner = 0

    def __len__(self) -> int:
        return len(self._policies)

    def open(self) -> int:
        """A number for a new socket."""
        number = heapq.heappop(self._free) if self._free else len(self._policies) + 1
        if number >= self.owners.shape[0]:
            self.owners = np.concatenate([self.owners, np.zeros_like(self.owners)])
        self._policies[number] = [None, None]
        return number

    def close(self, number: int) -> None:
        """Give a number back."""
        del self._policies[number]
        self.owners[number] = 0
        heapq.heappush(self._free, number)

    def policy(self, number: int, direction: Direction | int) -> Policy | None:
        """The policy of a socket, Direction.IN or OUT."""
        return self._policies[number][direction]

    def replace(self, number: int, direction: Direction | int, policy: Policy | None) -> Policy | None:
        """Give a socket another policy; the one it had."""
        pair = self._policies[number]
        old, pair[direction] = pair[direction], policy
        self.owners[number] = self._next_owner() if any(pair) else 0
        return old

    def _next_owner(self) -> int:
        self._last_owner = self._last_owner % (_OWNERS - 1) + 1
        return self._last_owner

    def lookup(self, number: int, direction: Direction | int, flow: Flow, if_id: int = 0) -> Policy | None:
        """The policy of a packet's socket if it is for this flow. Follows: xfrm_sk_policy_lookup.

        Such policies have neither mark nor interface id: the mark always fits, an interface id never.
        """
        pair = self._policies.get(number)
        policy = pair[direction] if pair else None
        if policy is None or if_id or not policy.config.selector.matches(flow):
            return None
        return policy

    @property
    def owned(self) -> bool:
        """True once any socket has had a policy of its own."""
        return self._last_owner > 0
