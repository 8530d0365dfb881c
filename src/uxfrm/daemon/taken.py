"""The host's traffic is taken by NFQUEUEs: rules of the kernel that follow the policies.

Rule 1: a change is in force before whoever asked for it has the answer.
Rule 2: nothing opens by itself. What an earlier daemon protected and no policy has named yet stays closed;
        when this one stops, or dies, everything does. `detour.open_all` opens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from uxfrm.attach import rules
from uxfrm.attach.nfqueue import Queue
from uxfrm.attach.raw import Raw
from uxfrm.attach.rules import ALL, Change, Match
from uxfrm.attach.transparent import Transparent, kept, matches_of
from uxfrm.daemon.following import Following
from uxfrm.daemon.privileges import Capability
from uxfrm.model.policy import DefaultAction, Direction
from uxfrm.tables.policies import Policy, PolicyTable


class _Want(NamedTuple):
    """What a policy wants to be asked about, on the way out or in."""

    out: bool
    match: Match


class Taken:
    """Queues, and rules for one namespace's policies. Raises AttachmentError."""

    def __init__(self, policies: PolicyTable, first: int) -> None:
        self._policies = policies
        self._first = first
        self._following = Following(policies, _wants)
        self._following.changes()
        left = rules.left()
        self._closed = {True: dict.fromkeys(left[0]), False: dict.fromkeys(left[1])}  # by whether it is out
        self._seen = self._version()
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
        version = self._version()
        if version == self._seen:
            return
        came, gone = self._following.changes()
        if version[1] != self._seen[1]:
            self._transparent.follow(self._plan())
        else:
            out, into = self._change(True, came, gone), self._change(False, came, gone)
            self._transparent.change(out, into, self._plan)
        self._seen = version

    def _change(self, out: bool, came: list[_Want], gone: list[_Want]) -> Change:
        """What is new on one way; what is named is not closed any more."""
        new, old = ([want.match for want in wants if want.out == out] for wants in (came, gone))
        closed = self._closed[out]
        opened = [match for match in new if match in closed]
        for match in opened:
            del closed[match]
        return Change(new, old, opened)

    def _version(self) -> tuple[int, tuple[DefaultAction, ...]]:
        return self._policies.generation, tuple(self._policies.default)

    def _plan(self) -> rules.Plan:
        """The plan for the policies as they are; what they name does not stay closed for their lack."""
        asked = {out: tuple(self._asked(out)) for out in (True, False)}
        for out, matches in asked.items():
            self._closed[out] = dict.fromkeys(kept(tuple(self._closed[out]), set(matches)))
        shut = {out: tuple(closed) for out, closed in self._closed.items()}
        return rules.Plan(
            self._first, asked[True], asked[False], closed_out=shut[True], closed_into=shut[False]
        )

    def _asked(self, out: bool) -> Iterable[Match]:
        """What is asked about on one way: all of it where the default is to block."""
        ways = (Direction.OUT,) if out else (Direction.IN, Direction.FWD)
        if any(self._policies.default[way] == DefaultAction.BLOCK for way in ways):
            return ALL
        return (want.match for want in self._following.all() if want.out == out)

    def close(self) -> None:
        """Close the queues; the rules stay, and drop what they match."""
        self._transparent.close()


def _wants(policy: Policy) -> Iterator[_Want]:
    if policy.config.direction in (Direction.IN, Direction.OUT, Direction.FWD):
        for match in matches_of(policy.config):
            yield _Want(policy.config.direction == Direction.OUT, match)
