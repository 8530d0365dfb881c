"""UDP ports that belong to IKE daemons, from when they ask for UDP_ENCAP to when they close their sockets.

Rule 1: nothing here keeps a client's socket open, for its port would stay taken: see clientsockets.
Rule 2: a port that we share is given up as soon as its owner is gone. The next one binds it without asking
        us, and would be refused.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from uxfrm.daemon.clientsockets import Watched

_LOOK_S = 0.1

Key = tuple[int, int]


class SharedPorts:
    """Sockets of IKE daemons, by inode, and the ports shared with them.

    `share` opens our socket beside a client's and names it, `give_up` closes it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        share: Callable[[socket.socket], Key | None],
        give_up: Callable[[Key], None],
    ) -> None:
        self._loop = loop
        self._share = share
        self._give_up = give_up
        self._keys: dict[int, Key] = {}
        self._watched = Watched()
        self._look: asyncio.TimerHandle | None = None

    def ask(self, client: socket.socket) -> None:
        """A client wants ESP taken out of the datagrams of its socket, which stays the caller's. OSError."""
        inode = os.fstat(client.fileno()).st_ino
        if inode in self._keys or not client.getsockname()[1]:
            return
        self.sweep()
        key = self._share(client)
        if key is not None:
            self._keys[inode] = key
            self._watched.add(client)
            self._plan()

    def sweep(self) -> None:
        """Give up the ports whose owners closed their sockets."""
        for inode in self._keys.keys() - self._watched.alive():
            self._give_up(self._keys.pop(inode))

    def close(self) -> None:
        """Look no more."""
        if self._look is not None:
            self._look.cancel()
        self._watched.close()

    def _plan(self) -> None:
        if self._look is None:
            self._look = self._loop.call_later(_LOOK_S, self._again)

    def _again(self) -> None:
        self._look = None
        self.sweep()
        if self._keys:
            self._plan()
