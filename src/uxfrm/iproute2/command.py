"""What a line of `ip xfrm` asks for: one frozen value per command, ready for a Namespace.

Knows the model; knows neither words nor output.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from uxfrm.model.address import AF_UNSPEC
from uxfrm.model.dump import LarvalConfig, PolicyDump, PolicyId, StateDump, StateId
from uxfrm.model.error import XfrmError
from uxfrm.model.policy import PolicyConfig
from uxfrm.model.state import StateConfig


@dataclass(frozen=True, slots=True)
class PrefixFilter:
    """An address and how many of its bits must agree."""

    address: bytes
    length: int


@dataclass(frozen=True, slots=True)
class StateFilter:
    """Which states `list` and `deleteall` mean; None is any."""

    family: int = AF_UNSPEC
    src: PrefixFilter | None = None
    dst: PrefixFilter | None = None
    proto: int | None = None
    spi: int | None = None
    mode: int | None = None
    reqid: int | None = None
    flags: int = 0


@dataclass(frozen=True, slots=True)
class PolicyFilter:
    """Which policies `list` and `deleteall` mean; None is any."""

    family: int = AF_UNSPEC
    src: PrefixFilter | None = None
    dst: PrefixFilter | None = None
    ifindex: int = 0
    proto: int = 0
    sport: tuple[int, int] = (0, 0)
    dport: tuple[int, int] = (0, 0)
    direction: int | None = None
    index: int | None = None
    type: int | None = None
    action: int | None = None
    priority: int | None = None
    flags: int = 0
    nosock: bool = False


@dataclass(frozen=True, slots=True)
class StateAdd:
    """ip xfrm state add"""

    config: StateConfig


@dataclass(frozen=True, slots=True)
class StateUpdate:
    """ip xfrm state update"""

    config: StateConfig


@dataclass(frozen=True, slots=True)
class StateDelete:
    """ip xfrm state delete"""

    id: StateId


@dataclass(frozen=True, slots=True)
class StateGet:
    """ip xfrm state get"""

    id: StateId
    statistics: bool = False


@dataclass(frozen=True, slots=True)
class StateAllocSpi:
    """ip xfrm state allocspi"""

    wanted: LarvalConfig
    low: int
    high: int
    statistics: bool = False


@dataclass(frozen=True, slots=True)
class StateFlush:
    """ip xfrm state flush; protocol 0 is all, 255 AH, ESP and COMP"""

    proto: int = 0


@dataclass(frozen=True, slots=True)
class StateDeleteAll:
    """ip xfrm state deleteall"""

    filter: StateFilter = field(default_factory=StateFilter)


@dataclass(frozen=True, slots=True)
class StateList:
    """ip xfrm state list"""

    filter: StateFilter = field(default_factory=StateFilter)
    statistics: bool = False
    nokeys: bool = False


@dataclass(frozen=True, slots=True)
class StateCount:
    """ip xfrm state count"""

    statistics: int = 0


@dataclass(frozen=True, slots=True)
class PolicyAdd:
    """ip xfrm policy add"""

    config: PolicyConfig


@dataclass(frozen=True, slots=True)
class PolicyUpdate:
    """ip xfrm policy update"""

    config: PolicyConfig


@dataclass(frozen=True, slots=True)
class PolicyDelete:
    """ip xfrm policy delete"""

    id: PolicyId


@dataclass(frozen=True, slots=True)
class PolicyGet:
    """ip xfrm policy get"""

    id: PolicyId
    statistics: bool = False


@dataclass(frozen=True, slots=True)
class PolicyDeleteAll:
    """ip xfrm policy deleteall"""

    filter: PolicyFilter = field(default_factory=PolicyFilter)


@dataclass(frozen=True, slots=True)
class PolicyList:
    """ip xfrm policy list"""

    filter: PolicyFilter = field(default_factory=PolicyFilter)
    statistics: bool = False


@dataclass(frozen=True, slots=True)
class PolicyFlush:
    """ip xfrm policy flush"""

    type: int = 0


@dataclass(frozen=True, slots=True)
class PolicyCount:
    """ip xfrm policy count"""

    statistics: int = 0


@dataclass(frozen=True, slots=True)
class PolicySetThresholds:
    """ip xfrm policy set; (local, remote) bits, None to leave them"""

    ipv4: tuple[int, int] | None = None
    ipv6: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class PolicySetDefault:
    """ip xfrm policy setdefault; 0 to leave a direction as it is"""

    in_: int = 0
    fwd: int = 0
    out: int = 0


@dataclass(frozen=True, slots=True)
class PolicyGetDefault:
    """ip xfrm policy getdefault"""


@dataclass(frozen=True, slots=True)
class StateRestore:
    """A state read back from the output of `ip xfrm state`"""

    dump: StateDump


@dataclass(frozen=True, slots=True)
class PolicyRestore:
    """A policy read back from the output of `ip xfrm policy`"""

    dump: PolicyDump


StateCommand = (
    StateAdd
    | StateUpdate
    | StateDelete
    | StateGet
    | StateAllocSpi
    | StateFlush
    | StateDeleteAll
    | StateList
    | StateCount
)
PolicyCommand = (
    PolicyAdd
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
)
Restored = StateRestore | PolicyRestore
Command = StateCommand | PolicyCommand | Restored


@dataclass(frozen=True, slots=True)
class Statement:
    """A command with the number of the line where it starts and its text, in which keys are hidden."""

    line: int
    text: str
    command: Command


class ParseError(Exception):
    """A line that is no command: its number and why, in the words of `ip` or, for `cause`, of the kernel.

    Never quotes key material.
    """

    def __init__(self, line: int, words: str, cause: XfrmError | None = None) -> None:
        super().__init__(line, words)
        self.line = line
        self.words = words
        self.cause = cause

    def __str__(self) -> str:
        return f"line {self.line}: {self.words}"
