"""A host played from a capture: time, directions, what is not the host's."""

from __future__ import annotations

import random
import struct
from io import BytesIO

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from uxfrm.attach.pcap import open_capture
from uxfrm.datapath.batch import Batch
from uxfrm.explain.report import Report
from uxfrm.model import algorithm as algo
from uxfrm.model.address import parse
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace
from uxfrm.replay.host import Host

A, B = parse("192.0.2.1"), parse("192.0.2.2")
OURS, THEIRS, OTHER = "02:00:00:00:00:0b", "02:00:00:00:00:0a", "02:00:00:00:00:0c"
MAC = bytes.fromhex(OURS.replace(":", ""))
INSIDE = Selector(2, parse("10.2.0.0"), parse("10.1.0.0"), 16, 16)
PLAIN = bytes(IP(src="10.1.0.5", dst="10.2.0.9") / UDP(sport=1, dport=2) / Raw(b"hello"))


def tunnel(**more: object) -> StateConfig:
    aead = algo.aead("rfc4106(gcm(aes))", bytes(20), 128)
    usual = {"daddr": B, "saddr": A, "spi": 1, "reqid": 1, "mode": Mode.TUNNEL, "aead": aead}
    return StateConfig(**(usual | {"replay_window": 32} | more))  # type: ignore[arg-type]


def host(direction: Direction, **more: object) -> Namespace:
    namespace = Namespace(randbytes=random.Random(1).randbytes, now_s=100)
    namespace.add_state(tunnel(**more))
    template = Template(B, A, family=2, reqid=1, mode=Mode.TUNNEL)
    namespace.add_policy(PolicyConfig(direction, INSIDE, (template,)))
    return namespace


def wire(count: int) -> list[bytes]:
    batch = Batch.pack([PLAIN] * count, 100)
    host(Direction.OUT).output(batch)
    return [batch.packet(i) for i in range(count)]


def play(player: Host, *frames: tuple[float, Packet | bytes]) -> list[Report]:
    """Play frames (second, frame) from a capture in memory."""
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    for second, frame in frames:
        raw = bytes(frame)
        data += struct.pack("<IIII", int(second), int(second % 1 * 1e6), len(raw), len(raw)) + raw
    with open_capture(BytesIO(data)) as capture:
        return [report for batch in capture for report in player.reports(player.play(batch))]


def to_us(packet: bytes) -> bytes:
    return bytes(Ether(src=THEIRS, dst=OURS, type=0x800)) + packet


def test_a_state_expires_between_two_frames() -> None:
    namespace = host(Direction.IN, lifetime=LifetimeConfig(hard_add=5))
    packets = wire(3)
    found = play(
        Host(namespace, MAC), (101, to_us(packets[0])), (104.9, to_us(packets[1])), (105, to_us(packets[2]))
    )
    assert [r.outcome for r in found] == ["delivered", "delivered", "dropped"]
    assert found[2].counter == "XfrmInNoStates"


def test_the_first_use_starts_the_clock() -> None:
    namespace = host(Direction.IN, lifetime=LifetimeConfig(hard_use=10))
    packets = wire(3)
    found = play(
        Host(namespace, MAC), (200, to_us(packets[0])), (209, to_us(packets[1])), (210, to_us(packets[2]))
    )
    assert [r.outcome for r in found] == ["delivered", "delivered", "dropped"]


def test_frames_of_others_are_not_played() -> None:
    player = Host(host(Direction.IN), MAC)
    packet = wire(1)[0]
    found = play(
        player,
        (1, Ether(src=THEIRS, dst=OTHER) / IP(packet)),
        (1, Ether(src=THEIRS, dst=OURS) / ARP()),
        (1, to_us(packet)),
    )
    assert [(r.frame, r.outcome) for r in found] == [(3, "delivered")]
    assert (player.skipped.other, player.skipped.not_ip) == (1, 1)


def test_ethernet_padding_and_vlan_tags_do_not_matter() -> None:
    from scapy.layers.l2 import Dot1Q

    packets = wire(2)
    tagged = bytes(Ether(src=THEIRS, dst=OURS) / Dot1Q(vlan=7, type=0x800)) + packets[1]
    found = play(Host(host(Direction.IN), MAC), (1, to_us(packets[0]) + bytes(30)), (1, tagged))
    assert [r.inner for r in found] == [PLAIN, PLAIN]


def test_what_the_host_sent_is_opened_without_being_counted() -> None:
    namespace = host(Direction.OUT)
    before = list(namespace.dump_states())
    frames = [(1.0, bytes(Ether(src=OURS, dst=THEIRS, type=0x800)) + p) for p in wire(3)]
    found = play(Host(namespace, MAC), *frames)
    assert [(r.direction, r.outcome, r.seq, r.inner) for r in found] == [
        ("out", "sent", n, PLAIN) for n in (1, 2, 3)]  # fmt: skip
    assert list(namespace.dump_states()) == before
    assert not any(namespace.counters())


def test_clear_text_that_should_have_been_protected_is_pointed_out() -> None:
    leak = bytes(Ether(src=OURS, dst=THEIRS, type=0x800)) + PLAIN
    found = play(Host(host(Direction.OUT), MAC), (1, leak))
    assert (found[0].outcome, found[0].policy_index) == ("passed in clear", 1)
    assert "although a policy asks for IPsec" in found[0].reason


@pytest.mark.parametrize("start", [0, 2**32 - 3])
def test_extended_sequence_numbers_sent_are_followed(start: int) -> None:
    from uxfrm.model.state import ESN, ReplayEsn

    esn = {"flags": ESN, "replay_window": 0, "replay_esn": ReplayEsn(1, 32, oseq=start)}
    batch = Batch.pack([PLAIN] * 6, 100)
    sender = host(Direction.OUT, **esn)
    sender.output(batch)
    frames = [(1.0, bytes(Ether(src=OURS, dst=THEIRS, type=0x800)) + batch.packet(i)) for i in range(6)]
    found = play(Host(host(Direction.OUT, **esn), MAC), *frames)
    assert [r.inner for r in found] == [PLAIN] * 6


def test_addresses_tell_directions_where_links_do_not() -> None:
    packets = wire(1)
    player = Host(host(Direction.IN), None, frozenset({B}))
    found = play(player, (1, Ether(src=OTHER, dst=THEIRS) / IP(packets[0])))
    assert [(r.direction, r.outcome) for r in found] == [("in", "delivered")]


def cut(packet: bytes) -> list[bytes]:
    return [bytes(piece) for piece in fragment(IP(packet), 40)]


def test_fragments_of_a_received_packet_are_put_together() -> None:
    """Also where the capture does not tell whose addresses they are; the last one tells of the packet."""
    pieces = cut(wire(1)[0])
    frames = [(number, to_us(piece)) for number, piece in enumerate(pieces, 101)]
    for player in (Host(host(Direction.IN), MAC), Host(host(Direction.IN), MAC, frozenset({B}))):
        found = play(player, *frames)
        assert [r.outcome for r in found] == ["held"] * (len(pieces) - 1) + ["delivered"]
        assert [r.spi for r in found] == [None] * (len(pieces) - 1) + [1]
        assert found[-1].inner == PLAIN


def test_fragments_too_late_are_not_put_together() -> None:
    first, *rest = cut(wire(1)[0])
    frames = [(101, to_us(first)), *((131, to_us(piece)) for piece in rest)]
    found = play(Host(host(Direction.IN), MAC), *frames)
    assert [r.outcome for r in found] == ["held"] * (1 + len(rest))


def test_fragments_of_a_sent_packet_are_put_together() -> None:
    pieces = cut(wire(1)[0])
    frames = [
        (number, bytes(Ether(src=OURS, dst=THEIRS, type=0x800)) + piece)
        for number, piece in enumerate(pieces, 101)
    ]
    found = play(Host(host(Direction.OUT), MAC), *frames)
    assert [r.outcome for r in found] == ["sent"] * len(pieces)
    assert [r.inner for r in found] == [None] * (len(pieces) - 1) + [PLAIN]
    assert "protected as the policy asks" in found[-1].reason
