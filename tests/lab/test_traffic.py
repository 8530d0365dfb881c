"""Real programs through two daemons: what arrives is what was sent, and the router saw nothing of it."""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab.ends import End, answers, ends
from uxfrm.daemon import client
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import Plan, two_gateways, two_hosts
from uxfrm.lab.setup import Setup, gcm
from uxfrm.lab.watch import Kind

pytestmark = pytest.mark.linux


@dataclass
class Case:
    """A lab with daemons at its ends."""

    lab: Lab
    left: End
    right: End
    setup: Setup
    ports: Iterator[int] = field(default_factory=lambda: itertools.count(5201))

    def address(self, family: int) -> str:
        """Host b's."""
        return self.lab.plan.address("b", family)

    def only_sealed(self) -> int:
        """How many packets the router saw, of the one kind that may be there."""
        seen = self.lab.watch.seen()
        assert seen.missed == 0
        expected = Kind.UDP if self.setup.in_udp else Kind.ESP
        assert {passed.kind for passed in seen.packets} <= {expected}, seen.clear
        return seen.total(expected) + seen.unread


AEAD = gcm(bytes(range(20)))
CASES: dict[str, tuple[Plan, Setup]] = {
    "tunnel": (two_gateways(), Setup(AEAD)),
    "tunnel in UDP": (two_gateways(), Setup(AEAD, in_udp=True)),
    "transport": (two_hosts(), Setup(AEAD, tunnel=False)),
    "transport in UDP": (two_hosts(), Setup(AEAD, tunnel=False, in_udp=True)),
    "tunnel, NFQUEUE": (two_gateways(), Setup(AEAD, queues=True)),
    "tunnel in UDP, NFQUEUE": (two_gateways(), Setup(AEAD, in_udp=True, queues=True)),
    "transport, NFQUEUE": (two_hosts(), Setup(AEAD, tunnel=False, queues=True)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    plan, setup = CASES[request.param]
    attach = [word for what in setup.attach() for word in ("--attach", what)]
    with Lab(plan) as lab, ends(lab, tmp_path_factory.mktemp("ends"), *attach) as (left, right):
        for number, end in enumerate((left, right)):
            end.xfrm(*setup.policies(plan, number), *setup.states(plan))
        (tmp_path_factory.getbasetemp() / "data").write_bytes(bytes(range(256)) * 4096)
        folder = str(tmp_path_factory.getbasetemp())
        lab.start("b", "python3", "-m", "http.server", "--bind", "::", "--directory", folder, "8000")
        lab.watch.seen()
        yield Case(lab, left, right, setup)
        assert (left.moved(), right.moved()) == ({}, {})


@pytest.mark.parametrize("family", [4, 6])
def test_pings_both_ways(case: Case, family: int) -> None:
    assert answers(case.lab, "a", case.address(family))
    assert answers(case.lab, "b", case.lab.plan.address("a", family))
    assert case.only_sealed() == 4


@pytest.mark.parametrize("family", [4, 6])
def test_a_long_ping_is_fragmented_and_arrives(case: Case, family: int) -> None:
    # with IPv6 each side has to be told the MTU first
    assert answers(case.lab, "a", case.address(family), "-s", "3000", "-M", "dont", "-c5", "-i0.2")
    assert case.only_sealed() >= 6


@pytest.mark.parametrize("family", [4, 6])
def test_a_file_by_http(case: Case, family: int, tmp_path: Path) -> None:
    got = tmp_path / "got"
    url = f"http://{case.address(4)}:8000/data" if family == 4 else f"http://[{case.address(6)}]:8000/data"
    case.lab.run(
        "a", "curl", "--retry-connrefused", "--retry", "20", "--retry-delay", "1", "-sSf", "-o", str(got), url
    )
    assert got.read_bytes() == bytes(range(256)) * 4096
    assert case.only_sealed() > 10


def iperf(case: Case, family: int, *options: str) -> dict[str, float]:
    # A server for each: one that is not done with its last client resets the next.
    port = str(next(case.ports))
    server = case.lab.start("b", "iperf3", "--server", "--one-off", "--port", port)
    while not case.lab.run("b", "ss", "-Hltn", f"sport = :{port}"):
        assert server.poll() is None
        time.sleep(0.02)
    line = ["iperf3", "--client", case.address(family), "--port", port, "--json", *options]
    said = json.loads(case.lab.run("a", *line, timeout_s=40))
    assert "error" not in said
    return dict(said["end"])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("reverse", [(), ("--reverse",)], ids=["to", "from"])
def test_a_tcp_stream(case: Case, family: int, reverse: tuple[str, ...]) -> None:
    # not the host's own choice: BBR measures how busy the machine is, and keeps to it
    said = iperf(case, family, "--bytes", "8M", "--congestion", "cubic", *reverse)
    # iperf3 stops when all is written: what is in the sender's buffer then (4 MB at most) is not counted
    assert said["sum_received"]["bytes"] > 4_000_000  # type: ignore[index]
    assert case.only_sealed() > 10


@pytest.mark.parametrize("family", [4, 6])
def test_udp_datagrams(case: Case, family: int) -> None:
    said = iperf(case, family, "--udp", "--bitrate", "5M", "--length", "1000", "--bytes", "300K")
    assert said["sum"]["packets"] >= 300  # type: ignore[index]
    assert said["sum"]["lost_packets"] == 0  # type: ignore[index]
    assert case.only_sealed() > 10  # datagrams for one way leave together, and are seen as one


def test_every_packet_of_an_attachment_is_in_a_figure(case: Case) -> None:
    before = client.statistics(case.left.path).attachments
    assert answers(case.lab, "a", case.address(4), "-c4", "-i0.05")
    after = client.statistics(case.left.path).attachments
    moved = {
        name: (now.received - before[name].received, now.sent - before[name].sent)
        for name, now in after.items()
        if now != before[name]
    }
    assert sum(received for received, _ in moved.values()) == sum(sent for _, sent in moved.values()) == 8
    kinds = {name.split()[0] for name in after}
    assert kinds >= ({"nfqueue", "raw"} if case.setup.queues else {"tun"})


def test_a_full_size_packet_that_must_not_be_fragmented_is_told_the_mtu(case: Case) -> None:
    line = case.lab.command("a", "ping", "-c2", "-i0.3", "-W1", "-M", "do", "-s", "1472", case.address(4))
    said = subprocess.run(line, capture_output=True, text=True, check=False)
    assert "mtu" in (said.stdout + said.stderr).lower()
    assert answers(case.lab, "a", case.address(4), "-M", "do", "-s", "1300")
