"""What /proc tells about a process that calls."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from uxfrm.intercept.engine import Peer
from uxfrm.intercept.libc import pidfd_getfd
from uxfrm.intercept.numbers import STRICT_FDS

_CAP_NET_ADMIN = 12
_STATUS_MAX = 65536
_STATUS_LINE = re.compile(r"^(Tgid|NStgid|Uid|Gid|CapEff):\s*(.*)$", re.MULTILINE)
_SOCKET_LINK = "socket:["


@dataclass(frozen=True)
class Process:
    """A process: `own_pid` is what its getpid() says, in its own PID namespace."""

    peer: Peer
    own_pid: int


def process(thread: int) -> Process:
    """The process of a thread. Raises OSError if it is gone."""
    status = _status(thread)
    pid = int(status["Tgid"])
    own_pid = int(status.get("NStgid", status["Tgid"]).split()[-1])
    peer = Peer(
        pid,
        uid=int(status["Uid"].split()[1]),
        gid=int(status["Gid"].split()[1]),
        netns=_netns(thread),
        net_admin=bool(int(status["CapEff"], 16) >> _CAP_NET_ADMIN & 1),
    )
    return Process(peer, own_pid)


def _status(thread: int) -> dict[str, str]:
    """The fields of /proc/PID/status that are needed; in one read, for every new socket asks."""
    fd = os.open(f"/proc/{thread}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(fd, _STATUS_MAX).decode("ascii", "replace")
    finally:
        os.close(fd)
    return dict(_STATUS_LINE.findall(text))


def _netns(thread: int) -> int:
    try:
        return os.stat(f"/proc/{thread}/ns/net").st_ino
    except OSError:
        return 0


def socket_inode(thread: int, fd: int) -> int | None:
    """The inode of the socket that a file descriptor is, however it came there: dup, fork, SCM_RIGHTS."""
    try:
        link = os.readlink(f"/proc/{thread}/fd/{fd}")
    except OSError:
        return None
    return int(link[len(_SOCKET_LINK) : -1]) if link.startswith(_SOCKET_LINK) else None


def free_strict_fd(thread: int) -> int | None:
    """A free file descriptor in the range that strict mode watches."""
    try:
        taken = {int(name) for name in os.listdir(f"/proc/{thread}/fd")}
    except OSError:
        return None
    return next((fd for fd in STRICT_FDS if fd not in taken), None)


def duplicate(thread: int, fd: int) -> int:
    """A duplicate of a thread's file descriptor, the caller's to close. Raises OSError."""
    with _pidfd(thread) as pidfd:
        return pidfd_getfd(pidfd, fd)


@contextmanager
def _pidfd(thread: int) -> Iterator[int]:
    try:
        pidfd = os.pidfd_open(thread)
    except OSError:
        # Only a process has one, not each of its threads.
        pidfd = os.pidfd_open(process(thread).peer.pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)
