"""What the commands of `ip xfrm` hold, one frozen class each, and the statement that a line comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from uxfrm.iproute2.filters import EVERY_POLICY, EVERY_STATE, PolicyFilter, StateFilter
from uxfrm.model.counts import Thresholds
from uxfrm.model.dump import LarvalConfig, PolicyDump, PolicyId, StateDump, StateId
from uxfrm.model.policy import PolicyConfig
from uxfrm.model.state import StateConfig


@dataclass(frozen=True, slots=True)
class StateAdd:
    """`ip xfrm state add`."""

    config: StateConfig


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """`ip xfrm state update`."""

    config: StateConfig


@dataclass(frozen=True, slots=True)
class StateDelete:
    """`ip xfrm state delete`."""

    id: StateId


@dataclass(frozen=True, slots=True)
class StateGet:
    """`ip xfrm state get`."""

    id: StateId


@dataclass(frozen=True, slots=True)
class StateAllocSpi:
    """`ip xfrm state allocspi`."""

    wanted: LarvalConfig
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class StateFlush:
    """`ip xfrm state flush`; protocol 0 for all."""

    proto: int = 0


@dataclass(frozen=True, slots=True)
class StateDeleteAll:
    """`ip xfrm state deleteall`."""

    filter: StateFilter = EVERY_STATE


@dataclass(frozen=True, slots=True)
class StateList:
    """`ip xfrm state list`."""

    filter: StateFilter = EVERY_STATE
    nokeys: bool = False


@dataclass(frozen=True, slots=True)
class StateCount:
    """`ip xfrm state count`."""


@dataclass(frozen=True, slots=True)
class PolicyAdd:
    """`ip xfrm policy add`."""

    config: PolicyConfig


@dataclass(frozen=True, slots=True)
class PolicyUpdate:
    """`ip xfrm policy update`."""

    config: PolicyConfig


@dataclass(frozen=True, slots=True)
class PolicyDelete:
    """`ip xfrm policy delete`."""

    id: PolicyId


@dataclass(frozen=True, slots=True)
class PolicyGet:
    """`ip xfrm policy get`."""

    id: PolicyId


@dataclass(frozen=True, slots=True)
class PolicyDeleteAll:
    """`ip xfrm policy deleteall`."""

    filter: PolicyFilter = EVERY_POLICY


@dataclass(frozen=True, slots=True)
class PolicyList:
    """`ip xfrm policy list`."""

    filter: PolicyFilter = EVERY_POLICY


@dataclass(frozen=True, slots=True)
class PolicyFlush:
    """`ip xfrm policy flush`."""

    type: int = 0


@dataclass(frozen=True, slots=True)
class PolicyCount:
    """`ip xfrm policy count`."""


@dataclass(frozen=True, slots=True)
class PolicySetThresholds:
    """`ip xfrm policy set`; None leaves a family's thresholds."""

    ipv4: Thresholds | None = None
    ipv6: Thresholds | None = None


@dataclass(frozen=True, slots=True)
class PolicySetDefault:
    """`ip xfrm policy setdefault`; 0 leaves a direction's action."""

    in_: int = 0
    fwd: int = 0
    out: int = 0


@dataclass(frozen=True, slots=True)
class PolicyGetDefault:
    """`ip xfrm policy getdefault`."""


@dataclass(frozen=True, slots=True)
class RestoreState:
    """A state from a dump, with its counters, window and times; no command of `ip`."""

    dump: StateDump


@dataclass(frozen=True, slots=True)
class RestorePolicy:
    """A policy from a dump, with its index and times; no command of `ip`."""

    dump: PolicyDump


Command = (
    StateAdd
    | StateUpdate
    | StateDelete
    | StateGet
    | StateAllocSpi
    | StateFlush
    | StateDeleteAll
    | StateList
    | StateCount
    | PolicyAdd
    | PolicyUpdate
    | PolicyDelete
    | PolicyGet
    | PolicyDeleteAll
    | PolicyList
    | PolicyFlush
    | PolicyCount
    | PolicySetThresholds
    | PolicySetDefault
    | PolicyGetDefault
    | RestoreState
    | RestorePolicy
)


class Statement(NamedTuple):
    """What one line, or one entry of a dump, came to: a command, or what is wrong with it."""

    line: int
    command: Command | None
    error: str | None = None
