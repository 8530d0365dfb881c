"""TCP connections that carry ESP and IKE (RFC 9329): bytes in, packets and messages out, and the other way.

It knows framing and bounded buffers. It does not know TCP: whoever has the connection hands over what it
received, in any pieces, and sends what is taken. The prefix "IKETCP" of a stream is that one's as well, as it
is IKE daemons' on Linux. Follows: net/xfrm/espintcp.c.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from uxfrm.datapath.batch import Batch, Int64s
from uxfrm.datapath.carriers import ESPINTCP, TCP
from uxfrm.datapath.espintcp import MARKER, PREFIX
from uxfrm.model.address import Address
from uxfrm.model.error import XfrmError
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import StateConfig
from uxfrm.tables.states import StateTable

MESSAGE_MAX = 0xFFFF - PREFIX
"""The most bytes of a message, without its length field."""

RECEIVE_BYTES = 131072
"""The usual room for IKE messages that nobody has read: what Linux gives a TCP socket at first."""

SEND_BYTES = 4 << 20
"""The usual room for what TCP has not taken: the most that Linux gives a TCP socket."""

# What a message that waits takes besides its bytes.
_OVERHEAD = 256
_TTL = 64
_LENGTH_MAX = 0xFFFF


class Ends(NamedTuple):
    """A connection: this host's address and port, and the peer's."""

    local: Address
    local_port: int
    remote: Address
    remote_port: int


class Framing:
    """Cuts a stream of bytes into messages; never more than one of them is kept.

    `broken` is set, for good, by a length that counts not even itself. Follows: espintcp_parse.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self.broken = False

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete now, without their lengths."""
        if self.broken:
            return []
        rest, at, found = self._rest, 0, []
        rest += data
        while at + PREFIX <= len(rest):
            length = int.from_bytes(rest[at : at + PREFIX])
            if length < PREFIX:
                self.broken, at = True, len(rest)
                break
            if at + length > len(rest):
                break
            found.append(bytes(rest[at + PREFIX : at + length]))
            at += length
        del rest[:at]
        return found


class Stream:
    """One connection. `error` is the errno that its reader gets once the peer's framing broke, else 0.

    Messages are IKE's, each behind 4 zero bytes that tell it from ESP: as on a Linux socket they are part of
    what is sent and read here.
    """

    def __init__(self, ends: Ends, receive_bytes: int = RECEIVE_BYTES, send_bytes: int = SEND_BYTES) -> None:
        self.ends = ends
        self._framing = Framing()
        self._unread: deque[bytes] = deque()
        self._unread_bytes, self._unread_max = 0, receive_bytes
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes, self._unsent_max = 0, send_bytes

    # -- in

    @property
    def error(self) -> int:
        """EINVAL where nothing is received any more. Sending goes on."""
        return errno.EINVAL if self._framing.broken else 0

    def receive(self, data: bytes, time_s: int = 0, tos: int = 0) -> Batch:
        """Take in what TCP received: packets for Namespace.input; IKE messages wait for `read`.

        Keepalives and what is to be counted as dropped are among the packets. `tos` is the DS field of the
        segments' IP headers.
        """
        found = [message for message in self._framing.feed(data) if not self._keep(message)]
        return packed(self.ends, found, time_s, tos)

    def read(self) -> bytes | None:
        """The next IKE message with its marker, or None."""
        if not self._unread:
            return None
        message = self._unread.popleft()
        self._unread_bytes -= len(message) + _OVERHEAD
        return message

    def _keep(self, message: bytes) -> bool:
        """True where a message is IKE and waits now. Follows: handle_nonesp."""
        if len(message) <= MARKER or any(message[:MARKER]) or self._unread_bytes >= self._unread_max:
            return False
        self._unread.append(message)
        self._unread_bytes += len(message) + _OVERHEAD
        return True

    # -- out

    def send(self, message: bytes) -> None:
        """Send an IKE message, marker and all. XfrmError EMSGSIZE, ENOBUFS. Follows: espintcp_sendmsg."""
        if len(message) > MESSAGE_MAX:
            raise XfrmError(errno.EMSGSIZE)
        if not self.push((len(message) + PREFIX).to_bytes(PREFIX) + message):
            raise XfrmError(errno.ENOBUFS)

    def push(self, framed: bytes) -> bool:
        """Queue a message that has its length already; False where there is no room.

        One that begins while there is room is taken whole. Follows: espintcp_push_skb.
        """
        if self._unsent_bytes >= self._unsent_max:
            return False
        self._unsent.append(framed)
        self._unsent_bytes += len(framed)
        return True

    def take(self, count: int = 1 << 16) -> bytes:
        """The next bytes for TCP to send, at most `count`."""
        taken, room = [], count
        while self._unsent and room > 0:
            piece = self._unsent.popleft()
            if len(piece) > room:
                self._unsent.appendleft(piece[room:])
            taken.append(piece[:room])
            room -= len(taken[-1])
        self._unsent_bytes -= count - room
        return b"".join(taken)

    @property
    def unsent(self) -> int:
        """How many bytes wait for `take`."""
        return self._unsent_bytes


class Streams:
    """The streams of a namespace, by their ends."""

    def __init__(self) -> None:
        self._by_ends: dict[Ends, Stream] = {}

    def __len__(self) -> int:
        return len(self._by_ends)

    def add(self, stream: Stream) -> None:
        """XfrmError EEXIST where there is one with these ends, EINVAL where they are none."""
        ends = stream.ends
        if len(ends.local) != len(ends.remote):
            raise XfrmError(errno.EINVAL)
        if ends in self._by_ends:
            raise XfrmError(errno.EEXIST)
        self._by_ends[ends] = stream

    def remove(self, stream: Stream) -> None:
        """Forget a stream; what it has not sent is gone. XfrmError ENOENT."""
        if self._by_ends.get(stream.ends) is not stream:
            raise XfrmError(errno.ENOENT)
        del self._by_ends[stream.ends]

    def of(self, config: StateConfig) -> Stream | None:
        """The stream of a state's addresses and ports, exactly. Follows: esp_find_tcp_sk."""
        assert config.encap is not None
        ends = Ends(config.saddr, config.encap.sport, config.daddr, config.encap.dport)
        return self._by_ends.get(ends)


def push(streams: Streams, states: StateTable, batch: Batch, those: Int64s, depth: int) -> None:
    """Hand sealed packets over to the streams of the states that sealed them as their transform `depth`.

    No transform behind it is done: to Linux the packet is gone. Follows: esp_output_tail_tcp.
    """
    packets = batch.packets
    for i in those.tolist():
        packet = packets[i]
        config = states.at(int(packet["path"][depth])).config
        stream = streams.of(config) if isinstance(config, StateConfig) else None
        at, end = int(packet["offset"] + packet["header"]), int(packet["offset"] + packet["length"])
        if stream is None:
            packet["outcome"] = Outcome.OUT_STREAM_NONE
        elif not stream.push(batch.data[at:end].tobytes()):
            packet["outcome"] = Outcome.OUT_STREAM_FULL


def packed(ends: Ends, messages: Iterable[bytes], time_s: int | Int64s, tos: int = 0) -> Batch:
    """Messages that a stream received as packets: each behind an IP and a TCP header of the stream's."""
    packets = [_headers(ends, len(message), tos) + message for message in messages]
    lengths = np.fromiter(map(len, packets), np.int64, len(packets))
    data = np.frombuffer(bytearray(b"".join(packets)), np.uint8)
    batch = Batch.view(data, np.cumsum(lengths) - lengths, lengths, time_s=time_s)
    batch.packets["encap"] = ESPINTCP
    return batch


def _headers(ends: Ends, length: int, tos: int) -> bytes:
    """The headers of a segment that carries as much, as far as opening it looks at them."""
    addresses = ends.remote + ends.local
    if len(ends.local) == 4:
        total = min(length + 40, _LENGTH_MAX)
        ip = struct.pack(">BBHIBBH", 0x45, tos, total, 0x4000, _TTL, TCP, 0) + addresses
    else:
        total = min(length + 20, _LENGTH_MAX)
        ip = struct.pack(">IHBB", 6 << 28 | tos << 20, total, TCP, _TTL) + addresses
    return ip + struct.pack(">HHIIHHHH", ends.remote_port, ends.local_port, 0, 0, 0x5018, 0xFFFF, 0, 0)
