"""An unmodified libreswan pluto on one gateway, a strongSwan charon on the other, and packets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from ike.charon import Charon, Settings
from ike.pluto import Pluto
from lab.ends import answers, ends
from lab.keyed import QUEUES, TUN, Keyed, connection, hold, lost, served
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_gateways
from uxfrm.lab.watch import Kind
from waiting import until

pytestmark = pytest.mark.linux


@dataclass
class Both(Keyed):
    """A charon on the left gateway, a pluto on the right one."""

    charon: Charon
    pluto: Pluto

    def up(self, name: str) -> None:
        """Have pluto bring a connection up, and nothing else."""
        self.pluto.whack("--initiate", "--name", name)

    def down(self, name: str) -> None:
        """Take a connection down; until it is not routed, its packets wait for it.

        Pluto says so once and waits for no answer: where that is lost, charon finds out by itself.
        """
        self.pluto.whack("--terminate", "--name", name)
        self.pluto.whack("--unroute", "--name", name)
        until(lambda: not self.spis() | self.spis(1))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("ends")
    with Lab(two_gateways()) as lab, ends(lab, folder, ga=TUN, gb=QUEUES) as (left, right):
        charon = Charon(left.folder, partial(served, left), connection(lab, 0), Settings(dpd_delay=1))
        with Pluto(right.folder, partial(served, right), connection(lab, 1), more=True) as pluto:
            lab.watch.seen()
            yield Both(lab, (left, right), charon, pluto)


@pytest.mark.parametrize(
    ("name", "kind", "by"), [("tunnel", Kind.ESP, "charon"), ("in-udp", Kind.UDP, "pluto")]
)
def test_hosts_behind_them_talk_while_states_are_rekeyed(both: Both, name: str, kind: Kind, by: str) -> None:
    """One at a time begins rekeying: this pluto does not cope with both at once.

    It deletes the old states at once, so that what is under way may be lost.
    """
    both.up(name)
    assert answers(both.lab, "a", both.address("b"))
    assert answers(both.lab, "b", both.address("a"))
    before, pings = both.spis(), both.flow(2)
    if by == "charon":
        both.charon.swanctl("--rekey", "--child", "tunnel")
    else:
        both.pluto.whack("--rekey-ipsec", "--name", name)
    assert float(lost(pings)) < 5
    until(lambda: not before & both.spis())
    assert both.spis() == both.spis(1)
    both.down(name)
    assert both.sealed(kind).total(kind) > 20  # many at once may be seen as one


def test_the_packet_that_causes_the_acquire_arrives(both: Both) -> None:
    hold(both.daemons[1])
    both.pluto.whack("--route", "--name", "tunnel")
    assert answers(both.lab, "b", both.address("a"), "-W10")
    both.down("tunnel")
    both.sealed(Kind.ESP)


def test_the_gateways_themselves_talk_in_transport_mode(both: Both) -> None:
    both.up("transport")
    assert answers(both.lab, "ga", both.address("gb"))
    assert answers(both.lab, "gb", both.address("ga"))
    both.down("transport")
    assert both.sealed(Kind.ESP).total(Kind.ESP) == 4


def test_traffic_goes_on_when_plutos_address_changes(both: Both) -> None:
    """Pluto moves its states and policies by XFRM_MSG_MIGRATE."""
    lab, home = both.lab, both.address("gb")
    both.up("mobile")
    before, pings = both.spis(), both.flow(3)
    lab.run("router", "ip", "addr", "add", "203.0.113.1/24", "dev", "to-b")
    for change in (
        "addr add 203.0.113.2/24 dev eth0",
        "route replace default via 203.0.113.1",
        f"addr del {home}/24 dev eth0",
    ):
        lab.run("gb", "ip", *change.split())
    until(partial(both.between, both.address("ga"), "203.0.113.2"))
    assert answers(lab, "a", both.address("b"))
    assert answers(lab, "b", both.address("a"))
    assert float(lost(pings)) < 80
    assert both.spis() == both.spis(1) == before
    both.sealed(Kind.ESP)


def test_nobody_complains_of_xfrm(both: Both) -> None:
    assert both.charon.complaints() + both.pluto.complaints() == []
