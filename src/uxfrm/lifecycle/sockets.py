"""A socket with policies of its own: what setsockopt, accept and close do to them.

Follows: xfrm_sk_policy_insert, __xfrm_sk_clone_policy, xfrm_sk_free_policy. No event tells of these policies,
and time limits do not act on them: Linux starts no timer for them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from uxfrm.model.error import invalid
from uxfrm.model.mark import NO_MARK
from uxfrm.model.policy import Action, Direction, PolicyConfig, PolicyType
from uxfrm.tables.policies import PolicyTable
from uxfrm.tables.sockets import Sockets


class Socket:
    """An open socket; `number` is what its packets carry, `family` AF_INET or AF_INET6.

    `seconds` gives the wall-clock second; `sync_used` brings the times of policies' last use up to date.
    """

    def __init__(
        self,
        family: int,
        sockets: Sockets,
        policies: PolicyTable,
        seconds: Callable[[], int],
        sync_used: Callable[[], None],
    ) -> None:
        self.family = family
        self.number = sockets.open()
        self._sockets = sockets
        self._policies = policies
        self._seconds = seconds
        self._sync_used = sync_used

    def set_policy(self, config: PolicyConfig) -> None:
        """Give the socket a policy for `config.direction`, in the place of the one it has.

        XfrmError EINVAL for what a socket's policy cannot have: direction fwd, type sub, a mark, an interface
        id, a security context. The index is a new one, whatever was asked for.
        """
        if config.direction not in (Direction.IN, Direction.OUT):
            raise invalid("Invalid policy direction")
        if config.type != PolicyType.MAIN or config.mark != NO_MARK or config.if_id or config.context:
            raise invalid()
        new = self._policies.add_own(config, self._seconds())
        old = self._sockets.replace(self.number, config.direction, new)
        if old is not None:
            self._policies.remove_own(old)

    @property
    def sends_in_clear(self) -> bool:
        """Whether its own policy lets it send without IPsec, whatever the namespace's say."""
        own = self._sockets.policy(self.number, Direction.OUT)
        return own is not None and own.config.action == Action.ALLOW and not own.config.templates

    def clear(self) -> None:
        """Take away the policies of both directions."""
        for direction in (Direction.IN, Direction.OUT):
            old = self._sockets.replace(self.number, direction, None)
            if old is not None:
                self._policies.remove_own(old)

    def clone(self) -> Self:
        """The socket that accept() gives: with policies of the same indexes and times."""
        self._sync_used()
        new = type(self)(self.family, self._sockets, self._policies, self._seconds, self._sync_used)
        for direction in (Direction.IN, Direction.OUT):
            policy = self._sockets.policy(self.number, direction)
            if policy is not None:
                self._sockets.replace(new.number, direction, self._policies.clone_own(policy))
        return new

    def close(self) -> None:
        """Close it; its policies go, and its number may be another's."""
        self.clear()
        self._sockets.close(self.number)
