"""What policies want of the kernel, counted: the kernel is told of what came and what went, not of all.

    following = Following(namespace.policies, wants)
    came, gone = following.changes()

Two policies may want the same; it is gone when nobody wants it any more. Looking for what changed takes a
look at each policy (0.2 us); what follows from it is done for those alone that did.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, KeysView
from typing import Generic, TypeVar

from uxfrm.model.policy import PolicyConfig
from uxfrm.tables.policies import Policy, PolicyTable

T = TypeVar("T", bound=Hashable)


class Following(Generic[T]):
    """What the policies of one table want; `wants` says it of each."""

    def __init__(self, policies: PolicyTable, wants: Callable[[Policy], Iterable[T]]) -> None:
        self._policies = policies
        self._wants = wants
        self._known: dict[Policy, tuple[PolicyConfig, tuple[T, ...]]] = {}
        self._counts: dict[T, int] = {}

    def all(self) -> KeysView[T]:
        """Everything that is wanted, as of the last `changes`."""
        return self._counts.keys()

    def changes(self) -> tuple[list[T], list[T]]:
        """What is wanted now and was not when last asked, and the other way about."""
        before: dict[T, bool] = {}
        live = 0
        for policy in self._policies.dump():
            live += 1
            known = self._known.get(policy)
            if known is None or known[0] is not policy.config:
                self._replace(policy, known, before)
        if live < len(self._known):
            for policy in [policy for policy in self._known if policy.dead]:
                self._count(self._known.pop(policy)[1], -1, before)
        came = [want for want, was in before.items() if not was and want in self._counts]
        gone = [want for want, was in before.items() if was and want not in self._counts]
        return came, gone

    def _replace(
        self, policy: Policy, known: tuple[PolicyConfig, tuple[T, ...]] | None, before: dict[T, bool]
    ) -> None:
        if known is not None:
            self._count(known[1], -1, before)
        wanted = tuple(self._wants(policy))
        self._known[policy] = policy.config, wanted
        self._count(wanted, 1, before)

    def _count(self, wanted: Iterable[T], step: int, before: dict[T, bool]) -> None:
        for want in wanted:
            before.setdefault(want, want in self._counts)
            count = self._counts.get(want, 0) + step
            if count:
                self._counts[want] = count
            else:
                del self._counts[want]
