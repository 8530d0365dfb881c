"""Which rows a dump asks for, all at once: one that picks few of many states costs next to nothing.

Follows: xfrm_state_walk, __xfrm_state_filter_match, xfrm_id_proto_match.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from uxfrm.model.address import AF_INET, AF_INET6
from uxfrm.model.dump import StateFilter
from uxfrm.model.flow import PROTO_IPSEC_ANY
from uxfrm.model.template import IPSEC_PROTOCOLS
from uxfrm.tables.rows import words

Bools = npt.NDArray[np.bool_]

_WORD = 32


def picked(rows: Any, wanted: StateFilter) -> Bools:
    """True for each live row that `wanted` asks for."""
    found: Bools = rows["serial"] != 0
    if wanted.proto:
        kinds = IPSEC_PROTOCOLS if wanted.proto == PROTO_IPSEC_ANY else (wanted.proto,)
        found &= np.isin(rows["proto"], [*kinds, wanted.proto])
    if wanted.family in (AF_INET, AF_INET6):
        found &= rows["family"] == wanted.family
    _within(found, rows["saddr"], wanted.saddr, wanted.splen)
    _within(found, rows["daddr"], wanted.daddr, wanted.dplen)
    return found


def _within(found: Bools, addresses: Any, prefix: bytes, bits: int) -> None:
    """Leave those in `found` whose address is in the prefix of 16 bytes. Follows: addr_match."""
    for number, word in enumerate(words(prefix)):
        rest = min(max(bits - number * _WORD, 0), _WORD)
        mask = (1 << _WORD) - (1 << (_WORD - rest))
        if mask:
            found &= addresses[:, number] & mask == word & mask
