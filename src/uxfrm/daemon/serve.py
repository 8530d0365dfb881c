"""A namespace served to supervisors: `uxfrm daemon` for everybody's, `private` for those of one command."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import struct
import sys
import time
from pathlib import Path

from uxfrm.daemon.control import ControlledEngine
from uxfrm.daemon.ports import Hub
from uxfrm.intercept.remote import serve_control
from uxfrm.namespace import Namespace
from uxfrm.netlink.server import Server

_CREDENTIALS = struct.Struct("=iII")
_BACKLOG = 64
CONNECTIONS_MAX = 256


_COLLECT_AFTER = 100_000


def relax_collector() -> None:
    """Let Python look for garbage in cycles rarely, and never among what is there when service begins.

    Tables of 100,000 policies are a million objects without cycles; looking through them again and again as
    they grow takes a quarter of the time of adding them. To be called once everything is imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


class Service:
    """One namespace, its clients' sockets, and the control connections of supervisors, on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        namespace = Namespace(randbytes=os.urandom, now_s=int(time.time()))
        self._loop = loop
        self.hub = Hub(Server(namespace, os.cpu_count() or 1), loop)
        self._connections: set[socket.socket] = set()
        self.ended = asyncio.Event()

    def control(self, connection: socket.socket, trusted: bool, last: bool = False) -> None:
        """Serve a control connection; with `last`, its end is the service's."""
        engine = ControlledEngine(self.hub, trusted)
        connection.setblocking(False)
        self._connections.add(connection)

        def readable() -> None:
            if not serve_control(connection, engine):
                self._loop.remove_reader(connection)
                self._connections.discard(connection)
                connection.close()
                if last:
                    self.ended.set()

        self._loop.add_reader(connection, readable)

    def accept(self, listener: socket.socket, anybody: bool) -> None:
        """Take control connections: of the daemon's own user and root, of others only if `anybody`.

        Clients of other users need CAP_NET_ADMIN for what the kernel wants it for.
        """

        def readable() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            own = _CREDENTIALS.unpack(raw)[1] in (0, os.geteuid())
            if len(self._connections) >= CONNECTIONS_MAX or not (own or anybody):
                connection.close()
            else:
                self.control(connection, trusted=own)

        listener.setblocking(False)
        self._loop.add_reader(listener, readable)

    def stop(self) -> None:
        """Close everything."""
        self.hub.stop()
        for connection in self._connections:
            self._loop.remove_reader(connection)
            connection.close()


async def _private(control: int, ready: int) -> None:
    service = Service(asyncio.get_running_loop())
    relax_collector()
    service.control(socket.socket(fileno=control), trusted=True, last=True)
    os.close(ready)
    await service.ended.wait()
    service.stop()


def listen(path: Path, mode: int) -> socket.socket:
    """The daemon's socket at `path`, with `mode` from its first moment on. OSError where one is alive."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if path.is_socket() and not _alive(path):
        path.unlink()
    before = os.umask(0o777 & ~mode)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def _alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


async def daemon(path: Path, mode: int, anybody: bool) -> None:
    """Serve until SIGTERM or SIGINT; the socket goes with the daemon. Raises OSError."""
    loop = asyncio.get_running_loop()
    listener = listen(path, mode)
    try:
        service = Service(loop)
        relax_collector()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.ended.set)
        service.accept(listener, anybody)
        print(f"uxfrm: serving NETLINK_XFRM to supervisors on {path}", file=sys.stderr, flush=True)
        await service.ended.wait()
        service.stop()
    finally:
        listener.close()
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    asyncio.run(_private(int(sys.argv[1]), int(sys.argv[2])))
