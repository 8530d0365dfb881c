"""What must hold whatever comes in: packets end, each in one counted way, the same way alone and in a batch.

What an integrity algorithm covers is delivered as it was sealed, or not at all. One host with a state for
every layer of every case of `fuzz_packets`.
"""

from __future__ import annotations

import random
from collections import Counter as Tally
from dataclasses import replace
from functools import cache
from hashlib import blake2b

import numpy as np

from datapath.fuzz_packets import cases, corpus, tfs_states
from linux.twin import Case, outcomes
from uxfrm.datapath.batch import Batch
from uxfrm.model.address import AF_INET, AF_INET6, ANY4, ANY6
from uxfrm.model.dump import StateId
from uxfrm.model.flow import PROTO_AH, PROTO_ESP, PROTO_UDP
from uxfrm.model.outcome import Counter, Outcome, Verdict
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import StateConfig
from uxfrm.model.template import MAX_DEPTH, Mode, Template
from uxfrm.namespace import Namespace

WINDOWLESS = 3
"""One state in so many has a replay window: the others open the same packet again and again."""

LET_IN = (Verdict.DELIVERED, Verdict.FORWARDED)
KEPT = (Verdict.DELIVERED, Verdict.FORWARDED, Verdict.CLEAR, Verdict.RETURNED)
FLOWS_MOST = 1 << 20
FRAGMENTS_MOST = 8 << 20
"""Bytes that fragments may wait in: twice the default of ipfrag_high_thresh, one for each family."""


def upper(batch: Batch, i: int) -> bytes:
    """What a packet carries behind its IP headers; a UDP checksum is made anew where NAT may have been."""
    p = batch.packets[i]
    found = batch.packet(i)[int(p["header"]) :]
    return found[:6] + found[8:] if p["proto"] == PROTO_UDP else found


@cache
def authentic() -> frozenset[bytes]:
    """What packets that nobody has changed carry."""
    host = Receiver(frozenset())
    batch = Batch.pack(corpus(), host.namespace.now_s)
    host.namespace.input(batch)
    return frozenset(upper(batch, i) for i, end in enumerate(outcomes(batch)) if end.verdict in LET_IN)


class Receiver:
    """The host, and what it made of everything so far as one digest."""

    def __init__(self, known: frozenset[bytes] | None = None) -> None:
        self.known = authentic() if known is None else known
        self.namespace = Namespace(randbytes=random.Random(1).randbytes, now_s=1000)
        for i, config in enumerate(layer for case in cases() for layer in _states(case)):
            if i % WINDOWLESS and config.replay_esn is None:
                config = replace(config, replay_window=0)
            self.namespace.add_state(config)
        for config in tfs_states():
            self.namespace.add_state(config)
        for family, anywhere in ((AF_INET, ANY4), (AF_INET6, ANY6)):
            self.namespace.add_policy(
                PolicyConfig(Direction.IN, Selector(family, anywhere, anywhere), _optional())
            )
        self.tally: Tally[Outcome] = Tally()
        self.covered = 0
        self.digest = blake2b(digest_size=16)

    def take(self, wire: list[bytes]) -> list[tuple[Outcome, bytes]]:
        """Take packets in; return how each ended, and its bytes if it went on. AssertionError."""
        before = self.namespace.counters()
        batch = Batch.pack(wire, self.namespace.now_s)
        self.namespace.input(batch)
        ends = outcomes(batch)
        assert len(ends) >= len(wire), "packets were lost"
        assert Outcome.PENDING not in ends, "a packet did not end"
        self._check_counters(before, ends)
        self._check_authentic(batch, ends)
        found = [(end, batch.packet(i) if end.verdict in KEPT else b"") for i, end in enumerate(ends)]
        self.tally.update(ends)
        for end, packet in found:
            self.digest.update(end.to_bytes(2) + packet)
        return found

    def _check_counters(self, before: list[int], ends: list[Outcome]) -> None:
        """Every drop moves its counter, and nothing else moves any."""
        moved = {Counter(i): n - before[i] for i, n in enumerate(self.namespace.counters()) if n != before[i]}
        dropped = Tally(end.counter for end in ends if end.counter is not None)
        assert moved == dict(dropped), "counters and outcomes differ"

    def _check_authentic(self, batch: Batch, ends: list[Outcome]) -> None:
        """What passed a state with an ICV carries what it carried when it was sealed."""
        rows, p = self.namespace.states.rows, batch.packets
        let_in = np.flatnonzero([end.verdict in LET_IN for end in ends])
        passed = np.arange(MAX_DEPTH) < p["depth"][let_in][:, None]
        covered = (passed & (rows["icv_bytes"][p["path"][let_in]] > 0)).any(axis=1)
        for i in let_in[covered].tolist():
            assert upper(batch, i) in self.known, "something was delivered that nobody sealed"
        self.covered += int(covered.sum())

    def pass_time(self, seconds: float) -> None:
        """Let fragments and limits run out."""
        self.namespace.advance(self.namespace.now + seconds)
        for batch in (*self.namespace.released(), *self.namespace.arrived()):
            ends = outcomes(batch)
            assert Outcome.PENDING not in ends
            for i, end in enumerate(ends):
                self.digest.update(end.to_bytes(2) + (batch.packet(i) if end.verdict in KEPT else b""))

    def remembered(self) -> int:
        """Bytes of the flow table, which grows with the flows up to a bound of its own."""
        flows = self.namespace.path.flows
        return int(flows.keys.nbytes + flows.values.nbytes)

    def renew(self) -> None:
        """Make IP-TFS's states anew: a number invented far ahead leaves all that follow too late."""
        for config in tfs_states():
            self.namespace.delete_state(StateId(config.daddr, config.spi, config.proto, config.family))
            self.namespace.add_state(config)

    def check_bounds(self) -> None:
        """What waits and what is remembered stays within bounds."""
        figures = self.namespace.statistics()
        assert figures.fragments.bytes <= FRAGMENTS_MOST, "fragments wait without bound"
        assert figures.flows.entries <= figures.flows.capacity <= FLOWS_MOST
        assert figures.held.packets == 0


def _states(case: Case) -> list[StateConfig]:
    return [layer.state() for layer in case.layers]


def _optional() -> tuple[Template, ...]:
    """What lets most nests of tunnels through; a policy check takes no more of them."""
    kinds = ((Mode.TUNNEL, AF_INET), (Mode.TUNNEL, AF_INET6), (Mode.BEET, AF_INET), (Mode.BEET, AF_INET6))
    anywhere = {AF_INET: ANY4, AF_INET6: ANY6}
    templates = [Template(anywhere[f], anywhere[f], proto=PROTO_ESP, family=f, mode=m) for m, f in kinds]
    templates.append(Template(ANY4, ANY4, proto=PROTO_AH, family=AF_INET, mode=Mode.TUNNEL))
    return tuple(replace(template, optional=True) for template in templates)


def check_one_by_one(wire: list[bytes]) -> None:
    """A batch of n is n batches of one; packets that it made stand behind the others."""
    together, alone = Receiver(), Receiver()
    at_once = together.take(wire)
    single = [alone.take([packet]) for packet in wire]
    assert at_once[: len(wire)] == [ends[0] for ends in single], "a batch differs from its packets one by one"
    made = sorted(end for ends in single for end in ends[1:])
    assert sorted(at_once[len(wire) :]) == made, "a batch makes other packets than its packets one by one"
    assert together.namespace.counters() == alone.namespace.counters()
    assert [s.current for s in together.namespace.dump_states()] == [
        s.current for s in alone.namespace.dump_states()
    ]
