"""IP-TFS, receiving: payloads in their order, and the inner packets of each.

Follows: iptfs_input, iptfs_input_reorder, iptfs_drop_timer in net/xfrm/xfrm_iptfs.c. Payloads that come one
after the other are datapath.aggfrag's alone; what comes too early waits here, and lets the others out when
they come or their time is over.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from uxfrm.datapath import aggfrag
from uxfrm.datapath import input as layer
from uxfrm.datapath.aggfrag import NEVER
from uxfrm.datapath.batch import PACKET_DTYPE, Batch, Int64s, longer
from uxfrm.datapath.context import Context
from uxfrm.datapath.iptfs import IpTfs, Kept, Place
from uxfrm.model.flow import PROTO_ESP
from uxfrm.model.outcome import Outcome
from uxfrm.tables.states import State

_WHERE = ["offset", "low", "high", "length"]


class _Taking:
    """Payloads of a batch being taken apart: how much was made so far."""

    def __init__(self, context: Context, batch: Batch) -> None:
        self.context = context
        self.batch = batch
        self.used = self.number = 0

    def run(self, active: Int64s, start: int, count: int, ordered: int) -> int:
        """Take active[start:count] apart; return where it stopped before a payload that is out of order."""
        context, batch, iptfs = self.context, self.batch, self.context.iptfs
        while True:
            why, start, self.used, self.number = aggfrag.take(
                context.states.rows, batch.data, batch.packets, active, start, count, ordered,
                iptfs.sides, context.now, iptfs.store, iptfs.extra, self.used, iptfs.made, self.number,
                context.found,
            )  # fmt: skip
            if why in (aggfrag.DONE, aggfrag.ORDER):
                return start
            if why == aggfrag.NO_STORE:
                packet = batch.packets[active[start]]
                slot = _slot(context, packet)
                iptfs.widen(slot, int(packet["length"]) + max(int(iptfs.sides[slot]["came"]), 6))
            elif why == aggfrag.NO_EXTRA:
                iptfs.make_extra()
            else:
                iptfs.make_more()


def take_apart(
    context: Context, batch: Batch, active: Int64s, count: int, agains: int, ordered: int = aggfrag.BY_NUMBER
) -> int:
    """Take the payloads among active[:count] apart; the inner packets stand behind the others of the batch.

    Those that carry IPsec join context.again[:agains]; returns how many they are then. `ordered` as
    aggfrag.take has it.
    """
    taking, at = _Taking(context, batch), 0
    while (at := taking.run(active, at, count, ordered)) < count:
        _reorder(taking, int(active[at]))
        at += 1
    return _append(taking, agains)


def _slot(context: Context, packet: Any) -> int:
    return int(context.states.rows[int(packet["path"][int(packet["depth"]) - 1])]["iptfs"])


def _append(taking: _Taking, agains: int) -> int:
    context, batch, number = taking.context, taking.batch, taking.number
    if not number:
        return agains
    first, extra = len(batch), batch.lay(context.iptfs.extra[: taking.used])
    packets = batch.packets = longer(batch.packets, number)
    context.grow(len(batch))
    agains, fragments = aggfrag.describe(
        batch.data, packets, first, context.iptfs.made, number, extra, context.again, agains
    )
    context.found[layer.FRAGMENTS] += fragments
    return agains


# -- the reorder window


def _reorder(taking: _Taking, i: int) -> None:
    """Judge payload i, which is not the next one or lets others out. Follows: iptfs_input_reorder."""
    context, packet = taking.context, taking.batch.packets[i]
    iptfs, slot = context.iptfs, _slot(context, packet)
    x, window = iptfs.sides[slot], iptfs.windows.setdefault(slot, [])
    seq = int(aggfrag.whole_number(int(packet["seq_hi"]), int(packet["seq"])))
    distance, width = int(aggfrag.distance(seq, int(x["wanted"]))), int(x["window"])
    ready: list[Kept] = []
    if distance < 0:
        packet["outcome"] = Outcome.IN_IPTFS_LATE
    elif distance == 0:
        taking.run(np.array([i], np.int64), 0, 1, aggfrag.AS_THEY_ARE)
        _pass(x, 1)
        ready = _flush(x, window)
    elif distance <= width:
        _keep(context, slot, window, distance - 1, taking.batch, i)
    else:
        ready, next_is_here = _shift(x, window, distance - width)
        _keep(context, slot, window, width - 1, taking.batch, i)
        if next_is_here:
            _pass(x, 1)
            ready += _flush(x, window)
    _let_out(taking, i, ready)
    _settle(iptfs, slot, window)


def _pass(x: Any, count: int) -> None:
    """Wait for a number further on."""
    x["wanted"] = (int(x["wanted"]) + count) & aggfrag.NUMBERS


def _flush(x: Any, window: list[Place]) -> list[Kept]:
    """Take out what follows the number just had without a gap. Follows: __reorder_this."""
    ready: list[Kept] = []
    for place in window:
        if place.kept is None:
            break
        ready.append(place.kept)
    _pass(x, len(ready))
    del window[: len(ready) + 1]
    return ready


def _shift(x: Any, window: list[Place], beyond: int) -> tuple[list[Kept], bool]:
    """Give up the numbers that leave the window; return the payloads that need not wait any more.

    Also whether the last of them is the one that is waited for now. Follows: __reorder_future_shifts.
    """
    left = window[:beyond]
    ready = [place.kept for place in left if place.kept is not None]
    del window[:beyond]
    _pass(x, beyond)
    return ready, len(left) == beyond and left[-1].kept is not None


def _keep(context: Context, slot: int, window: list[Place], index: int, batch: Batch, i: int) -> None:
    """Let payload i wait in its place. Follows: __reorder_future_fits, iptfs_set_window_drop_times."""
    packet = batch.packets[i]
    if index < len(window) and window[index].kept is not None:
        packet["outcome"] = Outcome.IN_IPTFS_LATE
        return
    while len(window) <= index:
        window.append(Place())
    window[index].kept = Kept(batch.packet(i), packet.copy())
    packet["outcome"] = Outcome.IN_IPTFS_WAITS
    if len(window) > index + 1:
        return
    x = context.iptfs.sides[slot]
    drop_time = context.now + float(x["delay"])
    window[index].drop_time = drop_time
    index -= 1
    while index >= 0 and window[index].kept is None:
        window[index].drop_time = drop_time
        index -= 1
    if index < 0 and x["due"] == NEVER:
        x["due"] = drop_time


def _let_out(taking: _Taking, i: int, ready: list[Kept]) -> None:
    """Take apart what waited; its records stand behind, made of packet i."""
    if not ready:
        return
    batch, origin = taking.batch, taking.batch.packets[i]
    indices = put(batch, ready, int(origin["time"]))
    batch.packets["origin"][indices] = batch.packets[i]["origin"]
    taking.context.grow(len(batch))
    taking.run(indices, 0, len(indices), aggfrag.AS_THEY_ARE)


def put(batch: Batch, kept: list[Kept], time_s: int) -> Int64s:
    """Append payloads that waited, to be taken apart; return their indices."""
    first, made = len(batch), Batch.pack([one.data for one in kept])
    at = batch.lay(made.data)
    for name in ("offset", "low", "high"):
        made.packets[name] += at
    places = made.packets[_WHERE].copy()
    for number, one in enumerate(kept):
        made.packets[number] = one.record
    made.packets[_WHERE] = places
    made.packets["time"], made.packets["outcome"] = time_s, Outcome.IN_IPTFS
    batch.packets = longer(batch.packets, len(made))
    batch.packets[first:] = made.packets
    return np.arange(first, len(batch), dtype=np.int64)


def _settle(iptfs: IpTfs, slot: int, window: list[Place]) -> None:
    """Keep what the registers tell of the window as it is.

    Where an inner packet becomes whole, Linux stops the timer of what still waits, too; here it runs on.
    """
    x = iptfs.sides[slot]
    x["saved"] = len(window)
    if not window:
        del iptfs.windows[slot]
    elif x["due"] == NEVER:
        x["due"] = window[0].drop_time


# -- the drop timer


def timed_out(context: Context, slot: int) -> tuple[Batch, int]:
    """What the drop timer of a state lets go: payloads to be taken apart, and the inner packet it gives up.

    Returns them as a batch, and how many of its first packets are payloads. Follows: iptfs_drop_timer.
    """
    iptfs, x = context.iptfs, context.iptfs.sides[slot]
    batch = Batch.pack([])
    window = iptfs.windows.get(slot, [])
    ready = _give_up(context, x, window) if window else []
    count = len(put(batch, ready, int(context.now))) if ready else 0
    if x["whole"] and x["came"]:
        at = int(x["at"])
        lost = Kept(iptfs.store[at : at + int(x["came"])].tobytes(), _record(context, slot))
        (index,) = put(batch, [lost], int(context.now))
        batch.packets[index]["outcome"] = Outcome.IN_IPTFS_TIMEOUT
        x["came"] = x["whole"] = 0
    if window:
        _settle(iptfs, slot, window)
    batch.packets["origin"] = np.arange(len(batch))
    return batch, count


def _give_up(context: Context, x: Any, window: list[Place]) -> list[Kept]:
    """Pass the places whose time is over. Follows: __reorder_drop.

    The first that is left empty is the one that is waited for then: it has no place. (Linux leaves it one.)
    """
    if window[0].drop_time > context.now:
        x["due"] = window[0].drop_time
        return []
    ready: list[Kept] = []
    _pass(x, 1)
    passed = 0
    for place in window:
        if place.kept is None and place.drop_time > context.now:
            break
        if place.kept is not None:
            ready.append(place.kept)
        passed += 1
    _pass(x, passed)
    del window[: passed + 1]
    if window:
        x["due"] = window[0].drop_time
    return ready


def gone(context: Context, state: State, kept: list[Kept]) -> Batch | None:
    """End what waited in a state that goes; it counts. Follows: iptfs_destroy_state."""
    if not kept:
        return None
    record = of_state(np.zeros((), PACKET_DTYPE), state.row, state.genid, state.config.spi)
    batch = Batch.pack([])
    put(
        batch,
        [Kept(one.data, record if one.record is None else one.record) for one in kept],
        int(context.now),
    )
    batch.packets["outcome"], batch.packets["origin"] = Outcome.IN_IPTFS_GONE, np.arange(len(batch))
    context.finish(batch)
    return batch


def _record(context: Context, slot: int) -> Any:
    """The record of what came through a state, with nothing but that."""
    state, record = context.iptfs.states[slot], np.zeros((), PACKET_DTYPE)
    return of_state(record, state.row, state.genid, state.config.spi)


def of_state(record: Any, row: int, genid: int, spi: int) -> Any:
    """Let a record name the state that a packet came through."""
    record["depth"], record["policy"], record["bundle"] = 1, -1, -1
    record["path"][0], record["pathgen"][0] = row, genid
    record["wire_proto"] = PROTO_ESP
    record["spi"] = record["wire_spi"] = spi
    return record
