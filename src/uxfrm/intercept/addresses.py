"""socket, bind, connect, getsockname, getpeername: a netlink socket's life up to its first message.

Follows: netlink_create, netlink_bind, netlink_autobind, netlink_connect, netlink_getname.
A difference: a socket has its port from the start, the kernel's has none before bind() or its first message.
"""

from __future__ import annotations

import errno
import os
import random
import struct
from socket import SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_RAW
from socket import socket as Endpoint

from uxfrm.intercept import pair
from uxfrm.intercept.caller import Caller, Later, Result, error
from uxfrm.intercept.numbers import AF_NETLINK, SOCKADDR_NL_LEN
from uxfrm.intercept.process import Process, free_strict_fd
from uxfrm.intercept.sockets import Socket

_AF_UNSPEC = 0
_SOCK_MAX = 11
_SOCK_KIND = 0xF
_ADDRESS = struct.Struct("=HHII")
# The kernel's range for the ports of a process's second and later sockets.
_PORTS = range(1 << 31, (1 << 32) - 4096)
_PORT_TRIES = 16


def create(caller: Caller) -> Result:
    """socket(AF_NETLINK, kind, NETLINK_XFRM)."""
    argument = caller.integer(1)
    kind, flags = argument & _SOCK_KIND, argument & ~_SOCK_KIND
    if flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK) or kind >= _SOCK_MAX:
        raise error(errno.EINVAL)
    if kind not in (SOCK_RAW, SOCK_DGRAM):
        raise error(errno.EINVAL if not kind else errno.ESOCKTNOSUPPORT)
    service, owner = caller.service, caller.process()
    service.sockets.room()
    client, server = pair.pair()
    with client:
        try:
            port = _open(caller, server, owner)
        except OSError:
            server.close()
            raise
        pair.name(client, port)
        client.setblocking(not flags & SOCK_NONBLOCK)
        service.sockets.add(Socket(os.fstat(client.fileno()).st_ino, port, kind))
        _give(caller, client.fileno(), bool(flags & SOCK_CLOEXEC))
    return Later.ANSWERED


def _open(caller: Caller, server: Endpoint, owner: Process) -> int:
    """Find a port, as netlink_autobind does: the process's number, then anything in the negative range."""
    engine, port = caller.service.engine, owner.own_pid
    for _ in range(_PORT_TRIES):
        try:
            engine.open(server, port, owner.peer)
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE:
                raise
        else:
            return port
        port = random.choice(_PORTS)
    raise error(errno.EADDRINUSE)


def _notice_close(caller: Caller, port: int) -> None:
    """Let the engine see that a port's client is gone, if it is."""
    try:
        caller.service.engine.drain(port)
    except OSError as problem:
        if problem.errno != errno.ENOENT:
            raise


def _give(caller: Caller, fd: int, cloexec: bool) -> None:
    listener, at = caller.service.listener, None
    if caller.service.strict:
        at = free_strict_fd(caller.call.pid)
    try:
        listener.answer_with_file(caller.call, fd, cloexec, at)
    except OSError as problem:
        # The process may have no numbers that high: it gets a socket all the same, only not a strict one.
        if problem.errno != errno.EBADF or at is None:
            raise
        listener.answer_with_file(caller.call, fd, cloexec)


def bind(caller: Caller) -> Result:
    """bind(): an explicit port, multicast groups."""
    known = caller.socket()
    if known is None:
        return None
    family, _, port, groups = _ADDRESS.unpack(caller.read(caller.pointer(1), SOCKADDR_NL_LEN))
    if family != AF_NETLINK or (known.bound and port != known.port):
        raise error(errno.EINVAL)
    if port and port != known.port:
        _rename(caller, known, port)
    if groups != known.groups:
        caller.service.engine.bind(known.port, groups)
    known.bound, known.groups = True, groups
    return 0


def _rename(caller: Caller, known: Socket, port: int) -> None:
    engine, sockets = caller.service.engine, caller.service.sockets
    holder = sockets.holder(port)
    if holder is not None:
        _notice_close(caller, port)
        if not (holder.bound or holder.asked):
            # It would have no port yet in the kernel. Several programs bind their second socket to their pid.
            _evict(caller, holder)
    engine.rename(known.port, port)
    sockets.rename(known, port)


def _evict(caller: Caller, holder: Socket) -> None:
    for _ in range(_PORT_TRIES):
        port = random.choice(_PORTS)
        try:
            caller.service.engine.rename(holder.port, port)
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE:
                continue
            if problem.errno != errno.ENOENT:
                raise
            caller.service.sockets.remove(holder)
        else:
            caller.service.sockets.rename(holder, port)
        return


def connect(caller: Caller) -> Result:
    """connect(): where messages go that name no address; here they go to the engine in any case."""
    known = caller.socket()
    if known is None:
        return None
    family, _, port, groups = _ADDRESS.unpack(caller.read(caller.pointer(1), SOCKADDR_NL_LEN))
    if family == _AF_UNSPEC:
        known.peer_address = (0, 0)
        return 0
    if family != AF_NETLINK:
        raise error(errno.EINVAL)
    known.bound, known.peer_address = True, (port, groups)
    return 0


def own_address(caller: Caller) -> Result:
    """getsockname()."""
    known = caller.socket()
    if known is None:
        return None
    _tell(caller, known.port, known.groups)
    known.asked = True
    return 0


def peer_address(caller: Caller) -> Result:
    """getpeername(): the kernel's own address if connect() named none."""
    known = caller.socket()
    if known is None:
        return None
    _tell(caller, *known.peer_address)
    return 0


def _tell(caller: Caller, port: int, groups: int) -> None:
    data = _ADDRESS.pack(AF_NETLINK, 0, port, groups)
    caller.write_address(caller.pointer(1), caller.pointer(2), data)
