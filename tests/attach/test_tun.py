"""TUN devices between real hosts: two namespaces whose kernels talk TCP and UDP over two devices joined here.

The kernels judge: what is cut or joined wrongly has a wrong checksum or sequence and does not arrive.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from attach.hosts import Host
from uxfrm.attach.attachment import AttachmentError, Loss
from uxfrm.attach.tun import Tun, open_tun
from uxfrm.datapath.batch import Batch

pytestmark = pytest.mark.linux

_UDP_SEGMENT = 103


class Pair:
    """Two hosts, 10.9.0.1 and .2 (fd09::1 and ::2), each with a device `t`."""

    def __init__(self, mtu: int = 1400) -> None:
        self.hosts = Host(), Host()
        self.tuns: list[Tun] = []
        for number, host in enumerate(self.hosts, 1):
            with host.inside():
                self.tuns += open_tun("t", mtu=mtu)
            host.run(f"ip addr add 10.9.0.{number}/24 dev t")
            host.run(f"ip addr add fd09::{number}/64 dev t nodad")
        self.longest = 0

    def pump(self, seconds: float = 0.0) -> None:
        """Carry what there is; wait for it for a moment."""
        select.select(self.tuns, [], [], seconds)
        for source, target in (self.tuns, self.tuns[::-1]):
            while (batch := source.receive(1000.5)) is not None:
                self.longest = max(self.longest, int(batch.packets["length"].max()))
                target.send(batch, np.arange(len(batch)))

    def statistics(self, number: int) -> dict[str, dict[str, int]]:
        """What the kernel counted on the device."""
        told: list[dict[str, dict[str, dict[str, int]]]] = json.loads(
            self.hosts[number].run("ip -j -s link show dev t")
        )
        return told[0]["stats64"]

    def close(self) -> None:
        for tun in self.tuns:
            tun.close()
        for host in self.hosts:
            host.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def connected(pair: Pair, family: int) -> tuple[socket.socket, socket.socket]:
    """A TCP connection from the first host to the second."""
    address = "10.9.0.2" if family == socket.AF_INET else "fd09::2"
    with pair.hosts[1].inside():
        server = socket.create_server((address, 80), family=family)
    with pair.hosts[0].inside():
        client = socket.socket(family, socket.SOCK_STREAM)
    client.setblocking(False)
    client.connect_ex((address, 80))
    while not select.select([server], [], [], 0)[0]:
        pair.pump(0.5)
    accepted = server.accept()[0]
    server.close()
    accepted.setblocking(False)
    return client, accepted


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_tcp_passes_in_super_packets(pair: Pair, family: int) -> None:
    client, server = connected(pair, family)
    data = os.urandom(1 << 20) * 2
    left, got = memoryview(data), hashlib.sha256()
    count = 0
    for _ in range(100_000):
        if left:
            with contextlib.suppress(BlockingIOError):
                left = left[client.send(left) :]
        pair.pump(0.01)
        with contextlib.suppress(BlockingIOError):
            while chunk := server.recv(1 << 20):
                got.update(chunk)
                count += len(chunk)
        if count == len(data):
            break
    assert got.digest() == hashlib.sha256(data).digest()
    assert pair.longest == 1400
    assert "InCsumErrors" not in pair.hosts[1].run("nstat -a")
    out, into = pair.statistics(0)["tx"], pair.statistics(1)["rx"]
    assert out["packets"] * 3 < pair.tuns[0].counts.received  # the kernel gave super-packets, and got some
    assert into["packets"] * 3 < pair.tuns[1].counts.sent
    assert (into["errors"], into["dropped"], pair.tuns[1].counts.lost) == (0, 0, {})


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_udp_segmentation_passes(pair: Pair, family: int) -> None:
    """One send of 25 datagrams: Linux 6.2 and later hand it on as one."""
    address = "10.9.0.2" if family == socket.AF_INET else "fd09::2"
    with pair.hosts[1].inside():
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((address, 53))
    server.settimeout(5)
    with pair.hosts[0].inside():
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, 1000)
        data = os.urandom(24_500)
        client.sendto(data, (address, 53))
    pair.pump(1)
    assert [server.recv(2000) for _ in range(25)] == [data[at : at + 1000] for at in range(0, 24_500, 1000)]


def test_ping_of_odd_sizes(pair: Pair) -> None:
    """What is neither TCP nor UDP, and fragments."""
    for size in (0, 1, 1372, 3000):
        process = pair.hosts[0].start("ping", "-c", "1", "-W", "5", "-s", str(size), "10.9.0.2", stdout=-3)
        while process.poll() is None:
            pair.pump(0.05)
        assert process.returncode == 0, size


def test_mtu_and_time_and_device(pair: Pair) -> None:
    tun = pair.tuns[0]
    assert tun.mtu() == 1400
    pair.hosts[0].run("ip link set dev t mtu 1300")
    assert tun.mtu() == 1300
    with pair.hosts[0].inside():
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("10.9.0.7", 9))
    found = []
    while (batch := tun.receive(1000.5)) is not None:
        found += [(p["time"], p["ifindex"], p["cpu"]) for p in batch.packets]
    assert set(found) == {(1000, tun.ifindex, 0)}


def test_what_the_device_does_not_take_is_counted(pair: Pair) -> None:
    batch = Batch.pack([b"\x75" + bytes(30), bytes(0)])
    assert pair.tuns[0].send(batch, np.arange(2)) == 0
    pair.hosts[0].run("ip link set dev t down")
    good = Batch.pack([b"\x45" + bytes(19)])
    assert pair.tuns[0].send(good, np.arange(1)) == 0
    assert pair.tuns[0].counts.lost == {Loss.REFUSED: 3}


def test_the_device_goes_with_its_last_queue() -> None:
    host = Host()
    with host.inside():
        queues = open_tun("many", queues=3)
    queues[0].close()
    queues[1].close()
    queues[1].close()
    assert "many" in host.run("ip -br link")
    queues[2].close()
    assert "many" not in host.run("ip -br link")
    host.close()


def test_queues_share_the_flows() -> None:
    """Flows are spread over the queues, and each packet tells its queue."""
    host = Host()
    with host.inside():
        queues = open_tun("many", queues=2)
        host.run("ip addr add 10.9.0.1/24 dev many")
        sender = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(64)]
        for one in sender:
            one.sendto(b"x", ("10.9.0.2", 9))
    seen = []
    for tun in queues:
        while (batch := tun.receive(0)) is not None:
            seen += [(int(p["cpu"]), batch.packet(i)[9]) for i, p in enumerate(batch.packets)]
    assert sorted({cpu for cpu, proto in seen if proto == 17}) == [0, 1]
    assert len([cpu for cpu, proto in seen if proto == 17]) == 64
    for tun in queues:
        tun.close()
    host.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [("x" * 16, "1 to 15 bytes"), ("", "1 to 15 bytes"), ("lo", "no TUN device"), ("busy", "in use")],
)
def test_what_cannot_be_opened_says_why(name: str, words: str) -> None:
    host = Host()
    with host.inside():
        busy = open_tun("busy")
        with pytest.raises(AttachmentError, match=words):
            open_tun(name)
    busy[0].close()
    host.close()


def test_without_rights() -> None:
    """A child without root's rights is told what it lacks."""
    readable, writable = os.pipe()
    child = os.fork()
    if not child:
        os.setresuid(65534, 65534, 65534)
        try:
            open_tun("t")
        except AttachmentError as error:
            os.write(writable, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writable)
    everybodys = Path("/dev/net/tun").stat().st_mode & 0o006 == 0o006  # with udev
    lack = "needs CAP_NET_ADMIN" if everybodys else "may not be opened by this user"
    assert lack in os.fdopen(readable).read()
