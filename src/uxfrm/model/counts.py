"""The figures that requests ask of the tables as a whole."""

from __future__ import annotations

from typing import NamedTuple

HASH_MAX = 1 << 20
"""The most buckets that the kernel gives a table: xfrm_state_hashmax, xfrm_policy_hashmax."""


class SadInfo(NamedTuple):
    """The figures of GETSADINFO: states, larval ones included, and buckets of the kernel's tables."""

    sadcnt: int
    sadhcnt: int
    sadhmcnt: int


class SpdInfo(NamedTuple):
    """The figures of GETSPDINFO (struct xfrmk_spdinfo): policies by direction, then those of sockets.

    `spdhcnt` is the mask of the index table, not its size (7 when fresh). Follows: xfrm_spd_getinfo.
    """

    incnt: int
    outcnt: int
    fwdcnt: int
    inscnt: int
    outscnt: int
    fwdscnt: int
    spdhcnt: int
    spdhmcnt: int


class Thresholds(NamedTuple):
    """Prefix lengths from which the kernel files a policy in its exact table: local and remote."""

    lbits: int
    rbits: int
