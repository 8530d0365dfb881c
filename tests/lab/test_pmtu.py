"""A path that shrinks while it is used: senders are told what fits through the tunnel, and TCP goes on."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.ends import answers, ends
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_gateways
from uxfrm.lab.setup import Setup, gcm
from uxfrm.lab.watch import Kind

pytestmark = pytest.mark.linux

WIDE, NARROW = 1500, 1370  # an IPv6 tunnel never has less than 1280


AEAD = gcm(bytes(range(20)))
SETUPS = {
    "native": Setup(AEAD),
    "in UDP": Setup(AEAD, in_udp=True),
    "native, NFQUEUE": Setup(AEAD, queues=True),
}


@pytest.fixture(scope="module", params=SETUPS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    setup = SETUPS[request.param]
    attach = [word for what in setup.attach() for word in ("--attach", what)]
    folder: Path = tmp_path_factory.mktemp("ends")
    with Lab(two_gateways(WIDE)) as made, ends(made, folder, *attach) as both:
        for number, end in enumerate(both):
            end.xfrm(*setup.policies(made.plan, number), *setup.states(made.plan))
        made.start("b", "iperf3", "--server")
        yield made


def told(lab: Lab, family: int, size: int) -> int:
    """The MTU that a sender is told for a packet that must not be fragmented."""
    b = lab.plan.address("b", family)
    line = lab.command("a", "ping", "-c4", "-i0.3", "-W1", "-M", "do", "-s", str(size), b)
    said = subprocess.run(line, capture_output=True, text=True, check=False)
    found = re.findall(r"mtu ?= ?(\d+)", said.stdout + said.stderr)
    assert found, said
    return int(found[-1])


@pytest.mark.parametrize("family", [4, 6])
def test_a_path_that_shrinks_is_learned_and_told(lab: Lab, family: int) -> None:
    b = lab.plan.address("b", family)
    lab.shrink(WIDE)
    assert answers(lab, "a", b, "-M", "do", "-s", "1300")
    lab.shrink(NARROW)
    mtu = told(lab, family, 1300)
    header = 28 if family == 4 else 48
    # what fits is less than the link's MTU by what ESP needs, and no more than that
    assert NARROW - 100 < mtu < NARROW - 40
    assert answers(lab, "a", b, "-M", "do", "-s", str(mtu - header))
    said = json.loads(lab.run("a", "iperf3", "--client", b, "--time", "1", "--json", timeout_s=20))
    assert said["end"]["sum_received"]["bytes"] > 100_000
    seen = lab.watch.seen()
    assert seen.total(Kind.CLEAR) == 0, seen.clear
