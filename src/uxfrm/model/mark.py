"""Packet marks as lookup keys and as values to write."""

from __future__ import annotations

from typing import NamedTuple


class Mark(NamedTuple):
    """A value and the bits of it that count; the kernel stores `v & m` on insert."""

    v: int = 0
    m: int = 0

    def covers(self, mark: int) -> bool:
        """True when a packet with `mark` is meant. Follows: (mark & m) == v."""
        return mark & self.m == self.v

    def written_on(self, mark: int) -> int:
        """The packet's mark after set-mark. Follows: xfrm_smark_get."""
        return (self.v & self.m) | (mark & ~self.m & 0xFFFFFFFF)

    def normalised(self) -> Mark:
        """What the tables keep of it."""
        return Mark(self.v & self.m, self.m)


NO_MARK = Mark()
