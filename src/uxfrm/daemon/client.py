"""A daemon's tables as a client sees them: one control connection, one port."""

from __future__ import annotations

import errno
import os
import random
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from uxfrm.intercept.process import process
from uxfrm.intercept.remote import RemoteEngine
from uxfrm.model.statistics import Statistics
from uxfrm.netlink.client import Client

_DATAGRAM_MAX = 1 << 16
_EXT_ACK = 11
_TRIES = 8


class DaemonTransport:
    """A port of the daemon behind `path`. Raises OSError where there is none, or it refuses."""

    def __init__(self, path: Path) -> None:
        self._engine = RemoteEngine.connect(str(path))
        try:
            self._port, self._end = self._open()
            self._engine.option(self._port, _EXT_ACK, 1)
        except BaseException:
            self._engine.close()
            raise

    def _open(self) -> tuple[int, socket.socket]:
        """A port with an id that nobody has."""
        peer = process(os.getpid()).peer
        for _ in range(_TRIES):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            port = random.getrandbits(31) | 1
            try:
                self._engine.open(theirs, port, peer)
            except OSError as error:
                ours.close()
                theirs.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port, ours
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    def send(self, datagram: bytes) -> None:
        """Send a request."""
        self._end.send(datagram)

    def receive(self, timeout_s: float | None = None) -> bytes | None:
        """The next datagram; None when none came in time. ECONNRESET when the daemon is gone."""
        if timeout_s is not None and not select.select([self._end], [], [], timeout_s)[0]:
            return None
        datagram = self._end.recv(_DATAGRAM_MAX)
        if not datagram:
            raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return datagram

    def join(self, group: int) -> None:
        """Listen to a group."""
        self._engine.join(self._port, group)

    def close(self) -> None:
        """Close the port and the connection."""
        self._end.close()
        self._engine.close()


@contextmanager
def _engine(path: Path) -> Iterator[RemoteEngine]:
    engine = RemoteEngine.connect(str(path))
    try:
        yield engine
    finally:
        engine.close()


def counters(path: Path) -> list[int]:
    """The values of /proc/net/xfrm_stat of the daemon behind `path`. Raises OSError."""
    with _engine(path) as engine:
        return engine.counters()


def sysctls(path: Path) -> dict[str, int]:
    """The sysctls of the daemon behind `path`. Raises OSError."""
    with _engine(path) as engine:
        return engine.sysctls()


def set_sysctl(path: Path, name: str, text: str) -> None:
    """Write to a sysctl of the daemon behind `path`. Raises OSError: ENOENT, EINVAL, EPERM."""
    with _engine(path) as engine:
        engine.set_sysctl(name, text, process(os.getpid()).peer)


def statistics(path: Path) -> Statistics:
    """The figures of the daemon behind `path`. Raises OSError: EPERM."""
    with _engine(path) as engine:
        return msgspec.json.decode(engine.statistics(process(os.getpid()).peer), type=Statistics)


def connect(path: Path) -> Client:
    """A client of the daemon behind `path`. Raises OSError."""
    return Client(DaemonTransport(path))
