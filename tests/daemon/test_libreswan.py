"""An unmodified libreswan pluto under `uxfrm run`, with strongSwan's charon or with another pluto.

Run as a program, this file is the experiment: it tells what both daemons hold after every step. Pluto is on
host b and begins.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon.laboratory import ADDRESS, NET, Laboratory, experiment, keys, policies, states
from ike.pluto import Pluto, libreswan
from waiting import until

LISTED = ("ip", "xfrm", "policy", "list", "nosock")
SPIS = re.compile(r"\{ESP\S*=>0x([0-9a-f]+) <0x([0-9a-f]+) ")


def told(text: str, mode: str) -> set[tuple[str, ...]]:
    """The states that b's whack told of."""
    match = SPIS.search(text)
    assert match is not None
    outward, inward = match.groups()
    return {(ADDRESS["b"], ADDRESS["a"], outward, mode), (ADDRESS["a"], ADDRESS["b"], inward, mode)}


def on_the_kernel(laboratory: Laboratory) -> list[Any]:
    """What the machine's own kernel holds while a pluto runs, when it has ended, and for its sockets."""
    with laboratory.pluto("b", served=False):
        during = laboratory.on("b", *LISTED)
        sockets = laboratory.sockets("b", served=False)
    after = laboratory.on("b", *LISTED)
    laboratory.on("b", "ip", "xfrm", "policy", "flush")
    return [during, after, sockets]


def negotiate(root: Path, peer: str) -> dict[str, Any]:
    """Bring up two children, rekey, take down; say what both daemons hold."""
    laboratory = Laboratory(root)
    found: dict[str, Any] = {"kernel": on_the_kernel(laboratory)}
    a = laboratory.charon("a") if peer == "charon" else laboratory.pluto("a")
    with laboratory.pluto("b") as b:
        found["begun"] = laboratory.both()
        found["sockets"] = [laboratory.sockets("b")]
        for child in ("tunnel", "transport"):
            said = b.whack("--initiate", "--name", child)
            found[child] = {"said": said, **laboratory.both()}
        rekeyed = b.whack("--rekey-ipsec", "--name", "tunnel")
        b.whack("--rekey-ike", "--name", "tunnel")
        old = told(found["tunnel"]["said"], "tunnel")
        until(lambda: not any(old & states(tables["state"]) for tables in laboratory.both().values()))
        found["rekeyed"] = {"said": rekeyed, **laboratory.both()}
        for child in ("tunnel", "transport"):
            b.whack("--terminate", "--name", child)
            # until then it holds back what would have to be encrypted
            b.whack("--unroute", "--name", child)
            if isinstance(a, Pluto):
                a.whack("--unroute", "--name", child)
        until(lambda: not any(tables["state"] for tables in laboratory.both().values()))
        found["ended"] = laboratory.both()
    found["shut"] = laboratory.tables("b")["policy"]
    found["sockets"].append(laboratory.sockets("b"))
    found["complaints"] = a.complaints() + b.complaints()
    return found


@pytest.fixture(scope="module", params=["charon", "pluto"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the experiment found; it is done once with each peer."""
    folder = tmp_path_factory.mktemp(request.param)
    libreswan()  # inside there is no network to get it from
    return experiment(__file__, folder, request.param)


@pytest.mark.linux
def test_pluto_begins_and_ends_as_on_a_kernel(found: Any) -> None:
    during, after, _ = found["kernel"]
    assert "proto ipv6-icmp type 135" in during
    assert found["begun"]["b"] == {"state": "", "policy": during}
    assert found["shut"] == after


@pytest.mark.linux
def test_both_daemons_hold_the_states_that_pluto_tells_of(found: Any) -> None:
    expected: set[tuple[str, ...]] = set()
    for mode in ("tunnel", "transport"):
        expected |= told(found[mode]["said"], mode)
        for host in "ab":
            assert states(found[mode][host]["state"]) == expected
            assert keys(found[mode][host]["state"]) == keys(found[mode]["a"]["state"])


@pytest.mark.linux
def test_both_daemons_hold_the_policies(found: Any) -> None:
    ends = ADDRESS["b"] + "/32", ADDRESS["a"] + "/32"
    nets = NET["b"], NET["a"]
    both_ways = {(*ends, "out"), (*ends[::-1], "in"), (*nets, "out"), (*nets[::-1], "in")}
    begun = policies(found["begun"]["b"]["policy"])
    assert policies(found["transport"]["b"]["policy"]) - begun == both_ways | {(*nets[::-1], "fwd")}
    turned = {"out": "in", "in": "out"}
    mirrored = {(source, to, turned[way]) for source, to, way in both_ways}
    assert policies(found["transport"]["a"]["policy"]) - begun == mirrored | {(*nets, "fwd")}


@pytest.mark.linux
def test_rekeying_replaces_a_childs_states(found: Any) -> None:
    expected = told(found["rekeyed"]["said"], "tunnel") | told(found["transport"]["said"], "transport")
    for host in "ab":
        assert states(found["rekeyed"][host]["state"]) == expected


@pytest.mark.linux
def test_its_sockets_have_the_policies_they_have_on_a_kernel(found: Any) -> None:
    begun, shut = found["sockets"]
    assert begun == found["kernel"][2]
    assert begun
    assert shut == []


@pytest.mark.linux
def test_taking_down_leaves_nothing(found: Any) -> None:
    assert found["ended"] == found["begun"]


@pytest.mark.linux
def test_nobody_complains_of_xfrm(found: Any) -> None:
    assert found["complaints"] == []


if __name__ == "__main__":
    print(json.dumps(negotiate(Path(sys.argv[1]), *sys.argv[2:])))
