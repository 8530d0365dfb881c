"""The SPD: what requests and time do to policies.

Follows: xfrm_policy_insert, xfrm_policy_timer, xfrm_policy_flush. Only limits of seconds act; those of bytes
and packets are kept.
"""

from __future__ import annotations

from collections.abc import Callable

from uxfrm.lifecycle.events import Event, PolicyExpired
from uxfrm.model.dump import PolicyDump, PolicyId
from uxfrm.model.policy import PolicyConfig
from uxfrm.tables.deadlines import SecondTimers
from uxfrm.tables.policies import Policy, PolicyTable

KM_TIMEOUT = 30
"""Seconds after which a soft limit that has passed is told again (XFRM_KM_TIMEOUT)."""


class PolicyDatabase:
    """Live policies with their timers. `sync_used` brings the times of their last use up to date.

    `gone` is told each policy that goes, and the one that takes its place, if any.
    """

    def __init__(
        self,
        table: PolicyTable,
        sync_used: Callable[[], None],
        tell: Callable[[Event], object],
        gone: Callable[[Policy, Policy | None], None] = lambda policy, successor: None,
    ) -> None:
        self.table = table
        self.timers: SecondTimers[Policy] = SecondTimers()
        self._sync_used = sync_used
        self._tell = tell
        self._gone = gone

    def add(self, config: PolicyConfig, now: float) -> Policy:
        """NEWPOLICY: EEXIST."""
        return self._begin(self.table.add(config, int(now)), now)

    def update(self, config: PolicyConfig, now: float) -> Policy:
        """UPDPOLICY: add or replace."""
        policy, old = self.table.update(config, int(now))
        if old is not None:
            self._drop(old, policy)
        return self._begin(policy, now)

    def restore(self, dump: PolicyDump, now: float) -> Policy:
        """Bring back a policy from a dump, with its index and times. EEXIST."""
        policy = self.table.add(dump.config, int(now))
        policy.add_time = dump.current.add_time or int(now)
        policy.use_time = dump.current.use_time
        return self._begin(policy, now)

    def delete(self, identity: PolicyId) -> Policy:
        """DELPOLICY: ENOENT."""
        self._sync_used()
        policy = self.table.delete(identity)
        self._drop(policy)
        return policy

    def flush(self, kind: int) -> int:
        """FLUSHPOLICY: how many went."""
        gone = self.table.flush(kind)
        for policy in gone:
            self._drop(policy)
        return len(gone)

    def _drop(self, policy: Policy, successor: Policy | None = None) -> None:
        self.timers.forget(policy)
        self._gone(policy, successor)

    def force(self, identity: PolicyId, hard: bool) -> None:
        """POLEXPIRE as a request: ENOENT; a hard one deletes. Follows: xfrm_add_pol_expire."""
        self._sync_used()
        self._expire(self.table.get(identity), hard)

    def _expire(self, policy: Policy, hard: bool) -> None:
        if hard:
            self.table.remove(policy)
            self._drop(policy)
        self._tell(PolicyExpired(policy.dump, hard))

    # -- time

    def advance(self, now: float) -> None:
        """Let time limits act up to `now`, soonest first."""
        for when, policy in self.timers.due(now):
            self._sync_used()
            self._check_time(policy, int(when))

    def _check_time(self, policy: Policy, now_s: int) -> None:
        """Follows: xfrm_policy_timer: 1. hard limits  2. soft limits  3. plan the next check."""
        limits = policy.config.lifetime
        hard = _ends(policy, limits.hard_add, limits.hard_use)
        if any(end <= now_s for end in hard):
            self._expire(policy, hard=True)
            return
        if any(end <= now_s for end in _ends(policy, limits.soft_add, limits.soft_use)):
            self._expire(policy, hard=False)
        self._arm(policy, now_s)

    def _begin(self, policy: Policy, now: float) -> Policy:
        """Start the timer of a policy that came: the first check is a second later."""
        if policy.config.lifetime.timed:
            self.timers.start(policy, now)
            self._arm(policy, 0, now + 1)
        return policy

    def _arm(self, policy: Policy, now_s: int, earliest: float = 0) -> None:
        """Plan the next check; a soft limit that has passed by `now_s` is told again after a while."""
        limits = policy.config.lifetime
        ends = _ends(policy, limits.hard_add, limits.hard_use)
        for end in _ends(policy, limits.soft_add, limits.soft_use):
            ends.append(end if end > now_s else now_s + KM_TIMEOUT)
        if ends:
            self.timers.plan_second(policy, min(ends), earliest)


def _ends(policy: Policy, add: int, use: int) -> list[int]:
    """When limits since addition and since the last use will have passed; unused counts as just added."""
    ends = [policy.add_time + add] if add else []
    if use:
        ends.append((policy.use_time or policy.add_time) + use)
    return ends
