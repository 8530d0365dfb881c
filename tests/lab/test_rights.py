"""Daemons with packets give up their rights before they serve, and do all that is theirs without them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.ends import End, answers, ends, silent
from rights import exactly, rights
from uxfrm.intercept.engine import Peer
from uxfrm.intercept.remote import RemoteEngine
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_hosts

pytestmark = pytest.mark.linux

_BIND_SERVICE, _NET_ADMIN = 10, 12
_ESPINUDP = 2
_TUN = ("--attach", "tun=uxfrm0", "--attach", "raw", "--attach", "udp=4500", "--attach", "udp=ike")
KEPT = {"a": (_NET_ADMIN, _BIND_SERVICE), "b": (_NET_ADMIN,)}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, End]]:
    """Host a with a TUN device and ports of IKE daemons, host b with NFQUEUEs, by iptables' nft form."""
    folder = tmp_path_factory.mktemp("ends")
    with Lab(two_hosts()) as lab, ends(lab, folder, a=_TUN, b=("--attach", "nfqueue")) as both:
        yield {end.node: end for end in both}


@pytest.mark.parametrize("node", KEPT)
def test_every_thread_keeps_what_following_policies_takes(started: dict[str, End], node: str) -> None:
    assert rights(started[node].process.pid) == exactly(*KEPT[node])


@pytest.mark.parametrize("node", KEPT)
def test_policies_are_followed_all_the_same(started: dict[str, End], node: str) -> None:
    end = started[node]
    peer = end.lab.plan.address("b" if node == "a" else "a")
    end.xfrm(f"policy add dst {peer} dir out action block")
    assert silent(end.lab, node, peer)
    end.xfrm(f"policy delete dst {peer} dir out")
    assert answers(end.lab, node, peer)


def test_ports_are_shared_with_every_ike_daemon_that_comes(started: dict[str, End]) -> None:
    """One below 1024, twice: the second daemon's is free again when the first has gone."""
    end = started["a"]
    for _ in range(2):
        client = _bind(end, 500)
        engine = RemoteEngine.connect(str(end.path))
        engine.encapsulate(client.dup(), _ESPINUDP, Peer(os.getpid(), 0, 0, 0, net_admin=True))
        engine.close()
        assert _sockets(end, 500) == 2
        client.close()
    _bind(end, 500).close()


def _bind(end: End, port: int) -> socket.socket:
    """A socket of an IKE daemon's; the port is free soon."""
    deadline = time.monotonic() + 10
    while True:
        with end.lab.inside(end.node):
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            made.bind(("0.0.0.0", port))
        except OSError:
            made.close()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return made


def _sockets(end: End, port: int) -> int:
    """How many sockets of IPv4 have a port."""
    table = Path(f"/proc/{end.process.pid}/net/udp").read_text()
    return table.count(f"00000000:{port:04X} ")
