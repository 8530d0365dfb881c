"""The daemon is killed under traffic, again and again: nothing in clear, no sequence number twice.

UXFRM_CRASHES says how often, for a device and for queues. The moments are random, from a seed that is shown
where the test fails.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from lab.ends import End, answers, silent
from lab.forker import Forker
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import ROUTER, two_gateways
from uxfrm.lab.setup import Setup, gcm
from uxfrm.lab.watch import Kind

pytestmark = pytest.mark.linux

CRASHES = int(os.environ.get("UXFRM_CRASHES", "50"))
_BUFFER_FORCE, _ESP, _IPV4 = 33, 50, 0x0800


class Recorder:
    """Every ESP header that passes the router from one end: which SPI, which sequence number."""

    def __init__(self, lab: Lab, source: str) -> None:
        self._source = socket.inet_aton(source)
        self.seen: Counter[tuple[int, int]] = Counter()
        with lab.inside(ROUTER):
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
            self._listening = socket.socket(socket.AF_PACKET, kind, socket.htons(_IPV4))
        self._listening.setsockopt(socket.SOL_SOCKET, _BUFFER_FORCE, 64 << 20)

    def read(self) -> None:
        while True:
            try:
                packet, (_, _, how, *_) = self._listening.recvfrom(64)
            except BlockingIOError:
                return
            if how != socket.PACKET_OUTGOING and packet[9] == _ESP and packet[12:16] == self._source:
                self.seen[struct.unpack_from("!II", packet, 20)] += 1


def states(lab: Lab, number: int) -> list[str]:
    """States as an IKE daemon would make them after a crash: others than all before."""
    lines = Setup(gcm(random.Random(number).randbytes(20))).states(lab.plan)
    return [line.replace("spi 4", f"spi {number + 1}4", 1) for line in lines]


@pytest.mark.parametrize("seed", [random.randrange(1000)])
@pytest.mark.parametrize("words", [("tun=uxfrm0", "raw"), ("nfqueue",)], ids=["TUN", "NFQUEUE"])
def test_killed_under_traffic(tmp_path: Path, words: tuple[str, ...], seed: int) -> None:
    moments = random.Random(seed)
    with Lab(two_gateways()) as lab:
        forker = Forker(lab, lab.plan.ends[0])
        left, right = (
            End(lab, node, tmp_path, *attach(tmp_path, node, words), forker=one)
            for node, one in zip(lab.plan.ends, (forker, None), strict=True)
        )
        left.wait()
        right.wait()
        for number, end in enumerate((left, right)):
            end.xfrm(*Setup("").policies(lab.plan, number))
        recorder = Recorder(lab, lab.plan.address("ga"))
        lab.watch.seen()
        time.sleep(1.5)  # policies are written a second after they changed
        traffic = [flood(lab, "a", "b"), flood(lab, "b", "a")]
        for crash in range(CRASHES):
            for end in (left, right):
                end.xfrm("state flush", *states(lab, crash))
            assert answers(lab, "a", lab.plan.address("b"))
            time.sleep(moments.random() * 0.3)
            left.kill()
            time.sleep(moments.random() * 0.1)
            left.begin()
            left.wait()
            assert left.xfrm("state list") == ""
            recorder.read()
            check_sealed(lab)
        for ping in traffic:
            ping.kill()
        time.sleep(0.2)
        check_sealed(lab)
        recorder.read()
        assert len(recorder.seen) > CRASHES
        assert {spi for spi, _ in recorder.seen} == {spi_of(crash) for crash in range(CRASHES)}
        assert max(recorder.seen.values()) == 1
        assert left.stop() == right.stop() == 0
        forker.close()
        # stopped, and still closed
        assert silent(lab, "a", lab.plan.address("b"))
        check_sealed(lab)


def attach(folder: Path, node: str, words: tuple[str, ...]) -> list[str]:
    wanted = [option for word in words for option in ("--attach", word)]
    return [*wanted, "--state-dir", str(folder / f"{node}.policies")]


def spi_of(crash: int) -> int:
    return int(f"{crash + 1}4097")


def flood(lab: Lab, source: str, to: str) -> subprocess.Popen[bytes]:
    return lab.start(source, "ping", "-q", "-i0.005", lab.plan.address(to))


def check_sealed(lab: Lab) -> None:
    seen = lab.watch.seen()
    assert seen.missed == 0
    assert seen.total(Kind.CLEAR) == 0, seen.clear
