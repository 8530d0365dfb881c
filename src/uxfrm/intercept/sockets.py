"""The sockets that were given out, by inode.

Rule 1: nobody tells the supervisor that a socket was closed (the engine alone sees its end). A socket is
        known to be closed when its port is given to another, or when /proc/net/unix has its inode no more:
        that is looked up when the table is full, so the table is bounded.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass, field

SOCKETS_MAX = 4096
_FIRST_SWEEP = 256
_INODE_COLUMN = 6
_SWEEP_S = 1.0


@dataclass(slots=True)
class Socket:
    """One NETLINK_XFRM socket: `kind` is SOCK_RAW or SOCK_DGRAM, `peer_address` what connect() said.

    `bound`: by bind() or connect(). `asked`: its port was told, so it must not change.
    """

    inode: int
    port: int
    kind: int
    groups: int = 0
    bound: bool = False
    asked: bool = False
    peer_address: tuple[int, int] = (0, 0)
    options: dict[int, int] = field(default_factory=dict)


class Sockets:
    """All sockets, found by inode or port."""

    def __init__(self) -> None:
        self._by_inode: dict[int, Socket] = {}
        self._by_port: dict[int, Socket] = {}
        self._sweep_at = _FIRST_SWEEP
        self._refused_s = -_SWEEP_S

    def __len__(self) -> int:
        return len(self._by_inode)

    def __contains__(self, port: int) -> bool:
        return port in self._by_port

    def find(self, inode: int | None) -> Socket | None:
        """The socket of an inode."""
        return self._by_inode.get(inode) if inode is not None else None

    def holder(self, port: int) -> Socket | None:
        """The socket of a port."""
        return self._by_port.get(port)

    def room(self) -> None:
        """Make room for one more. Raises OSError ENFILE when too many are open."""
        if len(self._by_inode) < self._sweep_at:
            return
        full = len(self._by_inode) >= SOCKETS_MAX
        now = time.monotonic()
        # Refusing must be cheap: who asks again and again is not looked up each time.
        if not full or now - self._refused_s >= _SWEEP_S:
            self._sweep()
            full = len(self._by_inode) >= SOCKETS_MAX
            self._refused_s = now if full else self._refused_s
        if full:
            raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
        self._sweep_at = min(max(_FIRST_SWEEP, 2 * len(self._by_inode)), SOCKETS_MAX)

    def add(self, new: Socket) -> None:
        """Add a socket. Whoever had its port or inode is closed."""
        self.remove(self._by_port.get(new.port))
        self.remove(self._by_inode.get(new.inode))
        self._by_port[new.port] = self._by_inode[new.inode] = new

    def remove(self, old: Socket | None) -> None:
        """Forget a socket."""
        if old is not None:
            self._by_inode.pop(old.inode, None)
            if self._by_port.get(old.port) is old:
                del self._by_port[old.port]

    def rename(self, known: Socket, port: int) -> None:
        """Give a socket another port. Whoever had it is closed."""
        self.remove(known)
        known.port = port
        self.add(known)

    def _sweep(self) -> None:
        alive = _open_inodes()
        for known in [s for inode, s in self._by_inode.items() if inode not in alive]:
            self.remove(known)


def _open_inodes() -> set[int]:
    """All Unix sockets of this network namespace, where the sockets were made."""
    found = set()
    # A path may hold anything, line ends too: what does not read as a socket's line is none.
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            columns = line.split(None, _INODE_COLUMN + 1)
            if len(columns) > _INODE_COLUMN and columns[_INODE_COLUMN].isdecimal():
                found.add(int(columns[_INODE_COLUMN]))
    return found
