"""IP-TFS, sending: the queues of a batch become packets at its end, or wait for the initial delay.

Follows: iptfs_output_collect, iptfs_delay_timer in net/xfrm/xfrm_iptfs.c. Without a delay Linux's timer runs
out at once, behind the packets that came together: here, these are those of one batch.
"""

from __future__ import annotations

import numpy as np

from uxfrm.datapath import aggregate, runs
from uxfrm.datapath.aggfrag import NEVER
from uxfrm.datapath.batch import Batch, Int64s, longer
from uxfrm.datapath.context import Context
from uxfrm.datapath.iptfs import Chunk
from uxfrm.model.outcome import Outcome
from uxfrm.tables.states import State

_WHERE = ["offset", "length", "low", "high", "nexthdr"]
NONE: Int64s = np.zeros(0, np.int64)


def queued(context: Context) -> list[int]:
    """The slots of states in whose queues packets of this batch are."""
    found: list[int] = np.flatnonzero(context.iptfs.sides["head"]).tolist()
    return found


def put_by(context: Context, bundles: Int64s, batch: Batch, slots: list[int]) -> list[int]:
    """Let the packets wait whose states have a delay; return the slots of the other states."""
    sides = context.iptfs.sides
    late = [slot for slot in slots if sides[slot]["delay"]]
    for slot in late:
        those = np.zeros(len(batch), np.int64)
        those = those[: aggregate.leave(sides, context.iptfs.links, batch.packets, slot, those)]
        chunks = context.iptfs.chunks.setdefault(slot, [])
        # What has one bundle has the same states before it.
        bundle = batch.packets["bundle"][those]
        for part in np.split(those, np.flatnonzero(np.diff(bundle)) + 1):
            chunks.append(_chunk(context, bundles, batch, part))
        if sides[slot]["due"] == NEVER:
            sides[slot]["due"] = context.now + sides[slot]["delay"]
    return [slot for slot in slots if slot not in late]


def _chunk(context: Context, bundles: Int64s, batch: Batch, part: Int64s) -> Chunk:
    packets = batch.packets
    records = packets.take(part)
    packets["outcome"][part] = Outcome.OUT_IPTFS_WAITS
    data = np.concatenate([batch.data[p["offset"] : p["offset"] + p["length"]] for p in records])
    highs = np.cumsum(records["length"])
    records["nexthdr"] += highs - records["length"] - records["offset"]
    records["high"] = highs
    records["low"] = records["offset"] = highs - records["length"]
    return Chunk(data, records, states_from(context, bundles, packets[part[0]]))


def states_from(context: Context, bundles: Int64s, packet: np.void) -> tuple[State, ...]:
    """The states that a queued packet has yet to pass: that of its queue and those behind."""
    bundle, depth = bundles[int(packet["bundle"])], int(packet["job"])
    rows = bundle[runs.ROW + depth : runs.ROW + int(bundle[runs.DEPTH])]
    return tuple(context.states.at(int(row)) for row in rows)


def waited(context: Context, slot: int) -> tuple[Batch, list[tuple[State, ...]]]:
    """The packets of a state whose delay is over, as a batch, and for each the states before it."""
    chunks = context.iptfs.chunks.pop(slot, [])
    batch = joined(chunks, int(context.now))
    states = [chunk.states for chunk in chunks for _ in chunk.records]
    return batch, states


def joined(chunks: list[Chunk], time_s: int) -> Batch:
    """Chunks as one batch."""
    if not chunks:
        return Batch.pack([])
    starts = np.cumsum([0, *(chunk.data.shape[0] for chunk in chunks)])
    parts = [chunk.records.copy() for chunk in chunks]
    for records, start in zip(parts, starts.tolist(), strict=False):
        for name in ("offset", "low", "high", "nexthdr"):
            records[name] += start
    packets = np.concatenate(parts)
    packets["origin"], packets["time"] = np.arange(len(packets)), time_s
    return Batch(np.concatenate([chunk.data for chunk in chunks]), packets)


def gone(context: Context, chunks: list[Chunk]) -> Batch | None:
    """End what waited at a state that goes. Follows: iptfs_destroy_state."""
    if not chunks:
        return None
    batch = joined(chunks, int(context.now))
    batch.packets["outcome"] = Outcome.OUT_IPTFS_GONE
    context.finish(batch)
    return batch


def put_together(context: Context, bundles: Int64s, batch: Batch, slots: list[int]) -> Int64s:
    """Make payloads of the packets in the queues of `slots`, behind the others of the batch; their indices.

    They have the bundle of their first packet, and in `job` where their state is in it.
    """
    iptfs, number = context.iptfs, 0
    for slot in slots:
        planned = -1
        while planned < 0:
            planned = aggregate.plan(
                iptfs.sides, iptfs.links, bundles, batch.packets, slot, iptfs.outers, iptfs.pieces, number
            )
            if planned < 0:
                iptfs.make_plans()
        number = planned
        x = iptfs.sides[slot]
        x["head"] = x["tail"] = x["queued"] = 0
    if not number:
        return NONE
    outers, pieces = iptfs.outers, iptfs.pieces
    kept, more = aggregate.measure(bundles, batch.packets, outers, number)
    laid, first = np.empty(kept + more, np.uint8), len(batch)
    packets = longer(batch.packets, number)
    aggregate.fill(bundles, batch.data, batch.packets, outers, pieces, number, laid, kept, packets[first:])
    aggregate.relay(batch.data, packets[:first], laid)
    batch.relaid(laid)
    batch.packets = packets
    context.grow(len(batch))
    return np.arange(first, len(batch), dtype=np.int64)
