"""The SAD: what requests and time do to states.

Follows: xfrm_state_add, xfrm_state_update, xfrm_state_delete, xfrm_state_flush, xfrm_alloc_spi,
xfrm_timer_handler. Checks of a single configuration were made when it was constructed (model.state); here
are those that need the table.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

from uxfrm.lifecycle import companions
from uxfrm.lifecycle.companions import Companions
from uxfrm.lifecycle.events import Event, StateExpired
from uxfrm.lifecycle.timers import StateTimers, deadlines
from uxfrm.model.address import AF_INET, AF_UNSPEC, ANY6, BITS
from uxfrm.model.dump import LarvalConfig, StateDump, StateId
from uxfrm.model.error import XfrmError, invalid
from uxfrm.model.flow import PROTO_COMP, PROTO_IPSEC_ANY
from uxfrm.model.mark import NO_MARK
from uxfrm.model.selector import Selector
from uxfrm.model.state import NOPMTUDISC, LifeState, ReplayEsn, SaDir, StateConfig
from uxfrm.model.sysctl import Sysctls
from uxfrm.model.template import IPSEC_PROTOCOLS
from uxfrm.model.unchecked import changed
from uxfrm.tables.rows import ports
from uxfrm.tables.states import State, StateTable
from uxfrm.tables.statesearch import bump_rivals, find_larval

_U32 = 2**32 - 1


class StateDatabase:
    """Live states with their timers.

    The data path's hooks: `install` and `uninstall` a state's transform, and take note of one `installed`.
    """

    def __init__(
        self,
        table: StateTable,
        randbytes: Callable[[int], bytes],
        install: Callable[[State], None],
        uninstall: Callable[[State], None],
        tell: Callable[[Event], object],
        installed: Callable[[State], None] = lambda _: None,
    ) -> None:
        self.table = table
        self.timers = StateTimers()
        self._companions = Companions(table, self.insert, self.drop)
        self.sysctls = Sysctls()
        self._randbytes = randbytes
        self._install = install
        self._installed = installed
        self._uninstall = uninstall
        self._tell = tell

    # -- NEWSA, UPDSA

    def constructed(self, config: StateConfig) -> StateConfig:
        """What a request for `config` makes under the namespace's sysctls. Follows: __xfrm_init_state."""
        if not self.sysctls.ip_no_pmtu_disc or config.family != AF_INET or config.direction == SaDir.IN:
            return config
        return changed(config, flags=config.flags | NOPMTUDISC)

    def add(self, config: StateConfig, now: float) -> State:
        """NEWSA (`ip xfrm state add`). EEXIST for an occupied key; ENOSYS where no engine has the cipher."""
        if self._locate(config) is not None:
            raise XfrmError(errno.EEXIST)
        return self.insert(config, now, self._larval_for(config))

    def insert(self, config: StateConfig, now: float, larval: State | None = None) -> State:
        """Put a checked configuration into force in place of its larval state. Follows: xfrm_state_insert."""
        companion = self._companions.wanted(config, now)
        state = self.table.insert(config, LifeState.VALID, int(now))
        self._set_thresholds(state, config)
        try:
            self._install(state)
        except XfrmError:
            self.table.remove(state)
            self._companions.release(companion)
            raise
        self._companions.attach(state, companion)
        self._installed(state)
        if larval is not None:
            self.drop(larval)
        bump_rivals(self.table, state)
        self.timers.begin(state, now)
        return state

    def _set_thresholds(self, state: State, config: StateConfig) -> None:
        """Follows: the aevent part of xfrm_state_construct."""
        rare, x, usual = config.rare, state.record, self.sysctls
        x["ae_maxdiff"] = usual.xfrm_aevent_rseqth if rare.replay_maxdiff is None else rare.replay_maxdiff
        x["ae_maxage"] = usual.xfrm_aevent_etime if rare.replay_maxage is None else rare.replay_maxage

    def update(self, config: StateConfig, now: float) -> State:
        """UPDSA (`ip xfrm state update`): complete a larval state, or change what may be changed.

        ESRCH where there is none. Keys, sequence numbers, reqid, mode and addresses of a live state stay.
        """
        state = self._locate(config)
        if state is None:
            raise XfrmError(errno.ESRCH)
        if isinstance(state.config, LarvalConfig):
            if config.direction and state.config.direction != config.direction:
                raise XfrmError(errno.ESRCH)
            return self.insert(config, now, state)
        if state.config.direction != config.direction:
            raise XfrmError(errno.ESRCH)
        if state.life != LifeState.VALID:
            raise invalid()
        self._change(state, state.config, config, now)
        return state

    def _change(self, state: State, old: StateConfig, new: StateConfig, now: float) -> None:
        """Follows: the tail of xfrm_state_update."""
        if (old.encap is None) != (new.encap is None) or (
            old.encap and new.encap and old.encap.type != new.encap.type
        ):
            raise invalid()
        rare = old.rare
        if rare.coaddr is not None and new.rare.coaddr is not None:
            rare = replace(rare, coaddr=new.rare.coaddr)
        set_mark = new.set_mark if new.set_mark != NO_MARK else old.set_mark
        state.config = replace(
            old,
            encap=new.encap,
            lifetime=new.lifetime,
            rare=rare,
            set_mark=set_mark,
            if_id=new.if_id or old.if_id,
        )
        x = state.record
        self.table.set_limits(state.row, state.config)
        x["dying"] = 0
        x["set_v"], x["set_m"] = set_mark.v & set_mark.m, set_mark.m
        x["encap_ports"] = ports(new.encap)
        x["if_id"] = state.config.if_id
        self.table.bump(state)
        bump_rivals(self.table, state)
        self._installed(state)
        self.timers.begin(state, now)
        self._check_use(state)

    def _check_use(self, state: State) -> None:
        """Let new byte and packet limits act at once on a state in use. Follows: xfrm_state_check_expire."""
        x = state.record
        if not x["use_time"]:
            return
        if x["bytes"] >= x["hard_byte"] or x["packets"] >= x["hard_packet"]:
            self.expire(state)
        elif x["bytes"] >= x["soft_byte"] or x["packets"] >= x["soft_packet"]:
            x["dying"] = 1
            self._wither(state, state.dump())

    def _locate(self, config: StateConfig) -> State | None:
        """The state that a request for `config` means. Follows: __xfrm_state_locate."""
        mark = config.mark.v & config.mark.m
        if config.proto in IPSEC_PROTOCOLS:
            if not config.spi:
                return None
            return self.table.find(config.daddr, config.spi, config.proto, config.family, mark)
        return self.table.find_by_addresses(config.daddr, config.saddr, config.proto, config.family, mark)

    def _larval_for(self, config: StateConfig) -> State | None:
        """The larval state that a new one completes: by sequence, else by what was asked for."""
        if config.proto not in IPSEC_PROTOCOLS:
            return None
        if config.seq:
            for state in self.table.find_by_seq(config.seq):
                c = state.config
                same = (c.proto, c.daddr) == (config.proto, config.daddr) and c.mark.covers(_value(config))
                if same and state.life == LifeState.ACQ and c.cpu == config.cpu:
                    return state
        return find_larval(self.table, config)

    def restore(self, dump: StateDump, now: float) -> State:
        """Bring back a state as a dump told it, counters, window and times included."""
        config = dump.config
        if config.proto in companions.PROTOCOLS:
            return self._companions.restored(dump, now)
        if isinstance(config, LarvalConfig):
            return self._put_larval(config, dump.current.add_time or now)
        rare = replace(config.rare, current=dump.current)
        if isinstance(dump.replay, ReplayEsn):
            config = replace(config, rare=rare, replay_esn=dump.replay)
        else:
            config = replace(config, rare=rare, replay=dump.replay)
        state = self.add(config, now)
        x = state.record
        x["stat_window"], x["stat_replay"], x["stat_failed"] = dump.stats
        x["lastused"] = dump.lastused
        return state

    # -- DELSA, GETSA, FLUSHSA

    def get(self, identity: StateId) -> State:
        """GETSA (`ip xfrm state get`). ESRCH for none."""
        state = self._named(identity)
        if state is None:
            raise XfrmError(errno.ESRCH)
        return state

    def delete(self, identity: StateId) -> State:
        """DELSA (`ip xfrm state delete`). ESRCH for none, EPERM for one that IPComp keeps beside its own."""
        state = self.get(identity)
        if self._companions.holds(state):
            raise XfrmError(errno.EPERM, "SA is in use by tunnels")
        self.drop(state)
        return state

    def force(self, identity: StateId, hard: bool) -> None:
        """EXPIRE as a request: tell that a limit was reached; a hard one ends the state.

        ENOENT for none, EINVAL for one that is not valid. Follows: xfrm_add_sa_expire.
        """
        state = self.table.find(identity.daddr, identity.spi, identity.proto, identity.family, identity.mark)
        if state is None:
            raise XfrmError(errno.ENOENT)
        if state.life != LifeState.VALID:
            raise invalid("SA must be in VALID state")
        if hard:
            self.drop(state)
        self._tell(StateExpired(state.dump(), hard))

    def _named(self, identity: StateId) -> State | None:
        if identity.proto in IPSEC_PROTOCOLS:
            return self.table.find(
                identity.daddr, identity.spi, identity.proto, identity.family, identity.mark
            )
        if identity.saddr is None:
            raise invalid()
        return self.table.find_by_addresses(
            identity.daddr, identity.saddr, identity.proto, identity.family, identity.mark
        )

    def flush(self, proto: int) -> int:
        """FLUSHSA (`ip xfrm state flush`): 0 for all, 255 for AH, ESP and COMP; returns how many went.

        Companions of IPComp states go with these.
        """
        gone = [state for state in self.table if _of_protocol(state.config.proto, proto)]
        gone = [state for state in gone if not self._companions.holds(state)]
        for state in gone:
            self.drop(state)
        return len(gone)

    def drop(self, state: State) -> None:
        """Take a state out of everything, telling nobody. Follows: __xfrm_state_delete."""
        if self.table.bound:
            # Where states are bound to CPUs, of two others the one may win against it and the other not.
            bump_rivals(self.table, state)
        if isinstance(state.config, StateConfig):
            self._uninstall(state)
        self.timers.forget(state)
        self.table.remove(state)
        self._companions.detach(state)

    # -- ALLOCSPI

    def alloc_spi(self, wanted: LarvalConfig, low: int, high: int, now: float) -> State:
        """ALLOCSPI (`ip xfrm state allocspi`): a larval state with an SPI of its own.

        EINVAL for a bad protocol or range, ENOENT where the range is used up: the larval state stays.
        """
        _check_spi_range(wanted.proto, low, high)
        state = self._larval_by_seq(wanted) or find_larval(self.table, wanted)
        if state is None:
            state = self._put_larval(self._new_larval(wanted), now)
        config = state.config
        if isinstance(config, LarvalConfig) and not config.spi:
            spi = self._free_spi(wanted.proto, low, high)
            direction = wanted.direction or config.direction
            self.table.assign_spi(state, replace(config, spi=spi, direction=direction))
        return state

    def _larval_by_seq(self, wanted: LarvalConfig) -> State | None:
        if not wanted.seq:
            return None
        for state in self.table.find_by_seq(wanted.seq):
            c = state.config
            same = c.daddr == wanted.daddr and c.mark.covers(_value(wanted))
            if same and state.life == LifeState.ACQ and c.cpu == wanted.pcpu:
                return state
        return None

    def _new_larval(self, wanted: LarvalConfig) -> LarvalConfig:
        """A state with a selector from host to host, which names no family.

        Addresses of a family that is none are not kept; the mark is, as it was sent; the direction comes with
        the SPI.
        Follows: the creating half of __find_acq_core.
        """
        known = wanted.family in BITS
        daddr, saddr = (wanted.daddr, wanted.saddr) if known else (ANY6, ANY6)
        bits = BITS.get(wanted.family, 0)
        return replace(
            wanted,
            daddr=daddr,
            saddr=saddr,
            spi=0,
            seq=0,
            direction=SaDir.UNSET,
            selector=Selector(AF_UNSPEC, daddr, saddr, bits, bits),
            hard_add=self._acq_expires,
        )

    @property
    def _acq_expires(self) -> int:
        """The limit of a larval state, 0 for none: the kernel keeps the sysctl without sign."""
        return self.sysctls.xfrm_acq_expires & _U32

    def _free_spi(self, proto: int, low: int, high: int) -> int:
        if low == high:
            if low and not self.table.spi_in_use(low, proto):
                return low
        else:
            for _ in range(min(high - low + 1, 65536)):
                spi = low + int.from_bytes(self._randbytes(8)) % (high - low + 1)
                if spi and not self.table.spi_in_use(spi, proto):
                    return spi
        raise XfrmError(errno.ENOENT, "No SPI available in the requested range")

    def insert_larval(self, wanted: LarvalConfig, now: float) -> State:
        """Put in a larval state that packets made, with all its keys. Follows: the end of xfrm_state_find."""
        return self._put_larval(replace(wanted, hard_add=self._acq_expires), now)

    def _put_larval(self, config: LarvalConfig, now: float) -> State:
        """A larval state is waited for where one without source would have done: that one is a rival."""
        state = self.table.insert(config, LifeState.ACQ, int(now))
        bump_rivals(self.table, state)
        self.timers.begin(state, now)
        return state

    # -- time

    def advance(self, now: float, since_s: float = 0) -> None:
        """Let time limits act up to `now`, soonest first.

        It was `since_s` already: limits that a request has set in the past are found passed then, together.
        """
        for when, state in self.timers.due(now):
            self._check_time(state, int(max(when, since_s)))

    def _check_time(self, state: State, now_s: int) -> None:
        """Follows: xfrm_timer_handler: 1. hard limits  2. soft limits  3. plan the next check."""
        hard, soft = deadlines(state)
        if hard is not None and hard <= now_s:
            self.expire(state)
            return
        if soft is not None and soft <= now_s:
            state.record["dying"] = 1
            self._wither(state, state.dump())
        self.timers.arm(state)

    def expire(self, state: State) -> None:
        """End a state by a hard limit: it goes, and EXPIRE says so instead of DELSA."""
        state.record["life"] = LifeState.EXPIRED
        self.drop(state)
        self._tell(StateExpired(state.dump(), hard=True))

    def soften(self, state: State) -> None:
        """Tell that a packet came at a soft limit; the row already says dying, and counts the packet."""
        told, x = state.dump(), state.record
        current = told.current._replace(bytes=int(x["told_bytes"]), packets=int(x["told_packets"]))
        self._wither(state, replace(told, current=current))

    def _wither(self, state: State, told: StateDump) -> None:
        """Tell of a state that is dying since now; others are preferred to it."""
        bump_rivals(self.table, state)
        self._tell(StateExpired(told, hard=False))


def _value(config: StateConfig | LarvalConfig) -> int:
    """The mark of a request, as it is compared with existing states."""
    return config.mark.v & config.mark.m


def _of_protocol(proto: int, wanted: int) -> bool:
    """Follows: xfrm_id_proto_match."""
    return wanted in (0, proto) or (wanted == PROTO_IPSEC_ANY and proto in IPSEC_PROTOCOLS)


def _check_spi_range(proto: int, low: int, high: int) -> None:
    """Follows: verify_spi_info."""
    if proto not in IPSEC_PROTOCOLS:
        raise invalid("Invalid protocol, must be one of AH, ESP, IPCOMP")
    if proto == PROTO_COMP and high >= 0x10000:
        raise invalid("IPCOMP SPI must be <= 65535")
    if low > high:
        raise invalid("Invalid SPI range: min > max")
