"""disable_xfrm, disable_policy and default policies on the loopback device: this kernel beside uxfrm.

Run as a program, this file is the kernel's half: inside a network namespace that vanishes with it, it sends a
UDP datagram to itself in each situation and prints what came of them all.
"""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

LO = 1
PORT = 4000
ADDRESSES = {"ipv4": "127.0.0.1", "ipv6": "::1"}
SITUATIONS = {
    "nothing": [],
    "out blocks": ["policy add dir out src {0} dst {0} action block"],
    "in blocks": ["policy add dir in src {0} dst {0} action block"],
    "default out blocks": ["policy setdefault out block"],
    "default in blocks": ["policy setdefault in block"],
    "default in blocks, out allows": [
        "policy setdefault in block",
        "policy add dir out src {0} dst {0} action allow",
    ],
}


class Case(NamedTuple):
    family: str
    disable_xfrm: int
    disable_policy: int
    situation: str

    def sysctls(self) -> dict[str, int]:
        made = {f"{self.family}.conf.lo.disable_policy": self.disable_policy}
        if self.family == "ipv4":
            made["ipv4.conf.lo.disable_xfrm"] = self.disable_xfrm
        return made

    def lines(self) -> list[str]:
        return [line.format(ADDRESSES[self.family]) for line in SITUATIONS[self.situation]]


CASES = [
    Case(family, xfrm, policy, situation)
    for family, xfrm, policy, situation in itertools.product(ADDRESSES, (0, 1), (0, 1), SITUATIONS)
    if family == "ipv4" or not xfrm
]


def counters() -> dict[str, int]:
    lines = Path("/proc/net/xfrm_stat").read_text().splitlines()
    return {name: int(value) for name, value in map(str.split, lines)}


def linux(case: Case) -> list[object]:
    """What sendto() said, whether the datagram came, and the counters that moved."""
    before = counters()
    for name, value in case.sysctls().items():
        Path("/proc/sys/net", name.replace(".", "/")).write_text(str(value))
    for line in case.lines():
        subprocess.run(["ip", "xfrm", *line.split()], check=True)
    family = socket.AF_INET if case.family == "ipv4" else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as there, socket.socket(family, socket.SOCK_DGRAM) as here:
        there.bind((ADDRESSES[case.family], PORT))
        try:
            here.sendto(b"x", (ADDRESSES[case.family], PORT))
            sent = True
        except PermissionError:
            sent = False
        try:
            came = there.recv(9, socket.MSG_DONTWAIT) == b"x"
        except BlockingIOError:
            came = False
    subprocess.run(["ip", "xfrm", "policy", "flush"], check=True)
    subprocess.run(["ip", "xfrm", "policy", "setdefault", "in", "accept", "out", "accept"], check=True)
    return [sent, came, {name: n - before[name] for name, n in counters().items() if n != before[name]}]


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print(json.dumps([linux(case) for case in CASES]))
    sys.exit()

import random  # noqa: E402

import pytest  # noqa: E402
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.packet import Raw  # noqa: E402

from uxfrm.datapath.batch import Batch  # noqa: E402
from uxfrm.iproute2.commands import parse_words  # noqa: E402
from uxfrm.iproute2.execute import execute  # noqa: E402
from uxfrm.model.outcome import Counter, Outcome, Verdict  # noqa: E402
from uxfrm.namespace import Namespace  # noqa: E402

pytestmark = pytest.mark.linux


@pytest.fixture(scope="module")
def answers() -> dict[Case, list[object]]:
    line = ["unshare", "--map-root-user", "--net", sys.executable, __file__]
    told = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60).stdout
    return dict(zip(CASES, json.loads(told), strict=True))


def datagram(family: str) -> bytes:
    ip = IP if family == "ipv4" else IPv6
    address = ADDRESSES[family]
    return bytes(ip(src=address, dst=address) / UDP(sport=5000, dport=PORT) / Raw(b"x"))


def ours(case: Case) -> list[object]:
    ns = Namespace(randbytes=random.Random(1).randbytes)
    ns.path.is_local = lambda address: True
    ns.add_device(LO, "lo", loopback=True)
    for name, value in case.sysctls().items():
        ns.set_sysctl(f"net.{name}", value)
    for line in case.lines():
        assert execute(parse_words(["xfrm", *line.split()]), ns) == ""
    batch = Batch.pack([datagram(case.family)], ifindex=LO)
    ns.output(batch)
    came = sent = Outcome.of(int(batch.packets[0]["outcome"])).verdict == Verdict.CLEAR
    if sent:
        back = Batch.pack([batch.packet(0)], ifindex=LO)
        ns.input(back)
        came = Outcome.of(int(back.packets[0]["outcome"])).verdict in (Verdict.CLEAR, Verdict.DELIVERED)
    return [sent, came, {c.name: n for c, n in zip(Counter, ns.counters(), strict=True) if n}]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_a_datagram_to_oneself_fares_as_on_linux(answers: dict[Case, list[object]], case: Case) -> None:
    assert ours(case) == answers[case]
