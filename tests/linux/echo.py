"""TCP whose contents are checked: a server that says back all it was told, and a client that compares.

The agent in the guest imports this too: the standard library only.
"""

from __future__ import annotations

import contextlib
import socket
import threading

_PATTERN = bytes(i * i >> 3 & 0xFF for i in range(1 << 16))


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(address: str, port: int) -> socket.socket:
    """Listen until the socket is closed; it is of the network namespace of who calls."""
    listening = socket.socket(_family(address), socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, port))
    listening.listen()
    threading.Thread(target=_accept, args=(listening,), daemon=True).start()
    return listening


def _accept(listening: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was closed
        while True:
            threading.Thread(target=_answer, args=(listening.accept()[0],), daemon=True).start()


def _answer(client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):  # the client gave up
        client.settimeout(30)
        client.sendall(_all_of(client))


def _all_of(connection: socket.socket) -> bytes:
    pieces = []
    while piece := connection.recv(1 << 18):
        pieces.append(piece)
    return b"".join(pieces)


def exchange(here: str, there: str, port: int, size: int, timeout: float = 10.0) -> str:
    """Send so many bytes and have them back. What went wrong; nothing where they are the same."""
    told = (_PATTERN * (size // len(_PATTERN) + 1))[:size]
    try:
        with socket.socket(_family(here), socket.SOCK_STREAM) as made:
            made.settimeout(timeout)
            made.bind((here, 0))
            made.connect((there, port))
            made.sendall(told)
            made.shutdown(socket.SHUT_WR)
            back = _all_of(made)
    except OSError as failed:
        return f"{type(failed).__name__}: {failed}"
    return "" if back == told else f"{len(back)} bytes came back of {size}, or others"
