"""Two unmodified charons under `uxfrm run` key the gateways' tunnel; the hosts behind talk through it."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address

import pytest

from ike.charon import Charon, Settings
from lab.ends import answers, ends
from lab.keyed import QUEUES, TUN, Paired, connection, hold, lost, served
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_gateways
from uxfrm.lab.watch import Kind
from waiting import until

pytestmark = pytest.mark.linux

AWAY = "203.0.113"
# One end goes on by itself when its peer was away, the other when there is something to send.
SETTINGS = Settings(1, "restart", linger=2), Settings(1, "trap", linger=2)


@dataclass
class Charons(Paired):
    """Those of both are charons under `uxfrm run`."""

    charons: tuple[Charon, Charon]


@pytest.fixture(scope="module", params=["native", "nat"])
def keyed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Charons]:
    nat, folder = request.param == "nat", tmp_path_factory.mktemp("ends")
    attached, others = (QUEUES, TUN) if nat else (TUN, QUEUES)
    with Lab(two_gateways(nat=nat)) as lab, ends(lab, folder, ga=attached, gb=others) as daemons:
        # behind NAT the peer cannot be reached before it has spoken
        told = connection(lab, 0), connection(lab, 1, "%any" if nat else "")
        left, right = (
            Charon(end.folder, partial(served, end), said, settings)
            for end, said, settings in zip(daemons, told, SETTINGS, strict=True)
        )
        for daemon in daemons:
            hold(daemon)
        lab.watch.seen()
        made = Charons(lab, daemons, nat, (left, right))
        left.swanctl("--initiate", "--child", "tunnel")
        yield made


def trap(charon: Charon) -> None:
    """Have what would have to be encrypted cause the tunnel to be brought up."""
    if "tunnel" not in charon.swanctl("--list-pols", "--trap"):
        charon.swanctl("--install", "--child", "tunnel")


def terminate(keyed: Charons, number: int) -> None:
    """Take the tunnel down; what is being rekeyed may need a second time."""
    for _ in range(10):
        keyed.charons[number].swanctl("--terminate", "--ike", "c")
        time.sleep(0.5)
        if not keyed.spis():
            return
    raise AssertionError(keyed.states())


def test_hosts_behind_the_gateways_talk(keyed: Charons) -> None:
    keyed.check_hosts_talk()


def test_rekeying_under_traffic_loses_nothing(keyed: Charons) -> None:
    """The CHILD_SA, then the IKE_SA above it."""
    left = keyed.charons[0]
    assert answers(keyed.lab, "a", keyed.address("b"))
    before, pings = keyed.spis(), keyed.flow(4)
    left.swanctl("--rekey", "--child", "tunnel")
    until(lambda: len(keyed.spis() - before) == 2)
    left.swanctl("--rekey", "--ike", "c")
    until(lambda: not before & keyed.spis())
    assert lost(pings) == "0"
    assert any("] rekeyed between" in line for line in left.log())
    assert len(keyed.spis()) == len(keyed.spis(1)) == 2
    keyed.sealed(keyed.kind)


@pytest.mark.parametrize("keyed", ["nat"], indirect=True)
def test_traffic_goes_on_when_the_nat_gives_another_port(keyed: Charons) -> None:
    before, pings = keyed.spis(), keyed.flow(2)
    keyed.lab.remap(30000)
    until(lambda: all(f"{port} 30000 " in keyed.states(1) for port in ("sport", "dport")))
    # charon has states with the old port go before those with the new one come
    assert answers(keyed.lab, "a", keyed.address("b"), "-c3")
    assert any("NAT mappings of CHILD_SA" in line for line in keyed.charons[1].log())
    assert float(lost(pings)) < 80
    assert keyed.spis() == keyed.spis(1) == before
    keyed.sealed(keyed.kind)


@pytest.mark.parametrize("keyed", ["native"], indirect=True)
def test_traffic_goes_on_when_an_end_gets_another_address(keyed: Charons) -> None:
    """MOBIKE takes the tunnel to another network, then to IPv6, and home again."""
    lab, home = keyed.lab, keyed.address("ga")
    lab.run("router", "ip", "addr", "add", f"{AWAY}.1/24", "dev", "to-a")
    for address, *changes in (
        (f"{AWAY}.2", *arrive(f"{AWAY}.2"), "-6 route del default", f"addr del {home}/24 dev eth0"),
        (
            "2001:db8:a::2",
            "-6 route add default via 2001:db8:a::1",
            f"addr del {AWAY}.2/24 dev eth0",
            "route add default dev eth0",  # the last address took it along
        ),
        (home, *arrive(home), "-6 route del default"),
    ):
        before, pings = keyed.spis(), keyed.flow(2)
        for change in changes:
            lab.run("ga", "ip", *change.split())
        until(partial(keyed.between, address, lab.plan.address("gb", ip_address(address).version)))
        assert answers(lab, "a", keyed.address("b"))
        assert answers(lab, "b", keyed.address("a"))
        assert float(lost(pings)) < 80
        assert keyed.spis() == keyed.spis(1) == before
        keyed.sealed(keyed.kind)
    lab.run("ga", "ip", "-6", "route", "add", "default", "via", "2001:db8:a::1")


def arrive(address: str) -> tuple[str, str]:
    """What makes a network that of an end."""
    router = address.rpartition(".")[0] + ".1"
    return f"addr add {address}/24 dev eth0", f"route replace default via {router}"


def test_the_packet_that_causes_the_acquire_arrives(keyed: Charons) -> None:
    terminate(keyed, 0)
    trap(keyed.charons[0])
    keyed.lab.watch.seen()
    assert answers(keyed.lab, "a", keyed.address("b"), "-W10")
    assert len(keyed.spis()) == 2
    keyed.sealed(keyed.kind)


def test_what_is_between_the_daemons_is_let_by_and_nothing_else(keyed: Charons) -> None:
    """After taking down, and with the trap still set, the hosts' packets wait or are dropped."""
    terminate(keyed, 1)
    keyed.lab.watch.seen()
    assert answers(keyed.lab, "a", keyed.address("b"), "-W10")
    assert keyed.sealed(keyed.kind).total(Kind.IKE) >= 4


@pytest.mark.parametrize("keyed", ["native"], indirect=True)
def test_a_peer_that_died_is_found_out_and_asked_until_it_is_back(keyed: Charons) -> None:
    """An end is gone from one moment to the next, as by a loss of power; dpd_action=restart."""
    trap(keyed.charons[0])
    assert answers(keyed.lab, "a", keyed.address("b"), "-W10")
    old, pings = keyed.spis(), [keyed.flow(60), keyed.flow(60, "b", "a")]
    keyed.charons[1].kill()
    keyed.daemons[1].kill()
    until(lambda: not old & keyed.spis())
    with unheard(keyed.lab, "gb"):
        keyed.daemons[1].begin()
        keyed.daemons[1].wait()
        hold(keyed.daemons[1])
        keyed.charons[1].begin()
    until(lambda: keyed.spis() == keyed.spis(1) and keyed.spis())
    assert answers(keyed.lab, "a", keyed.address("b"))
    assert answers(keyed.lab, "b", keyed.address("a"))
    for flow in pings:
        flow.send_signal(signal.SIGINT)
        assert 0 < float(lost(flow)) < 100
    keyed.sealed(keyed.kind)


@pytest.mark.parametrize("keyed", ["native"], indirect=True)
def test_an_ike_daemon_that_died_is_found_out_and_its_tunnel_comes_back(keyed: Charons) -> None:
    """Its states still receive, but nothing answers; dpd_action=trap: what is sent brings the tunnel up."""
    assert answers(keyed.lab, "a", keyed.address("b"), "-W10")
    old = keyed.spis(1)
    with keyed.lab.inside("a"):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        receiver.bind((keyed.address("a"), 5000))
    with keyed.lab.inside("b"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        keyed.charons[0].kill()
        until(lambda: sender.sendto(b"old", receiver.getsockname()) and not old & keyed.spis(1))
        with unheard(keyed.lab, "ga"):
            keyed.charons[0].begin()
        until(lambda: sender.sendto(b"new", receiver.getsockname()) and b"new" in received(receiver))
    assert answers(keyed.lab, "a", keyed.address("b"))
    assert answers(keyed.lab, "b", keyed.address("a"))
    assert keyed.spis() >= keyed.spis(1)
    keyed.sealed(keyed.kind)


@contextlib.contextmanager
def unheard(lab: Lab, node: str) -> Iterator[None]:
    """Let nobody speak to a node's charon yet: it refuses who comes before it is told of its peer."""
    lab.run(node, "nft", "add table ip unheard")
    lab.run(node, "nft", "add chain ip unheard input { type filter hook input priority 0; }")
    lab.run(node, "nft", "add rule ip unheard input udp dport { 500, 4500 } drop")
    yield
    lab.run(node, "nft", "delete table ip unheard")


def test_nobody_complains_of_xfrm(keyed: Charons) -> None:
    assert [line for charon in keyed.charons for line in charon.complaints()] == []


def received(receiver: socket.socket) -> set[bytes]:
    """What a socket has received."""
    found = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            found.add(receiver.recv(100))
    return found
