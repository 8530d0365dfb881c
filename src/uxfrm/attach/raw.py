"""Raw sockets: ESP, AH and IPComp that the host receives, and whole packets of any kind out.

    raw = open_raw(socket.AF_INET)                 # CAP_NET_RAW
    out = open_raw(socket.AF_INET6, protocols=())  # only to send

What is received was reassembled by the kernel. IPv4 comes as it was on the wire. Of IPv6 the kernel hands on
what is behind the headers: the IPv6 header is rebuilt, extension headers and flow label are lost (AH that
covers such headers can't be checked then; NFQUEUE sees them).

What is sent carries the host's own mark beside its own, and takes no notice of path MTUs that the kernel has
learnt (IP_PMTUDISC_INTERFACE): they are for what is inside, which the engine has made fit. Only what the
device does not take is refused.

Follows: raw(7), net/ipv4/raw.c, net/ipv6/raw.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Sequence

import numba
import numpy as np
from numba import int64

from uxfrm import compiled as functions
from uxfrm.attach.attachment import OWN_MARK, AttachmentError, Counts, Loss, Way
from uxfrm.attach.buffers import enlarge
from uxfrm.attach.many import CONTROL_MAX, NAME_MAX, Receiver, Sender, control, native32
from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, HEADROOM, I64S, TAILROOM, Batch, Bytes, Int64s
from uxfrm.datapath.wire import copy, write16, write32

ESP, AH, COMP = 50, 51, 108
ICMP, ICMPV6 = 1, 58
"""Of these only what says that a packet was too big is received."""

_RAW = 255
_SO_MARK, _SO_RCVMARK = 36, 75
_IP_PKTINFO, _IP_MTU_DISCOVER, _INTERFACE = 8, 10, 4
_IPV6_MTU_DISCOVER, _IPV6_HDRINCL, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 23, 36, 49, 50
_IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT, _IPV6_RECVTCLASS, _IPV6_TCLASS = 51, 52, 66, 67

_ICMP_FILTER, _UNREACHABLE, _ICMP6_FILTER, _TOO_BIG = 1, 3, 1, 2
_BUFFER = 4 << 20
_PACKETS = 256
_PACKET_MAX = 1 << 16
_HEADER6 = 40


@compiled(numba.void(DATA, I64S, int64, I64S, I64S))
def _read_controls4(controls: Bytes, size: Int64s, count: int, ifindex: Int64s, mark: Int64s) -> None:
    """The interface and mark that came with each packet of IPv4."""
    for i in range(count):
        at = i * CONTROL_MAX
        ifindex[i] = mark[i] = 0
        where = control(controls, at, size[i], 0, _IP_PKTINFO)
        if where >= 0:
            ifindex[i] = native32(controls, where)
        where = control(controls, at, size[i], 1, _SO_MARK)
        if where >= 0:
            mark[i] = native32(controls, where)


@compiled(numba.void(DATA, I64S, I64S, DATA, DATA, I64S, I64S, int64, I64S, I64S))
def _write_headers6(
    data: Bytes,
    start: Int64s,
    length: Int64s,
    names: Bytes,
    controls: Bytes,
    size: Int64s,
    protocol: Int64s,
    count: int,
    ifindex: Int64s,
    mark: Int64s,
) -> None:
    """Write the IPv6 header in front of each packet; the interface and mark that came with it.

    1. version, class  2. length, protocol, hop limit  3. source: the sender's name  4. destination
    """
    for i in range(count):
        at, to = i * CONTROL_MAX, start[i] - _HEADER6
        ifindex[i] = mark[i] = 0
        tclass, hops = 0, 64
        where = control(controls, at, size[i], 41, _IPV6_TCLASS)
        if where >= 0:
            tclass = native32(controls, where)
        where = control(controls, at, size[i], 41, _IPV6_HOPLIMIT)
        if where >= 0:
            hops = native32(controls, where)
        where = control(controls, at, size[i], 1, _SO_MARK)
        if where >= 0:
            mark[i] = native32(controls, where)
        write32(data, to, 6 << 28 | (tclass & 0xFF) << 20)
        write16(data, to + 4, length[i])
        write16(data, to + 6, protocol[i] << 8 | (hops & 0xFF))
        copy(data, to + 8, names, i * NAME_MAX + 8, 16)
        where = control(controls, at, size[i], 41, _IPV6_PKTINFO)
        if where >= 0:
            copy(data, to + 24, controls, where, 16)
            ifindex[i] = native32(controls, where + 16)


class Raw:
    """The raw sockets of one family; see `open_raw`."""

    way = Way.IN

    def __init__(self, family: int, protocols: Sequence[int], mark: int) -> None:
        """Open the sockets. Raises OSError."""
        functions.ready()
        self.counts = Counts()
        self._four = family == socket.AF_INET
        self._waiting = select.epoll()
        self._in: dict[int, tuple[socket.socket, int]] = {}
        try:
            self._out = _sender(family, mark)
            for protocol in protocols:
                one = _receiver(family, protocol)
                self._in[one.fileno()] = one, protocol
                self._waiting.register(one, select.EPOLLIN)
        except OSError:
            self.close()
            raise
        self._head = HEADROOM if self._four else HEADROOM + _HEADER6
        self._receiver = Receiver(_PACKETS if protocols else 1, self._head, _PACKET_MAX, TAILROOM)
        self._sender = Sender(4 if self._four else 6, mark)
        self._protocols = np.zeros(_PACKETS, np.int64)

    # -- received

    def receive(self, now: float) -> Batch | None:
        """Read packets while there are any, each into its place."""
        count = 0
        for descriptor, _ in self._waiting.poll(0) if self._in else ():
            end = self._receiver.receive(descriptor, count)
            self._protocols[count:end] = self._in[descriptor][1]
            count = end
        if not count:
            return None
        self.counts.received += count
        came = self._receiver
        offset, length, sizes = came.start[:count], came.lengths(count), came.control_bytes(count)
        ifindex, mark = np.empty(count, np.int64), np.empty(count, np.int64)
        if self._four:
            _read_controls4(came.controls, sizes, count, ifindex, mark)
        else:
            _write_headers6(
                came.data, offset, length, came.names, came.controls, sizes, self._protocols, count,
                ifindex, mark,
            )  # fmt: skip
            offset, length = offset - _HEADER6, length + _HEADER6
        low, high = offset - HEADROOM, offset + length + TAILROOM
        batch = Batch.view(came.data, offset, length, low, high, int(now), spare=True)
        batch.packets["ifindex"], batch.packets["mark"] = ifindex, mark
        return batch

    # -- sent

    def send(self, batch: Batch, those: Int64s) -> int:
        """Send whole packets, each with its mark and ours."""
        if not those.shape[0]:
            return 0
        sent, refused, errors = self._sender.send(self._out.fileno(), batch.data, batch.packets, those)
        self.counts.sent += sent
        for loss, count in zip((Loss.MALFORMED, Loss.FOREIGN), refused.tolist(), strict=True):
            if count:
                self.counts.lost[loss] += count
        for number in errors:
            self.counts.lost[_reason(number)] += 1
        return sent

    # -- the rest

    def mtu(self) -> int:
        """The longest packet that a socket takes; the device's MTU is looked at for each packet."""
        return _PACKET_MAX - 1

    def fileno(self) -> int:
        """A descriptor that is readable when one of the sockets is."""
        return self._waiting.fileno()

    def close(self) -> None:
        """Close the sockets."""
        for one, _ in self._in.values():
            one.close()
        self._in = {}
        self._waiting.close()
        if hasattr(self, "_out"):
            self._out.close()


def _sender(family: int, mark: int) -> socket.socket:
    """A socket that sends whole packets. Raises OSError."""
    one = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _RAW)
    one.setsockopt(socket.SOL_SOCKET, _SO_MARK, mark)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    enlarge(one, send=_BUFFER)
    if family == socket.AF_INET:
        one.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _INTERFACE)
    else:
        one.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        one.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _INTERFACE)
    return one


def _receiver(family: int, protocol: int) -> socket.socket:
    """A socket that gets a protocol's packets, with the interface and mark of each. Raises OSError."""
    one = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    enlarge(one, receive=_BUFFER)
    if family == socket.AF_INET:
        one.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        for option in (_IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_RECVTCLASS):
            one.setsockopt(socket.IPPROTO_IPV6, option, 1)
    _sift(one, protocol)
    with contextlib.suppress(OSError):  # Linux 5.19
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVMARK, 1)
    return one


def _sift(one: socket.socket, protocol: int) -> None:
    """Of ICMP let in one type. Source: raw(7), RFC 3542 3.2."""
    if protocol == ICMP:
        one.setsockopt(_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _UNREACHABLE) & 0xFFFFFFFF))
    elif protocol == ICMPV6:
        blocked = (1 << 256) - 1 - (1 << _TOO_BIG)
        words = (blocked >> 32 * n & 0xFFFFFFFF for n in range(8))
        one.setsockopt(protocol, _ICMP6_FILTER, struct.pack("=8I", *words))


def _reason(number: int) -> Loss:
    if number in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
        return Loss.FULL
    if number == errno.EMSGSIZE:
        return Loss.TOO_LONG
    return Loss.MALFORMED if number == errno.EINVAL else Loss.REFUSED


def open_raw(family: int, protocols: Sequence[int] = (ESP, AH, COMP), mark: int = OWN_MARK) -> Raw:
    """Open raw sockets for `protocols` of AF_INET or AF_INET6, and one to send. Raises AttachmentError."""
    try:
        return Raw(family, protocols, mark)
    except OSError as error:
        lacking = "raw sockets need CAP_NET_RAW in their network namespace"
        words = lacking if error.errno == errno.EPERM else os.strerror(error.errno or 0)
        raise AttachmentError(f"raw: {words}") from error
