"""Many messages a system call: recvmmsg and sendmmsg over memory of numpy's.

Where one packet is one message (raw sockets, NFQUEUE), Python's own calls cost several times what the
kernel's do; here a packet costs no Python at all. Addresses of memory are passed to the kernel, so lengths
are checked before and arrays outlive the call.

Follows: recvmmsg(2), sendmmsg(2), cmsg(3).
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

import numba
import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.batch import DATA, I64S, PACKETS, Bytes, Int64s
from uxfrm.datapath.wire import copy

MESSAGE_ROWS: Any = int64[:, ::1]

# Columns of struct mmsghdr, as 64-bit words of a little-endian machine.
NAME, NAME_BYTES, VECTOR, VECTORS, CONTROL, CONTROL_BYTES, FLAGS, LENGTH = range(8)
HEADER_COLUMNS = 8

NAME_MAX = 28  # sockaddr_in6
CONTROL_MAX = 128

_DONTWAIT = 0x40
_SOL_SOCKET, _SO_MARK = 1, 36
_INT = 0xFFFFFFFF
_MARK_CONTROL = 24  # cmsghdr and an int, padded

_libc = ctypes.CDLL(None, use_errno=True)
for _call, _more in (("recvmmsg", [ctypes.c_void_p]), ("sendmmsg", [])):
    getattr(_libc, _call).argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, *_more]


def _count(result: int) -> int:
    """A call's result, as an exception where it is an error."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@compiled(int64(DATA, int64))
def native32(data: Bytes, at: int) -> int:
    """A 32-bit word of this machine's (every machine that uxfrm runs on is little-endian)."""
    word = 0
    for n in range(4):
        word |= int(data[at + n]) << (8 * n)
    return word


@compiled(numba.void(DATA, int64, int64))
def put_native32(out: Bytes, at: int, value: int) -> None:
    """Store a 32-bit word of this machine's."""
    for n in range(4):
        out[at + n] = (value >> (8 * n)) & 0xFF


@compiled(int64(DATA, int64, int64, int64, int64))
def control(data: Bytes, at: int, length: int, level: int, kind: int) -> int:
    """Where the value of a control message is, among `length` bytes at `at`; -1 where there is none."""
    end = at + length
    while at + 16 <= end:
        size = native32(data, at)
        if size < 16 or at + size > end:
            return -1
        if native32(data, at + 8) == level and native32(data, at + 12) == kind:
            return at + 16
        at += (size + 7) & ~7
    return -1


class Receiver:
    """Slots for `count` messages, each of `size` bytes behind `head` bytes and before `tail` bytes of room.

    After `receive`: message i lies at data[start[i] : start[i] + lengths[i]], the sender's address at
    names[i * NAME_MAX], control messages at controls[i * CONTROL_MAX], `control_bytes[i]` of them.
    """

    def __init__(self, count: int, head: int, size: int, tail: int) -> None:
        self.count = count
        slot = head + size + tail
        self.data: Bytes = np.zeros(count * slot, np.uint8)
        self.names: Bytes = np.zeros(count * NAME_MAX, np.uint8)
        self.controls: Bytes = np.zeros(count * CONTROL_MAX, np.uint8)
        place = np.arange(count, dtype=np.int64)
        self.start: Int64s = place * slot + head
        self._vectors = np.empty((count, 2), np.int64)
        self._vectors[:, 0], self._vectors[:, 1] = self.data.ctypes.data + self.start, size
        self._headers = np.zeros((count, HEADER_COLUMNS), np.int64)
        self._headers[:, NAME] = self.names.ctypes.data + place * NAME_MAX
        self._headers[:, CONTROL] = self.controls.ctypes.data + place * CONTROL_MAX
        self._headers[:, VECTOR] = self._vectors.ctypes.data + place * 16
        self._headers[:, VECTORS] = 1
        self._reset(0, count)

    def _reset(self, first: int, stop: int) -> None:
        """Say again how much room there is: the kernel wrote over it."""
        self._headers[first:stop, NAME_BYTES] = NAME_MAX
        self._headers[first:stop, CONTROL_BYTES] = CONTROL_MAX

    def receive(self, descriptor: int, first: int = 0) -> int:
        """Receive what is there into the slots from `first` on; return where it ended. Never waits.

        Raises OSError, but for EAGAIN.
        """
        if first >= self.count:
            return first
        self._reset(first, self.count)
        at = self._headers.ctypes.data + first * HEADER_COLUMNS * 8
        try:
            return first + _count(_libc.recvmmsg(descriptor, at, self.count - first, _DONTWAIT, None))
        except BlockingIOError:
            return first

    def lengths(self, count: int) -> Int64s:
        """The bytes of the first messages."""
        found: Int64s = self._headers[:count, LENGTH] & _INT
        return found

    def control_bytes(self, count: int) -> Int64s:
        """The bytes of their control messages."""
        found: Int64s = self._headers[:count, CONTROL_BYTES].copy()
        return found


# -- sent


@compiled(int64(DATA, PACKETS, I64S, int64, int64, int64, MESSAGE_ROWS, MESSAGE_ROWS, DATA, DATA, I64S))
def _address_all(
    data: Bytes,
    packets: Any,
    those: Int64s,
    version: int,
    mark: int,
    base: int,
    headers: Int64s,
    vectors: Int64s,
    names: Bytes,
    controls: Bytes,
    refused: Int64s,
) -> int:
    """Fill a header for each packet of IP `version`; return how many.

    `base`: the address of `data`. `refused` counts [what is no packet, what is of the other family].
    """
    count = 0
    where, size, least = (16, 4, 20) if version == 4 else (24, 16, 40)
    for k in range(those.shape[0]):
        p = packets[those[k]]
        at, length = p["offset"], p["length"]
        if length < 1 or at < 0 or at + length > data.shape[0] or length < least:
            refused[0] += 1
            continue
        if int(data[at]) >> 4 != version:
            refused[1] += 1
            continue
        copy(names, count * NAME_MAX + (4 if version == 4 else 8), data, at + where, size)
        vectors[count, 0], vectors[count, 1] = base + at, length
        headers[count, CONTROL_BYTES] = 0
        if p["mark"] & _INT & ~mark:
            headers[count, CONTROL_BYTES] = _MARK_CONTROL
            put_native32(controls, count * _MARK_CONTROL + 16, (p["mark"] & _INT) | mark)
        count += 1
    return count


class Sender:
    """Sends whole IP packets of one version, each to its own destination, with its mark and `mark`."""

    def __init__(self, version: int, mark: int) -> None:
        self._version, self._mark = version, mark
        self._room(64)

    def _room(self, count: int) -> None:
        """Make headers for `count` packets, all but what differs."""
        self._count = count
        place = np.arange(count, dtype=np.int64)
        names = np.zeros((count, NAME_MAX), np.uint8)
        names[:, 0] = 2 if self._version == 4 else 10  # AF_INET, AF_INET6
        controls = np.zeros((count, _MARK_CONTROL), np.uint8)
        controls[:, :16] = np.frombuffer(
            np.array([20, _SOL_SOCKET | _SO_MARK << 32], np.int64).tobytes(), np.uint8
        )
        self._names, self._controls = names.reshape(-1), controls.reshape(-1)
        self._vectors = np.zeros((count, 2), np.int64)
        self._headers = np.zeros((count, HEADER_COLUMNS), np.int64)
        self._headers[:, NAME] = self._names.ctypes.data + place * NAME_MAX
        self._headers[:, NAME_BYTES] = 16 if self._version == 4 else NAME_MAX
        self._headers[:, VECTOR] = self._vectors.ctypes.data + place * 16
        self._headers[:, VECTORS] = 1
        self._headers[:, CONTROL] = self._controls.ctypes.data + place * _MARK_CONTROL

    def send(
        self, descriptor: int, data: Bytes, packets: Any, those: Int64s
    ) -> tuple[int, Int64s, list[int]]:
        """Send packets; return how many went, [no packets, of the other family], the errors of the others.

        Raises OSError for a descriptor that is none.
        """
        if those.shape[0] > self._count:
            self._room(2 * those.shape[0])
        refused = np.zeros(2, np.int64)
        count = _address_all(
            data, packets, those, self._version, self._mark, data.ctypes.data,
            self._headers, self._vectors, self._names, self._controls, refused,
        )  # fmt: skip
        errors: list[int] = []
        done = 0
        while done < count:
            at = self._headers.ctypes.data + done * HEADER_COLUMNS * 8
            try:
                done += _count(_libc.sendmmsg(descriptor, at, count - done, _DONTWAIT))
            except OSError as error:
                if error.errno in (errno.EBADF, errno.ENOTSOCK, errno.EFAULT):
                    raise
                errors.append(error.errno or 0)
                done += 1
        return count - len(errors), refused, errors
