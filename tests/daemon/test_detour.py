"""Traffic is led into the device and nowhere else: as the kernel's own routing and filter decide, in a lab.

Host b is who talks to a; a has a TUN device of which nothing is ever sent on.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
from collections.abc import Iterator

import pytest

from uxfrm.attach.attachment import OWN_MARK
from uxfrm.attach.tun import Tun, open_tun
from uxfrm.daemon import screen
from uxfrm.daemon.detour import Detour, open_all
from uxfrm.daemon.surroundings import Surroundings
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_hosts
from uxfrm.lab.watch import Kind
from uxfrm.model.address import parse as address
from uxfrm.namespace import Namespace
from uxfrm.replay.setup import Interfaces, apply_setup

A, B = "192.0.2.2", "198.51.100.2"
A6, B6 = "2001:db8:a::2", "2001:db8:b::2"
TUNNEL = f"tmpl src {A} dst {B} proto esp mode tunnel"
BACK = f"tmpl src {B} dst {A} proto esp mode tunnel"

pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(two_hosts()) as made:
        made.run("b", "ip", "addr", "add", "10.2.0.2/32", "dev", "lo")
        made.run("router", "ip", "route", "add", "10.2.0.0/24", "via", B)
        yield made


class Diverted:
    """Host a with policies, and its detour."""

    def __init__(self, lab: Lab, *policies: str) -> None:
        self.lab = lab
        self.ns = Namespace(randbytes=os.urandom, now_s=1000)
        with lab.inside("a"):
            self.tun: Tun = open_tun("uxfrm0")[0]
            self.surroundings = Surroundings()
            self.policies(*policies)
            self.detour = Detour(self.ns.policies, self.tun, self.surroundings)

    def policies(self, *lines: str) -> None:
        for line in lines:
            assert not apply_setup(self.ns, [f"xfrm policy {line}\n"], "test", False, Interfaces())

    def follow(self, *lines: str) -> None:
        self.policies(*lines)
        self.detour.follow()

    def close(self) -> None:
        """As a crash would: the kernel closes the device, nobody takes anything away."""
        self.tun.close()
        self.surroundings.close()

    def taken(self) -> int:
        """How many IPv4 packets came into the device; of IPv6 the kernel sends some by itself."""
        found = 0
        while (batch := self.tun.receive(0)) is not None:
            found += sum(batch.packet(i)[0] >> 4 == 4 for i in range(len(batch)))
        return found


@pytest.fixture
def host(lab: Lab) -> Iterator[Diverted]:
    made = Diverted(lab)
    yield made
    made.close()


def ping(lab: Lab, host: str, to: str, *options: str) -> bool:
    line = lab.command(host, "ping", "-c1", *options, to)
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def heard(lab: Lab, host: str, to: str, *options: str) -> bool:
    return ping(lab, host, to, "-W3", *options)


def silent(lab: Lab, host: str, to: str) -> bool:
    return not ping(lab, host, to, "-W0.3")


def clear(lab: Lab) -> int:
    return lab.watch.seen().total(Kind.CLEAR)


def test_what_a_policy_protects_goes_into_the_device_from_the_first_packet_on(host: Diverted) -> None:
    assert heard(host.lab, "a", B)
    clear(host.lab)
    host.follow(f"add src {A} dst {B} dir out {TUNNEL}")
    assert silent(host.lab, "a", B)
    assert clear(host.lab) == 0
    assert host.taken() == 1


def test_other_destinations_are_not_touched(host: Diverted) -> None:
    host.follow(f"add src {A} dst 10.2.0.0/25 dir out {TUNNEL}", f"add dst {B6} dir out action allow")
    assert heard(host.lab, "a", B)
    assert heard(host.lab, "a", B6)
    assert silent(host.lab, "a", "10.2.0.2")
    assert host.taken() == 1


@pytest.mark.parametrize("selector", [f"src {A} proto udp dport 53", "src 10.7.0.0/16", "proto icmp"])
def test_only_the_destination_decides_for_the_rest_is_not_known_yet(host: Diverted, selector: str) -> None:
    host.follow(f"add {selector} dst {B} dir out {TUNNEL}")
    assert silent(host.lab, "a", B)
    assert clear(host.lab) == 0


def test_what_uxfrm_sends_itself_is_not_taken_again(host: Diverted) -> None:
    host.follow(f"add dst {B} dir out {TUNNEL}")
    assert heard(host.lab, "a", B, "-m", str(OWN_MARK))
    assert host.taken() == 0


def test_the_source_is_the_one_that_the_kernel_would_choose_without_uxfrm(host: Diverted) -> None:
    host.lab.run("a", "ip", "addr", "add", "10.1.0.2/32", "dev", "lo")
    host.lab.run("a", "ip", "route", "add", "10.2.0.0/24", "via", "192.0.2.1", "src", "10.1.0.2")
    host.surroundings._renew()
    host.follow(f"add dst {B} dir out {TUNNEL}", f"add dst 10.2.0.0/24 dir out {TUNNEL}")
    chosen = [json.loads(host.lab.run("a", "ip", "-j", "route", "get", to))[0] for to in (B, "10.2.0.2")]
    assert [way["dev"] for way in chosen] == ["uxfrm0"] * 2
    assert [way["prefsrc"] for way in chosen] == [A, "10.1.0.2"]


def test_a_policy_that_goes_opens_what_it_closed(host: Diverted) -> None:
    host.follow(f"add dst {B} dir out {TUNNEL}", f"add src {B} dst {A} dir in {BACK}")
    assert silent(host.lab, "a", B)
    host.follow(f"delete dst {B} dir out", f"delete src {B} dst {A} dir in")
    assert heard(host.lab, "a", B)


def test_the_kernel_takes_every_kind_of_policy_one_by_one_and_back(host: Diverted) -> None:
    selectors = [
        f"src {B} dst {A}", f"src {B} dst 192.0.2.3", "src 10.0.0.0/9", "dst 2001:db8:1::/33 src 2001:db8::1",
        f"src {B} proto tcp dport 5", "dst ::/0 proto udp sport 53 dport 9", f"src {B} dev eth0", "src ::/0",
        f"src {B} dst {A} mark 7 mask 0xff", f"dst {A} proto icmp type 13", f"src {B} sport 7",
    ]  # fmt: skip
    for selector in selectors:
        host.follow(f"add {selector} dir in {BACK}", f"add {selector} dir fwd priority 9 action allow")
    rules = host.lab.run("a", "nft", "list", "table", "inet", "uxfrm")
    assert len(re.findall("set set-", rules)) == 2 * len(selectors) - 4  # two alike, two without a set
    for selector in selectors:
        host.follow(f"delete {selector} dir in", f"delete {selector} dir fwd")
    assert "set-" not in host.lab.run("a", "nft", "list", "table", "inet", "uxfrm")
    assert heard(host.lab, "b", A)


def test_ones_own_routes_are_no_news(host: Diverted) -> None:
    host.surroundings._drain()
    host.follow(f"add dst {B} dir out {TUNNEL}", f"add dst {B6} dir out {TUNNEL}")
    assert not host.surroundings._drain()
    host.lab.run("a", "ip", "route", "add", "10.9.0.0/24", "via", "192.0.2.1")
    assert host.surroundings._drain()


def test_a_default_of_block_takes_everything(host: Diverted) -> None:
    host.follow("setdefault out block")
    host.follow(f"add dst 0.0.0.0/0 dir out {TUNNEL}")
    host.follow("delete dst 0.0.0.0/0 dir out")
    assert silent(host.lab, "a", B)
    assert silent(host.lab, "a", B6)
    assert clear(host.lab) == 0
    host.follow("setdefault out accept")
    assert heard(host.lab, "a", B)


# -- what comes in


def test_what_should_have_come_protected_is_dropped(host: Diverted) -> None:
    host.follow(f"add src {B} dst {A} dir in {BACK}")
    assert silent(host.lab, "b", A)
    assert heard(host.lab, "b", A6)
    assert heard(host.lab, "b", A, "-I", "10.2.0.2")


def test_a_policy_of_higher_priority_lets_in(host: Diverted) -> None:
    host.follow(
        f"add src {B} dst {A} dir in priority 10 {BACK}",
        f"add src {B} dst {A} proto icmp dir in priority 5 action allow",
    )
    assert heard(host.lab, "b", A)
    host.follow(f"update src {B} dst {A} proto icmp dir in priority 15 action allow")
    assert silent(host.lab, "b", A)


@pytest.mark.parametrize(
    ("policy", "let_in"),
    [
        (f"src {B} dst {A} dir in action block", False),
        (f"src {B} dst {A} dir in {BACK} level use", True),
        (f"src {B} dst {A} proto icmp type 8 dir in {BACK}", False),
        (f"src {B} dst {A} proto icmp type 8 code 0 dir in {BACK}", False),
        (f"src {B} dst {A} proto icmp type 13 dir in {BACK}", True),
        (f"src {B} dst {A} proto udp dir in {BACK}", True),
        (f"src {B} dst {A} sport 53 dir in {BACK}", True),
        (f"src {B} dst {A} mark 7 mask 0xff dir in {BACK}", True),
        (f"src {B} dst {A} if_id 7 dir in {BACK}", True),
        (f"src {B} dst {A} dir fwd {BACK}", True),
        (f"src 198.51.100.0/31 dst {A} dir in {BACK}", True),
    ],
)
def test_selectors_are_the_policys(host: Diverted, policy: str, let_in: bool) -> None:
    host.follow(f"add {policy}")
    assert (heard if let_in else silent)(host.lab, "b", A)


@pytest.mark.parametrize(("port", "let_in"), [(5000, False), (5001, True)])
def test_ports_too(host: Diverted, port: int, let_in: bool) -> None:
    host.follow(f"add src {B} dst {A} proto udp dport 5000 dir in {BACK}")
    server, client = udp(host.lab, "a", port), udp(host.lab, "b", 0)
    with server, client:
        client.sendto(b"heard", (A, port))
        assert bool(select.select([server], [], [], 3 if let_in else 0.3)[0]) is let_in


def udp(lab: Lab, node: str, port: int) -> socket.socket:
    with lab.inside(node):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", port))
        return made


# -- crashes


def test_what_was_protected_stays_closed_until_somebody_opens(lab: Lab) -> None:
    first = Diverted(lab, f"add src {A} dst {B} dir out {TUNNEL}", f"add src {B} dst {A} dir in {BACK}")
    clear(lab)
    first.close()
    assert silent(lab, "a", B)
    assert clear(lab) == 0
    assert silent(lab, "b", A)
    clear(lab)
    second = Diverted(lab)
    assert silent(lab, "a", B)
    assert second.taken() == 0
    assert silent(lab, "b", A)
    second.follow(f"add src {A} dst {B} dir out {TUNNEL}")
    assert silent(lab, "a", B)
    assert second.taken() == 1
    second.close()
    with lab.inside("a"):
        open_all()
    assert heard(lab, "a", B)
    assert heard(lab, "b", A)


def test_rules_that_nft_does_not_take_change_nothing(lab: Lab) -> None:
    with lab.inside("a"), pytest.raises(screen.AttachmentError):
        screen.install("no such thing")


# -- what is known of the host


def test_the_hosts_addresses_and_ways_are_known(host: Diverted) -> None:
    found = host.surroundings
    assert found.is_local(address(A))
    assert found.is_local(address(A6))
    assert found.is_local(address("192.0.2.255"))
    assert found.is_local(address("224.0.0.1"))
    assert not found.is_local(address(B))
    assert found.source(address(B)) == address(A)
    assert found.source(address(B6)) == address(A6)
    told = json.loads(host.lab.run("a", "ip", "-j", "link", "show", "eth0"))
    assert found.device(address(B)) == told[0]["ifindex"]
    host.lab.run("a", "ip", "route", "del", "default")
    host.surroundings._renew()
    assert found.source(address(B)) is None
