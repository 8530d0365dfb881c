"""Packets take the states of the CPU that handles them (xfrm-semantics 6.4)."""

from __future__ import annotations

import random

from scapy.layers.inet import IP, UDP

from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.events import Acquire, Event
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, parse
from uxfrm.model.dump import StateId
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import POLICY_CPU_ACQUIRE, Direction, PolicyConfig
from uxfrm.model.selector import EVERYTHING
from uxfrm.model.state import Rare, SaDir, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

A, B = parse("10.0.0.1"), parse("10.0.0.2")
PACKET = bytes(IP(src="10.1.0.1", dst="10.2.0.1") / UDP(sport=1, dport=2))


class Sender:
    """A host whose packets leave by a tunnel, and what it asks key managers."""

    def __init__(self, flags: int = 0) -> None:
        self.host = Namespace(randbytes=random.Random(3).randbytes, now_s=100)
        template = Template(B, A, family=AF_INET, mode=Mode.TUNNEL, reqid=1)
        self.host.add_policy(PolicyConfig(Direction.OUT, EVERYTHING[AF_INET], (template,), flags=flags))
        self.asked: list[tuple[int, int | None]] = []

    def hear(self) -> None:
        self.host.listen(self._heard, lambda kind: kind is Acquire)

    def _heard(self, event: Event) -> None:
        if isinstance(event, Acquire):
            self.asked.append((event.wanted.seq, event.wanted.pcpu))

    def state(self, spi: int, cpu: int | None = None, seq: int = 0) -> None:
        direction = SaDir.OUT if cpu is not None else SaDir.UNSET
        gcm = algo.aead("rfc4106(gcm(aes))", bytes(20), 128)
        self.host.add_state(
            StateConfig(
                B, A, spi=spi, reqid=1, seq=seq, mode=Mode.TUNNEL, aead=gcm, direction=direction,
                rare=Rare(pcpu=cpu),
            )
        )  # fmt: skip

    def spis(self, *cpus: int) -> list[int | str]:
        """By which state a packet of one flow leaves on each CPU, or what else becomes of it."""
        batch = Batch.pack([PACKET] * len(cpus), 100)
        batch.packets["cpu"] = cpus
        self.host.output(batch)
        return [
            int(p["spi"]) if p["outcome"] == Outcome.SENT else Outcome.of(int(p["outcome"])).name
            for p in batch.packets
        ]


def test_a_flow_has_a_bundle_for_each_cpu() -> None:
    sender = Sender()
    sender.state(1, cpu=0)
    sender.state(2, cpu=70)
    sender.state(3)
    assert sender.spis(0, 70, 5, 0, 6, 70) == [1, 2, 3, 1, 3, 2]


def test_a_state_of_ones_own_cpu_is_taken_as_soon_as_it_comes_and_left_when_it_goes() -> None:
    sender = Sender()
    sender.state(1)
    assert sender.spis(0, 1) == [1, 1]
    sender.state(2, cpu=1)
    assert sender.spis(0, 1) == [1, 2]
    sender.host.delete_state(StateId(B, 2, 50, AF_INET))
    assert sender.spis(0, 1) == [1, 1]


def test_states_of_other_cpus_are_none() -> None:
    sender = Sender()
    sender.state(1, cpu=0)
    assert sender.spis(0, 1) == [1, "OUT_NO_STATE"]


def test_a_state_for_each_cpu_is_asked_for_while_another_serves() -> None:
    """One CPU after the other: a larval state is newer than the one that serves, and so is met first."""
    sender = Sender(POLICY_CPU_ACQUIRE)
    sender.hear()
    sender.state(1)
    assert sender.spis(0, 0, 1, 0) == [1, 1, 1, 1]
    assert sender.asked == [(1, 0)]
    sender.state(2, cpu=0, seq=1)
    assert sender.spis(0, 1, 1) == [2, 1, 1]
    assert sender.asked == [(1, 0), (2, 1)]
    sender.state(3, cpu=1, seq=2)
    assert sender.spis(0, 1) == [2, 3]
    assert len(list(sender.host.dump_states())) == 3
    assert len(sender.asked) == 2


def test_it_is_asked_for_again_when_the_answer_does_not_come() -> None:
    sender = Sender(POLICY_CPU_ACQUIRE)
    sender.hear()
    sender.state(1)
    assert sender.spis(7) == [1]
    sender.host.advance(131)
    assert sender.spis(7) == [1]
    assert sender.asked == [(1, 7), (2, 7)]


def test_where_nobody_listens_such_a_policy_lets_nothing_out() -> None:
    """As in Linux, where the missing listener is an error before the other state is looked at."""
    sender = Sender(POLICY_CPU_ACQUIRE)
    sender.state(1)
    assert sender.spis(0) == ["OUT_NO_STATE"]
    sender.state(2, cpu=0)
    assert sender.spis(0, 1) == [2, "OUT_NO_STATE"]
