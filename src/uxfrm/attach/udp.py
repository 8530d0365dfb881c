"""A UDP port for ESP in UDP (RFC 3948): what arrives is given as the IP packets it was.

    udp = open_udp(4500)                                  # no rights needed
    udp = open_udp(4500, share=True)                      # beside an IKE daemon's socket
    udp = Udp(socket.socket(fileno=given))                # somebody's own socket

Outer IP and UDP headers are rebuilt from the addresses, for Namespace.input; of what is sent the kernel
writes them, so they are taken off. UDP_GRO and UDP_SEGMENT move up to 64 datagrams a call.

Sharing: SO_REUSEPORT and a classic BPF program choose the socket. ESP (8 bytes or more, SPI not 0) is ours,
all else is the IKE daemon's, whose socket needs SO_REUSEPORT too (`allow_sharing` sets it) and the same user.
The kernel numbers the sockets by when they were bound, and anew when one goes: a datagram that is IKE's and
reaches us tells so, and the program is turned around. What reached us is lost, and IKE sends again.

Follows: udp_queue_rcv_one_skb, net/core/sock_reuseport.c, RFC 3948 2.2.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct

import numpy as np

from uxfrm import compiled
from uxfrm.attach.attachment import OWN_MARK, AttachmentError, Counts, Loss, Way
from uxfrm.attach.buffers import enlarge
from uxfrm.attach.datagrams import COUNT, EACH, FROM, HEAD, HEADS, MARK, TO, Gatherer, Rebuilder
from uxfrm.datapath.batch import Batch, Bytes, Int64s

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_SO_MARK, _SO_ATTACH_REUSEPORT_CBPF = 36, 51
_IP_TOS, _IP_TTL, _IP_PKTINFO, _IP_MTU_DISCOVER, _IP_RECVTTL, _IP_RECVTOS = 1, 2, 8, 10, 12, 13
_IPV6_MTU_DISCOVER, _IPV6_RECVPKTINFO, _IPV6_PKTINFO, _IPV6_RECVTCLASS, _IPV6_TCLASS = 23, 49, 50, 66, 67
_IPV6_RECVHOPLIMIT, _IPV6_HOPLIMIT = 51, 52
# IP_MTU_DISCOVER for packets without DF and with it: where path MTUs that the kernel has learnt hold (dont,
# do), and where only the device's does (omit, probe).
_HEEDING, _HEEDLESS = (0, 2), (5, 3)

_BUFFER = 4 << 20
_READ_BYTES = 1024 * 1024  # Python's part of a batch costs the same, however long it is
_DATAGRAM_MAX = 1 << 16
_CALLS = 64
_ANCILLARY = 256
_KNOWN_MAX = 4096
_MTU_MAX = 65535

Ancillary = list[tuple[int, int, bytes]]


def _program(ours: int) -> bytes:
    """A classic BPF program: `ours` for ESP, else the other of two sockets.

    1. length < 8: the other's  2. first word 0: the other's  3. ours
    """
    load_length, load_word, jump_at_least, jump_equal, give = 0x80, 0x20, 0x35, 0x15, 0x06
    lines = [
        (load_length, 0, 0, 0),
        (jump_at_least, 0, 2, 8),
        (load_word, 0, 0, 0),
        (jump_equal, 0, 1, 0),
        (give, 0, 0, 1 - ours),
        (give, 0, 0, ours),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _steer(one: socket.socket, ours: int) -> None:
    """Set the group's program."""
    program = ctypes.create_string_buffer(_program(ours))
    count = (len(program) - 1) // 8
    filter_ = struct.pack("HxxxxxxP", count, ctypes.addressof(program))
    one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, filter_)


def allow_sharing(one: socket.socket) -> None:
    """Let another socket of the same user share this bound one's port."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


class Udp:
    """ESP in UDP over one socket, of IPv4 or IPv6, which is this object's to close; see the module.

    `ours`: the number of the socket in its group, where it is shared. Without `heeding`, path MTUs that the
    kernel has learnt are not for what is sent: they are for what is inside, of the same addresses.
    """

    way = Way.IN

    def __init__(
        self, one: socket.socket, mark: int = OWN_MARK, ours: int | None = None, heeding: bool = True
    ) -> None:
        compiled.ready()
        self._may, self._must_not = _HEEDING if heeding else _HEEDLESS
        self.counts = Counts()
        self.turned = 0  # how often the group's program was turned around
        self._socket = one
        self._ours = ours
        self._mark = mark
        self._four = one.family == socket.AF_INET
        self.port: int = one.getsockname()[1]
        self._prepare()
        self._read = np.empty(_READ_BYTES + _DATAGRAM_MAX, np.uint8)
        self._room = self._read.data
        self._heads = np.zeros(_CALLS * HEADS, np.uint8)
        self._rebuilder = Rebuilder(20 if self._four else 40)
        self._gatherer = Gatherer(4 if self._four else 6, self.port)
        self._known: dict[object, tuple[bytes, int]] = {}
        self._ways: dict[bytes, tuple[Ancillary, tuple[str, int], int]] = {}
        self._discovery = -1

    def _prepare(self) -> None:
        """Set the options; what needs rights is done where they are there."""
        one = self._socket
        one.setblocking(False)
        one.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        if self._four:
            for option in (_IP_PKTINFO, _IP_RECVTOS, _IP_RECVTTL):
                one.setsockopt(socket.IPPROTO_IP, option, 1)
        else:
            for option in (_IPV6_RECVPKTINFO, _IPV6_RECVTCLASS, _IPV6_RECVHOPLIMIT):
                one.setsockopt(socket.IPPROTO_IPV6, option, 1)
        enlarge(one, _BUFFER, _BUFFER)
        try:
            one.setsockopt(socket.SOL_SOCKET, _SO_MARK, self._mark)
        except PermissionError:
            self._mark = 0

    # -- received

    def receive(self, now: float) -> Batch | None:
        """Read datagrams while there are any, and put their headers in front again."""
        arrived: list[tuple[int, int, int]] = []
        ifindexes: list[int] = []
        at = 0
        with contextlib.suppress(BlockingIOError):
            while at < _READ_BYTES and len(arrived) < _CALLS:
                got, ancillary, _, address = self._socket.recvmsg_into(
                    (self._room[at : at + _DATAGRAM_MAX],), _ANCILLARY
                )
                size, rest = _segment_size(ancillary)
                if self._ours is not None and not self._is_esp(at, got):
                    self._turn()
                ifindexes.append(self._write_head(len(arrived), address, rest))
                arrived.append((at, got, size))
                at += got
        if not arrived:
            return None
        table = np.array(arrived, np.int64)
        batch, call = self._rebuilder.batch(self._read, table, self._heads)
        self.counts.received += len(batch)
        batch.packets["time"] = int(now)
        batch.packets["ifindex"] = np.array(ifindexes, np.int64)[call]
        return batch

    def _is_esp(self, at: int, length: int) -> bool:
        return length >= 8 and any(self._room[at : at + 4])

    def _turn(self) -> None:
        """The sockets of the group were numbered anew: what is ours is the other's."""
        assert self._ours is not None
        self._ours = 1 - self._ours
        self.turned += 1
        _steer(self._socket, self._ours)

    def _write_head(self, call: int, address: tuple[str, int], ancillary: Ancillary) -> int:
        """Write IP and UDP header of a call, lengths and checksums left out; return the interface."""
        key = (address, *ancillary)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            found = self._known[key] = self._head(address, ancillary)
        head, ifindex = found
        self._heads[call * HEADS : call * HEADS + len(head)] = np.frombuffer(head, np.uint8)
        return ifindex

    def _head(self, address: tuple[str, int], ancillary: Ancillary) -> tuple[bytes, int]:
        said = {kind: value for _, kind, value in ancillary}
        ports = struct.pack(">HHI", address[1], self.port, 0)
        if self._four:
            ifindex, _, target = struct.unpack("i4s4s", said[_IP_PKTINFO])
            tos, ttl = said[_IP_TOS][0], struct.unpack("i", said[_IP_TTL])[0]
            source = socket.inet_pton(socket.AF_INET, address[0])
            head = struct.pack(">BBHHHBBH", 0x45, tos, 0, 0, 0x4000, ttl, 17, 0)
        else:
            target, ifindex = struct.unpack("16si", said[_IPV6_PKTINFO])
            tos, hops = (struct.unpack("i", said[what])[0] for what in (_IPV6_TCLASS, _IPV6_HOPLIMIT))
            source = socket.inet_pton(socket.AF_INET6, address[0].partition("%")[0])
            head = struct.pack(">IHBB", 6 << 28 | tos << 20, 0, 17, hops)
        return head + source + target + ports, ifindex

    # -- sent

    def send(self, batch: Batch, those: Int64s) -> int:
        """Send what the packets carry, from the addresses and to the ports that they say."""
        if not those.shape[0]:
            return 0
        out, sends, foreign = self._gatherer.sends(batch, those)
        if foreign:
            self.counts.lost[Loss.FOREIGN] += foreign
        sent = sum(self._send(batch.data, out, row) for row in sends.tolist())
        self.counts.sent += sent
        return sent

    def _send(self, data: Bytes, out: Bytes, row: list[int]) -> int:
        """Send one row of the table; return how many packets went."""
        ancillary, address, discovery = self._way_of(data, row[HEAD], row[MARK])
        self._discover(discovery)
        start, end, each, count = row[FROM], row[TO], row[EACH], row[COUNT]
        if count == 1:
            return self._send_one(out[start:end], ancillary, address)
        segment = (_SOL_UDP, _UDP_SEGMENT, struct.pack("H", each))
        try:
            self._socket.sendmsg((out[start:end].data,), [segment, *ancillary], 0, address)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EMSGSIZE, errno.EIO):
                self.counts.lost[_reason(error)] += count
                return 0
            # Longer than the way takes in one piece, or a device that can't: one by one.
            ends = range(start, end, each)
            return sum(self._send_one(out[at : min(at + each, end)], ancillary, address) for at in ends)
        return count

    def _send_one(self, datagram: Bytes, ancillary: Ancillary, address: tuple[str, int]) -> int:
        try:
            self._socket.sendmsg((datagram.data,), ancillary, 0, address)
        except OSError as error:
            self.counts.lost[_reason(error)] += 1
            return 0
        return 1

    def _way_of(self, data: Bytes, at: int, mark: int) -> tuple[Ancillary, tuple[str, int], int]:
        """Source, class and hop limit as ancillary data, the address, and whether it may be fragmented."""
        header = (int(data[at]) & 15) * 4 if self._four else 40
        head = data[at : at + header + 4].tobytes()
        # Lengths, identification and header checksum differ from packet to packet.
        key = head[:2] + head[6:9] + head[12:] if self._four else head[:4] + head[7:]
        key += mark.to_bytes(8, signed=True)
        found = self._ways.get(key)
        if found is None:
            if len(self._ways) >= _KNOWN_MAX:
                self._ways.clear()
            found = self._ways[key] = self._make_way(head, mark)
        return found

    def _make_way(self, head: bytes, mark: int) -> tuple[Ancillary, tuple[str, int], int]:
        port = int.from_bytes(head[-2:])
        marks = [(socket.SOL_SOCKET, _SO_MARK, struct.pack("I", mark & 0xFFFFFFFF | self._mark))]
        ancillary: Ancillary = marks if mark and self._mark else []
        if self._four:
            ancillary.append((socket.IPPROTO_IP, _IP_PKTINFO, struct.pack("i4s4x", 0, head[12:16])))
            ancillary.append((socket.IPPROTO_IP, _IP_TOS, struct.pack("i", head[1])))
            ancillary.append((socket.IPPROTO_IP, _IP_TTL, struct.pack("i", head[8])))
            address = socket.inet_ntop(socket.AF_INET, head[16:20])
            return ancillary, (address, port), self._must_not if head[6] & 0x40 else self._may
        tclass = int.from_bytes(head[:2]) >> 4 & 0xFF
        ancillary.append((socket.IPPROTO_IPV6, _IPV6_PKTINFO, head[8:24] + bytes(4)))
        ancillary.append((socket.IPPROTO_IPV6, _IPV6_TCLASS, struct.pack("i", tclass)))
        ancillary.append((socket.IPPROTO_IPV6, _IPV6_HOPLIMIT, struct.pack("i", head[7])))
        return ancillary, (socket.inet_ntop(socket.AF_INET6, head[24:40]), port), self._may

    def _discover(self, how: int) -> None:
        """Set whether the kernel sets DF (and refuses what is too long for the path) or fragments."""
        if how != self._discovery:
            level, option = (
                (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
                if self._four
                else (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
            )
            self._socket.setsockopt(level, option, how)
            self._discovery = how

    # -- the rest

    def mtu(self) -> int:
        """The longest packet that a socket takes; what the path takes tells `pathmtu.path_mtu`."""
        return _MTU_MAX

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _segment_size(ancillary: Ancillary) -> tuple[int, Ancillary]:
    """What UDP_GRO says, and the rest."""
    for n, (level, kind, value) in enumerate(ancillary):
        if level == _SOL_UDP and kind == _UDP_GRO:
            return struct.unpack("i", value[:4])[0], ancillary[:n] + ancillary[n + 1 :]
    return 0, ancillary


def _reason(error: OSError) -> Loss:
    if isinstance(error, BlockingIOError) or error.errno in (errno.ENOBUFS, errno.ENOMEM):
        return Loss.FULL
    if error.errno == errno.EMSGSIZE:
        return Loss.TOO_LONG
    if error.errno == errno.EBADF:
        raise error
    return Loss.REFUSED


def open_udp(
    port: int = 4500,
    family: int = socket.AF_INET,
    address: str = "",
    share: bool = False,
    mark: int = OWN_MARK,
    heeding: bool = True,
) -> Udp:
    """Bind a port, of all addresses or of one. Raises AttachmentError.

    With `share` it may be an IKE daemon's as well, now or later; see the module. `mark` is set on what is
    sent where there are the rights for it (CAP_NET_ADMIN or CAP_NET_RAW); ports below 1024 need
    CAP_NET_BIND_SERVICE. `heeding` as for Udp.
    """
    one = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if share:
            return Udp(one, mark, _bind_shared(one, address, port), heeding)
        one.bind((address, port))
        return Udp(one, mark, heeding=heeding)
    except OSError as error:
        one.close()
        raise AttachmentError(_words(port, share, error)) from error


def _bind_shared(one: socket.socket, address: str, port: int) -> int:
    """Bind beside others; return our number: 1 where another is there already."""
    ours = int(_taken(one.family, address, port))
    allow_sharing(one)
    one.bind((address, port))
    _steer(one, ours)
    return ours


def _taken(family: int, address: str, port: int) -> bool:
    """True when somebody has the port."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
        return False


def _words(port: int, share: bool, error: OSError) -> str:
    taken = "another program has the port"
    if share:
        taken += ", and does not let it be shared (SO_REUSEPORT, the same user)"
    reasons = {
        errno.EADDRINUSE: taken,
        errno.EACCES: "a port below 1024 needs CAP_NET_BIND_SERVICE",
        errno.EADDRNOTAVAIL: "this host does not have the address",
    }
    return f"udp={port}: {reasons.get(error.errno or 0, os.strerror(error.errno or 0))}"
