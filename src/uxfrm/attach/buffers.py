"""Buffers of sockets: as large as is asked for with CAP_NET_ADMIN, else as the host allows.

The capability is that of the machine's own user namespace: root of another one gets what the host allows.
"""

from __future__ import annotations

import socket

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


def enlarge(one: socket.socket, receive: int = 0, send: int = 0) -> None:
    """Have buffers of these sizes, or smaller ones; 0 leaves one as it is. Raises OSError."""
    for size, plain, force in (
        (receive, socket.SO_RCVBUF, _SO_RCVBUFFORCE),
        (send, socket.SO_SNDBUF, _SO_SNDBUFFORCE),
    ):
        if size:
            try:
                one.setsockopt(socket.SOL_SOCKET, force, size)
            except PermissionError:
                one.setsockopt(socket.SOL_SOCKET, plain, size)
