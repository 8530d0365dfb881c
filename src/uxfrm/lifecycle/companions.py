"""The tunnel states beside IPComp's: one per mark and pair of ends, there while an IPComp state uses it.

An IPComp peer sends what does not shrink as IP in IP; these states let it in. Nobody asks for them, and
nobody can delete them. Follows: ipcomp_tunnel_attach, ipcomp_tunnel_create; xfrm6_tunnel_alloc_spi.
"""

from __future__ import annotations

from collections.abc import Callable

from uxfrm.model.address import AF_INET, Address
from uxfrm.model.dump import StateDump
from uxfrm.model.flow import PROTO_COMP, PROTO_IPIP, PROTO_IPV6
from uxfrm.model.selector import ANYTHING
from uxfrm.model.state import Rare, StateConfig
from uxfrm.model.template import Mode
from uxfrm.model.unchecked import told
from uxfrm.tables.states import State, StateTable

PROTOCOLS = (PROTO_IPIP, PROTO_IPV6)

_SPI_MAX = 2**32 - 1


class Companions:
    """Who uses which. `insert` puts a companion into force, `drop` takes one out."""

    def __init__(
        self, table: StateTable, insert: Callable[[StateConfig, float], State], drop: Callable[[State], None]
    ) -> None:
        self._table = table
        self._insert = insert
        self._drop = drop
        self._of: dict[State, State] = {}
        self._users: dict[State, int] = {}
        self._last_spi = 0

    def wanted(self, config: StateConfig, now: float) -> State | None:
        """The companion that a new state needs, made if it is not there; None for most states."""
        if config.proto != PROTO_COMP or config.mode != Mode.TUNNEL:
            return None
        proto, mark = _proto(config.family), config.mark.v & config.mark.m
        found = self._table.find_by_addresses(config.daddr, config.saddr, proto, config.family, mark)
        return found or self._insert(self._beside(config), now)

    def attach(self, state: State, companion: State | None) -> None:
        """Count a state as user of its companion."""
        if companion is not None:
            self._of[state] = companion
            self._users[companion] = self._users.get(companion, 0) + 1

    def detach(self, state: State) -> None:
        """Take note that a state has gone; the companion of the last user goes too."""
        companion = self._of.pop(state, None)
        if companion is not None:
            self._users[companion] -= 1
            self.release(companion)

    def release(self, companion: State | None) -> None:
        """Take a companion out that nobody uses."""
        if companion is None or self._users.get(companion):
            return
        self._users.pop(companion, None)
        if companion.row >= 0:
            self._drop(companion)

    def restored(self, dump: StateDump, now: float) -> State:
        """Bring back a companion before the states that use it, with its counters."""
        x, rare = dump.config, Rare(replay_maxage=0, replay_maxdiff=0, current=dump.current)
        names = ("daddr", "saddr", "proto", "spi", "family", "mode", "mark", "if_id")
        values = {name: getattr(x, name) for name in names}
        state = self._insert(told(StateConfig, **values, selector=x.selector or ANYTHING, rare=rare), now)
        self._users[state] = 0
        return state

    def holds(self, state: State) -> bool:
        """True for a companion in use. Follows: xfrm_state_kern."""
        return self._users.get(state, 0) > 0

    def _beside(self, config: StateConfig) -> StateConfig:
        """Flags are taken over for IPv4 only. Follows: ipcomp_tunnel_create, ipcomp6_tunnel_create."""
        four = config.family == AF_INET
        return told(
            StateConfig,
            daddr=config.daddr,
            saddr=config.saddr,
            proto=_proto(config.family),
            spi=self._spi(config.saddr),
            family=config.family,
            mode=config.mode,
            selector=config.selector,
            flags=config.flags if four else 0,
            extra_flags=config.extra_flags if four else 0,
            mark=config.mark,
            if_id=config.if_id,
            rare=Rare(replay_maxage=0, replay_maxdiff=0),
        )

    def _spi(self, saddr: Address) -> int:
        """IPv4: the source address itself. IPv6: a number for it, the same for all companions from there."""
        if len(saddr) == 4:
            return int.from_bytes(saddr)
        taken = {
            state.config.saddr: state.config.spi for state in self._users if len(state.config.saddr) == 16
        }
        if saddr not in taken:
            self._last_spi = self._last_spi % _SPI_MAX + 1
        return taken.get(saddr, self._last_spi)


def _proto(family: int) -> int:
    return PROTO_IPIP if family == AF_INET else PROTO_IPV6
