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

import numpy as np

from uxfrm.attach.attachment import OWN_MARK, AttachmentError, Counts, Loss, Way
from uxfrm.datapath.batch import HEADROOM, TAILROOM, Batch, Int64s

ESP, AH, COMP = 50, 51, 108

_RAW = 255
_SO_MARK, _SO_RCVMARK, _SO_RCVBUFFORCE, _SO_SNDBUFFORCE = 36, 75, 33, 32
_IP_PKTINFO, _IP_MTU_DISCOVER, _INTERFACE = 8, 10, 4
_IPV6_MTU_DISCOVER, _IPV6_HDRINCL, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 23, 36, 49, 50
_IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT, _IPV6_RECVTCLASS, _IPV6_TCLASS = 51, 52, 66, 67

_BUFFER = 4 << 20
_PACKETS = 256
_READ_BYTES = 512 * 1024
_PACKET_MAX = 1 << 16
_HEADER6 = 40
_ANCILLARY = 256
_KNOWN_MAX = 4096

Ancillary = list[tuple[int, int, bytes]]


class Raw:
    """The raw sockets of one family; see `open_raw`."""

    way = Way.IN

    def __init__(self, family: int, protocols: Sequence[int], mark: int) -> None:
        """Open the sockets. Raises OSError."""
        self.counts = Counts()
        self._four = family == socket.AF_INET
        self._mark = mark
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
        self._read = np.zeros(_READ_BYTES + _PACKET_MAX + HEADROOM + TAILROOM + _HEADER6, np.uint8)
        self._room = self._read.data
        self._addresses: dict[bytes, str] = {}

    # -- received

    def receive(self, now: float) -> Batch | None:
        """Read packets while there are any, each into its place."""
        rows: list[tuple[int, int, int, int]] = []
        at = 0
        for descriptor, _ in self._waiting.poll(0):
            one, protocol = self._in[descriptor]
            with contextlib.suppress(BlockingIOError):
                while at < _READ_BYTES and len(rows) < _PACKETS:
                    row = self._receive(one, protocol, at + HEADROOM)
                    rows.append(row)
                    at = row[0] + row[1] + TAILROOM
        if not rows:
            return None
        offset, length, ifindex, mark = np.array(rows, np.int64).T
        batch = Batch.view(
            self._read, offset, length, offset - HEADROOM, offset + length + TAILROOM, int(now)
        )
        batch.packets["ifindex"], batch.packets["mark"] = ifindex, mark
        self.counts.received += len(batch)
        return batch

    def _receive(self, one: socket.socket, protocol: int, at: int) -> tuple[int, int, int, int]:
        """Read one packet to `at`: its offset, length, interface and mark."""
        start = at if self._four else at + _HEADER6
        got, ancillary, _, address = one.recvmsg_into((self._room[start : start + _PACKET_MAX],), _ANCILLARY)
        said = {kind: value for level, kind, value in ancillary if level != socket.SOL_SOCKET}
        marks = [value for level, kind, value in ancillary if (level, kind) == (socket.SOL_SOCKET, _SO_MARK)]
        mark = struct.unpack("I", marks[0])[0] if marks else 0
        if self._four:
            return at, got, struct.unpack("i8x", said[_IP_PKTINFO])[0], mark
        self._room[at:start] = _header6(got, protocol, address[0], said)
        return at, _HEADER6 + got, struct.unpack("16xi", said[_IPV6_PKTINFO])[0], mark

    # -- sent

    def send(self, batch: Batch, those: Int64s) -> int:
        """Send whole packets, each with its mark and ours."""
        sent = sum(self._send(batch, i) for i in those.tolist())
        self.counts.sent += sent
        return sent

    def _send(self, batch: Batch, i: int) -> bool:
        p = batch.packets[i]
        at, length = int(p["offset"]), int(p["length"])
        if length < (20 if self._four else _HEADER6):
            self.counts.lost[Loss.MALFORMED] += 1
            return False
        if int(batch.data[at]) >> 4 != (4 if self._four else 6):
            self.counts.lost[Loss.FOREIGN] += 1
            return False
        where, size = (16, 4) if self._four else (24, 16)
        address = self._address(batch.data[at + where : at + where + size].tobytes())
        mark = int(p["mark"]) & 0xFFFFFFFF | self._mark
        ancillary: Ancillary = []
        if mark != self._mark:
            ancillary = [(socket.SOL_SOCKET, _SO_MARK, struct.pack("I", mark))]
        try:
            self._out.sendmsg((batch.data[at : at + length].data,), ancillary, 0, (address, 0))
        except OSError as error:
            self.counts.lost[_reason(error)] += 1
            return False
        return True

    def _address(self, address: bytes) -> str:
        found = self._addresses.get(address)
        if found is None:
            if len(self._addresses) >= _KNOWN_MAX:
                self._addresses.clear()
            family = socket.AF_INET if self._four else socket.AF_INET6
            found = self._addresses[address] = socket.inet_ntop(family, address)
        return found

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
    _enlarge(one, socket.SO_SNDBUF, _SO_SNDBUFFORCE)
    if family == socket.AF_INET:
        one.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _INTERFACE)
    else:
        one.setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        one.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _INTERFACE)
    return one


def _receiver(family: int, protocol: int) -> socket.socket:
    """A socket that gets a protocol's packets, with the interface and mark of each. Raises OSError."""
    one = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    _enlarge(one, socket.SO_RCVBUF, _SO_RCVBUFFORCE)
    if family == socket.AF_INET:
        one.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    else:
        for option in (_IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT, _IPV6_RECVTCLASS):
            one.setsockopt(socket.IPPROTO_IPV6, option, 1)
    with contextlib.suppress(OSError):  # Linux 5.19
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVMARK, 1)
    return one


def _enlarge(one: socket.socket, plain: int, force: int) -> None:
    try:
        one.setsockopt(socket.SOL_SOCKET, force, _BUFFER)
    except PermissionError:
        one.setsockopt(socket.SOL_SOCKET, plain, _BUFFER)


def _header6(length: int, protocol: int, source: str, said: dict[int, bytes]) -> bytes:
    """The IPv6 header of what a raw socket gave."""
    tclass = struct.unpack("i", said.get(_IPV6_TCLASS, bytes(4)))[0]
    hops = struct.unpack("i", said.get(_IPV6_HOPLIMIT, struct.pack("i", 64)))[0]
    ends = socket.inet_pton(socket.AF_INET6, source.partition("%")[0]) + said[_IPV6_PKTINFO][:16]
    return struct.pack(">IHBB", 6 << 28 | tclass << 20, length, protocol, hops) + ends


def _reason(error: OSError) -> Loss:
    if isinstance(error, BlockingIOError) or error.errno in (errno.ENOBUFS, errno.ENOMEM):
        return Loss.FULL
    if error.errno == errno.EMSGSIZE:
        return Loss.TOO_LONG
    if error.errno == errno.EBADF:
        raise error
    return Loss.MALFORMED if error.errno == errno.EINVAL else Loss.REFUSED


def open_raw(family: int, protocols: Sequence[int] = (ESP, AH, COMP), mark: int = OWN_MARK) -> Raw:
    """Open raw sockets for `protocols` of AF_INET or AF_INET6, and one to send. Raises AttachmentError."""
    try:
        return Raw(family, protocols, mark)
    except OSError as error:
        lacking = "raw sockets need CAP_NET_RAW in their network namespace"
        words = lacking if error.errno == errno.EPERM else os.strerror(error.errno or 0)
        raise AttachmentError(f"raw: {words}") from error
