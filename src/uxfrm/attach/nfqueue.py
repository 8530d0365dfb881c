"""An NFQUEUE: packets that a rule took out of the kernel's path, and what is to become of each.

    queue = open_queue(4500, Way.IN, beside={4: raw4, 6: raw6})      # CAP_NET_ADMIN
    while (batch := queue.receive(now)) is not None:
        namespace.input(batch)
        queue.send(batch, chosen(batch, Verdict.DELIVERED, Verdict.FORWARDED, Verdict.CLEAR))

`send` of the batch that was received last is its verdict: packets that are sent go on from where they were
taken, on the way in as they are now (decrypted in place); all others are dropped. What can't go on in place,
since it is of another family, goes another way or was made here, goes out through the raw sockets `beside`;
so does every other batch.

Rule 1: it fails closed. Packets without a listener, that wait when it dies, or whose batch was never sent,
        are dropped by the kernel; the queue never lets them by.
Rule 2: what has to be cut (`gso`: TCP of this host, 64 KB at a time) goes on in place only as a whole.
Rule 3: every packet that goes on carries CHECKED_MARK: it need not be asked about again on the way in.

Follows: net/netfilter/nfnetlink_queue.c.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Mapping

import numpy as np

from uxfrm import compiled
from uxfrm.attach import queue_wire as wire
from uxfrm.attach.attachment import (
    CHECKED_MARK,
    OWN_MARK,
    VERDICTS,
    Attachment,
    AttachmentError,
    Counts,
    Loss,
    Way,
)
from uxfrm.attach.buffers import enlarge
from uxfrm.attach.many import Receiver
from uxfrm.attach.pathmtu import path_mtu
from uxfrm.attach.segments import Segments
from uxfrm.attach.superpackets import SUPER_COLUMNS, Cutter
from uxfrm.datapath.batch import HEADROOM, TAILROOM, Batch, Bytes, Int64s
from uxfrm.model.outcome import Verdict

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _NO_ENOBUFS, _CAP_ACK = 270, 5, 10
_BUFFER = 8 << 20

_MESSAGE_MAX = 67_000
_PACKETS = 256
_SUPERS = 16
_CHUNK = 192 * 1024  # of verdicts, in one call: room for the longest packet
_DEFAULT_MTU = 1500
_KNOWN_MAX = 4096
_HEAD_MAX = 64  # of IP, and TCP's ports

_UNCHANGED = np.array([v in (Verdict.CLEAR, Verdict.PENDING) for v in Verdict])
_IN_PLACE = _UNCHANGED | np.array([v in (Verdict.DELIVERED, Verdict.FORWARDED) for v in Verdict])


class Queue:
    """One queue, of both families; see `open_queue`."""

    def __init__(
        self,
        number: int,
        way: Way,
        gso: bool,
        maxlen: int,
        beside: Mapping[int, Attachment],
        mtu_of: Callable[[bytes], int | None],
    ) -> None:
        """Bind the queue. Raises OSError."""
        compiled.ready()
        self.way = way
        self.counts = Counts()
        self.number = number
        self._beside = beside
        self._mtu_of = mtu_of
        self._longest: dict[bytes, int] = {}
        self._second = -1
        self._socket = _bound(number, maxlen, gso)
        self._gso = gso
        self._segments = Segments() if gso else None
        # Only what has to be cut is copied; all else is worked on where it was received.
        count = _SUPERS if gso else _PACKETS
        self._receiver = Receiver(count, HEADROOM, _MESSAGE_MAX, TAILROOM)
        self._out: Bytes = np.empty(_CHUNK, np.uint8)
        self._cutter = Cutter()
        self._pending: Batch | None = None
        self._messages: Int64s = np.empty((0, wire.MESSAGE_COLUMNS), np.int64)
        self._of: Int64s = np.empty(0, np.int64)  # the message that each packet came in

    # -- received

    def receive(self, now: float) -> Batch | None:
        """The packets that wait; those of the batch before that got no verdict are dropped."""
        self._drop_pending()
        count = self._receiver.receive(self.fileno())
        if not count:
            return None
        messages = self._messages_of(count)
        batch, parts = self._cut(messages, now) if self._gso else self._as_they_lie(messages)
        self._messages, self._of = messages, np.repeat(np.arange(len(messages)), parts)
        if malformed := int(np.count_nonzero(parts == 0)):
            self.counts.lost[Loss.MALFORMED] += malformed
        self.counts.received += len(batch)
        batch.packets["time"] = int(now)
        of = messages[self._of]
        batch.packets["mark"] = of[:, wire.MARK] & ~(OWN_MARK | CHECKED_MARK)
        batch.packets["ifindex"] = of[:, wire.IN if self.way == Way.IN else wire.OUT]
        self._pending = batch
        return batch

    def _as_they_lie(self, messages: Int64s) -> tuple[Batch, Int64s]:
        """The packets of messages, and how many each is: 0 where the kernel did not give all of it."""
        parts: Int64s = (messages[:, wire.CUT] == 0).astype(np.int64)
        good = messages[parts == 1]
        offset, length = good[:, wire.PAYLOAD], good[:, wire.BYTES]
        # The netlink header in front is room as well.
        low, high = offset - HEADROOM, offset + length + TAILROOM
        return Batch.view(self._receiver.data, offset, length, low, high, spare=True), parts

    def _cut(self, messages: Int64s, now: float) -> tuple[Batch, Int64s]:
        """The packets that super-packets are cut to, and how many each is."""
        supers = np.empty((len(messages), SUPER_COLUMNS), np.int64)
        wire.describe(self._receiver.data, messages, supers, self._cut_to(messages, now))
        return self._cutter.batch(self._receiver.data, supers)

    def _messages_of(self, count: int) -> Int64s:
        """The packets among what was read; errors are verdicts that the kernel could not carry out."""
        came = self._receiver
        messages = np.empty((count, wire.MESSAGE_COLUMNS), np.int64)
        wire.read_messages(came.data, came.start[:count], came.lengths(count), messages)
        if refused := int(np.count_nonzero(messages[:, wire.KIND] == wire.ERROR)):
            self.counts.lost[Loss.REFUSED] += refused
        found: Int64s = messages[messages[:, wire.KIND] == wire.PACKET]
        return found

    def _cut_to(self, messages: Int64s, now: float) -> Int64s:
        """For each super-packet how long its packets are to be; asked for once a second, or after news."""
        if int(now) != self._second:
            self._longest.clear()
            self._second = int(now)
        longest = np.zeros(len(messages), np.int64)
        for i in np.flatnonzero(messages[:, wire.INFO] & wire.IS_GSO):
            at, four = int(messages[i, wire.PAYLOAD]), messages[i, wire.VERSION] == 4
            first, size = (12, 4) if four else (8, 16)
            head = self._receiver.data[at : at + _HEAD_MAX].tobytes()
            end = first + 2 * size
            upper = (head[0] & 15) * 4 if four else end
            longest[i] = self._known(
                head[first : first + size], head[end - size : end], head[upper : upper + 4]
            )
        return longest

    def _known(self, source: bytes, destination: bytes, ports: bytes) -> int:
        """What a connection's own packets are like, and the path MTU that TCP knows too."""
        key = source + destination + ports
        found = self._longest.get(key)
        if found is None:
            if len(self._longest) >= _KNOWN_MAX:
                self._longest.clear()
            found = self._mtu_of(destination) or _DEFAULT_MTU
            if self._segments is not None and (longest := self._segments.longest(source, destination, ports)):
                found = min(found, longest)
            self._longest[key] = found
        return found

    # -- sent

    def send(self, batch: Batch, those: Int64s) -> int:
        """Let packets go on; of the batch received last all others are dropped. See the module."""
        if batch is not self._pending:
            sent = self._send_beside(batch, those)
        else:
            self._pending = None
            sent = self._judge(batch, those)
        self.counts.sent += sent
        return sent

    def _judge(self, batch: Batch, those: Int64s) -> int:
        """Give the verdicts: 1. what goes on in place  2. all others are dropped  3. what goes beside."""
        if not len(self._messages):
            return 0
        packets, messages = batch.packets, self._messages
        if (VERDICTS[packets["outcome"]] == Verdict.RETURNED).any():
            # Who sent something is told of an MTU, perhaps: it is asked for anew.
            self._longest.clear()
        verdict = VERDICTS[packets["outcome"][those]]
        origin = packets["origin"][those]
        message = self._of[origin]
        how, index = np.zeros(len(messages), np.int64), np.zeros(len(messages), np.int64)
        # A super-packet goes on if none of its parts was changed or refused.
        same = (those == origin) & _UNCHANGED[verdict]
        parts = np.bincount(self._of, minlength=len(messages))
        whole = (np.bincount(message[same], minlength=len(messages)) == parts) & (parts > 0)
        how[whole] = wire.AS_IT_CAME
        index[message[same]] = those[same]
        placed = same & whole[message]
        if self.way == Way.IN:
            # What was decrypted takes the place of what brought it: one for each, of the same family.
            came = messages[message, wire.VERSION]
            may = _IN_PLACE[verdict] & (self._versions(batch, those) == came) & ~whole[message]
            candidates = np.flatnonzero(may)
            taken, first = np.unique(message[candidates], return_index=True)
            how[taken], index[taken] = wire.REPLACED, those[candidates[first]]
            placed[candidates[first]] = True
        self._say(batch, how, index)
        return int(np.count_nonzero(placed)) + self._send_beside(batch, those[~placed])

    def _say(self, batch: Batch, how: Int64s, index: Int64s) -> None:
        """Send the verdicts, as many in a call as the buffer holds."""
        m = 0
        while m < len(self._messages):
            m, size = wire.write_verdicts(
                self._out, self.number, self._messages, how, index, m, CHECKED_MARK, batch.data, batch.packets
            )
            try:
                self._socket.sendto(self._out[:size].data, (0, 0))
            except OSError as error:
                if error.errno == errno.EBADF:
                    raise
                self.counts.lost[Loss.REFUSED] += 1

    @staticmethod
    def _versions(batch: Batch, those: Int64s) -> Bytes:
        """The IP version of each, 0 for an empty packet."""
        offset, length = (batch.packets[name][those] for name in ("offset", "length"))
        inside = np.minimum(offset, max(batch.data.shape[0] - 1, 0))
        found: Bytes = np.where(length > 0, batch.data[inside] >> 4, 0).astype(np.uint8)
        return found

    def _send_beside(self, batch: Batch, those: Int64s) -> int:
        """Send through the raw sockets, each family through its own."""
        sent = 0
        if not len(those):
            return sent
        versions = self._versions(batch, those)
        for version in np.unique(versions).tolist():
            other, mine = self._beside.get(version), those[versions == version]
            if other is None:
                self.counts.lost[Loss.FOREIGN] += len(mine)
            else:
                sent += other.send(batch, mine)
        return sent

    def _drop_pending(self) -> None:
        if self._pending is not None:
            self._judge(self._pending, np.empty(0, np.int64))
            self._pending = None

    # -- the rest

    def mtu(self) -> int:
        """The longest packet that can go on in place."""
        return 65531

    def fileno(self) -> int:
        """The queue's socket."""
        return self._socket.fileno()

    def close(self) -> None:
        """Unbind the queue: what waits is dropped, and what its rules take from now on."""
        self._socket.close()
        if self._segments is not None:
            self._segments.close()


def _bound(number: int, maxlen: int, gso: bool) -> socket.socket:
    """A socket that has the queue. Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    one = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
    try:
        enlarge(one, receive=_BUFFER, send=_BUFFER)
        one.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
        one.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        one.bind((0, 0))
        # The first does nothing, but with the rights: after that EPERM says that the queue is another's.
        for command, refused in ((wire.PF_BIND, errno.EPERM), (wire.BIND, errno.EBUSY)):
            one.sendto(wire.configure(number, command, maxlen, gso), (0, 0))
            _check(one.recv(4096), refused)
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


def _check(answer: bytes, refused: int) -> None:
    """Raise OSError unless the answer is an acknowledgement; `refused` is what EPERM means."""
    number = -struct.unpack_from("=i", answer, 16)[0]
    if number:
        number = refused if number == errno.EPERM else number
        raise OSError(number, os.strerror(number))


def open_queue(
    number: int,
    way: Way,
    beside: Mapping[int, Attachment],
    gso: bool = False,
    maxlen: int = 4096,
    mtu_of: Callable[[bytes], int | None] = path_mtu,
) -> Queue:
    """Bind queue `number` of this network namespace. Raises AttachmentError.

    `beside`: by IP version (4, 6) the raw sockets for what can't go on in place. `gso`: super-packets of TCP
    are not cut by the kernel but here, as their connection wants and to `mtu_of(destination)`; for a queue
    that gets nothing else. `maxlen` packets wait at most; more are dropped.
    """
    try:
        return Queue(number, way, gso, maxlen, beside, mtu_of)
    except OSError as error:
        reasons = {
            errno.EPERM: "an NFQUEUE needs CAP_NET_ADMIN in its network namespace",
            errno.EBUSY: "another program has this queue",
            errno.EPROTONOSUPPORT: "this kernel has no NFQUEUE (nfnetlink_queue)",
            errno.EOPNOTSUPP: "this kernel has no NFQUEUE (nfnetlink_queue)",
        }
        words = reasons.get(error.errno or 0, os.strerror(error.errno or 0))
        raise AttachmentError(f"nfqueue {number}: {words}") from error
