"""XFRM as plain as it gets, its time and packets: one second and one packet at a time.

Like plain_tables, written from the semantics document alone, whose sections are in brackets.
"""

from __future__ import annotations

from plain_tables import ACQ_EXPIRES, Limits, PlainPolicy, PlainState, Sealed, Tables
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import LifeState


class Model(Tables):
    """One namespace."""

    # -- time [4.1, 4.3]

    def advance(self, to: int) -> None:
        for second in range(self.now, to + 1):
            self.now = second
            for state in list(self.states):
                self._check_time(state)
            for policy in list(self.policies):
                if policy.check and policy.check <= second:
                    self._check_policy(policy)

    def _check_time(self, s: PlainState) -> None:
        if self.now < s.looked_at:
            return

        def reached(add: int, use: int) -> bool:
            return bool((add and s.add + add <= self.now) or (use and s.use and s.use + use <= self.now))

        if reached(s.limits.hard_add, s.limits.hard_use):
            self._expire(s)
        elif not s.dying and reached(s.limits.soft_add, s.limits.soft_use):
            s.dying = True
            self._tell("expired", False, s.usersa())

    def _check_policy(self, p: PlainPolicy) -> None:
        hard, soft = self._policy_ends(p)
        if any(end <= self.now for end in hard):
            self.policies.remove(p)
            self._tell("policy expired", True, p.told())
            return
        if any(end <= self.now for end in soft):
            self._tell("policy expired", False, p.told())
        self._arm(p, self.now)

    # -- packets [4.2, 6, 7]

    def _within_limits(self, s: PlainState) -> bool:
        s.use = s.use or self.now
        if self._over(s, "hard"):
            self._expire(s)
            return False
        if not s.dying and self._over(s, "soft"):
            s.dying = True
            self._tell("expired", False, s.usersa())
        return True

    def _count(self, s: PlainState, size: int) -> None:
        s.bytes += size
        s.packets += 1
        s.lastused = self.now

    def output(self, flow: int, size: int, wire: int) -> tuple[Outcome, Sealed | None]:
        """`wire` is the SPI that the namespace used, 0 for none: see `_choose`."""
        outcome, sealed = self._output(flow, size, wire)
        self._tally(outcome)
        return outcome, sealed

    def _output(self, flow: int, size: int, wire: int) -> tuple[Outcome, Sealed | None]:
        policy = self.lookup(1, flow)
        if policy is None:
            return (Outcome.OUT_DEFAULT_BLOCK if self.default_block[1] else Outcome.CLEAR), None
        s = self._choose(policy, flow, wire) if policy.reqid and not policy.block else None
        if s is None and policy.reqid and not policy.block:
            return Outcome.OUT_NO_STATE, None
        policy.use = self.now
        if policy.block:
            return Outcome.OUT_POLICY_BLOCK, None
        if s is None:
            return Outcome.CLEAR_ALLOWED, None
        if not self._within_limits(s):
            return Outcome.OUT_EXPIRED, None
        s.oseq += 1
        self._count(s, size)
        return Outcome.SENT, Sealed(s.daddr, s.spi, s.oseq, s.key, flow, size)

    def begin(self, flows: list[int]) -> None:
        """A batch comes: its flows may go on with the states that are the best now, or that they had."""
        for flow in flows:
            policy = self.lookup(1, flow)
            best = self._best(policy) if policy is not None else None
            self.stand[flow] = [s for s in (*self.stand.get(flow, [])[:1], best) if s is not None]

    def _fits(self, p: PlainPolicy) -> list[PlainState]:
        return [s for s in self.states if (s.daddr, s.saddr, s.reqid) == (p.remote, p.local, p.reqid)]

    def _best(self, p: PlainPolicy) -> PlainState | None:
        """[6.4]: not dying before dying, then the newest."""
        valid = [s for s in self._fits(p) if s.life == LifeState.VALID]
        return max(valid, key=lambda s: (not s.dying, s.add), default=None)

    def _choose(self, p: PlainPolicy, flow: int, wire: int) -> PlainState | None:
        """The state for a packet; asked for where there is none.

        A flow may go on with a state that has become dying, or older than another, while its bundle stands
        [6.6]: which of those it was, `wire` tells.
        """
        fits, best = self._fits(p), self._best(p)
        if best is not None:
            stand = [s for s in self.stand[flow] if any(s is other for other in fits)]
            kept = next((s for s in stand if s.spi == wire or (not wire and self._over(s, "hard"))), best)
            self.stand[flow] = [kept, *stand]
            return kept
        if not fits and self.acquires_heard:
            self.sequence += 1
            larval = PlainState(
                p.remote, p.local, 0, p.reqid, 0, km_seq=self.sequence, life=LifeState.ACQ,
                limits=Limits(hard_add=ACQ_EXPIRES),
            )  # fmt: skip
            self._tell("acquire", self.sequence, p.remote, p.reqid)
            self._insert(larval, None)
        return None

    def input(self, packet: Sealed) -> Outcome:
        outcome = self._input(packet)
        self._tally(outcome)
        return outcome

    def _input(self, packet: Sealed) -> Outcome:
        s = self.find(packet.daddr, packet.spi)
        if s is None:
            return Outcome.IN_NO_STATE
        if s.life == LifeState.ACQ:
            return Outcome.IN_STATE_ACQ
        refusal = self._replayed(s, packet.seq)
        if refusal is not None:
            return refusal
        if not self._within_limits(s):
            return Outcome.IN_EXPIRED
        if not packet.good or packet.key != s.key:
            s.stats[2] += 1
            return Outcome.IN_ICV
        if s.window:
            if packet.seq - s.top >= s.window:
                s.seen.clear()
            s.top = max(s.top, packet.seq)
            s.seen.add(packet.seq)
        self._count(s, packet.size)
        return self._allowed(s, packet.flow)

    @staticmethod
    def _replayed(s: PlainState, seq: int) -> Outcome | None:
        if not s.window or seq > s.top:
            return None
        if s.top - seq >= s.window:
            s.stats[0] += 1
            return Outcome.IN_SEQ_OLD
        if seq in s.seen:
            s.stats[1] += 1
            return Outcome.IN_SEQ_REPLAYED
        return None

    def _allowed(self, s: PlainState, flow: int) -> Outcome:
        """[6.7]"""
        policy = self.lookup(0, flow)
        if policy is None:
            return Outcome.IN_DEFAULT_BLOCK if self.default_block[0] else Outcome.IN_NO_POLICY
        policy.use = self.now
        if policy.block:
            return Outcome.IN_POLICY_BLOCK
        if policy.reqid != s.reqid or policy.local != s.saddr:
            return Outcome.IN_TEMPLATE
        return Outcome.DELIVERED

    def _tally(self, outcome: Outcome) -> None:
        if outcome.counter is not None:
            self.counters[outcome.counter.name] += 1
