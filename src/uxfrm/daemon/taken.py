"""The host's traffic is taken by NFQUEUEs: rules of the kernel that follow the policies.

Rule 1: a change is in force before whoever asked for it has the answer.
Rule 2: nothing opens by itself. What an earlier daemon protected and no policy has named yet stays closed;
        when this one stops, or dies, everything does. `detour.open_all` opens.
"""

from __future__ import annotations

from uxfrm.attach import rules
from uxfrm.attach.nfqueue import Queue
from uxfrm.attach.raw import Raw
from uxfrm.attach.transparent import Transparent, plan_of
from uxfrm.daemon.privileges import Capability
from uxfrm.tables.policies import PolicyTable


class Taken:
    """Queues, and rules for one namespace's policies. Raises AttachmentError."""

    def __init__(self, policies: PolicyTable, first: int) -> None:
        self._policies = policies
        self._first = first
        self._closed = rules.left()
        self._seen: object = None
        self._transparent = Transparent(self._plan())

    @property
    def queues(self) -> list[Queue]:
        """The queues, each an attachment."""
        return self._transparent.queues

    @property
    def raw(self) -> dict[int, Raw]:
        """What sends by IP version, with our mark."""
        return self._transparent.raw

    @property
    def rights_to_follow(self) -> frozenset[Capability]:
        """What it takes to change the rules, and to give a verdict."""
        raw = {Capability.NET_RAW} if self._transparent.rules.by_raw_socket else ()
        return frozenset({Capability.NET_ADMIN}).union(raw)

    def follow(self, again: bool = False) -> None:
        """Do what the policies say now; `again` changes nothing here. Raises AttachmentError."""
        del again
        if (self._policies.generation, tuple(self._policies.default)) != self._seen:
            self._transparent.follow(self._plan())

    def _plan(self) -> rules.Plan:
        """The plan for the policies as they are; what they name does not stay closed for their lack."""
        self._seen = (self._policies.generation, tuple(self._policies.default))
        plan = plan_of(self._policies, self._first, closed=self._closed)
        self._closed = plan.closed_out, plan.closed_into
        return plan

    def close(self) -> None:
        """Close the queues; the rules stay, and drop what they match."""
        self._transparent.close()
