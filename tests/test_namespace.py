"""One namespace as its users see it: packets in and out, limits, invalidation, batches of any size.

The golden rows are what Linux 6.1 in user-mode-linux did (semantics document, section 12).
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter as Tally
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.events import Event, StateExpired
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.dump import StateId
from uxfrm.model.error import XfrmError
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.mark import Mark
from uxfrm.model.outcome import Counter, Outcome, Verdict
from uxfrm.model.policy import Action, Direction, Offload, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import (
    DECAP_DSCP,
    DONT_ENCAP_DSCP,
    ESN,
    NOECN,
    NOPMTUDISC,
    OSEQ_MAY_WRAP,
    Rare,
    ReplayEsn,
    ReplayLegacy,
    SaDir,
    StateConfig,
)
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

A, B = parse("192.0.2.1"), parse("192.0.2.2")
KEY = bytes(range(20))
GCM = algo.aead("rfc4106(gcm(aes))", KEY, 128)
NULL = {"crypt": algo.crypt("cipher_null", b""), "auth": algo.auth("sha1", b"secret")}
INSIDE = Selector(AF_INET, parse("10.2.0.0"), parse("10.1.0.0"), 16, 16)


def state(**changes: object) -> StateConfig:
    """A tunnel from A to B."""
    usual = {"daddr": B, "saddr": A, "spi": 0x1000, "reqid": 1, "mode": Mode.TUNNEL, "aead": GCM}
    return StateConfig(**(usual | {"replay_window": 32} | changes))  # type: ignore[arg-type]


def template(**changes: object) -> Template:
    return replace(Template(B, A, family=AF_INET, reqid=1, mode=Mode.TUNNEL), **changes)  # type: ignore[arg-type]


def policy(direction: Direction, *templates: Template, **changes: object) -> PolicyConfig:
    return PolicyConfig(direction, **({"selector": INSIDE, "templates": templates} | changes))  # type: ignore[arg-type]


def namespace(*configs: StateConfig | PolicyConfig, seed: int = 1, now_s: int = 1000) -> Namespace:
    made = Namespace(randbytes=random.Random(seed).randbytes, now_s=now_s)
    for config in configs:
        if isinstance(config, StateConfig):
            made.add_state(config)
        else:
            made.add_policy(config)
    return made


def sender(**changes: object) -> Namespace:
    return namespace(state(**changes), policy(Direction.OUT, template()))


def datagram(size: int = 20, tos: int = 0, flags: str = "") -> bytes:
    body = Raw(bytes(n & 0xFF for n in range(size)))
    return bytes(IP(src="10.1.0.5", dst="10.2.0.9", tos=tos, flags=flags) / UDP(sport=4000, dport=53) / body)


def outcomes(batch: Batch) -> list[Outcome]:
    return [Outcome.of(int(o)) for o in batch.packets["outcome"]]


def output(ns: Namespace, *packets: bytes, now_s: int = 1000) -> list[bytes]:
    batch = Batch.pack(packets, now_s)
    ns.output(batch)
    assert set(outcomes(batch)) == {Outcome.SENT}
    return [batch.packet(i) for i in range(len(batch))]


def receive(ns: Namespace, *packets: bytes, now_s: int = 1000) -> list[Outcome]:
    batch = Batch.pack(packets, now_s)
    ns.input(batch)
    return outcomes(batch)


def expiries(ns: Namespace) -> list[StateExpired]:
    """What will be told of limits from now on."""
    told: list[StateExpired] = []

    def listener(event: Event) -> None:
        if isinstance(event, StateExpired):
            told.append(event)

    ns.listen(listener, lambda kind: kind is StateExpired)
    return told


def moved(ns: Namespace) -> dict[str, int]:
    values = ns.counters()
    return {counter.name: values[counter] for counter in Counter if values[counter]}


# -- the golden table: what a receiver does with one packet

ALLOW = policy(Direction.IN, template())
GOLDEN = [
    ("no policy, tunnel", {}, [], Outcome.IN_NO_POLICY),
    ("template with its reqid", {}, [ALLOW], Outcome.DELIVERED),
    ("template with another reqid", {}, [policy(Direction.IN, template(reqid=2))], Outcome.IN_TEMPLATE),
    ("template with another source", {}, [policy(Direction.IN, template(saddr=B))], Outcome.IN_TEMPLATE),
    (
        "template with another destination",
        {},
        [policy(Direction.IN, template(daddr=A, reqid=0))],
        Outcome.DELIVERED,
    ),
    ("level use", {}, [policy(Direction.IN, template(optional=True))], Outcome.DELIVERED),
    ("block", {}, [policy(Direction.IN, action=Action.BLOCK)], Outcome.IN_POLICY_BLOCK),
    ("allow without templates", {}, [policy(Direction.IN)], Outcome.IN_TEMPLATE),
    ("selector elsewhere", {"selector": Selector(AF_INET, A, A, 32, 32)}, [ALLOW], Outcome.IN_STATE_SELECTOR),
    ("forward policy only", {}, [policy(Direction.FWD, template())], Outcome.FORWARDED),
    ("output state", {"direction": SaDir.OUT, "replay_window": 0}, [ALLOW], Outcome.IN_STATE_DIR),
]


@pytest.mark.parametrize(
    ("changes", "policies", "wanted"), [row[1:] for row in GOLDEN], ids=[r[0] for r in GOLDEN]
)
def test_golden_input(changes: dict[str, object], policies: list[PolicyConfig], wanted: Outcome) -> None:
    wire = output(sender(), datagram())
    ns = namespace(state(**changes), *policies)
    assert receive(ns, *wire) == [wanted]
    assert moved(ns) == ({wanted.counter.name: 1} if wanted.counter is not None else {})


@pytest.mark.parametrize(
    ("policies", "wanted"),
    [
        ([], Outcome.CLEAR),
        ([ALLOW], Outcome.IN_TEMPLATE),
        ([policy(Direction.IN, template(optional=True, mode=Mode.TRANSPORT))], Outcome.CLEAR_OPTIONAL),
        ([policy(Direction.IN)], Outcome.CLEAR_ALLOWED),
        ([policy(Direction.IN, action=Action.BLOCK)], Outcome.IN_POLICY_BLOCK),
    ],
)
def test_golden_clear_text(policies: list[PolicyConfig], wanted: Outcome) -> None:
    assert receive(namespace(*policies), datagram()) == [wanted]


def test_default_block_counts_as_no_policy() -> None:
    ns = namespace()
    ns.set_default(in_=1)
    assert receive(ns, datagram()) == [Outcome.IN_DEFAULT_BLOCK]
    assert moved(ns) == {"XfrmInNoPols": 1}


def test_transport_without_policy_is_delivered() -> None:
    host = {"mode": Mode.TRANSPORT}
    packet = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=1, dport=2) / Raw(b"x"))
    selector = Selector(AF_INET, B, A, 32, 32)
    out = namespace(state(**host), policy(Direction.OUT, template(mode=Mode.TRANSPORT), selector=selector))
    ns = namespace(state(**host))
    assert receive(ns, *output(out, packet)) == [Outcome.DELIVERED_NO_POLICY]


HOSTILE = [
    ("cut to 5 bytes", lambda p: p[:25], Outcome.IN_HEADER_SHORT),
    ("a wrong ICV", lambda p: p[:-1] + bytes([p[-1] ^ 1]), Outcome.IN_ICV),
    ("an unknown SPI", lambda p: p[:20] + b"\0\0\x99\x99" + p[24:], Outcome.IN_NO_STATE),
    ("sequence number 0", lambda p: p[:24] + bytes(4) + p[28:], Outcome.IN_SEQ_ZERO),
    ("no room for IV and ICV", lambda p: p[:40], Outcome.IN_ESP_LENGTH),
]


@pytest.mark.parametrize(("change", "wanted"), [row[1:] for row in HOSTILE], ids=[r[0] for r in HOSTILE])
def test_golden_hostile(change: object, wanted: Outcome) -> None:
    wire = output(sender(), datagram())[0]
    ns = namespace(state(), ALLOW)
    assert receive(ns, mended(change(wire))) == [wanted]  # type: ignore[operator]
    assert receive(ns, wire) == [Outcome.DELIVERED]


def mended(packet: bytes) -> bytes:
    """The packet with its IPv4 length and checksum as they should be."""
    header = IP(packet)
    del header.len, header.chksum
    return bytes(header)


def esp_null(seq: int, inner: bytes, padding: int, next_header: int) -> bytes:
    """ESP with NULL encryption made here, by the RFC, not by the code under test."""
    import hashlib
    import hmac

    body = (0x1000).to_bytes(4) + seq.to_bytes(4) + inner + bytes([padding, next_header])
    icv = hmac.new(b"secret", body, hashlib.sha1).digest()[:12]
    return bytes(IP(src="192.0.2.1", dst="192.0.2.2", proto=50) / Raw(body + icv))


@pytest.mark.parametrize(
    ("padding", "next_header", "wanted"),
    [
        (0, 4, Outcome.DELIVERED),
        (250, 4, Outcome.IN_PADDING),
        (0, 59, Outcome.IN_DUMMY),
        (0, 6, Outcome.IN_MODE),
        (0, 41, Outcome.IN_MODE),
    ],
)
def test_golden_trailers(padding: int, next_header: int, wanted: Outcome) -> None:
    ns = namespace(state(aead=None, **NULL), ALLOW)
    packet = esp_null(1, datagram(18), padding, next_header)
    assert receive(ns, packet) == [wanted]
    replayed = Outcome.IN_SEQ_REPLAYED if wanted in (Outcome.DELIVERED, Outcome.IN_MODE) else wanted
    assert receive(ns, packet) == [replayed]


# -- limits and sequence numbers


def test_packet_hard_limit_ends_the_state() -> None:
    wire = output(sender(), *[datagram()] * 4)
    ns = namespace(state(lifetime=LifetimeConfig(hard_packet=1)), ALLOW)
    events = expiries(ns)
    wanted = [Outcome.DELIVERED, Outcome.IN_EXPIRED, Outcome.IN_NO_STATE, Outcome.IN_NO_STATE]
    assert receive(ns, *wire) == wanted
    assert [(e.hard, e.state.config.spi) for e in events] == [(True, 0x1000)]
    assert list(ns.dump_states()) == []


def test_packet_soft_limit_is_told_once_with_the_packet_behind_it() -> None:
    ns = namespace(state(lifetime=LifetimeConfig(soft_packet=2)), policy(Direction.OUT, template()))
    events = expiries(ns)
    for count in range(1, 6):
        output(ns, datagram())
        assert [e.state.current.packets for e in events] == ([2] if count >= 3 else [])


def test_soft_limit_in_a_batch_is_told_as_of_the_packet_that_met_it() -> None:
    ns = namespace(state(lifetime=LifetimeConfig(soft_packet=2)), policy(Direction.OUT, template()))
    back = namespace(state(lifetime=LifetimeConfig(soft_packet=2)), ALLOW)
    events, received = expiries(ns), expiries(back)
    receive(back, *output(ns, *[datagram()] * 9))
    assert [e.state.current.packets for e in (*events, *received)] == [2, 2]


def test_output_stops_at_the_hard_limit_in_the_middle_of_a_batch() -> None:
    ns = namespace(state(lifetime=LifetimeConfig(hard_byte=100)), policy(Direction.OUT, template()))
    batch = Batch.pack([datagram(12)] * 5, 1000)
    ns.output(batch)
    wanted = [Outcome.SENT] * 3 + [Outcome.OUT_EXPIRED, Outcome.OUT_NO_STATE]
    assert outcomes(batch) == wanted
    assert moved(ns) == {"XfrmOutNoStates": 1, "XfrmOutStateExpired": 1}


def test_time_limits_act_when_time_passes() -> None:
    ns = namespace(state(lifetime=LifetimeConfig(soft_add=10, hard_add=20, hard_use=5)), ALLOW)
    events = expiries(ns)
    assert ns.next_deadline() == 1010
    ns.advance(1010)
    assert [e.hard for e in events] == [False]
    receive(ns, *output(sender(), datagram()), now_s=1012)
    assert ns.next_deadline() == 1017
    ns.advance(1017)
    assert [e.hard for e in events] == [False, True]
    assert ns.next_deadline() is None


def test_the_last_sequence_number_is_used_and_no_number_twice() -> None:
    ns = sender(replay=ReplayLegacy(oseq=2**32 - 3))
    batch = Batch.pack([datagram()] * 4, 1000)
    ns.output(batch)
    assert outcomes(batch) == [Outcome.SENT] * 2 + [Outcome.OUT_SEQ_OVERFLOW] * 2
    assert [batch.packet(i)[24:28] for i in range(2)] == [b"\xff\xff\xff\xfe", b"\xff\xff\xff\xff"]


def test_a_wrap_that_was_asked_for_does_not_repeat_the_iv() -> None:
    ns = sender(replay=ReplayLegacy(oseq=2**32 - 2), extra_flags=OSEQ_MAY_WRAP)
    first = output(ns, *[datagram()] * 3)
    again = sender(replay=ReplayLegacy(oseq=2**32 - 2), extra_flags=OSEQ_MAY_WRAP)
    assert [p[24:28] for p in first] == [b"\xff" * 4, bytes(4), b"\0\0\0\1"]
    ivs = {p[28:36] for p in first} | {output(again, datagram())[0][28:36]}
    assert len(ivs) == 3  # same seed, same first IV; the three of one key differ


def test_extended_numbers_cross_the_boundary_within_a_batch() -> None:
    """The high half is not on the wire: both ends must agree on it across 2^32, forged packets aside."""
    start = 2**32 - 20
    esn = {"flags": ESN, "replay_window": 0}
    out = sender(**esn, replay_esn=ReplayEsn(2, 64, oseq=start))
    wire = output(out, *[datagram()] * 60)
    forged = wire[0][:24] + (5).to_bytes(4) + wire[0][28:]
    shuffled = [*wire[:10], forged, *reversed(wire[10:40]), forged, *wire[40:], *wire[:3]]
    ns = namespace(state(**esn, replay_esn=ReplayEsn(2, 64, seq=start)), ALLOW)
    found = Tally(receive(ns, *shuffled))
    assert found[Outcome.DELIVERED] == 60
    assert found[Outcome.IN_ICV] + found[Outcome.IN_SEQ_REPLAYED] == 5
    dump = next(iter(ns.dump_states()))
    assert isinstance(dump.replay, ReplayEsn)
    assert (dump.replay.seq_hi, dump.replay.seq) == (1, 40)


def test_a_cbc_iv_is_never_used_twice() -> None:
    keys = {"crypt": algo.crypt("aes", bytes(16)), "auth": algo.auth("sha256", b"k"), "aead": None}
    ns = Namespace(randbytes=os.urandom)
    ns.add_state(state(**keys))
    ns.add_policy(policy(Direction.OUT, template()))
    wire = output(ns, *[datagram()] * 300) + output(ns, *[datagram()] * 300)
    assert len({p[28:44] for p in wire}) == 600


# -- batches


def play(ns: Namespace, packets: list[bytes], sizes: list[int]) -> tuple[list[Outcome], object]:
    """Receive packets in batches of the given sizes; outcomes and tables."""
    found: list[Outcome] = []
    at = 0
    for size in sizes:
        if packets[at : at + size]:
            found += receive(ns, *packets[at : at + size])
        at += size
    return found, (list(ns.dump_states()), ns.counters())


LIMITED = LifetimeConfig(hard_packet=25, soft_packet=10)


@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=20),
    esn=st.booleans(),
    limited=st.booleans(),
)
def test_a_batch_does_what_its_packets_do_one_by_one(
    seed: int, sizes: list[int], esn: bool, limited: bool
) -> None:
    rng = random.Random(seed)
    start = rng.choice([0, 2**32 - 15]) if esn else rng.choice([0, 2**31])
    kind: dict[str, object] = {}
    if esn:
        kind = {"flags": ESN, "replay_window": 0, "replay_esn": ReplayEsn(1, 32, oseq=start, seq=start)}
    else:
        kind = {"replay": ReplayLegacy(oseq=start, seq=start)}
    wire = output(sender(**kind), *[datagram(rng.randrange(60)) for _ in range(40)])
    packets = [rng.choice(wire) if rng.random() < 0.3 else wire[n] for n in range(40)]
    packets = [spoiled(p, rng) if rng.random() < 0.3 else p for p in packets]
    rng.shuffle(packets)
    receiver = state(**kind, lifetime=LIMITED if limited else LifetimeConfig())
    batched = play(namespace(receiver, ALLOW), packets, [*sizes, 1000])
    single = play(namespace(receiver, ALLOW), packets, [1] * 40)
    assert batched == single


def spoiled(packet: bytes, rng: random.Random) -> bytes:
    """A packet with one ESP byte changed."""
    at = rng.randrange(20, len(packet))
    return packet[:at] + bytes([packet[at] ^ 1 << rng.randrange(8)]) + packet[at + 1 :]


def test_same_seed_same_calls_same_bytes() -> None:
    packets = [datagram(n) for n in range(50)]
    assert output(sender(), *packets) == output(sender(), *packets)


@given(data=st.lists(st.binary(max_size=120), min_size=1, max_size=8), wrap=st.booleans())
def test_any_bytes_get_an_outcome(data: list[bytes], wrap: bool) -> None:
    ns = namespace(state(), ALLOW)
    if wrap:
        data = [bytes(IP(src="192.0.2.1", dst="192.0.2.2", proto=50) / Raw(d)) for d in data]
    for found in (receive(ns, *data), sent(ns, *data), inspected(ns, *data)):
        assert len(found) == len(data)
        assert all(o.verdict != Verdict.PENDING for o in found)


def sent(ns: Namespace, *packets: bytes) -> list[Outcome]:
    batch = Batch.pack(packets, 1000)
    ns.output(batch)
    return outcomes(batch)


def inspected(ns: Namespace, *packets: bytes) -> list[Outcome]:
    batch = Batch.pack(packets, 1000)
    ns.inspect(batch)
    return outcomes(batch)


# -- what changes under a flow


def test_a_new_state_is_used_at_once_and_a_deleted_one_no_more() -> None:
    ns = sender()
    assert output(ns, datagram())[0][20:24] == (0x1000).to_bytes(4)
    ns.advance(1001)
    ns.add_state(state(spi=0x2000))
    assert output(ns, datagram())[0][20:24] == (0x2000).to_bytes(4)
    ns.delete_state(StateId(B, 0x2000, 50, AF_INET))
    assert output(ns, datagram())[0][20:24] == (0x1000).to_bytes(4)
    ns.delete_state(StateId(B, 0x1000, 50, AF_INET))
    assert sent(ns, datagram()) == [Outcome.OUT_NO_STATE]
    ns.add_state(state(spi=0x3000))
    assert output(ns, datagram())[0][20:24] == (0x3000).to_bytes(4)


def test_a_new_policy_is_obeyed_at_once() -> None:
    ns = namespace(state())
    assert sent(ns, datagram()) == [Outcome.CLEAR]
    ns.add_policy(policy(Direction.OUT, template()))
    assert sent(ns, datagram()) == [Outcome.SENT]
    ns.update_policy(policy(Direction.OUT, action=Action.BLOCK))
    assert sent(ns, datagram()) == [Outcome.OUT_POLICY_BLOCK]
    ns.flush_policies()
    ns.set_default(out=1)
    assert sent(ns, datagram()) == [Outcome.OUT_DEFAULT_BLOCK]


def test_packets_use_policies_and_that_is_seen() -> None:
    ns = namespace(state(), ALLOW)
    receive(ns, *output(sender(), datagram()), now_s=1234)
    assert next(iter(ns.dump_policies())).current.use_time == 1234


def test_marks_choose_the_state() -> None:
    first = state(mark=Mark(1, 0xFF), aead=algo.aead("rfc4106(gcm(aes))", bytes(20), 128))
    second = state(mark=Mark(2, 0xFF))
    ns = namespace(first, second, ALLOW)
    wire = output(sender(), datagram())
    for mark, wanted in ((1, Outcome.IN_ICV), (2, Outcome.DELIVERED), (3, Outcome.IN_NO_STATE)):
        batch = Batch.pack(wire, 1000, mark=mark)
        ns.input(batch)
        assert outcomes(batch) == [wanted]


def test_crypto_offload_is_done_in_software_and_packet_offload_refused() -> None:
    """As where the device can do neither, and as where there is no such device."""
    out = namespace(state(rare=Rare(offload=Offload(1, 0))), policy(Direction.OUT, template()))
    assert receive(namespace(state(), ALLOW), *output(out, datagram())) == [Outcome.DELIVERED]
    (dump,) = out.dump_states()
    assert isinstance(dump.config, StateConfig)
    assert dump.config.rare.offload is None
    with pytest.raises(XfrmError) as refused:
        namespace(state(rare=Rare(offload=Offload(1, 4))))
    assert (refused.value.number, refused.value.text) == (errno.EINVAL, "")


# -- headers

DECAP = [  # outer TOS, inner TOS, result: default, decap-dscp, noecn (Linux 6.1 in user-mode-linux)
    (0xB8, 0x00, 0x00, 0xB8, 0x00),
    (0xB9, 0x28, 0x28, 0xB8, 0x28),
    (0x03, 0x00, 0x00, 0x00, 0x00),
    (0x03, 0x01, 0x03, 0x03, 0x01),
    (0x03, 0x02, 0x03, 0x03, 0x02),
    (0x02, 0x03, 0x03, 0x03, 0x03),
    (0xBB, 0x29, 0x2B, 0xBB, 0x29),
]


@pytest.mark.parametrize("row", DECAP)
@pytest.mark.parametrize(("column", "flags"), [(2, 0), (3, DECAP_DSCP), (4, NOECN)])
def test_tos_of_the_inner_packet(row: tuple[int, ...], column: int, flags: int) -> None:
    wire = bytearray(output(sender(), datagram(tos=row[1]))[0])
    wire[1] = row[0]
    ns = namespace(state(flags=flags), ALLOW)
    batch = Batch.pack([mended(bytes(wire))], 1000)
    ns.input(batch)
    assert outcomes(batch) == [Outcome.DELIVERED]
    inner = IP(batch.packet(0))
    assert inner.tos == row[column]
    assert bytes(inner) == mended(bytes(inner))


@pytest.mark.parametrize(
    ("inner", "flags", "extra", "outer"),
    [(0xB8, 0, 0, 0xB8), (0xBB, 0, 0, 0xBA), (0xB9, 0, 0, 0xB9), (0xBA, NOECN, 0, 0xB8),
     (0xBA, 0, DONT_ENCAP_DSCP, 0x02), (0xBB, NOECN, DONT_ENCAP_DSCP, 0x00)],
)  # fmt: skip
def test_tos_of_the_outer_packet(inner: int, flags: int, extra: int, outer: int) -> None:
    ns = sender(flags=flags, extra_flags=extra)
    assert IP(output(ns, datagram(tos=inner))[0]).tos == outer


@pytest.mark.parametrize(("inner", "flags", "outer"), [("DF", 0, "DF"), ("", 0, ""), ("DF", NOPMTUDISC, "")])
def test_df_of_the_outer_packet(inner: str, flags: int, outer: str) -> None:
    assert str(IP(output(sender(flags=flags), datagram(flags=inner))[0]).flags) == outer


def test_too_big_for_the_path_and_not_to_be_fragmented() -> None:
    ns = sender()
    ns.set_mtu(1500)
    fits, over = datagram(1446 - 28, flags="DF"), datagram(1447 - 28, flags="DF")
    fragments, answer = [Outcome.SENT] * 2, Outcome.ICMP_TOO_BIG
    ends = [Outcome.SENT, Outcome.OUT_TOO_BIG, Outcome.OUT_FRAGMENTED, *fragments, answer]
    assert sent(ns, fits, over, datagram(1447 - 28)) == ends


def test_tfc_padding_makes_packets_alike() -> None:
    ns = sender(tfcpad=1000)
    lengths = {len(p) for p in output(ns, *[datagram(n) for n in range(0, 900, 30)])}
    assert len(lengths) == 1
    receiver = namespace(state(tfcpad=1000), ALLOW)
    batch = Batch.pack(output(ns, datagram(5)), 1000)
    receiver.input(batch)
    assert batch.packet(0) == datagram(5)


def test_an_icmp_flow_has_type_and_code_for_ports() -> None:
    ping = replace(INSIDE, proto=1, sport=8, sport_mask=0xFFFF)
    ns = namespace(state(), policy(Direction.OUT, template(), selector=ping))
    request = bytes(IP(src="10.1.0.5", dst="10.2.0.9") / ICMP(type=8))
    reply = bytes(IP(src="10.1.0.5", dst="10.2.0.9") / ICMP(type=0))
    assert sent(ns, request, reply) == [Outcome.SENT, Outcome.CLEAR]


def test_transport_mode_keeps_ipv6_extension_headers_in_front() -> None:
    from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop

    a, b = parse("2001:db8::1"), parse("2001:db8::2")
    config = state(daddr=b, saddr=a, family=AF_INET6, mode=Mode.TRANSPORT)
    selector = Selector(AF_INET6, b, a, 128, 128)
    wanted = Template(b, a, family=AF_INET6, reqid=1)
    out = namespace(config, policy(Direction.OUT, wanted, selector=selector))
    packet = bytes(
        IPv6(src="2001:db8::1", dst="2001:db8::2") / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt()
        / UDP(sport=1, dport=2) / Raw(b"payload")
    )  # fmt: skip
    wire = output(out, packet)[0]
    assert wire[40] == 60
    assert wire[48] == 50
    receiver = namespace(config, policy(Direction.IN, wanted, selector=selector))
    batch = Batch.pack([wire], 1000)
    receiver.input(batch)
    assert outcomes(batch) == [Outcome.DELIVERED]
    assert batch.packet(0) == packet


def test_nested_tunnels_are_opened_layer_by_layer() -> None:
    inner = state(spi=0x10, reqid=1, daddr=parse("198.51.100.2"), saddr=parse("198.51.100.1"))
    outer = state(spi=0x20, reqid=2)
    first = template(daddr=inner.daddr, saddr=inner.saddr)
    second = template(reqid=2)
    out = namespace(inner, outer, policy(Direction.OUT, first, second))
    wire = output(out, datagram())
    receiver = namespace(inner, outer, policy(Direction.IN, first, second))
    batch = Batch.pack(wire, 1000)
    receiver.input(batch)
    assert outcomes(batch) == [Outcome.DELIVERED]
    assert batch.packet(0) == datagram()
    missing = namespace(inner, outer, policy(Direction.IN, first))
    assert receive(missing, *wire) == [Outcome.IN_TEMPLATE]


def test_every_packet_is_counted_exactly_once() -> None:
    wire = output(sender(), *[datagram()] * 20)
    rng = random.Random(3)
    packets = [spoiled(p, rng) if rng.random() < 0.5 else p for p in wire + wire]
    ns = namespace(state(), ALLOW)
    found = receive(ns, *packets)
    counted = Tally(o.counter.name for o in found if o.counter is not None)
    assert moved(ns) == counted
    assert sum(counted.values()) + found.count(Outcome.DELIVERED) == len(packets)
