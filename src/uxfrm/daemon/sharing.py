"""UDP ports that belong to IKE daemons, from when they ask for UDP_ENCAP to when they close their sockets.

Some have one socket for all addresses (charon), some one for each (pluto): each of theirs has one of ours
beside it, for the kernel prefers sockets that are bound to a datagram's own address.

Rule 1: nothing here keeps a client's socket open, for its port would stay taken: see clientsockets.
Rule 2: a port that we share is given up as soon as its owner is gone. The next one binds it without asking
        us, and would be refused.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from uxfrm.attach.attachment import AttachmentError
from uxfrm.attach.udp import Udp, allow_sharing, open_udp
from uxfrm.daemon import logs
from uxfrm.daemon.clientsockets import Watched

_LOOK_S = 0.1

Key = tuple[int, int, str]
"""IP version, port, and address: "" for all."""


class SharedPorts:
    """Sockets of IKE daemons, by inode, and the ports shared with them.

    `ports` are all that are served, also those that are nobody else's; `serve` and `leave` are told of each
    socket of ours that comes, and of each that is about to be closed. `heeding`: see Udp.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ports: dict[Key, Udp],
        serve: Callable[[Udp], None],
        leave: Callable[[Udp], None],
        heeding: bool,
    ) -> None:
        self._loop = loop
        self._ports = ports
        self._serve = serve
        self._leave = leave
        self._heeding = heeding
        self._keys: dict[int, Key] = {}
        self._watched = Watched()
        self._look: asyncio.TimerHandle | None = None

    def ask(self, client: socket.socket) -> None:
        """A client wants ESP taken out of the datagrams of its socket, which stays the caller's. OSError."""
        inode = os.fstat(client.fileno()).st_ino
        if inode in self._keys or not client.getsockname()[1]:
            return
        self.sweep()
        key = _key(client)
        if key not in self._ports and self._share(client, key):
            self._keys[inode] = key
            self._watched.add(client)
            self._plan()

    def _share(self, client: socket.socket, key: Key) -> bool:
        """Open our socket beside a client's. OSError."""
        version, port, address = key
        allow_sharing(client)
        try:
            udp = open_udp(port, client.family, address, share=True, heeding=self._heeding)
        except AttachmentError as error:
            logs.error("port not shared", why=str(error))
            return False
        self._ports[key] = udp
        self._serve(udp)
        logs.info("port shared with an IKE daemon", port=port, version=version, address=address or "any")
        return True

    def sweep(self) -> None:
        """Give up the ports whose owners closed their sockets."""
        for inode in self._keys.keys() - self._watched.alive():
            udp = self._ports.pop(self._keys.pop(inode))
            self._leave(udp)
            udp.close()

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


def _key(client: socket.socket) -> Key:
    """What a socket is bound to."""
    address, port = client.getsockname()[:2]
    anywhere = address in ("0.0.0.0", "::")
    return 4 if client.family == socket.AF_INET else 6, port, "" if anywhere else address
