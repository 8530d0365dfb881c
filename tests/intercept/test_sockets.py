"""The table of sockets that were given out."""

from __future__ import annotations

import os
import socket

import pytest

from uxfrm.intercept import pair, sockets
from uxfrm.intercept.sockets import SOCKETS_MAX, Socket, Sockets


def inode(of: socket.socket) -> int:
    return os.fstat(of.fileno()).st_ino


def test_a_port_given_again_means_that_its_socket_is_closed() -> None:
    table = Sockets()
    table.add(Socket(1, 10, 3))
    table.add(Socket(2, 10, 3))
    assert table.find(1) is None
    assert table.find(2) is table.holder(10)
    other = Socket(3, 11, 3)
    table.add(other)
    table.rename(other, 10)
    assert len(table) == 1
    assert 11 not in table


def test_the_table_forgets_closed_sockets() -> None:
    table = Sockets()
    client, server = pair.pair()
    table.add(Socket(inode(client), 1, 3))
    for number in range(1 << 40, (1 << 40) + 2000):
        table.room()
        table.add(Socket(number, number, 3))
    assert len(table) < 300
    assert table.find(inode(client))
    client.close()
    server.close()


def test_the_table_refuses_what_is_too_much_without_looking_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []

    def all_open() -> set[int]:
        looked.append(1)
        return set(range(SOCKETS_MAX))

    monkeypatch.setattr(sockets, "_open_inodes", all_open)
    table = Sockets()
    for number in range(SOCKETS_MAX):
        table.room()
        table.add(Socket(number, number, 3))
    looked.clear()
    for _ in range(1000):
        with pytest.raises(OSError):
            table.room()
    assert len(looked) <= 2


def test_what_the_server_sends_comes_from_nl_pid_0() -> None:
    client, server = pair.pair()
    pair.name(client, 0x12345678)
    server.send(b"reply")
    data, sender = client.recvfrom(100)
    assert (data, sender) == (b"reply", bytes(10))
    assert client.getsockname() == b"\0\0" + (0x12345678).to_bytes(4, "little") + bytes(4)
    client.close()
    assert server.recv(10) == b""
    server.close()


def test_a_squatter_on_the_address_does_not_matter() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as squatter:
        squatter.bind(bytes(10))
        client, server = pair.pair()
        server.send(b"reply")
        assert client.recvfrom(100)[1][2:] == bytes(8)
        client.close()
        server.close()
