"""Two unmodified strongSwan charons, each under `uxfrm run`, as two hosts.

Run as a program, this file is the experiment: it tells what both daemons hold after every step. Host b's
charon has no CAP_NET_ADMIN.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon.laboratory import ADDRESS, NET, Laboratory, experiment, keys, policies, states
from ike.charon import Settings
from waiting import until

WITHOUT_RIGHTS = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
SPIS = re.compile(r"established with SPIs ([0-9a-f]+)_i ([0-9a-f]+)_o")
EMPTY = {"state": "", "policy": ""}


def told(text: str, mode: str) -> set[tuple[str, ...]]:
    """The states that a's swanctl told of."""
    match = SPIS.search(text)
    assert match is not None
    inward, outward = (f"{int(spi, 16):08x}" for spi in match.groups())
    return {(ADDRESS["b"], ADDRESS["a"], inward, mode), (ADDRESS["a"], ADDRESS["b"], outward, mode)}


def sockets_on_the_kernel(laboratory: Laboratory) -> list[str]:
    """The policies of sockets that the machine's own kernel holds beside a charon."""
    charon = laboratory.charon("a", served=False)
    found = laboratory.sockets("a", served=False)
    charon.stop()
    return found


def negotiate(root: Path) -> dict[str, Any]:
    """Bring up two children, rekey, take down; then bring one up again and kill the peer."""
    laboratory = Laboratory(root)
    found: dict[str, Any] = {"sockets": {"kernel": sockets_on_the_kernel(laboratory)}}
    b = laboratory.charon("b", before=WITHOUT_RIGHTS)
    a = laboratory.charon("a", settings=Settings(dpd_delay=1))
    found["sockets"]["begun"] = laboratory.sockets("a")
    for child in ("tunnel", "transport"):
        said = a.swanctl("--initiate", "--child", child)
        found[child] = {"said": said, **laboratory.both()}
    a.swanctl("--rekey", "--child", "tunnel")
    b.swanctl("--rekey", "--ike", "c")
    old = told(found["tunnel"]["said"], "tunnel")
    until(lambda: not any(old & states(tables["state"]) for tables in laboratory.both().values()))
    found["rekeyed"] = laboratory.both()
    a.swanctl("--terminate", "--ike", "c")
    until(lambda: not any(text for tables in laboratory.both().values() for text in tables.values()))
    found["ended"] = laboratory.both()
    a.swanctl("--initiate", "--child", "tunnel")
    found["again"] = laboratory.tables("a")
    found["sockets"]["before"] = laboratory.sockets("b")
    b.kill()
    found["sockets"]["killed"] = laboratory.sockets("b")
    until(lambda: not laboratory.tables("a")["policy"])
    found["dead"] = laboratory.both()
    found["log"] = a.log()
    found["complaints"] = a.complaints() + b.complaints()
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the experiment found; it is done once."""
    return experiment(__file__, tmp_path_factory.mktemp("strongswan"))


@pytest.mark.linux
def test_both_daemons_hold_the_states_that_charon_tells_of(found: Any) -> None:
    expected = told(found["tunnel"]["said"], "tunnel")
    for host in "ab":
        assert states(found["tunnel"][host]["state"]) == expected
    expected |= told(found["transport"]["said"], "transport")
    for host in "ab":
        assert states(found["transport"][host]["state"]) == expected
        assert keys(found["transport"][host]["state"]) == keys(found["transport"]["a"]["state"])


@pytest.mark.linux
def test_both_daemons_hold_the_policies(found: Any) -> None:
    ends = ADDRESS["a"] + "/32", ADDRESS["b"] + "/32"
    nets = NET["a"], NET["b"]
    expected = {
        (*ends, "out"),
        (*ends[::-1], "in"),
        (*nets, "out"),
        (*nets[::-1], "in"),
        (*nets[::-1], "fwd"),
    }
    assert policies(found["transport"]["a"]["policy"]) == expected
    turned = {"out": "in", "in": "out"}
    # what is forwarded to a is what comes in at b
    mirrored = {(source, to, turned[way]) for source, to, way in expected if way != "fwd"}
    assert policies(found["transport"]["b"]["policy"]) == mirrored | {(*nets, "fwd")}


@pytest.mark.linux
def test_its_sockets_have_the_policies_they_have_on_a_kernel(found: Any) -> None:
    sockets = found["sockets"]
    assert sockets["begun"] == sockets["kernel"]
    assert len(sockets["begun"]) == 8


@pytest.mark.linux
def test_policies_of_sockets_go_with_their_sockets(found: Any) -> None:
    # it lacked CAP_NET_ADMIN, and `uxfrm run` has that for it
    assert found["sockets"]["before"] == found["sockets"]["begun"]
    assert found["sockets"]["killed"] == []


@pytest.mark.linux
def test_rekeying_replaces_a_childs_states(found: Any) -> None:
    before, after = (states(found[step]["a"]["state"]) for step in ("transport", "rekeyed"))
    assert {mode for *_, mode in before - after} == {mode for *_, mode in after - before} == {"tunnel"}
    assert len(after - before) == 2
    assert states(found["rekeyed"]["b"]["state"]) == after


@pytest.mark.linux
def test_taking_down_leaves_nothing(found: Any) -> None:
    assert found["ended"] == {"a": EMPTY, "b": EMPTY}


@pytest.mark.linux
def test_a_peer_that_is_killed_is_found_dead_and_leaves_nothing(found: Any) -> None:
    assert len(states(found["again"]["state"])) == 2
    assert any("giving up after 3 retransmits" in line for line in found["log"])
    assert found["dead"]["a"] == EMPTY
    # nobody was left to take them back, as on a host whose IKE daemon crashed
    assert states(found["dead"]["b"]["state"]) == states(found["again"]["state"])


@pytest.mark.linux
def test_nobody_complains_of_xfrm(found: Any) -> None:
    assert found["complaints"] == []


if __name__ == "__main__":
    print(json.dumps(negotiate(Path(sys.argv[1]))))
