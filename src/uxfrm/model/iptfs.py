"""IP-TFS (RFC 9347): the options of a state in that mode, and their defaults.

Follows: iptfs_user_init, iptfs_copy_to_user in net/xfrm/xfrm_iptfs.c (Linux 6.14 and later).
"""

from __future__ import annotations

from typing import NamedTuple

DROP_TIME_US = 1_000_000
REORDER_WINDOW = 3
INIT_DELAY_US = 0
MAX_QSIZE = 10 << 20
"""Linux's own comment says 1 MiB; the value is 10."""

ECN_PERCENT = 95
"""From how full a queue is on, packets are marked with Congestion Experienced."""

HEADER = 4
"""Bytes of the AGGFRAG header without congestion control (RFC 9347 6.1.1)."""


class Iptfs(NamedTuple):
    """Options of IP-TFS, None where they are not said: times in us, sizes in bytes, the window in packets."""

    drop_time: int | None = None
    reorder_window: int | None = None
    dont_frag: bool | None = None
    init_delay: int | None = None
    max_qsize: int | None = None
    pkt_size: int | None = None

    def receiving(self) -> tuple[int, int]:
        """Drop time and reorder window of an input state."""
        time, window = self.drop_time, self.reorder_window
        return DROP_TIME_US if time is None else time, REORDER_WINDOW if window is None else window

    def sending(self) -> tuple[bool, int, int, int]:
        """Don't-fragment, initial delay, queue and packet size of an output state."""
        delay = INIT_DELAY_US if self.init_delay is None else self.init_delay
        queue = MAX_QSIZE if self.max_qsize is None else self.max_qsize
        return bool(self.dont_frag), delay, queue, self.pkt_size or 0


UNSAID = Iptfs()
