"""Looking into packets that this host sent: opened with their own outbound state, which does not notice.

No counter moves, no window, no sequence number: a capture's outgoing half can be read beside its incoming
half. With ESN the high half is inferred from what was seen before, and one more is tried.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath import esp, ipcomp, udp
from uxfrm.datapath import input as layer
from uxfrm.datapath.aggfrag import UNTIMED
from uxfrm.datapath.batch import DATA, I64S, JOBS, PACKETS, Batch, Bytes, Int64s
from uxfrm.datapath.companions import enlist
from uxfrm.datapath.context import Context, flow_of
from uxfrm.datapath.crypto.batch import open_
from uxfrm.datapath.flowtable import ANY_GENERATION, INSPECT, flow_key, look_up
from uxfrm.datapath.iptfs_input import take_apart
from uxfrm.datapath.modes import remove
from uxfrm.datapath.reassemble import collect
from uxfrm.datapath.replay import infer_high
from uxfrm.datapath.resolve import lookup_output
from uxfrm.model.outcome import Outcome
from uxfrm.model.template import MAX_DEPTH
from uxfrm.tables.hashindex import I32, Int32s
from uxfrm.tables.rows import ROWS, TRANSFORM_UNSUPPORTED

_DEPTH = int(Outcome.IN_DEPTH)
_SHORT = int(Outcome.IN_HEADER_SHORT)
_NO_STATE = int(Outcome.IN_NO_STATE)
_UNSUPPORTED_MODE = int(Outcome.UNSUPPORTED_MODE)

_ESP, _AH, _COMP = 50, 51, 108
# Wide enough that any order on the wire is understood.
_WINDOW = 1 << 31


@compiled(int64(ROWS, PACKETS, int64, int64, I64S))
def _infer(rows: Any, packets: Any, i: int, row: int, tops: Int64s) -> int:
    """The high half of packet i's sequence number, by the newest 64-bit number seen of its state."""
    if not rows[row]["esn"]:
        return 0
    top = tops[row]
    return int(infer_high(packets[i]["seq"], top & 0xFFFFFFFF, top >> 32, _WINDOW))


@compiled(int64(ROWS, I32, I32, I64S, int64, DATA, PACKETS, I64S, int64, I64S, JOBS))
def _begin(
    rows: Any,
    heads: Int32s,
    links: Int32s,
    hashes: Int64s,
    seed: int,
    data: Bytes,
    packets: Any,
    active: Int64s,
    count: int,
    tops: Int64s,
    jobs: Int64s,
) -> int:
    """Describe the ciphertexts of the active packets; return how many jobs that makes.

    `tops` holds the newest 64-bit sequence number seen per row.
    """
    made = 0
    for k in range(count):
        i = active[k]
        p = packets[i]
        if not layer.read_header(data, packets, i):
            p["outcome"] = _SHORT
            continue
        if p["depth"] >= MAX_DEPTH:
            p["outcome"] = _DEPTH
            continue
        row = layer.lookup(rows, heads, links, hashes, seed, data, packets, i)
        if row < 0:
            p["outcome"] = _NO_STATE
            continue
        x = rows[row]
        p["path"][p["depth"]] = row
        p["pathgen"][p["depth"]] = x["genid"]
        p["depth"] += 1
        p["seq_hi"] = _infer(rows, packets, i, row, tops)
        if x["transform"] == TRANSFORM_UNSUPPORTED:
            p["outcome"] = _UNSUPPORTED_MODE
            continue
        p["outcome"] = layer.open_(rows, data, packets, i, row, jobs, made)
        if not p["outcome"]:
            p["job"] = made
            made += 1
    return made


@compiled(int64(ROWS, DATA, PACKETS, I64S, int64, I64S, JOBS, I64S, I64S))
def _commit(
    rows: Any,
    data: Bytes,
    packets: Any,
    active: Int64s,
    count: int,
    tops: Int64s,
    jobs: Int64s,
    again: Int64s,
    found: Int64s,
) -> int:
    """Undo trailer and mode of the opened packets; list those that carry IPsec again, return how many."""
    agains = 0
    for k in range(count):
        i = active[k]
        p = packets[i]
        if p["outcome"]:
            continue
        row = p["path"][p["depth"] - 1]
        p["outcome"] = layer.payload(rows, data, packets, i, row, jobs, found)
        if p["outcome"]:
            continue
        tops[row] = max(tops[row], p["seq_hi"] << 32 | p["seq"])
        p["outcome"] = remove(rows, data, packets, i, row, found)
        p["encap"] = 0
        if not p["outcome"] and not p["fragment"] and p["proto"] in (_ESP, _AH, _COMP):
            again[agains] = i
            agains += 1
    return agains


def inspect(context: Context, batch: Batch) -> None:
    """Open sent packets in place; the outcome is SENT, CLEAR, or why a packet cannot be read.

    1. IP headers  2. layers  3. the policy that each inner or clear packet falls under
    """
    context.start(batch)
    count, fragments, _ = layer.classify(batch.data, batch.packets, context.encap_ports, context.active)
    if fragments:
        count = collect(context, batch, context.active, count, context.encap_ports, sent=True)
    count = int(udp.unwrap(batch.data, batch.packets, context.active, count))
    count = enlist(context, batch, context.active, count)
    while count:
        count = _open_layer(context, batch, count)
    missed = _look_up(context, batch, context.every, len(batch), context.missed)
    again = np.zeros(1, np.int64)
    for i in context.missed[:missed].copy():
        if _look_up(context, batch, np.array([i]), 1, again):
            _name_policy(context, batch, int(i))


def _look_up(context: Context, batch: Batch, candidates: Int64s, count: int, missed: Int64s) -> int:
    flows = context.flows
    unused = np.zeros_like(context.used)
    return int(
        look_up(
            batch.data, batch.packets, candidates, count, INSPECT, flows.keys, flows.values, flows.seed,
            context.policies.generation, 0, unused, missed, context.key,
        )
    )  # fmt: skip


def _name_policy(context: Context, batch: Batch, i: int) -> None:
    """Find the output policy of packet i and remember it for the flow; its use time stays as it is."""
    packet = batch.packets[i]
    flow_key(batch.data, batch.packets, i, INSPECT, context.key)
    path = context.path(packet)
    if_id = path[-1].config.if_id if path else 0
    found = lookup_output(context.policies, flow_of(context.key), if_id)
    policy = found[0] if found else None
    protected = packet["depth"] > 0
    if protected:
        outcome = Outcome.SENT if policy else Outcome.SENT_NO_POLICY
    elif any(not t.optional for p in found for t in p.config.templates):
        outcome = Outcome.SENT_UNPROTECTED
    else:
        outcome = Outcome.CLEAR_ALLOWED if policy else Outcome.CLEAR
    slot = context.slot(policy)
    packet["outcome"], packet["policy"] = outcome, slot
    value = (int(outcome), slot, -1, 0, context.policies.generation, ANY_GENERATION)
    context.flows.insert(context.key, value)


def _open_layer(context: Context, batch: Batch, count: int) -> int:
    states, index, tops = context.states, context.states.by_spi, context.seen_tops()
    made = _begin(
        states.rows, index.heads, index.links, index.hashes, states.seed, batch.data, batch.packets,
        context.active, count, tops, context.jobs,
    )  # fmt: skip
    if made:
        _run(context, batch, count, made)
    if made and context.without_key:
        ipcomp.decompress(states.rows, batch, context.jobs[:made])
    agains = _commit(
        states.rows,
        batch.data,
        batch.packets,
        context.active,
        count,
        tops,
        context.jobs,
        context.again,
        context.found,
    )
    if len(context.iptfs):
        agains = take_apart(context, batch, context.active, count, int(agains), UNTIMED)
    context.active, context.again = context.again, context.active
    return enlist(context, batch, context.active, int(agains))


def _run(context: Context, batch: Batch, count: int, made: int) -> None:
    """Open the jobs; those with ESN that fail get a second try with the next high half, from a copy."""
    jobs = context.jobs
    extended = bool(np.any(jobs[:made, esp.SEQ_HI] >= 0))
    copy = batch.data.copy() if extended else batch.data
    _try(context, batch, jobs[:made])
    if not extended:
        return
    for i in context.active[:count]:
        packet = batch.packets[i]
        job = jobs[packet["job"]]
        if packet["outcome"] or job[esp.RESULT] != 0 or job[esp.SEQ_HI] < 0:
            continue
        at, end = int(packet["offset"]), int(packet["offset"] + packet["length"])
        batch.data[at:end] = copy[at:end]
        packet["seq_hi"] += 1
        retry = job[None, :].copy()
        retry[0, esp.SEQ_HI] += 1
        _try(context, batch, retry)
        jobs[packet["job"]] = retry[0]


def _try(context: Context, batch: Batch, jobs: Int64s) -> None:
    keyring, rows = context.keyring, context.states.rows
    open_(keyring.functions, keyring.rows, keyring.scratch, batch.data, jobs, jobs.shape[0])
    if context.authenticated:
        context.authenticator.verify(keyring, rows, batch, jobs, sent=True)
