"""Two connected sockets whose client end can be taken for a netlink socket.

An AF_UNIX address of 2 + 10 bytes is as long as a sockaddr_nl, and its bytes lie where nl_pid and nl_groups
are:

    sockaddr_un  family(2)  0  pad  name(8)
    sockaddr_nl  family(2)  pad(2)  nl_pid(4)  nl_groups(4)

So every message comes from nl_pid 0, the kernel, without a system call being looked at; only the family is
wrong. SOCK_SEQPACKET keeps messages apart and ignores the address that sendto() and sendmsg() give.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

_PADS = range(256)
_TRIES = 64


def pair() -> tuple[socket.socket, socket.socket]:
    """A client and a server end. Whatever the server sends comes from nl_pid 0."""
    for _ in range(_TRIES):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            _bind_free(listener, 0)
            listener.listen(1)
            client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                # Whoever connected before this process is a stranger: refuse it and take another listener.
                listener.settimeout(1)
                client.connect(listener.getsockname())
                server, _ = listener.accept()
            except OSError:
                client.close()
                continue
        if _is_this_process(server):
            server.setblocking(True)
            return client, server
        client.close()
        server.close()
    raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def name(client: socket.socket, port: int) -> None:
    """Give the client end its nl_pid, for calls that the supervisor does not see. Not needed: it may fail."""
    for pad in (0, 1, 2, 3):
        try:
            client.bind(_address(pad, port))
            return
        except OSError:
            continue


def _bind_free(listener: socket.socket, port: int) -> None:
    """Bind to a free address of this nl_pid: another supervisor may hold one for a moment."""
    for pad in _PADS:
        try:
            listener.bind(_address(pad, port))
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _address(pad: int, port: int) -> bytes:
    return struct.pack("=BBII", 0, pad, port, 0)


def _is_this_process(server: socket.socket) -> bool:
    credentials = server.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int(struct.unpack("=III", credentials)[0]) == os.getpid()
