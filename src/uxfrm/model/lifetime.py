"""Lifetimes: what is allowed (struct xfrm_lifetime_cfg) and what was used (struct xfrm_lifetime_cur)."""

from __future__ import annotations

from typing import NamedTuple

INF = 2**64 - 1


class LifetimeConfig(NamedTuple):
    """Soft and hard limits; bytes and packets are unlimited at INF, seconds at 0."""

    soft_byte: int = INF
    hard_byte: int = INF
    soft_packet: int = INF
    hard_packet: int = INF
    soft_add: int = 0
    hard_add: int = 0
    soft_use: int = 0
    hard_use: int = 0

    @property
    def timed(self) -> bool:
        """True where any limit is one of time."""
        return bool(self.soft_add or self.hard_add or self.soft_use or self.hard_use)


class LifetimeCurrent(NamedTuple):
    """Bytes and packets counted so far; wall-clock seconds of addition and first use (0: never)."""

    bytes: int = 0
    packets: int = 0
    add_time: int = 0
    use_time: int = 0


UNLIMITED = LifetimeConfig()
