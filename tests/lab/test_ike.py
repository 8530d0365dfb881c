"""Two unmodified charons key the gateways' tunnel; the hosts behind talk through it.

Both are under `uxfrm run`, or the right gateway is a real Linux with a charon of its own.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.ends import End, answers, ends
from lab.ike import Charon, LinuxCharon
from lab.linux_node import LinuxNode, one_end
from uxfrm.daemon import client
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_gateways
from uxfrm.lab.watch import Kind, Seen

pytestmark = pytest.mark.linux

BY_TUN = ("--attach", "tun=uxfrm0", "--attach", "raw", "--attach", "udp=ike")
BY_QUEUES = ("--attach", "nfqueue", "--attach", "udp=ike")
WAYS = {"native": BY_TUN, "nat": BY_TUN, "linux": BY_TUN, "linux nat": BY_QUEUES}
_SPIS = re.compile(r"spi (0x[0-9a-f]{8})")


@dataclass
class Keyed:
    """Gateways with charons; `nat`: the left one is behind it."""

    lab: Lab
    daemons: tuple[End, End | LinuxNode]
    charons: tuple[Charon, Charon | LinuxCharon]
    nat: bool

    @property
    def b(self) -> str:
        return self.lab.plan.address("b")

    def sealed(self) -> Seen:
        """What passed; nothing of it in clear, and ESP as it must be here."""
        seen = self.lab.watch.seen()
        allowed = {Kind.IKE, Kind.ABOUT, Kind.UDP if self.nat else Kind.ESP}
        assert {passed.kind for passed in seen.packets} <= allowed, seen.clear
        return seen

    def spis(self) -> set[str]:
        return set(_SPIS.findall(self.daemons[0].xfrm("state list")))


@pytest.fixture(scope="module", params=WAYS)
def keyed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    nat, begin = request.param.endswith("nat"), one_end if request.param.startswith("linux") else ends
    folder: Path = tmp_path_factory.mktemp("ends")
    with Lab(two_gateways(nat=nat)) as lab, begin(lab, folder, *WAYS[request.param]) as daemons:
        # behind NAT the peer cannot be reached before it has spoken
        peers = lab.plan.address("gb"), "%any" if nat else lab.plan.address("ga")
        left, right = daemons
        client.set_sysctl(left.path, "net.core.xfrm_larval_drop", "0")
        charon = Charon(lab, 0, left, peers[0])
        if isinstance(right, LinuxNode):
            right.guest.write("/proc/sys/net/core/xfrm_larval_drop", "0")
            made = Keyed(lab, daemons, (charon, LinuxCharon(lab, 1, right, folder, peers[1])), nat)
        else:
            client.set_sysctl(right.path, "net.core.xfrm_larval_drop", "0")
            made = Keyed(lab, daemons, (charon, Charon(lab, 1, right, peers[1])), nat)
        lab.watch.seen()
        charon.swanctl("--initiate", "--child", "net")
        yield made


def flow(keyed: Keyed, seconds: float) -> subprocess.Popen[str]:
    """Pings from a to b, 50 a second."""
    count = str(int(seconds * 50))
    line = keyed.lab.command("a", "ping", "-q", "-i0.02", "-W2", "-c", count, keyed.b)
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def lost(pings: subprocess.Popen[str]) -> str:
    said = pings.communicate(timeout=60)[0]
    found = re.search(r"(\S+)% packet loss", said)
    assert found is not None, said
    return found[1]


def terminate(keyed: Keyed, number: int) -> None:
    """Take the tunnel down; what is being rekeyed may need a second time."""
    for _ in range(10):
        keyed.charons[number].swanctl("--terminate", "--ike", "c")
        time.sleep(0.5)
        if not keyed.spis():
            return
    raise AssertionError(keyed.daemons[0].xfrm("state list nokeys"))


def test_hosts_behind_the_gateways_talk(keyed: Keyed) -> None:
    assert answers(keyed.lab, "a", keyed.b)
    if not keyed.nat:  # the lab's NAT knows the way back of connections alone
        assert answers(keyed.lab, "b", keyed.lab.plan.address("a"))
    seen = keyed.sealed()
    assert seen.total(Kind.UDP if keyed.nat else Kind.ESP) >= 2
    assert seen.total(Kind.IKE) >= 4


@pytest.mark.parametrize("what", [("--child", "net"), ("--ike", "c")], ids=["child", "ike"])
def test_rekeying_under_traffic_loses_nothing(keyed: Keyed, what: tuple[str, str]) -> None:
    assert answers(keyed.lab, "a", keyed.b)
    before, pings = keyed.spis(), flow(keyed, 3)
    time.sleep(0.5)
    keyed.charons[0].swanctl("--rekey", *what)
    assert lost(pings) == "0"
    assert (before == keyed.spis()) == (what[0] == "--ike")
    keyed.sealed()


@pytest.mark.parametrize("number", [1, 0])
def test_the_packet_that_causes_the_acquire_arrives(keyed: Keyed, number: int) -> None:
    """From either side; but who is behind NAT cannot be called."""
    if keyed.nat and number:
        return
    terminate(keyed, 0)
    keyed.charons[number].swanctl("--install", "--child", "net")
    keyed.lab.watch.seen()
    node, other = keyed.lab.plan.hosts[number], keyed.lab.plan.hosts[1 - number]
    assert answers(keyed.lab, node, keyed.lab.plan.address(other), "-W10")
    assert len(keyed.spis()) == 2
    keyed.sealed()


def test_what_is_between_the_daemons_is_let_by_and_nothing_else(keyed: Keyed) -> None:
    """After taking down, and with the trap still set, the hosts' packets wait or are dropped."""
    terminate(keyed, 1)
    keyed.lab.watch.seen()
    assert answers(keyed.lab, "a", keyed.b, "-W10")
    assert keyed.sealed().total(Kind.IKE) >= 4
