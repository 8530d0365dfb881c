"""IKE daemons under `uxfrm run` on the ends of a lab, and what is seen while they key its tunnel."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from ike.connection import OWN_RUN, PATH, Connection
from lab.ends import UXFRM, End, answers
from uxfrm.daemon import client
from uxfrm.lab.network import Lab
from uxfrm.lab.watch import Kind, Seen

TUN = ("--attach", "tun=uxfrm0", "--attach", "raw", "--attach", "udp=ike")
QUEUES = ("--attach", "nfqueue", "--attach", "udp=ike")
# States that wait for an IKE daemon have SPI 0.
_STATES = re.compile(r"^src (\S+) dst (\S+)\n\tproto \w+ spi (0x(?!0{8})[0-9a-f]{8})", re.M)


def served(end: End, *command: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start an IKE daemon on an end, with a /run of its own."""
    run = [*UXFRM, "run", "--daemon", str(end.path), "--", *command]
    with (end.folder / "ike.err").open("ab") as said:
        return end.lab.start(end.node, *OWN_RUN, *run, said=said, env={"PATH": PATH, **environment})


def hold(end: End) -> None:
    """Have packets wait for the states that they cause."""
    client.set_sysctl(end.path, "net.core.xfrm_larval_drop", "0")


def connection(lab: Lab, number: int, peer: str = "") -> Connection:
    """What an end's IKE daemon is told of the other's; `peer` is where that one is, if not where it seems."""
    plan = lab.plan
    me, other = plan.ends[number], plan.ends[1 - number]
    nets = [plan.network(plan.hosts[n]) for n in (number, 1 - number)]
    return Connection(plan.address(me), peer or plan.address(other), me, other, *nets)


@dataclass
class Keyed:
    """A lab with daemons on its ends; the left end may be behind NAT."""

    lab: Lab
    daemons: tuple[End, End]

    def address(self, host: str) -> str:
        """A host's address."""
        return self.lab.plan.address(host)

    def sealed(self, *kinds: Kind) -> Seen:
        """What passed: IPsec of these kinds, IKE, and nothing in clear."""
        seen = self.lab.watch.seen()
        allowed = {Kind.IKE, Kind.ABOUT, *kinds}
        assert {passed.kind for passed in seen.packets} <= allowed, seen.clear
        assert not seen.missed
        return seen

    def states(self, number: int = 0) -> str:
        """An end's states, without keys."""
        return self.daemons[number].xfrm("state list nokeys")

    def between(self, one: str, other: str) -> bool:
        """Whether both ends have states between these addresses alone."""
        found = [
            {(source, to) for source, to, _ in _STATES.findall(self.states(number))} for number in range(2)
        ]
        return found == [{(one, other), (other, one)}] * 2

    def spis(self, number: int = 0) -> set[str]:
        """The SPIs of an end's states."""
        return {spi for *_, spi in _STATES.findall(self.states(number))}

    def flow(self, seconds: float, host: str = "a", to: str = "b") -> subprocess.Popen[str]:
        """Pings from host to host, 50 a second."""
        count = str(int(seconds * 50))
        line = self.lab.command(host, "ping", "-q", "-i0.02", "-W2", "-c", count, self.address(to))
        return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


@dataclass
class Paired(Keyed):
    """Gateways with an IKE daemon each; `nat`: the left one is behind it."""

    nat: bool

    @property
    def kind(self) -> Kind:
        """What the router must see."""
        return Kind.UDP if self.nat else Kind.ESP

    def check_hosts_talk(self) -> None:
        """Both ways, sealed, and after IKE."""
        assert answers(self.lab, "a", self.address("b"))
        if not self.nat:  # the lab's NAT knows the way back of connections alone
            assert answers(self.lab, "b", self.address("a"))
        seen = self.sealed(self.kind)
        assert seen.total(self.kind) >= 2
        assert seen.total(Kind.IKE) >= 4


def lost(pings: subprocess.Popen[str]) -> str:
    """How many per cent of a flow's pings had no answer."""
    said = pings.communicate(timeout=60)[0]
    found = re.search(r"(\S+)% packet loss", said)
    assert found is not None, said
    return found[1]
