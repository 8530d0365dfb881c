"""A batch of packets: one byte buffer, and one record per packet that says where it is and what became of it.

The path may make more packets than came: their records stand behind the others and name their `origin`.

The record is the whole of what the path learns about a packet; `explain` prints it and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from uxfrm.compiled import compiled
from uxfrm.model.template import MAX_DEPTH

Bytes = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]

# Room for the outer headers of nested tunnels in front, and for padding, trailer and ICV behind.
HEADROOM = 192
TAILROOM = 320

PACKET_DTYPE = np.dtype(
    [
        # where it is: data[offset : offset + length] inside its own slot [low, high)
        ("offset", np.int64),
        ("length", np.int64),
        ("low", np.int64),
        ("high", np.int64),
        ("origin", np.int64),  # index of the packet that it was made of; its own if it came by itself
        # what came with it
        ("mark", np.int64),
        ("ifindex", np.int64),  # received on, or routed to
        ("if_id", np.int64),  # metadata of an xfrm interface with collect_md: if_id and link
        ("link", np.int64),
        ("cpu", np.int64),  # that handles it
        ("socket", np.int64),  # number of the socket that sent it or will get it, 0 for none
        ("time", np.int64),  # wall-clock seconds
        ("owner", np.int64),  # what its socket's policies are remembered by (tables.sockets)
        # its IP header (of the current layer)
        ("family", np.int64),
        ("header", np.int64),  # bytes before the upper-layer header
        ("proto", np.int64),
        ("nexthdr", np.int64),  # offset in data of the byte that names `proto`
        ("fragment", np.int64),
        # the IPsec header that was on the wire, and the one last read
        ("wire_proto", np.int64),
        ("encap", np.int64),  # of received ESP (carriers), while its header is there
        ("wire_spi", np.int64),
        ("wire_seq", np.int64),
        ("spi", np.int64),
        ("seq", np.int64),
        ("seq_hi", np.int64),
        ("top", np.int64),  # newest sequence number and width of the window it was judged by
        ("window", np.int64),
        # the way so far
        ("depth", np.int64),
        ("path", np.int64, (MAX_DEPTH,)),  # rows of the states, outermost first
        ("pathgen", np.int64, (MAX_DEPTH,)),  # their genids
        ("bundle", np.int64),
        ("unsettled", np.int64),  # 1 where another state may change what was decided
        ("job", np.int64),  # its place in this run's crypto jobs, -1 for none
        # the end
        ("outcome", np.int64),
        ("policy", np.int64),  # slot of the policy that took it, -1 for none
        ("detail", np.int64),  # number of a remembered explanation, 0 for none
    ],
    align=True,
)

ARRIVED = ("mark", "ifindex", "if_id", "link", "socket")
"""The columns that tell what came with a packet: all of it that outlives a packet that has to wait."""

PACKETS: Any = numba.from_dtype(PACKET_DTYPE)[::1]
DATA: Any = numba.uint8[::1]
I64: Any = numba.int64
I64S: Any = numba.int64[::1]
JOBS: Any = numba.int64[:, ::1]


def longer(packets: Any, count: int) -> Any:
    """A copy of records with room for `count` more behind them, which hold anything.

    As words: numpy copies records field by field, at a microsecond each.
    """
    words = PACKET_DTYPE.itemsize // 8
    made = np.empty((len(packets) + count) * words, np.int64)
    made[: len(packets) * words] = np.ascontiguousarray(packets).view(np.int64)
    return made.view(PACKET_DTYPE)


class Batch:
    """`data` is the buffer (uint8), `packets` the records (PACKET_DTYPE), in the packets' order.

    From `free` on the buffer is nobody's: what is made of packets may lie there.
    """

    __slots__ = ("data", "free", "packets")

    def __init__(self, data: Bytes, packets: Any) -> None:
        self.data = data
        self.free = int(data.shape[0])
        self.packets = packets

    def __len__(self) -> int:
        return int(self.packets.shape[0])

    @classmethod
    def pack(
        cls,
        packets: Sequence[bytes],
        time_s: int = 0,
        mark: int = 0,
        ifindex: int = 0,
        cpu: int = 0,
        socket: int = 0,
    ) -> Batch:
        """Copy IP packets into one buffer with room around each. `socket`: number of an open socket."""
        lengths = np.fromiter((len(p) for p in packets), np.int64, len(packets))
        slots = lengths + (HEADROOM + TAILROOM)
        highs = np.cumsum(slots)
        lows = highs - slots
        data = np.zeros(int(highs[-1]) if len(packets) else 0, np.uint8)
        for packet, low in zip(packets, lows, strict=True):
            at = int(low) + HEADROOM
            data[at : at + len(packet)] = np.frombuffer(packet, np.uint8)
        batch = cls.view(data, lows + HEADROOM, lengths, lows, highs, time_s, mark, ifindex, cpu)
        batch.packets["socket"] = socket
        return batch

    @classmethod
    def view(
        cls,
        data: Bytes,
        offset: Int64s,
        length: Int64s,
        low: Int64s | None = None,
        high: Int64s | None = None,
        time_s: Int64s | int = 0,
        mark: int = 0,
        ifindex: int = 0,
        cpu: int = 0,
        spare: bool = False,
    ) -> Batch:
        """Describe packets where they lie; without `low` and `high` there is no room around them.

        `spare`: what is behind them all in the buffer is free.
        """
        records = np.zeros(offset.shape[0], PACKET_DTYPE)
        records["offset"] = offset
        records["length"] = length
        records["origin"] = np.arange(offset.shape[0])
        records["low"] = offset if low is None else low
        records["high"] = offset + length if high is None else high
        records["time"] = time_s
        records["mark"] = mark
        records["ifindex"] = ifindex
        records["cpu"] = cpu
        records["policy"] = -1
        records["bundle"] = -1
        batch = cls(data, records)
        if spare:
            batch.free = int(records["high"].max(initial=0))
        return batch

    def packet(self, index: int) -> bytes:
        """The bytes of one packet as they are now."""
        p = self.packets[index]
        at = int(p["offset"])
        return self.data[at : at + int(p["length"])].tobytes()

    def append(self, made: Sequence[bytes], origins: Sequence[int]) -> Int64s:
        """Add IP packets that were made of those at `origins`; return their indices.

        What came with the origins comes with them, and nothing has been decided of them. The records are new
        ones afterwards, the buffer may be.
        """
        first, origin = len(self), np.asarray(origins, np.int64)
        more = Batch.pack(made)
        for name in (*ARRIVED, "cpu", "time", "owner"):
            more.packets[name] = self.packets[name][origin]
        # A packet that was made of a made one is of the same origin.
        more.packets["origin"] = self.packets["origin"][origin]
        at = self.lay(more.data)
        for name in ("offset", "low", "high"):
            more.packets[name] += at
        self.packets = longer(self.packets, len(more))
        self.packets[first:] = more.packets
        return np.arange(first, len(self), dtype=np.int64)

    def in_order(self) -> Int64s:
        """All indices, in the order in which the packets go on: those made of one stand behind it."""
        order: Int64s = np.argsort(self.packets["origin"], kind="stable")
        return order

    def lay(self, made: Bytes) -> int:
        """Copy bytes to where the buffer is free, in a larger one if need be; return where they begin."""
        at, end = self.free, self.free + made.shape[0]
        if end > self.data.shape[0]:
            larger = np.empty(end, np.uint8)
            larger[:at] = self.data[:at]
            self.data = larger
        self.data[at:end] = made
        self.free = end
        return at

    def relaid(self, data: Bytes) -> None:
        """Have another buffer, in which the packets lie now and nothing is free."""
        self.data, self.free = data, int(data.shape[0])

    def keep(self, those: Int64s) -> None:
        """Leave only the packets with these indices, in this order."""
        # An index copies records field by field, ten times as slow.
        self.packets = self.packets.take(those)

    def select(self, low: int, high: int) -> Batch:
        """Packets [low, high) as a batch over the same memory."""
        return Batch(self.data, self.packets[low:high])


@compiled(numba.void(PACKETS, I64S))
def note_owners(packets: Any, owners: Int64s) -> None:
    """Write the owner of each packet's socket into its record."""
    for i in range(packets.shape[0]):
        number = packets[i]["socket"]
        packets[i]["owner"] = owners[number] if 0 < number < owners.shape[0] else 0


@compiled(numba.void(PACKETS, I64S))
def count_outcomes(packets: Any, totals: Int64s) -> None:
    """Add each packet to the total of its outcome."""
    for i in range(packets.shape[0]):
        totals[packets[i]["outcome"]] += 1
