"""The engine of another process: each call is one datagram over a Unix socket, answered by one.

`RemoteEngine` is the supervisor's end; `answer` turns a datagram into a call of the real engine, and
`serve_control` does so for one datagram of a connection. Sockets travel beside the datagram (SCM_RIGHTS).

Rule 1: a datagram from anybody gets an answer, an error if it is not understood. It raises nothing.
Rule 2: sockets that the engine did not take are closed.
Rule 3: who may say what about which port is the engine's to decide. A daemon for several users gives each
        connection an engine that knows that connection's ports alone, and trusts SO_PEERCRED, not `Peer`.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections.abc import Sequence
from typing import Annotated, Self

import msgspec

from uxfrm.intercept.engine import Engine, Peer

DATAGRAM_MAX = 16384
_FDS_MAX = 4
_TIMEOUT_S = 30
_CUT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_NO_WAIT = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)

Port = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
Integer = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]
Group = Annotated[int, msgspec.Meta(ge=1, le=32)]


class _Request(msgspec.Struct, tag_field="call", tag=str.lower, forbid_unknown_fields=True):
    """One call of Engine."""


class Open(_Request):
    """Engine.open, with the server end."""

    port: Port
    peer: Peer


class Bind(_Request):
    """Engine.bind."""

    port: Port
    groups: Port


class Join(_Request):
    """Engine.join."""

    port: Port
    group: Group


class Leave(_Request):
    """Engine.leave."""

    port: Port
    group: Group


class Option(_Request):
    """Engine.option."""

    port: Port
    name: Integer
    value: Integer


class Rename(_Request):
    """Engine.rename."""

    old_port: Port
    new_port: Port


class Drain(_Request):
    """Engine.drain."""

    port: Port


class Encapsulate(_Request):
    """Engine.encapsulate, with the client's socket."""

    kind: Integer
    peer: Peer


class SocketPolicy(_Request):
    """Engine.socket_policy, with the client's socket."""

    family: Integer
    policy: bytes | None
    peer: Peer


class Counters(_Request):
    """Engine.counters."""


class Sysctls(_Request):
    """Engine.sysctls."""


class SetSysctl(_Request):
    """Engine.set_sysctl."""

    name: str
    text: str
    peer: Peer


class Statistics(_Request):
    """Engine.statistics."""

    peer: Peer


class Answer(msgspec.Struct):
    """What every call is answered by: 0 or an errno, and what was asked for."""

    errno: Annotated[int, msgspec.Meta(ge=0, le=4095)]
    values: list[int] = []
    sysctls: dict[str, int] = {}
    document: msgspec.Raw = msgspec.Raw(b"null")


Request = (
    Open
    | Bind
    | Join
    | Leave
    | Option
    | Rename
    | Drain
    | Encapsulate
    | SocketPolicy
    | Counters
    | Sysctls
    | SetSysctl
    | Statistics
)
_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_answers = msgspec.json.Decoder(Answer)


class RemoteEngine:
    """An Engine over a connected SOCK_SEQPACKET socket. Once it is lost, every call raises ECONNREFUSED."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_TIMEOUT_S)
        self._connection = connection

    @classmethod
    def connect(cls, path: str) -> Self:
        """Connect to a daemon's socket. Raises OSError."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return cls(connection)

    def close(self) -> None:
        """Close the connection; sockets that are open stay with the engine."""
        self._connection.close()

    def open(self, server: socket.socket, port: int, peer: Peer) -> None:
        """As Engine.open."""
        self._demand(Open(port, peer), server)
        server.close()

    def bind(self, port: int, groups: int) -> None:
        """As Engine.bind."""
        self._demand(Bind(port, groups))

    def join(self, port: int, group: int) -> None:
        """As Engine.join."""
        self._demand(Join(port, group))

    def leave(self, port: int, group: int) -> None:
        """As Engine.leave."""
        self._demand(Leave(port, group))

    def option(self, port: int, name: int, value: int) -> None:
        """As Engine.option."""
        self._demand(Option(port, name, value))

    def rename(self, old_port: int, new_port: int) -> None:
        """As Engine.rename."""
        self._demand(Rename(old_port, new_port))

    def drain(self, port: int) -> None:
        """As Engine.drain."""
        self._demand(Drain(port))

    def encapsulate(self, udp: socket.socket, kind: int, peer: Peer) -> int:
        """As Engine.encapsulate."""
        with udp:
            return self._ask(Encapsulate(kind, peer), udp)

    def socket_policy(self, client: socket.socket, family: int, policy: bytes | None, peer: Peer) -> int:
        """As Engine.socket_policy."""
        with client:
            return self._ask(SocketPolicy(family, policy, peer), client)

    def counters(self) -> list[int]:
        """As Engine.counters."""
        return self._demand(Counters()).values

    def sysctls(self) -> dict[str, int]:
        """As Engine.sysctls."""
        return self._demand(Sysctls()).sysctls

    def set_sysctl(self, name: str, text: str, peer: Peer) -> None:
        """As Engine.set_sysctl."""
        self._demand(SetSysctl(name, text, peer))

    def statistics(self, peer: Peer) -> bytes:
        """As Engine.statistics."""
        return bytes(self._demand(Statistics(peer)).document)

    def _demand(self, request: Request, passed: socket.socket | None = None) -> Answer:
        answer = self._exchange(request, passed)
        if answer.errno:
            raise OSError(answer.errno, os.strerror(answer.errno))
        return answer

    def _ask(self, request: Request, passed: socket.socket) -> int:
        return self._exchange(request, passed).errno

    def _exchange(self, request: Request, passed: socket.socket | None) -> Answer:
        fds = [] if passed is None else [passed.fileno()]
        try:
            socket.send_fds(self._connection, [msgspec.json.encode(request)], fds)
            return _answers.decode(self._connection.recv(DATAGRAM_MAX))
        except (OSError, msgspec.MsgspecError):
            # A late answer would be taken for the next call's: nothing more is asked.
            self._connection.close()
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)) from None


def serve_control(connection: socket.socket, engine: Engine) -> bool:
    """Answer the next datagram of a connection; False once it is closed. Never raises for what a peer does.

    A connection that does not block and has nothing: True.
    """
    fds = array.array("i")
    try:
        room = socket.CMSG_SPACE(_FDS_MAX * fds.itemsize)
        datagram, ancillary, flags, _ = connection.recvmsg(DATAGRAM_MAX, room, _CLOEXEC)
    except BlockingIOError:
        return True
    except OSError:
        return False
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if not datagram:
        _close(fds)
        return False
    if flags & _CUT:
        _close(fds)
        reply = _encode(errno.EMSGSIZE)
    else:
        reply = answer(engine, datagram, fds)
    try:
        # Who asks without reading the answers is not waited for.
        connection.send(reply, _NO_WAIT)
    except OSError:
        return False
    return True


def answer(engine: Engine, datagram: bytes, fds: Sequence[int]) -> bytes:
    """Call the engine for a datagram and the files that came with it; the answer's datagram."""
    left = list(fds)
    try:
        request = _requests.decode(datagram)
        asked = _ask(engine, request)
        return msgspec.json.encode(asked) if asked else _encode(_call(engine, request, left))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _encode(errno.EBADMSG)
    except OSError as error:
        return _encode(error.errno or errno.EIO)
    finally:
        _close(left)


def _ask(engine: Engine, request: Request) -> Answer | None:
    """The answer to a question; None for a request of another kind."""
    match request:
        case Counters():
            return Answer(0, engine.counters())
        case Sysctls():
            return Answer(0, sysctls=engine.sysctls())
        case Statistics(peer):
            return Answer(0, document=msgspec.Raw(engine.statistics(peer)))
    return None


def _call(engine: Engine, request: Request, fds: list[int]) -> int:
    match request:
        case Open(port, peer):
            server = _socket(fds)
            try:
                _check_end(server)
                engine.open(server, port, peer)
            except OSError:
                server.close()
                raise
        case Bind(port, groups):
            engine.bind(port, groups)
        case Join(port, group):
            engine.join(port, group)
        case Leave(port, group):
            engine.leave(port, group)
        case Option(port, name, value):
            engine.option(port, name, value)
        case Rename(old_port, new_port):
            engine.rename(old_port, new_port)
        case SetSysctl(name, text, peer):
            engine.set_sysctl(name, text, peer)
        case Drain(port):
            engine.drain(port)
        case Encapsulate(kind, peer):
            return engine.encapsulate(_socket(fds), kind, peer)
        case SocketPolicy(family, policy, peer):
            return engine.socket_policy(_socket(fds), family, policy, peer)
    return 0


def _socket(fds: list[int]) -> socket.socket:
    """The socket that came with the datagram; from now on not in `fds`."""
    if len(fds) != 1:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
    found = socket.socket(fileno=fds[0])
    fds.clear()
    return found


def _check_end(server: socket.socket) -> None:
    """Refuse what is no connected end: nobody would ever close the other."""
    if server.family != socket.AF_UNIX or server.type != socket.SOCK_SEQPACKET:
        raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
    server.getpeername()


def _encode(number: int) -> bytes:
    return msgspec.json.encode(Answer(min(number, 4095)))


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
