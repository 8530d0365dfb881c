"""A charon under `uxfrm run` and one on a real Linux key the gateways' tunnel; hosts behind them talk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ike.charon import CHARON, Charon, Settings, configure
from lab.ends import answers
from lab.keyed import QUEUES, TUN, Paired, connection, hold, lost, served
from lab.linux_node import LinuxNode, one_end
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_gateways
from waiting import until

pytestmark = pytest.mark.linux


class LinuxCharon:
    """A charon inside a Linux, whose own XFRM it drives. Its files are in `folder`, the host's."""

    _RUN = Path("/run")

    def __init__(self, node: LinuxNode, folder: Path, lab: Lab, peer: str) -> None:
        self._guest = node.guest
        configure(folder, self._RUN, connection(lab, 1, peer), Settings())
        conf = folder / "strongswan.conf"
        self._guest.run(["sh", "-c", f"STRONGSWAN_CONF={conf} {CHARON} >/run/charon.err 2>&1 &"])
        until(lambda: not self._guest.run(["test", "-S", "/run/vici"])[0])
        self.swanctl("--load-all", "--file", str(folder / "swanctl.conf"))

    def swanctl(self, *words: str) -> None:
        """Have it do something. SystemExit when it fails."""
        code, out, err = self._guest.run(["swanctl", *words, "--uri", "unix:///run/vici"])
        if code:
            raise SystemExit(f"{words}: {out}{err}{self._guest.read('/run/charon.log')[-3000:]}")


@dataclass
class Pair(Paired):
    """uxfrm's gateway with a charon, and Linux's."""

    charons: tuple[Charon, LinuxCharon]

    def take_down(self) -> None:
        """The IKE_SA and all that it keyed."""
        self.charons[0].swanctl("--terminate", "--ike", "c")
        until(lambda: not self.spis())


@pytest.fixture(scope="module", params=["native", "nat"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    nat, folder = request.param == "nat", tmp_path_factory.mktemp("ends")
    with (
        Lab(two_gateways(nat=nat)) as lab,
        one_end(lab, folder, *(QUEUES if nat else TUN)) as (end, node),
    ):
        left = Charon(end.folder, partial(served, end), connection(lab, 0))
        # behind NAT the peer cannot be reached before it has spoken
        right = LinuxCharon(node, folder, lab, "%any" if nat else "")
        hold(end)
        node.guest.write("/proc/sys/net/core/xfrm_larval_drop", "0")
        lab.watch.seen()
        left.swanctl("--initiate", "--child", "tunnel")
        yield Pair(lab, (end, node), nat, (left, right))  # type: ignore[arg-type]


def test_hosts_behind_the_gateways_talk(pair: Pair) -> None:
    pair.check_hosts_talk()


def test_rekeying_under_traffic_loses_nothing(pair: Pair) -> None:
    """The CHILD_SA, then the IKE_SA above it, which keeps its CHILD_SAs."""
    before, pings = pair.spis(), pair.flow(3)
    pair.charons[0].swanctl("--rekey", "--child", "tunnel")
    until(lambda: not before & pair.spis())
    pair.charons[0].swanctl("--rekey", "--ike", "c")
    assert lost(pings) == "0"
    assert len(pair.spis()) == 2
    pair.sealed(pair.kind)


def test_the_packet_that_causes_the_acquire_arrives(pair: Pair) -> None:
    """From either side; but who is behind NAT cannot be called."""
    for number in (0,) if pair.nat else (1, 0):
        pair.take_down()
        pair.charons[number].swanctl("--install", "--child", "tunnel")
        pair.lab.watch.seen()
        node, other = pair.lab.plan.hosts[number], pair.lab.plan.hosts[1 - number]
        assert answers(pair.lab, node, pair.address(other), "-W10")
        assert len(pair.spis()) == 2
        pair.sealed(pair.kind)
