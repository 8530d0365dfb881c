"""Ports shared with IKE daemons that have a socket for all addresses, or one for each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from uxfrm.attach.udp import Udp
from uxfrm.daemon.sharing import Key, SharedPorts

HERE, THERE = "127.0.0.1", "127.0.0.2"
ESP = (1).to_bytes(4) + bytes(20)
IKE = bytes(24)


@pytest.fixture
def shared() -> Iterator[tuple[SharedPorts, dict[Key, Udp]]]:
    loop = asyncio.new_event_loop()
    ports: dict[Key, Udp] = {}
    sharing = SharedPorts(loop, ports, lambda _: None, lambda _: None, heeding=False)
    yield sharing, ports
    sharing.close()
    for udp in ports.values():
        udp.close()
    loop.close()


def ours(ports: dict[Key, Udp]) -> list[bytes]:
    """What our sockets have received, behind its IP and UDP headers."""
    batches = [udp.receive(0) for udp in ports.values()]
    return [batch.packet(i)[28:] for batch in batches if batch is not None for i in range(len(batch))]


@pytest.mark.parametrize("addresses", [("",), (HERE, THERE)], ids=["for all", "one each"])
def test_esp_comes_here_and_ike_to_its_daemon(
    shared: tuple[SharedPorts, dict[Key, Udp]], addresses: tuple[str, ...]
) -> None:
    sharing, ports = shared
    with ExitStack() as opened:
        clients = [opened.enter_context(bound(address)) for address in addresses[:1]]
        port = clients[0].getsockname()[1]
        clients += [opened.enter_context(bound(address, port)) for address in addresses[1:]]
        sender = opened.enter_context(bound(""))
        for client in clients * 2:  # it may ask again
            sharing.ask(client)
        for address in (HERE, THERE):
            sender.sendto(ESP, (address, port))
            sender.sendto(IKE, (address, port))
        assert ours(ports) == [ESP, ESP]
        assert [client.recv(100) for client in clients for _ in range(2 // len(clients))] == [IKE, IKE]
        clients[0].close()
        sharing.sweep()
        assert len(ports) == len(clients) - 1


def bound(address: str, port: int = 0) -> socket.socket:
    """A socket that answers soon or never."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(5)
    one.bind((address, port))
    return one
