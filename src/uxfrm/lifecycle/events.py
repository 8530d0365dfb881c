"""What a namespace tells those who listen; netlink makes multicast messages of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from uxfrm.model.dump import PolicyDump, StateDump


@dataclass(frozen=True, slots=True)
class StateAdded:
    """NEWSA, or UPDSA for an update."""

    state: StateDump
    update: bool


@dataclass(frozen=True, slots=True)
class StateDeleted:
    """DELSA: somebody asked for it; a state that a limit ended tells StateExpired instead."""

    state: StateDump


@dataclass(frozen=True, slots=True)
class StatesFlushed:
    """FLUSHSA: states of a protocol (0: of all) went, without one event each."""

    proto: int


@dataclass(frozen=True, slots=True)
class StateExpired:
    """EXPIRE: a soft limit was reached, or (hard) the state is gone."""

    state: StateDump
    hard: bool


@dataclass(frozen=True, slots=True)
class PolicyAdded:
    """NEWPOLICY, or UPDPOLICY for an update."""

    policy: PolicyDump
    update: bool


@dataclass(frozen=True, slots=True)
class PolicyDeleted:
    """DELPOLICY; `by_index` tells how it was named."""

    policy: PolicyDump
    by_index: bool


@dataclass(frozen=True, slots=True)
class PoliciesFlushed:
    """FLUSHPOLICY: policies of a type went, without one event each."""

    type: int


@dataclass(frozen=True, slots=True)
class PolicyExpired:
    """POLEXPIRE: a soft limit was reached, or (hard) the policy is gone."""

    policy: PolicyDump
    hard: bool


@dataclass(frozen=True, slots=True)
class DefaultChanged:
    """GETDEFAULT as an event: the actions where no policy matches."""

    in_: int
    fwd: int
    out: int


Event = (
    StateAdded
    | StateDeleted
    | StatesFlushed
    | StateExpired
    | PolicyAdded
    | PolicyDeleted
    | PoliciesFlushed
    | PolicyExpired
    | DefaultChanged
)
Listener = Callable[[Event], None]
Wanted = Callable[[type[Event]], bool]
