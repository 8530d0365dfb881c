"""An engine for tests: acknowledges requests, answers dumps with nothing, tells listeners of FLUSHSA."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import threading
from dataclasses import dataclass

from uxfrm.intercept.engine import Peer

HEADER = struct.Struct("=IHHII")
ERROR, DONE, FLUSHSA = 2, 3, 0x1C
ACK, DUMP, MULTI = 4, 0x300, 2
SA_GROUP = 3


@dataclass
class Client:
    """One socket."""

    server: socket.socket
    port: int
    groups: int = 0


class SmallEngine:
    """Serves on a thread of its own; `log` holds what the supervisor said."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._lock = threading.RLock()
        self._clients: dict[int, Client] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = os.pipe()
        threading.Thread(target=self._serve, daemon=True).start()

    def open(self, server: socket.socket, port: int, peer: Peer) -> None:
        with self._lock:
            self._free(port)
            self._say("open", port, peer.pid, peer.uid, peer.net_admin)
            server.setblocking(False)
            self._clients[port] = Client(server, port)
            self._selector.register(server, selectors.EVENT_READ, self._clients[port])

    def bind(self, port: int, groups: int) -> None:
        with self._lock:
            self._say("bind", port, groups)
            self._client(port).groups = groups

    def join(self, port: int, group: int) -> None:
        with self._lock:
            self._say("join", port, group)
            self._client(port).groups |= 1 << (group - 1)

    def leave(self, port: int, group: int) -> None:
        with self._lock:
            self._say("leave", port, group)
            self._client(port).groups &= ~(1 << (group - 1))

    def option(self, port: int, name: int, value: int) -> None:
        with self._lock:
            self._say("option", port, name, value)
            self._client(port)

    def rename(self, old_port: int, new_port: int) -> None:
        with self._lock:
            self._free(new_port)
            self._say("rename", old_port, new_port)
            client = self._clients.pop(old_port)
            client.port = new_port
            self._clients[new_port] = client

    def drain(self, port: int) -> None:
        with self._lock:
            client = self._client(port)
            while self._answer(client):
                pass

    def encapsulate(self, udp: socket.socket, kind: int, peer: Peer) -> int:
        with udp, self._lock:
            self._say("encapsulate", udp.getsockname()[1], kind)
        return 0 if kind in (0, 2) else errno.ENOPROTOOPT

    def socket_policy(self, client: socket.socket, family: int, policy: bytes | None, peer: Peer) -> int:
        with client, self._lock:
            self._say("socket_policy", family, "none" if policy is None else len(policy))
        return 0 if policy is None or policy else errno.EMSGSIZE

    def alive(self) -> int:
        with self._lock:
            return len(self._clients)

    def _say(self, *words: object) -> None:
        self.log.append(" ".join(map(str, words)))

    def _client(self, port: int) -> Client:
        if port not in self._clients:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self._clients[port]

    def _free(self, port: int) -> None:
        if port in self._clients:
            self.drain(port)
        if port in self._clients:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def _serve(self) -> None:
        while True:
            events = self._selector.select(0.05)
            with self._lock:
                for key, _ in events:
                    if self._clients.get(key.data.port) is key.data:
                        self._answer(key.data)

    def _answer(self, client: Client) -> bool:
        """One datagram; whether there was one."""
        try:
            data = client.server.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(client.server)
            client.server.close()
            del self._clients[client.port]
            return False
        while len(data) >= HEADER.size:
            length, kind, flags, sequence, _ = HEADER.unpack_from(data)
            if not HEADER.size <= length <= len(data):
                break
            self._request(client, data[:length], kind, flags, sequence)
            data = data[(length + 3) & ~3 :]
        return True

    def _request(self, client: Client, message: bytes, kind: int, flags: int, sequence: int) -> None:
        self._say("request", client.port, kind)
        if kind == FLUSHSA:
            event = HEADER.pack(24, FLUSHSA, 0, sequence, client.port) + message[16:24].ljust(8, b"\0")
            for other in self._clients.values():
                if other.groups >> (SA_GROUP - 1) & 1:
                    self._send(other, event)
        if flags & DUMP:
            self._send(client, HEADER.pack(20, DONE, MULTI, sequence, client.port) + bytes(4))
        elif flags & ACK:
            body = bytes(4) + message[:16]
            self._send(client, HEADER.pack(16 + len(body), ERROR, 0, sequence, client.port) + body)

    @staticmethod
    def _send(client: Client, data: bytes) -> None:
        with contextlib.suppress(OSError):
            client.server.send(data, socket.MSG_NOSIGNAL)
