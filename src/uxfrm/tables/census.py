"""States and policies counted, and how full the structures are that they are found with.

It looks at every state and policy: for people, not for packets.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from uxfrm.model.policy import Direction
from uxfrm.model.state import LifeState
from uxfrm.model.statistics import Index, PolicyFigures, StateFigures
from uxfrm.tables.hashindex import HashIndex
from uxfrm.tables.policies import PolicyTable
from uxfrm.tables.states import StateTable


def states(table: StateTable) -> StateFigures:
    """The figures of the state table."""
    live = table.rows["serial"] != 0
    lives = np.bincount(table.rows["life"][live], minlength=len(LifeState))
    by_spi, by_destination, by_source = (index(each) for each in table.indexes)
    return StateFigures(
        all=len(table),
        valid=int(lives[LifeState.VALID]),
        dying=int(np.count_nonzero(table.rows["dying"][live])),
        larval=int(lives[LifeState.ACQ]),
        expired=int(lives[LifeState.EXPIRED]),
        kernel_buckets=table.info().sadhcnt,
        by_spi=by_spi,
        by_destination=by_destination,
        by_source=by_source,
        by_sequence=_of_lists(table.sequences()),
    )


def index(found: HashIndex) -> Index:
    """The figures of one index: all chains are walked a step at a time."""
    at = found.heads[found.heads >= 0]
    used, longest = len(at), 0
    while len(at):
        longest += 1
        at = found.links[at]
        at = at[at >= 0]
    return Index(found.count, len(found.heads), used, longest)


def _of_lists(lengths: Iterable[int]) -> Index:
    """A dictionary of lists: as many buckets as keys."""
    sizes = list(lengths)
    return Index(sum(sizes), len(sizes), len(sizes), max(sizes, default=0))


def policies(table: PolicyTable) -> PolicyFigures:
    """The figures of the policy table."""
    censuses = [classifier.census() for classifier in table.classifiers()]
    return PolicyFigures(
        all=len(table),
        incoming=table.count(Direction.IN),
        outgoing=table.count(Direction.OUT),
        forwarded=table.count(Direction.FWD),
        kernel_buckets=table.info().spdhcnt + 1,
        classifiers=len(censuses),
        prefix_lengths=sum(each.prefix_lengths for each in censuses),
        prefixes=sum(each.prefixes for each in censuses),
        listed=sum(each.listed for each in censuses),
        masks=sum(each.masks for each in censuses),
        masks_of_one=max((each.masks_of_one for each in censuses), default=0),
        tabled=sum(each.tabled for each in censuses),
        hidden=sum(each.hidden for each in censuses),
    )
