"""The server ends of clients' sockets, read and written as they are ready."""

from __future__ import annotations

import asyncio
import socket
import time

from uxfrm.netlink.server import Port, Server

_DATAGRAM_MAX = 1 << 20
_NO_SIGNAL = int(socket.MSG_NOSIGNAL)
_TURN = 64
"""Datagrams read from one port before others have their turn."""


class Clock:
    """Wall-clock time for a namespace: it is told before each request, and when something is due."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._namespace = server.namespace
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._planned: int | None = None

    def tick(self) -> None:
        """Let time pass up to now, and plan the next time that something is due."""
        now = int(time.time())
        if now > self._namespace.now_s:
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
        self.tick()
        self.plan()


class Endpoint:
    """One server end (AF_UNIX, SOCK_SEQPACKET), one datagram per netlink datagram."""

    def __init__(self, end: socket.socket, port: Port, hub: Hub) -> None:
        end.setblocking(False)
        self.end = end
        self.port = port
        self._hub = hub
        self.writing = False
        # Not the socket: the loop's look-ups would spell it out, which costs more than all they do besides.
        self._fd = end.fileno()
        hub.loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        self.read(_TURN)
        self._hub.flush()
        if self.port.full and self._fd >= 0:
            # It may have become so since it was first written to in vain.
            self._hub.loop.remove_reader(self._fd)

    def read(self, most: int) -> None:
        """Carry out what the client has sent, up to `most` datagrams, while it takes the answers."""
        while most and not self.port.full and self._fd >= 0:
            most -= 1
            try:
                datagram = self.end.recv(_DATAGRAM_MAX)
            except BlockingIOError:
                return
            except OSError:
                datagram = b""
            if not datagram:
                self._hub.close(self)
                return
            self._hub.clock.tick()
            self._hub.server.receive(self.port, datagram)

    def write(self) -> None:
        """Send what waits, as far as the client's buffer takes it."""
        while self._fd >= 0:
            datagram = self.port.peek()
            if datagram is None:
                break
            try:
                self.end.send(datagram, _NO_SIGNAL)
            except BlockingIOError:
                self._watch(True)
                return
            except OSError:
                self._hub.close(self)
                return
            self.port.pop()
        self._watch(False)

    def _watch(self, wanted: bool) -> None:
        """Wait for room to write, and read nothing meanwhile if too much waits."""
        loop = self._hub.loop
        if self._fd < 0 or wanted == self.writing:
            return
        self.writing = wanted
        if wanted:
            loop.add_writer(self._fd, self.write)
            if self.port.full:
                loop.remove_reader(self._fd)
        else:
            loop.remove_writer(self._fd)
            loop.add_reader(self._fd, self._readable)

    def shut(self) -> None:
        """Let go of the socket."""
        if self._fd >= 0:
            self._hub.loop.remove_reader(self._fd)
            self._hub.loop.remove_writer(self._fd)
            self._fd = -1
        self.end.close()


class Hub:
    """All endpoints of one server on one event loop."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.clock = Clock(server, loop)
        self.endpoints: dict[int, Endpoint] = {}

    def open(self, end: socket.socket, id: int, capable: bool) -> Port:
        """Serve a new port. XfrmError EADDRINUSE where the id is taken."""
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

    def flush(self) -> None:
        """Send what requests have brought forth: replies, and events for anybody.

        Whoever has no room is written to by the loop, once there is.
        """
        self.clock.plan()
        for port in self.server.take_ready():
            endpoint = self.endpoints.get(port.id)
            if endpoint is not None and not endpoint.writing:
                endpoint.write()

    def drain(self, id: int) -> None:
        """Answer everything that a client has sent."""
        endpoint = self.endpoints.get(id)
        if endpoint is not None:
            endpoint.read(1 << 30)
            self.flush()

    def stop(self) -> None:
        """Close everything."""
        self.clock.stop()
        for endpoint in list(self.endpoints.values()):
            self.close(endpoint)
