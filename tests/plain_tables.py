"""XFRM as plain as it gets, its tables: lists walked from end to end.

Written from the semantics document alone (sections in brackets), as what the state machine test compares a
namespace with. It knows one address family, ESP in tunnel mode, one template a policy and no marks; keys are
numbers. Rule: no index, no cache, no timer, nothing from uxfrm but names of outcomes and life states.
"""

from __future__ import annotations

import errno
from collections import Counter as Tally
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from uxfrm.model.state import LifeState

KM_TIMEOUT = 30
ACQ_EXPIRES = 30
INF = 2**64 - 1


class Refused(Exception):
    """A request is answered with this errno."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.number = number


class Limits(NamedTuple):
    """Soft and hard limits [4.1, 4.2]."""

    soft_byte: int = INF
    hard_byte: int = INF
    soft_packet: int = INF
    hard_packet: int = INF
    soft_add: int = 0
    hard_add: int = 0
    soft_use: int = 0
    hard_use: int = 0


NO_LIMITS = Limits()


@dataclass
class PlainState:
    """A state, or, with key 0, a larval one."""

    daddr: str
    saddr: str
    spi: int
    reqid: int
    key: int
    window: int = 0
    esn: bool = False
    limits: Limits = NO_LIMITS
    km_seq: int = 0
    life: LifeState = LifeState.VALID
    dying: bool = False
    bytes: int = 0
    packets: int = 0
    add: int = 0
    use: int = 0
    lastused: int = 0
    oseq: int = 0
    top: int = 0
    seen: set[int] = field(default_factory=set)
    stats: list[int] = field(default_factory=lambda: [0, 0, 0])
    looked_at: int = 0  # the first second in which its timer looks at its limits

    def told(self) -> tuple[Any, ...]:
        """What a dump tells of it."""
        return (
            self.daddr, self.saddr, self.spi, self.reqid, self.life.name, self.bytes, self.packets, self.add,
            self.use, self.lastused, self.oseq, self.top, self.bitmap(), tuple(self.stats),
        )  # fmt: skip

    def usersa(self) -> tuple[Any, ...]:
        """What EXPIRE tells of it [4.7]: neither its window nor when it was used last.

        Of the statistics, ICV failures are left out: where the packet at the limit is damaged itself, Linux
        tells of the limit before it fails, a namespace after.
        """
        return usersa(self.told())

    def bitmap(self) -> int:
        """The window as a number [8.1]: bit 0 is the newest, or with ESN bit (s - 1) mod window is s.

        Behind a window of less than 32 its bits go on for as long as no jump clears them.
        """
        if self.esn:
            return sum(1 << (s - 1) % self.window for s in self.seen if self.top - s < self.window)
        return sum(1 << self.top - s for s in self.seen if self.top - s < 32)


def usersa(told: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of a state as a dump tells it, what an event has that carries no more than its fixed part."""
    return told[:4] + told[5:9] + told[13][:2]


@dataclass
class PlainPolicy:
    """A policy; `check` is when its timer looks next, 0 for never."""

    direction: int
    selector: int
    priority: int
    reqid: int
    block: bool
    limits: Limits
    index: int = 0
    add: int = 0
    use: int = 0
    check: int = 0
    remote: str = ""
    local: str = ""

    def told(self) -> tuple[Any, ...]:
        """What a dump tells of it."""
        return (
            self.direction, self.selector, self.index, self.reqid, self.block, self.add, self.use,
            self.remote, self.local,
        )  # fmt: skip


class Sealed(NamedTuple):
    """A packet on the wire; `good` is False where a bit of it was changed."""

    daddr: str
    spi: int
    seq: int
    key: int
    flow: int
    size: int
    good: bool = True


class Tables:
    """States and policies, and what requests do to them. Lists are newest first, as dumps are [1.1]."""

    def __init__(self, now: int, covers: dict[int, set[int]]) -> None:
        self.now = now
        self.covers = covers
        self.states: list[PlainState] = []
        self.policies: list[PlainPolicy] = []
        self.default_block = [False, False]
        self.counters: Tally[str] = Tally()
        self.events: list[tuple[Any, ...]] = []
        self.acquires_heard = False
        self.sequence = 0
        self.generator = 0
        self.stand: dict[int, list[PlainState]] = {}

    def _tell(self, *event: Any) -> None:
        self.events.append((self.now, *event))

    # -- states [3.3 to 3.7]

    def find(self, daddr: str, spi: int) -> PlainState | None:
        return next((s for s in self.states if spi and (s.daddr, s.spi) == (daddr, spi)), None)

    def add(self, new: PlainState) -> None:
        if self.find(new.daddr, new.spi):
            raise Refused(errno.EEXIST)
        self._insert(new, self._larval_for(new))
        self._tell("added", False, new.told())

    def _insert(self, new: PlainState, larval: PlainState | None) -> None:
        new.add = new.add or self.now
        new.looked_at = self.now + 1
        self.states.insert(0, new)
        if new.key:
            # Bundles through older states of the tunnel are stale [3.3].
            self.stand.clear()
        if larval is not None:
            self._remove(larval)

    def _remove(self, gone: PlainState) -> None:
        self.states = [s for s in self.states if s is not gone]

    def _larval_for(self, new: PlainState) -> PlainState | None:
        larval = [s for s in self.states if s.life == LifeState.ACQ]
        if new.km_seq:
            for s in larval:
                if (s.km_seq, s.daddr) == (new.km_seq, new.daddr):
                    return s
        wanted = (0, new.daddr, new.saddr, new.reqid)
        return next((s for s in larval if (s.spi, s.daddr, s.saddr, s.reqid) == wanted), None)

    def update(self, new: PlainState) -> None:
        old = self.find(new.daddr, new.spi)
        if old is None:
            raise Refused(errno.ESRCH)
        request = replace(new, add=self.now).told()
        if old.life == LifeState.ACQ:
            self._insert(new, old)
        else:
            old.limits, old.dying = new.limits, False
            old.looked_at = self.now + 1
            if old.use and self._over(old, "hard"):
                self._expire(old)
            elif old.use and self._over(old, "soft"):
                old.dying = True
                self._tell("expired", False, old.usersa())
        self._tell("added", True, request)

    def named(self, daddr: str, spi: int, missing: int = errno.ESRCH) -> PlainState:
        found = self.find(daddr, spi)
        if found is None:
            raise Refused(missing)
        return found

    def delete(self, daddr: str, spi: int) -> None:
        gone = self.named(daddr, spi)
        self._remove(gone)
        self._tell("deleted", gone.told())

    def flush(self) -> None:
        if self.states:
            self._tell("flushed")
        self.states = []

    def force(self, daddr: str, spi: int, hard: bool) -> None:
        state = self.named(daddr, spi, errno.ENOENT)
        if state.life != LifeState.VALID:
            raise Refused(errno.EINVAL)
        if hard:
            self._remove(state)
        self._tell("expired", hard, state.usersa())

    def alloc_spi(self, daddr: str, saddr: str, reqid: int, low: int, high: int, drawn: int) -> None:
        """`drawn` is the SPI that the namespace chose, 0 where it found none.

        It draws as often as the range is wide: it may miss what is free where something is taken.
        """
        larval = self._larval_for(PlainState(daddr, saddr, 0, reqid, 0))
        if larval is None:
            larval = PlainState(
                daddr, saddr, 0, reqid, 0, life=LifeState.ACQ, limits=Limits(hard_add=ACQ_EXPIRES)
            )
            self._insert(larval, None)
        taken = {s.spi for s in self.states}
        free = [spi for spi in range(low, high + 1) if spi not in taken]
        if not drawn and len(free) <= high - low:
            raise Refused(errno.ENOENT)
        assert drawn in free
        larval.spi = drawn

    # -- aevents [3.10]

    def new_ae(self, daddr: str, spi: int, oseq_more: int, counted: int | None) -> None:
        state = self.named(daddr, spi)
        if state.life != LifeState.VALID:
            raise Refused(errno.EINVAL)
        state.oseq += oseq_more
        if counted is not None:
            state.bytes, state.packets = counted * 100, counted
        self._tell("monitored", state.told())

    # -- policies [3.8, 3.9]

    def policy(self, direction: int, selector: int) -> PlainPolicy | None:
        wanted = (direction, selector)
        return next((p for p in self.policies if (p.direction, p.selector) == wanted), None)

    def add_policy(self, new: PlainPolicy, update: bool) -> None:
        old = self.policy(new.direction, new.selector)
        if old is not None and not update:
            raise Refused(errno.EEXIST)
        if old is not None:
            self.policies.remove(old)
        new.index = old.index if old is not None else self._index(new.direction)
        new.add = self.now
        self.policies.insert(0, new)
        self._arm(new, 0)
        self._tell("policy added", update, new.told())

    def _index(self, direction: int) -> int:
        taken = {p.index for p in self.policies}
        while True:
            index = self.generator | direction or 8
            self.generator += 8
            if index not in taken:
                return index

    def policy_named(self, direction: int, selector: int) -> PlainPolicy:
        found = self.policy(direction, selector)
        if found is None:
            raise Refused(errno.ENOENT)
        return found

    def delete_policy(self, direction: int, selector: int) -> None:
        gone = self.policy_named(direction, selector)
        self.policies.remove(gone)
        self._tell("policy deleted", gone.told())

    def force_policy(self, direction: int, selector: int, hard: bool) -> None:
        policy = self.policy_named(direction, selector)
        if hard:
            self.policies.remove(policy)
        self._tell("policy expired", hard, policy.told())

    def flush_policies(self) -> None:
        if self.policies:
            self._tell("policies flushed")
        self.policies = []

    def set_default(self, in_block: bool, out_block: bool) -> None:
        self.default_block = [in_block, out_block]
        self._tell("default", in_block, out_block)

    def lookup(self, direction: int, flow: int) -> PlainPolicy | None:
        """Lowest priority first [6]; no two of a direction have the same here."""
        fits = [p for p in self.policies if p.direction == direction and flow in self.covers[p.selector]]
        return min(fits, key=lambda p: p.priority, default=None)

    # -- migrate [3.11]

    def migrate(self, flow: int, old: str, saddr: str, new: str, reqid: int) -> None:
        policy = self.lookup(1, flow)
        if policy is None:
            raise Refused(errno.ENOENT)
        wanted = (old, saddr, reqid)
        state = next((s for s in self.states if (s.daddr, s.saddr, s.reqid) == wanted), None)
        if state is not None and (state.life == LifeState.ACQ or self.find(new, state.spi)):
            raise Refused(errno.ENODATA)
        moved = None
        if state is not None:
            moved = replace(state, daddr=new, dying=False, seen=set(state.seen), stats=[0, 0, 0])
            self._insert(moved, self._larval_for(moved))
        if (policy.remote, policy.local, policy.reqid) != wanted:
            if moved is not None:
                self._remove(moved)
            raise Refused(errno.ENODATA)
        if state is not None:
            self._remove(state)
        policy.remote = new
        self._tell("migrated")

    # -- limits [4.1 to 4.3]

    def _expire(self, s: PlainState) -> None:
        self._remove(s)
        s.life = LifeState.EXPIRED
        self._tell("expired", True, s.usersa())

    @staticmethod
    def _policy_ends(p: PlainPolicy) -> tuple[list[int], list[int]]:
        """When the hard and the soft limits of a policy have passed."""
        used = p.use or p.add
        hard = [start + end for start, end in ((p.add, p.limits.hard_add), (used, p.limits.hard_use)) if end]
        soft = [start + end for start, end in ((p.add, p.limits.soft_add), (used, p.limits.soft_use)) if end]
        return hard, soft

    def _arm(self, p: PlainPolicy, now: int) -> None:
        hard, soft = self._policy_ends(p)
        p.check = min(hard + [end if end > now else now + KM_TIMEOUT for end in soft], default=0)

    def _over(self, s: PlainState, which: str) -> bool:
        return bool(
            s.bytes >= getattr(s.limits, f"{which}_byte") or s.packets >= getattr(s.limits, f"{which}_packet")
        )
