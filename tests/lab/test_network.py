"""A lab's network carries traffic, shows what passed its router, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from itertools import pairwise

import pytest

from uxfrm.lab import names
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import Plan, two_gateways, two_hosts
from uxfrm.lab.watch import Kind, Passed

pytestmark = pytest.mark.linux

KILLED = """
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_hosts
lab = Lab(two_hosts()).__enter__()
lab.start("a", "sh", "-c", "sleep 1000 & sleep 1000")
print("built", flush=True)
input()
"""


def ping(lab: Lab, to: str, *options: str) -> bool:
    line = lab.command("a", "ping", "-c1", "-W2", *options, to)
    return subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.parametrize("plan", [two_hosts(), two_gateways()], ids=["hosts", "gateways"])
@pytest.mark.parametrize("family", [4, 6])
def test_a_ping_goes_through_and_is_seen_in_clear(plan: Plan, family: int) -> None:
    with Lab(plan) as lab:
        a, b = (plan.address(host, family) for host in plan.hosts)
        assert ping(lab, b)
        seen = lab.watch.seen()
        assert seen.packets == {Passed(Kind.CLEAR, a, b): 1, Passed(Kind.CLEAR, b, a): 1}
        assert not lab.watch.seen().packets


def test_a_small_link_is_told_to_who_sends_too_much(gateways: Lab) -> None:
    gateways.shrink(1300)
    b = gateways.plan.address("b")
    assert not ping(gateways, b, "-M", "do", "-s", "1400")
    shown = json.loads(gateways.run("a", "ip", "-j", "route", "get", b))
    assert shown[0]["metrics"][0]["mtu"] == 1300


def test_behind_nat_the_other_end_sees_the_router() -> None:
    with Lab(two_hosts(nat=True)) as lab:
        a, b = (lab.plan.address(host) for host in lab.plan.hosts)
        assert ping(lab, b)
        assert {Passed(Kind.CLEAR, a, b), Passed(Kind.CLEAR, b, "198.51.100.1")} == {
            *lab.watch.seen().packets
        }
        assert said_from(lab, 4000) == ("198.51.100.1", 4000)
        lab.remap(30000)
        assert said_from(lab, 4000) == ("198.51.100.1", 30000)


def said_from(lab: Lab, port: int) -> tuple[str, int]:
    """Where a datagram of a's comes from, as b sees it."""
    with lab.inside("b"):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with lab.inside("a"):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.settimeout(10)
        receiver.bind((lab.plan.address("b"), 5000))
        sender.bind(("", port))
        sender.sendto(b"?", receiver.getsockname())
        _, (address, its_port) = receiver.recvfrom(10)
        return address, its_port


def test_two_labs_do_not_meet(gateways: Lab) -> None:
    script = "import sys; from uxfrm.lab import names; sys.exit(names.stale() != [])"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert ping(gateways, gateways.plan.address("b"))


def test_a_lab_that_was_killed_is_removed_by_the_next_with_what_ran_in_it() -> None:
    before = namespaces()
    killed = subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "built\n"
    left = namespaces() - before
    assert len(left) == 3
    assert not names.stale()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert {*names.stale()} == left
    # only the shell itself ends with the lab
    assert [pid for name in left for pid in names.inhabitants(name)]
    with Lab(two_hosts()):
        assert not namespaces() & left
    assert namespaces() == before


def namespaces() -> set[str]:
    found = json.loads(subprocess.check_output(["ip", "-j", "netns"]) or "[]")
    return {each["name"] for each in found}


def test_what_a_node_runs_ends_with_the_lab() -> None:
    with Lab(two_hosts()) as lab:
        process = lab.start("b", "sleep", "1000")
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL


def test_programs_that_fail_say_why(gateways: Lab) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        gateways.run("a", "ping", "-c1", "-I", "no-such", "10.2.0.2")
    assert "no-such" in caught.value.stderr


def test_names_are_of_one_process() -> None:
    found = [names.started(pid) for pid in (1, 0)]
    assert found[0] is not None
    assert found[1] is None
    assert all(a != b for a, b in pairwise(names.name(node) for node in "abc"))
