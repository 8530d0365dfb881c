"""Requests of one turn of the loop are put in force once, before any of them is answered."""

from __future__ import annotations

import asyncio
import socket

from netlink.compare import request
from uxfrm.daemon.ports import Hub
from uxfrm.namespace import Namespace
from uxfrm.netlink.server import Server

_CLIENTS = 5
_FLUSHPOLICY = 0x1D


async def _settled() -> list[int]:
    """How many answers there were whenever something was put in force, and in the end."""
    loop = asyncio.get_running_loop()
    hub = Hub(Server(Namespace(randbytes=bytes, now_s=0), 1), loop)
    clients = []
    for id in range(1, _CLIENTS + 1):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        hub.open(theirs, id, capable=True)
        clients.append(ours)
    counts: list[int] = []
    hub.settle = lambda: counts.append(sum(map(_answered, clients)))
    for client in clients:
        client.send(request(_FLUSHPOLICY, b""))
    for client in clients:
        assert await asyncio.wait_for(loop.sock_recv(client, 4096), 10)
    hub.settle = None
    hub.stop()
    for client in clients:
        client.close()
    return counts


def _answered(client: socket.socket) -> bool:
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_many_clients_changes_are_put_in_force_at_once_and_before_they_are_answered() -> None:
    assert asyncio.run(_settled()) == [0]
