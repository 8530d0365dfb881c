"""The data path counted: flows, packets that wait, keys, memory. For people, not for packets."""

from __future__ import annotations

from uxfrm.datapath.context import Context
from uxfrm.datapath.send import Bundles
from uxfrm.model.statistics import FlowFigures, FragmentFigures, HeldFigures, KeyFigures, MemoryFigures


def flows(path: Context, bundles: Bundles) -> FlowFigures:
    """The flow table; it looks at every entry."""
    table = path.flows
    return FlowFigures(
        entries=table.entries,
        capacity=table.keys.shape[0],
        stale=table.stale(path.policies.generation, path.states.generation),
        hits=table.hits,
        misses=table.misses,
        bundles=len(bundles),
    )


def held(path: Context) -> HeldFigures:
    """Packets that wait for states."""
    found = path.held
    return HeldFigures(len(found), found.bytes, len(found.queues), found.given_up)


def fragments(path: Context) -> FragmentFigures:
    """Packets that are not whole yet."""
    kept = path.fragments
    sums = kept.figures
    waiting = sum(kept.bytes.values())
    return FragmentFigures(len(kept), waiting, sums.required, sums.completed, sums.failed, sums.timed_out)


def keys(path: Context) -> KeyFigures:
    """The slots of the keyring."""
    return KeyFigures(path.keyring.used, len(path.keyring.rows))


def memory(path: Context, bundles: Bundles) -> MemoryFigures:
    """Bytes of what grows with tables and flows."""
    states, table = path.states, path.flows
    return MemoryFigures(
        states=states.rows.nbytes,
        windows=states.words.nbytes,
        indexes=sum(index.nbytes for index in states.indexes),
        keys=path.keyring.nbytes,
        flows=table.keys.nbytes + table.values.nbytes,
        bundles=bundles.rows.nbytes,
    )
