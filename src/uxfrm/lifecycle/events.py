"""What a namespace tells those who listen; netlink makes multicast messages of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from uxfrm.model.dump import PolicyDump, StateDump


@dataclass(frozen=True, slots=True)
class StateExpired:
    """EXPIRE: a soft limit was reached, or (hard) the state is gone."""

    state: StateDump
    hard: bool


@dataclass(frozen=True, slots=True)
class PolicyExpired:
    """POLEXPIRE: a soft limit was reached, or (hard) the policy is gone."""

    policy: PolicyDump
    hard: bool


Event = StateExpired | PolicyExpired
Listener = Callable[[Event], None]
