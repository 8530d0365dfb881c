"""The server ends of clients' sockets, read and written as they are ready.

Rule 1: a client has turns like everybody else: what one turn reads and writes is bounded.
Rule 2: nothing waits for a client. Clients may share their sockets' flags with us: calls say MSG_DONTWAIT.
Rule 3: what goes wrong with one port closes that port alone, and is logged without data.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import time
from collections.abc import Callable

from uxfrm.daemon import logs
from uxfrm.daemon.clientsockets import ClientSockets
from uxfrm.daemon.sharing import SharedPorts
from uxfrm.model.error import XfrmError
from uxfrm.model.statistics import Statistics
from uxfrm.netlink.server import Port, Server

_DATAGRAM_MAX = 1 << 20
_TURN, _TURN_BYTES = 64, 1 << 16
"""Datagrams, and bytes, read from one port, or written to it, before others have their turn."""
_DRAIN, _DRAIN_BYTES = 4096, 1 << 22
"""More than a socket's buffer holds: what a client had sent before it was waited for is among them."""


class Clock:
    """Wall-clock time for a namespace: it is told before each request, and when something is due.

    `passed` is called after the latter, for what it brought forth to be sent.
    """

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._namespace = server.namespace
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._planned: float | None = None
        self.passed: Callable[[], None] = self.plan

    def tick(self) -> None:
        """Let time pass up to now, and plan the next time that something is due."""
        now = time.time()
        if now > self._namespace.now:
            self._namespace.advance(now)

    def plan(self) -> None:
        """Wake up for the namespace's next deadline."""
        deadline = self._namespace.next_deadline()
        if deadline == self._planned:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._planned = deadline
        if deadline is not None:
            self._timer = self._loop.call_later(max(deadline - time.time(), 0), self._due)

    def stop(self) -> None:
        """Plan nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> None:
        self._planned = self._timer = None
        try:
            self.tick()
        except Exception as error:
            logs.failure("time failed", error)
        self.passed()


class Endpoint:
    """One server end (AF_UNIX, SOCK_SEQPACKET), one datagram per netlink datagram."""

    def __init__(self, end: socket.socket, port: Port, hub: Hub) -> None:
        end.setblocking(False)
        self.end = end
        self.port = port
        self._hub = hub
        self._reading = self.writing = False
        self._watch(blocked=False)

    def _readable(self) -> None:
        self.read(_TURN, _TURN_BYTES)
        self._hub.answer()
        # The port may have become full since it was last written to in vain.
        self._watch(self.writing)

    def read(self, most: int, most_bytes: int) -> None:
        """Carry out what the client has sent, up to so much, while it takes the answers."""
        while most > 0 and most_bytes > 0 and not self.port.full and self.end.fileno() >= 0:
            try:
                datagram = self.end.recv(_DATAGRAM_MAX, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                datagram = b""
            if not datagram:
                self._hub.close(self)
                return
            most, most_bytes = most - 1, most_bytes - len(datagram)
            self._hub.clock.tick()
            self._guarded(self._hub.server.receive, self.port, datagram)

    def _guarded(self, do: Callable[..., object], *arguments: object) -> None:
        """Whatever goes wrong with this port ends this port, and nothing else."""
        try:
            do(*arguments)
        except Exception as error:
            logs.failure("port failed", error, port=self.port.id)
            self._hub.close(self)

    def write(self) -> None:
        """Send what waits, as far as the client's buffer takes it, and no more than a turn's worth."""
        self._guarded(self._write)

    def _write(self) -> None:
        for _ in range(_TURN):
            datagram = self.port.peek()
            if datagram is None:
                self._watch(blocked=False)
                return
            try:
                self.end.send(datagram, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    self._hub.close(self)
                    return
                # The echo of a request longer than any reply may be: a kernel's reply would not fit either.
            self.port.pop()
        self._watch(blocked=True)

    def _watch(self, blocked: bool) -> None:
        """Wait for room to write if something waits, and read nothing meanwhile if too much does."""
        loop, reading = self._hub.loop, not self.port.full
        if self.end.fileno() < 0:
            return
        if reading != self._reading:
            self._reading = reading
            if reading:
                loop.add_reader(self.end, self._readable)
            else:
                loop.remove_reader(self.end)
        if blocked != self.writing:
            self.writing = blocked
            if blocked:
                loop.add_writer(self.end, self.write)
            else:
                loop.remove_writer(self.end)

    def shut(self) -> None:
        """Let go of the socket."""
        with contextlib.suppress(ValueError, OSError):
            self._hub.loop.remove_reader(self.end)
            self._hub.loop.remove_writer(self.end)
        self.end.close()


class Hub:
    """All endpoints of one server on one event loop; no more than `most`.

    Where packets are attached, `settle` is called before answers are sent, once for all requests of one turn
    of the loop, for it may have to wait for the kernel; `ike` serves UDP_ENCAP, and `attached` adds figures.
    """

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, most: int = 1 << 16) -> None:
        self._most = most
        self.server = server
        self.loop = loop
        self.clock = Clock(server, loop)
        self.clock.passed = self.flush
        self.endpoints: dict[int, Endpoint] = {}
        self.settle: Callable[[], None] | None = None
        self.attached: Callable[[Statistics], Statistics] | None = None
        self._flushing = False
        self.ike: SharedPorts | None = None
        self.sockets = ClientSockets(server.namespace)
        server.showing = self.sockets.sweep

    def open(self, end: socket.socket, id: int, capable: bool) -> Port:
        """Serve a new port. XfrmError EADDRINUSE where the id is taken, ENFILE for too many."""
        if len(self.endpoints) >= self._most:
            raise XfrmError(errno.ENFILE)
        port = self.server.open(id, capable)
        self.endpoints[id] = Endpoint(end, port, self)
        return port

    def rename(self, port: Port, id: int) -> None:
        """Give a port another id. XfrmError EADDRINUSE."""
        endpoint = self.endpoints[port.id]
        old = port.id
        self.server.rename(port, id)
        del self.endpoints[old]
        self.endpoints[id] = endpoint

    def close(self, endpoint: Endpoint) -> None:
        """The client is gone."""
        self.endpoints.pop(endpoint.port.id, None)
        self.server.close(endpoint.port)
        endpoint.shut()

    def answer(self) -> None:
        """Flush: at once where that is all, else when everybody's requests of this turn are carried out."""
        if self.settle is None:
            self.flush()
        elif not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send what requests have brought forth: replies, and events for anybody.

        Before that `settle` does what is to be done elsewhere. Whoever has no room is written to by the loop,
        once there is.
        """
        self._flushing = False
        if self.settle is not None:
            self.settle()
        self.clock.plan()
        for port in self.server.take_ready():
            endpoint = self.endpoints.get(port.id)
            if endpoint is not None and not endpoint.writing:
                endpoint.write()

    def drain(self, id: int) -> None:
        """Answer everything that a client has sent."""
        endpoint = self.endpoints.get(id)
        if endpoint is not None:
            endpoint.read(_DRAIN, _DRAIN_BYTES)
            self.flush()

    def stop(self) -> None:
        """Close everything."""
        self.clock.stop()
        self.server.showing = None
        self.sockets.close()
        for endpoint in list(self.endpoints.values()):
            self.close(endpoint)
