"""What a dump tells of a live state or policy: its configuration and its running figures at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from uxfrm.model.address import AF_INET, Address
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.mark import NO_MARK, Mark
from uxfrm.model.policy import Direction, PolicyConfig, PolicyType, SecurityContext
from uxfrm.model.selector import Selector
from uxfrm.model.state import LifeState, ReplayEsn, ReplayLegacy, SaDir, StateConfig


class StateStats(NamedTuple):
    """struct xfrm_stats: packets outside the window, packets replayed, ICV failures."""

    replay_window: int = 0
    replay: int = 0
    integrity_failed: int = 0


NO_STATS = StateStats()


@dataclass(frozen=True, slots=True)
class StateDump:
    """One state as NEWSA would carry it. `replay` is the current window, of the kind the state has."""

    config: StateConfig | LarvalConfig
    current: LifetimeCurrent
    replay: ReplayLegacy | ReplayEsn
    stats: StateStats = NO_STATS
    lastused: int = 0
    life: LifeState = LifeState.VALID

    @classmethod
    def requested(cls, config: StateConfig, now_s: int) -> StateDump:
        """A state as it was asked for, before anything happened to it."""
        current = config.rare.current or LifetimeCurrent(add_time=now_s)
        return cls(config, current, config.replay_esn or config.replay)

    @classmethod
    def larval(cls, config: LarvalConfig) -> StateDump:
        """A larval state as it is named, not as it is."""
        return cls(config, LifetimeCurrent(), ReplayLegacy(), life=LifeState.ACQ)


@dataclass(frozen=True, slots=True)
class LarvalConfig:
    """What ALLOCSPI and acquires know of a state that has no keys yet (struct xfrm_userspi_info).

    Also the shape of a larval state in dumps: `selector` and `hard_add` are filled in by the table.
    """

    daddr: Address
    saddr: Address
    proto: int
    spi: int = 0
    family: int = AF_INET
    mode: int = 0
    reqid: int = 0
    seq: int = 0
    mark: Mark = NO_MARK
    if_id: int = 0
    direction: int = SaDir.UNSET
    pcpu: int | None = None
    selector: Selector | None = None
    hard_add: int = 0

    @property
    def cpu(self) -> int | None:
        """The CPU to which the state is bound, if any."""
        return self.pcpu


@dataclass(frozen=True, slots=True)
class PolicyDump:
    """One policy as NEWPOLICY would carry it; `config.index` is the live index."""

    config: PolicyConfig
    current: LifetimeCurrent


class StateId(NamedTuple):
    """The key of one state: struct xfrm_usersa_id with MARK and, for other protocols, SRCADDR."""

    daddr: Address
    spi: int
    proto: int
    family: int
    mark: int = 0
    saddr: Address | None = None


class StateFilter(NamedTuple):
    """What a dump of states is limited to: PROTO (255 for AH, ESP and COMP) and struct xfrm_address_filter.

    Addresses have 16 bytes, an IPv4 one in front; 0 stands for any protocol, family, address.
    """

    proto: int = 0
    family: int = 0
    saddr: bytes = bytes(16)
    splen: int = 0
    daddr: bytes = bytes(16)
    dplen: int = 0


ALL_STATES = StateFilter()


@dataclass(frozen=True, slots=True)
class PolicyId:
    """The key of one policy: by index where it is not 0, else by selector and security context."""

    direction: Direction | int
    selector: Selector | None = None
    index: int = 0
    type: PolicyType | int = PolicyType.MAIN
    mark: Mark = NO_MARK
    if_id: int = 0
    context: SecurityContext | None = None
