"""What an attacker between the ends can do: send again, change, invent, send in clear. Nothing of it arrives.

Frames are recorded at the router as they came, and sent on from there.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.ipsec import ESP
from scapy.packet import Raw

from lab.ends import End, answers, ends, silent
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import ROUTER, two_gateways
from uxfrm.lab.setup import SPIS, Setup, gcm
from uxfrm.lab.watch import Kind

pytestmark = pytest.mark.linux

SETUP = Setup(gcm(bytes(range(20))))
ATTACH = ("--attach", "tun=uxfrm0", "--attach", "raw")


class Scene:
    """A tunnel that works, and the router's means."""

    def __init__(self, lab: Lab, left: End, right: End) -> None:
        self.lab, self.left, self.right = lab, left, right
        self.a, self.b = (lab.plan.address(host) for host in "ab")
        self.outer = [lab.plan.address(end) for end in lab.plan.ends]

    def restore(self) -> None:
        """Fresh states and policies on both ends; what was counted stays."""
        for number, end in enumerate((self.left, self.right)):
            end.xfrm("state flush", "policy flush")
            end.xfrm(*SETUP.policies(self.lab.plan, number), *SETUP.states(self.lab.plan))

    def record(self) -> bytes:
        """One sealed packet from a to b as it passed the router."""
        with self.lab.inside(ROUTER), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0x0008) as listening:
            listening.settimeout(5)
            assert answers(self.lab, "a", self.b)
            while True:
                frame: bytes = listening.recv(65536)
                if frame[9] == 50 and IP(frame).src == self.outer[0]:
                    return frame

    def inject(self, *packets: bytes) -> None:
        """Send packets from the router, to whom they say."""
        with self.lab.inside(ROUTER), socket.socket(socket.AF_INET, socket.SOCK_RAW, 255) as raw:
            for packet in packets:
                raw.sendto(packet, (IP(packet).dst, 0))

    def heard(self, *packets: bytes) -> int:
        """How many ICMP packets reach host b of what is injected."""
        with self.lab.inside("b"), socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) as listening:
            self.inject(*packets)
            time.sleep(0.2)
            listening.setblocking(False)
            found = 0
            while True:
                try:
                    listening.recv(65536)
                except BlockingIOError:
                    return found
                found += 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Lab(two_gateways()) as lab, ends(lab, tmp_path_factory.mktemp("ends"), *ATTACH) as both:
        yield Scene(lab, *both)


@pytest.fixture
def scene(made: Scene) -> Scene:
    made.restore()
    return made


def gained(end: End, before: dict[str, int]) -> dict[str, int]:
    return {name: n - before.get(name, 0) for name, n in end.moved().items() if n != before.get(name, 0)}


def test_a_packet_that_comes_again_is_counted_and_not_delivered(scene: Scene) -> None:
    sealed, before = scene.record(), scene.right.moved()
    assert scene.heard(sealed, sealed) == 0
    assert gained(scene.right, before) == {"XfrmInStateSeqError": 2}


def test_a_packet_that_was_changed_is_counted_and_not_delivered(scene: Scene) -> None:
    sealed, before = scene.record(), scene.right.moved()
    ahead = IP(sealed)
    ahead[ESP].seq += 10
    scene.inject(bytes(ahead)[:-1] + bytes([bytes(ahead)[-1] ^ 1]), bytes(ahead))
    assert scene.heard(bytes(ahead)) == 0
    assert gained(scene.right, before) == {"XfrmInStateProtoError": 3}
    assert answers(scene.lab, "a", scene.b)


def test_an_invented_spi_is_counted_and_not_delivered(scene: Scene) -> None:
    before = scene.right.moved()
    a, b = scene.outer
    assert scene.heard(bytes(IP(src=a, dst=b) / ESP(spi=0x9999, seq=1, data=b"x" * 40))) == 0
    assert gained(scene.right, before) == {"XfrmInNoStates": 1}


@pytest.mark.parametrize("destination", ["host", "gateway"])
def test_what_should_be_protected_does_not_come_in_clear(scene: Scene, destination: str) -> None:
    to = scene.b if destination == "host" else "10.2.0.1"
    assert scene.heard(bytes(IP(src=scene.a, dst=to) / ICMP() / Raw(b"x" * 56))) == 0
    # nothing went out in answer either
    assert scene.lab.watch.seen().total(Kind.CLEAR) == 0


def test_esp_in_a_udp_datagram_is_not_what_the_state_expects(scene: Scene) -> None:
    sealed, before = IP(scene.record()), scene.right.moved()
    a, b = scene.outer
    assert scene.heard(bytes(IP(src=a, dst=b) / UDP(sport=4500, dport=4500) / bytes(sealed.payload))) == 0
    assert gained(scene.right, before) == {}


def test_another_key_delivers_nothing_and_says_so(scene: Scene) -> None:
    spi = SPIS[0][0]
    a, b = scene.outer  # an update keeps the key, as in Linux
    ends_ = f"src {a} dst {b} proto esp spi {spi} reqid 1 mode tunnel replay-window 64"
    scene.right.xfrm(f"state delete src {a} dst {b} proto esp spi {spi}")
    scene.right.xfrm(f"state add {ends_} {gcm(bytes(20))}")
    before = scene.right.moved()
    assert silent(scene.lab, "a", scene.b)
    assert gained(scene.right, before) == {"XfrmInStateProtoError": 1}


def test_without_states_nothing_leaves_and_nobody_is_told_in_clear(scene: Scene) -> None:
    scene.left.xfrm("state flush")
    before = scene.left.moved()
    scene.lab.watch.seen()
    assert silent(scene.lab, "a", scene.b)
    assert not scene.lab.watch.seen().packets
    assert gained(scene.left, before) == {"XfrmOutNoStates": 1}


def test_many_small_packets_are_none_too_many(scene: Scene) -> None:
    """A flood of what must be dropped leaves the tunnel working."""
    a, b = scene.outer
    flood = [bytes(IP(src=a, dst=b) / ESP(spi=n + 1, seq=1, data=b"x" * 8)) for n in range(2000)]
    scene.inject(*flood)
    assert answers(scene.lab, "a", scene.b)
    line = scene.lab.command("a", "ping", "-q", "-c50", "-i0.01", "-W2", scene.b)
    assert " 0% packet loss" in subprocess.run(line, capture_output=True, text=True, check=False).stdout
