"""A TUN device: what the host routes into it is received, what is sent appears on it as received.

    tun = open_tun("uxfrm0", mtu=1400)[0]     # CAP_NET_ADMIN and /dev/net/tun; gone when it is closed

One system call moves a super-packet of up to 64 KB (IFF_VNET_HDR, TCP and UDP segmentation offload): Python
is fast enough for that. What is received is cut to the device's MTU, what is sent is joined where it may be.

With several queues (IFF_MULTI_QUEUE) each is an attachment of its own, and its packets' `cpu` is its number.
Follows: drivers/net/tun.c.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct

import numpy as np

from uxfrm import compiled
from uxfrm.attach.attachment import AttachmentError, Counts, Loss, Way
from uxfrm.attach.coalesce import COUNT, END, START, Coalescer
from uxfrm.attach.superpackets import SUPER_COLUMNS, Cutter, read_vnet
from uxfrm.datapath.batch import Batch, Int64s

_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x0100, 0x1000, 0x4000
_CSUM, _TSO4, _TSO6, _TSO_ECN, _USO4, _USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
_SIOCGIFMTU, _SIOCSIFMTU, _SIOCGIFINDEX, _SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8921, 0x8922, 0x8933, 0x8913, 0x8914
_IFF_UP = 0x1
_NAME_MAX = 15

_FRAME_MAX = 10 + 65535 + 1
_READ_BYTES = 1024 * 1024  # Python's part of a batch costs the same, however long it is
_READS = 128


class Tun:
    """One queue of a TUN device; see `open_tun`."""

    way = Way.OUT

    def __init__(self, descriptor: int, name: str, queue: int = 0) -> None:
        """Take over a descriptor that is attached to device `name`, of this network namespace."""
        compiled.ready()
        self.counts = Counts()
        self.name = name
        self._descriptor = descriptor
        self._queue = queue
        self._asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.ifindex: int = struct.unpack_from("i", self._ask(_SIOCGIFINDEX), 16)[0]
        self._read = np.empty(_READ_BYTES + _FRAME_MAX, np.uint8)
        self._room = self._read.data
        self._cutter, self._coalescer = Cutter(), Coalescer()

    def receive(self, now: float) -> Batch | None:
        """Read super-packets while there are any, and cut them."""
        sizes = self._fill()
        if not sizes:
            return None
        size = np.array(sizes, np.int64)
        supers = np.empty((len(sizes), SUPER_COLUMNS), np.int64)
        read_vnet(self._read, np.cumsum(size) - size, size, supers)
        batch, parts = self._cutter.batch(self._read, supers)
        self.counts.received += len(batch)
        if malformed := int(np.count_nonzero(parts == 0)):
            self.counts.lost[Loss.MALFORMED] += malformed
        batch.packets["time"] = int(now)
        batch.packets["ifindex"] = self.ifindex
        batch.packets["cpu"] = self._queue
        return batch

    def _fill(self) -> list[int]:
        """Read what there is, one behind the other; return the sizes."""
        sizes: list[int] = []
        at = 0
        with contextlib.suppress(BlockingIOError):
            while at < _READ_BYTES and len(sizes) < _READS:
                got = os.readv(self._descriptor, (self._room[at : at + _FRAME_MAX],))
                sizes.append(got)
                at += got
        return sizes

    def send(self, batch: Batch, those: Int64s) -> int:
        """Write packets, joined where they may be."""
        if not those.shape[0]:
            return 0
        out, frames = self._coalescer.frames(batch, those)
        view, sent = out.data, 0
        for start, end, count in frames[:, [START, END, COUNT]].tolist():
            try:
                os.write(self._descriptor, view[start:end])
            except OSError as error:
                self.counts.lost[_reason(error)] += count
            else:
                sent += count
        self.counts.sent += sent
        return sent

    def mtu(self) -> int:
        """The device's MTU."""
        mtu: int = struct.unpack_from("i", self._ask(_SIOCGIFMTU), 16)[0]
        return mtu

    def fileno(self) -> int:
        """The queue's descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Detach the queue; with the last one the device goes, and every route over it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._asking.close()
            self._descriptor = -1

    def _ask(self, request: int, value: bytes = b"") -> bytes:
        return fcntl.ioctl(self._asking, request, struct.pack("16s24s", self.name.encode(), value))

    def bring_up(self, mtu: int | None) -> None:
        """Set the device's MTU, if given, and set it up."""
        if mtu is not None:
            self._ask(_SIOCSIFMTU, struct.pack("i", mtu))
        flags: int = struct.unpack_from("H", self._ask(_SIOCGIFFLAGS), 16)[0]
        self._ask(_SIOCSIFFLAGS, struct.pack("H", flags | _IFF_UP))


def _reason(error: OSError) -> Loss:
    """Why a write failed: no room now, or the device is down or does not take this. Others are faults."""
    if isinstance(error, BlockingIOError) or error.errno in (errno.ENOBUFS, errno.ENOMEM):
        return Loss.FULL
    if error.errno in (errno.EIO, errno.EINVAL, errno.EFAULT):
        return Loss.REFUSED
    raise error


def open_tun(name: str, queues: int = 1, mtu: int | None = None) -> list[Tun]:
    """Make a TUN device, or attach to one that is kept (`ip tuntap add`), and set it up; one Tun a queue.

    Needs /dev/net/tun and CAP_NET_ADMIN (or the ownership of a device that is kept). Raises AttachmentError.
    """
    if not 0 < len(name.encode()) <= _NAME_MAX:
        raise AttachmentError(f"tun={name}: a device's name has 1 to {_NAME_MAX} bytes")
    opened: list[Tun] = []
    try:
        for queue in range(queues):
            opened.append(Tun(_attach(name, queues > 1), name, queue))
        opened[0].bring_up(mtu)
    except OSError as error:
        for tun in opened:
            tun.close()
        raise AttachmentError(_words(name, error)) from error
    return opened


def _attach(name: str, many: bool) -> int:
    """A descriptor attached to the device. Raises OSError."""
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if many else 0)
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(descriptor, _TUNSETVNETHDRSZ, struct.pack("i", 10))
        _set_offloads(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _set_offloads(descriptor: int) -> None:
    """Ask for super-packets; those of UDP are there since Linux 6.2."""
    wanted = _CSUM | _TSO4 | _TSO6 | _TSO_ECN
    try:
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, wanted | _USO4 | _USO6)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, wanted)


def _words(name: str, error: OSError) -> str:
    reasons = {
        errno.ENOENT: "there is no /dev/net/tun: load the tun module, or give the container the device",
        errno.EACCES: "/dev/net/tun may not be opened by this user",
        errno.EPERM: "a TUN device needs CAP_NET_ADMIN in its network namespace, or to be its owner",
        errno.EBUSY: "the device is in use by another program",
        errno.EINVAL: "the device of this name is no TUN device of this kind, or the MTU is wrong",
    }
    return f"tun={name}: {reasons.get(error.errno or 0, os.strerror(error.errno or 0))}"
