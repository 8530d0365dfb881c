"""Clients' own sockets that have policies, from their first policy to their end.

Rule 1: nothing here keeps a client's socket open: its port would stay taken after the client closed it.
Rule 2: a socket is known by its inode, so duplicates, and those a child inherits, are the same socket.

Nobody tells that a socket was closed. But an epoll instance lists the files that it watches (in
/proc/self/fdinfo), and a file leaves that list when its last descriptor is closed, wherever that was.
Watching needs no descriptor of ours. So the list is read before policies are shown, and before more are made.
"""

from __future__ import annotations

import errno
import os
import re
import select
import socket
from collections.abc import Callable
from pathlib import Path

from uxfrm.lifecycle.sockets import Socket
from uxfrm.model.error import XfrmError
from uxfrm.namespace import Namespace
from uxfrm.netlink import socketoptions

SOCKETS_MAX = 4096
_INODE = re.compile(r"^tfd:.* ino:([0-9a-f]+) ", re.MULTILINE)


class Watched:
    """Sockets of clients, of which it can be told which are still open anywhere."""

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def add(self, client: socket.socket) -> None:
        """Watch a socket, which may then be closed here. OSError."""
        self._epoll.register(client.fileno(), 0)

    def alive(self) -> set[int]:
        """The inodes of those that are open."""
        told = Path(f"/proc/self/fdinfo/{self._epoll.fileno()}").read_text()
        return {int(inode, 16) for inode in _INODE.findall(told)}

    def close(self) -> None:
        """Watch no more."""
        self._epoll.close()


class ClientSockets:
    """Sockets with policies, by inode. `let_by` is told whose policy has them send in clear, or no longer."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._sockets: dict[int, Socket] = {}
        self._watched = Watched()
        self.let_by: Callable[[socket.socket, bool], None] | None = None

    def __len__(self) -> int:
        return len(self._sockets)

    def set_policy(self, client: socket.socket, family: int, policy: bytes | None, capable: bool) -> None:
        """Set a socket's policy; see netlink.socketoptions. `client` stays the caller's to close.

        XfrmError, ENOBUFS for too many sockets; OSError.
        """
        self.sweep()
        inode = os.fstat(client.fileno()).st_ino
        known = self._sockets.get(inode) or self._namespace.open_socket(client.family)
        try:
            socketoptions.set_policy(known, family, policy, capable)
            if self.let_by is not None:
                self.let_by(client, known.sends_in_clear)
            if inode not in self._sockets:
                self._keep(client, inode, known)
        finally:
            if inode not in self._sockets:
                known.close()

    def _keep(self, client: socket.socket, inode: int, known: Socket) -> None:
        if len(self._sockets) >= SOCKETS_MAX:
            raise XfrmError(errno.ENOBUFS)
        self._watched.add(client)
        self._sockets[inode] = known

    def sweep(self) -> None:
        """Forget the sockets that were closed, with their policies."""
        if not self._sockets:
            return
        for inode in self._sockets.keys() - self._watched.alive():
            self._sockets.pop(inode).close()

    def close(self) -> None:
        """Forget all."""
        self._watched.close()
        self._sockets.clear()
