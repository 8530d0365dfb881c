"""What a namespace tells those who listen; netlink makes multicast messages of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from uxfrm.model.address import Address
from uxfrm.model.aevent import Aevent
from uxfrm.model.dump import LarvalConfig, PolicyDump, StateDump, StateId
from uxfrm.model.migrate import Migration
from uxfrm.model.selector import Selector
from uxfrm.model.template import Template


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


@dataclass(frozen=True, slots=True)
class Acquire:
    """ACQUIRE: a state is wanted, for `template` of `policy`; `wanted.seq` names the question."""

    wanted: LarvalConfig
    template: Template
    policy: PolicyDump


@dataclass(frozen=True, slots=True)
class StateMonitored:
    """NEWAE: a state's running figures, and why they are told."""

    aevent: Aevent


@dataclass(frozen=True, slots=True)
class Migrated:
    """MIGRATE: a policy and its states have new endpoints; no event for each of them is told."""

    migration: Migration


@dataclass(frozen=True, slots=True)
class MappingChanged:
    """MAPPING: authentic ESP in UDP came from another address or port (host order) than its state's."""

    state: StateId
    reqid: int
    old: tuple[Address, int]
    new: tuple[Address, int]


@dataclass(frozen=True, slots=True)
class Reported:
    """REPORT: who processes mobility headers has no state for a packet; `coaddr` is its care-of address."""

    proto: int
    selector: Selector
    coaddr: Address | None = None


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
    | Acquire
    | StateMonitored
    | Migrated
    | MappingChanged
    | Reported
)
Listener = Callable[[Event], object]
"""Is told of every event; one that returns False has not heard this one, as far as acquires are concerned."""

Wanted = Callable[[type[Event]], bool]
"""Whether a listener would hear an event of this kind now."""
