"""A batch is only many packets at once: each fares as if it had come alone and no flow were remembered.

Whatever the packets before it did to states: used them up, made them dying, had a successor asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.events import Event, StateMonitored
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, ANY4, parse
from uxfrm.model.dump import PolicyDump, StateDump
from uxfrm.model.lifetime import INF, UNLIMITED, LifetimeConfig
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import POLICY_CPU_ACQUIRE, Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import ESN, Rare, ReplayEsn, SaDir, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

pytestmark = pytest.mark.compiled

A, B = parse("10.0.0.1"), parse("10.0.0.2")
NOW = 1000
KEY = bytes(range(20))


class Packet(NamedTuple):
    """A packet to send: which policy it falls under, how long it is, who handles it."""

    net: int
    port: int
    size: int
    cpu: int


class Told(NamedTuple):
    """All that anybody can see of what became of packets."""

    packets: list[tuple[Any, ...]]
    events: list[Event]
    counters: list[int]
    states: list[StateDump]
    policies: list[PolicyDump]


def tunnel(reqid: int, **more: Any) -> Template:
    return Template(B, A, family=AF_INET, mode=Mode.TUNNEL, reqid=reqid, **more)


TRANSPORT = {"family": AF_INET, "mode": Mode.TRANSPORT, "daddr": ANY4, "saddr": ANY4}

# What the policies of net 10.N.0.0/16 want, innermost first.
NESTS: list[tuple[tuple[Template, ...], int]] = [
    ((tunnel(1),), 0),
    ((tunnel(1), tunnel(2)), 0),
    ((tunnel(2), Template(reqid=3, **TRANSPORT)), 0),
    ((tunnel(3),), POLICY_CPU_ACQUIRE),
    ((Template(reqid=9, optional=True, **TRANSPORT), tunnel(2)), 0),
    ((tunnel(2), tunnel(1), tunnel(2)), 0),
    ((tunnel(8),), 0),
]

# Some near enough that a batch reaches them, most of them far.
LIMIT = st.sampled_from([INF, INF, 2, 3, 5, 9])
SIZES = st.sampled_from([INF, INF, INF, 150, 400, 1500])
LIFETIMES = st.builds(
    lambda sb, hb, sp, hp: UNLIMITED._replace(soft_byte=sb, hard_byte=hb, soft_packet=sp, hard_packet=hp),
    SIZES, SIZES, LIMIT, LIMIT,
)  # fmt: skip


def state(spi: int, reqid: int, mode: Mode, lifetime: LifetimeConfig, pcpu: int | None) -> StateConfig:
    return StateConfig(
        B, A, spi=spi, reqid=reqid, mode=mode, aead=algo.aead("rfc4106(gcm(aes))", KEY, 128),
        direction=SaDir.OUT if pcpu is not None else SaDir.UNSET, lifetime=lifetime, rare=Rare(pcpu=pcpu),
    )  # fmt: skip


STATES = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 2, 2, 3]),
        st.sampled_from([Mode.TUNNEL, Mode.TUNNEL, Mode.TRANSPORT]),
        LIFETIMES,
        st.sampled_from([None, None, None, 0, 1]),
        st.integers(0, 2),
    ),
    max_size=7,
)
PACKETS = st.lists(
    st.builds(
        Packet, st.integers(0, len(NESTS) - 1), st.integers(1, 2), st.sampled_from([0, 64, 300]),
        st.integers(0, 1),
    ),
    min_size=1,
    max_size=24,
)  # fmt: skip

Plans = Sequence[tuple[int, Mode, LifetimeConfig, int | None, int]]


def listening(host: Namespace, aevents: bool) -> list[Event]:
    """What the host tells from now on, with or without the figures of states."""
    events: list[Event] = []
    host.listen(events.append, lambda kind: aevents or kind is not StateMonitored)
    return events


def sender(plans: Plans, aevents: bool) -> tuple[Namespace, list[Event]]:
    """A host with a policy for every nest, and these states."""
    host = Namespace(randbytes=random.Random(7).randbytes, now_s=NOW)
    for net, (templates, flags) in enumerate(NESTS):
        selector = Selector(AF_INET, bytes([10, net, 0, 0]), ANY4, 16, 0)
        host.add_policy(PolicyConfig(Direction.OUT, selector, templates, flags=flags))
    for number, (reqid, mode, lifetime, pcpu, later) in enumerate(plans, 1):
        host.advance(NOW + later)
        host.add_state(state(number, reqid, mode, lifetime, pcpu))
    return host, listening(host, aevents)


def built(packet: Packet) -> bytes:
    ends = IP(src="192.0.2.1", dst=f"10.{packet.net}.0.9", id=1)
    return bytes(ends / UDP(sport=packet.port, dport=9) / Raw(bytes(packet.size)))


def batch_of(packets: Sequence[Packet]) -> Batch:
    batch = Batch.pack([built(packet) for packet in packets], NOW)
    batch.packets["cpu"] = [packet.cpu for packet in packets]
    return batch


def seen(host: Namespace, batch: Batch) -> list[tuple[Any, ...]]:
    """What there is to see of each packet now."""
    told = []
    for i, p in enumerate(batch.packets):
        path = [(x.config.spi, x.config.reqid) for x in host.path.path(p)]
        words = host.path.detail_at(int(p["detail"]))
        policy = host.path.policy_at(int(p["policy"]))
        outcome = Outcome.of(int(p["outcome"])).name
        sent = batch.packet(i) if outcome == "SENT" else b""
        told.append((outcome, words, policy and policy.config, path, int(p["spi"]), int(p["seq"]), sent))
    return told


def told_of(host: Namespace, events: list[Event], packets: list[tuple[Any, ...]]) -> Told:
    return Told(packets, events, host.counters(), list(host.dump_states()), list(host.dump_policies()))


def one_by_one(
    plans: Plans, aevents: bool, packets: Sequence[Packet], before: Callable[[Namespace], None]
) -> Told:
    host, events = sender(plans, aevents)
    found = []
    for packet in packets:
        before(host)
        batch = batch_of([packet])
        host.output(batch)
        found += seen(host, batch)
    return told_of(host, events, found)


@example(
    # The state for any CPU, gone by its limit, stood between two for CPU 1, of which the older one won.
    plans=[
        (1, Mode.TUNNEL, UNLIMITED, None, 2),
        (2, Mode.TUNNEL, UNLIMITED, 1, 1),
        (2, Mode.TUNNEL, UNLIMITED._replace(hard_packet=2), None, 2),
        (2, Mode.TUNNEL, UNLIMITED, 1, 1),
    ],
    aevents=False,
    packets=[Packet(5, 1, 0, 0), Packet(5, 1, 0, 0), Packet(1, 2, 64, 1)],
)
@settings(phases=[Phase.explicit, Phase.generate])
@given(plans=STATES, aevents=st.booleans(), packets=PACKETS)
def test_sent_together_or_one_by_one(plans: Plans, aevents: bool, packets: list[Packet]) -> None:
    host, events = sender(plans, aevents)
    batch = batch_of(packets)
    host.output(batch)
    together = told_of(host, events, seen(host, batch))
    assert together == one_by_one(plans, aevents, packets, lambda _: None)
    assert together == one_by_one(plans, aevents, packets, lambda other: other.path.forget())


# -- the way in


class Frame(NamedTuple):
    """A packet on the wire: which of the sender's, and what was done to it."""

    which: int
    broken: bool


FRAMES = st.lists(st.builds(Frame, st.integers(0, 11), st.sampled_from([False] * 9 + [True])), max_size=24)
WINDOWS = st.sampled_from([0, 4, 32, 33])
RECEIVERS = st.lists(st.tuples(LIFETIMES, WINDOWS, st.booleans()), min_size=3, max_size=3)
ALMOST = 2**32 - 5

IN_POLICIES = ((tunnel(1),), (tunnel(3), tunnel(2)))


def receiving(spi: int, lifetime: LifetimeConfig, window: int, esn: bool, start: int = 0) -> StateConfig:
    """One of the receiver's states, or (unlimited) the sender's twin of it; ESN begins close to 2^32."""
    words = (max(window, 1) + 31) // 32
    extended = ReplayEsn(
        words=words,
        oseq=start,
        seq=start,
        oseq_hi=0,
        seq_hi=0,
        replay_window=max(window, 1),
        bitmap=(0,) * words,
    )
    return StateConfig(
        B, A, spi=spi, reqid=spi, mode=Mode.TUNNEL, aead=algo.aead("rfc4106(gcm(aes))", KEY, 128),
        lifetime=lifetime, flags=ESN if esn else 0, replay_esn=extended if esn else None,
        replay_window=0 if esn else min(window, 32),
    )  # fmt: skip


def wire(setup: Any) -> list[bytes]:
    """Twelve packets that a sender with the same states makes: through state 1, and 3 within 2."""
    host = Namespace(randbytes=random.Random(8).randbytes, now_s=NOW)
    for spi, (_, _, esn) in enumerate(setup, 1):
        host.add_state(receiving(spi, UNLIMITED, 32, esn, ALMOST if esn else 0))
    for net, templates in enumerate(IN_POLICIES):
        selector = Selector(AF_INET, bytes([10, net, 0, 0]), ANY4, 16, 0)
        host.add_policy(PolicyConfig(Direction.OUT, selector, templates))
    batch = batch_of([Packet(n % 2, 1 + n % 3, 40, 0) for n in range(12)])
    host.output(batch)
    return [batch.packet(i) for i in range(12)]


def receiver(setup: Any, aevents: bool) -> tuple[Namespace, list[Event]]:
    host = Namespace(randbytes=random.Random(9).randbytes, now_s=NOW)
    for spi, (lifetime, window, esn) in enumerate(setup, 1):
        host.add_state(receiving(spi, lifetime, window, esn, ALMOST if esn else 0))
    for net, templates in enumerate(IN_POLICIES):
        selector = Selector(AF_INET, bytes([10, net, 0, 0]), ANY4, 16, 0)
        host.add_policy(PolicyConfig(Direction.IN, selector, templates))
    return host, listening(host, aevents)


def let_in(host: Namespace, frames: list[bytes]) -> list[tuple[Any, ...]]:
    batch = Batch.pack(frames, NOW)
    host.input(batch)
    found = []
    for i, p in enumerate(batch.packets):
        path = [x.config.spi for x in host.path.path(p)]
        fields = [int(p[name]) for name in ("outcome", "spi", "seq", "seq_hi", "top", "window", "depth")]
        inner = batch.packet(i) if p["outcome"] == Outcome.DELIVERED else b""
        found.append((*fields, path, host.path.detail_at(int(p["detail"])), inner))
    return found


@example(
    # Between 0 and 1 behind 2^32 the kernel's bitmap of 33 is read at another place: a replay passes.
    setup=[(UNLIMITED._replace(hard_packet=2), 4, True), (UNLIMITED, 33, True), (UNLIMITED, 0, True)],
    aevents=True,
    frames=[Frame(which, False) for which in (0, 9, 2, 3, 8, 11, 3)],
)
@settings(phases=[Phase.explicit, Phase.generate])
@given(setup=RECEIVERS, aevents=st.booleans(), frames=FRAMES)
def test_received_together_or_one_by_one(setup: Any, aevents: bool, frames: list[Frame]) -> None:
    sent = wire(setup)
    packets = []
    for frame in frames:
        packet = bytearray(sent[frame.which])
        packet[-1] ^= frame.broken
        packets.append(bytes(packet))
    host, events = receiver(setup, aevents)
    together = told_of(host, events, let_in(host, packets))
    other, others = receiver(setup, aevents)
    apart = told_of(other, others, [found for packet in packets for found in let_in(other, [packet])])
    # A layer is opened for all packets at once: what is told of an inner one comes after all outer ones.
    by_state = sorted(events, key=spi_of), sorted(others, key=spi_of)
    assert by_state[0] == by_state[1]
    assert together._replace(events=[]) == apart._replace(events=[])


def spi_of(event: Any) -> int:
    state = event.aevent.state if isinstance(event, StateMonitored) else event.state
    return int(state.config.spi)
