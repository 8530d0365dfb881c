"""An IPv6 fragment header before a whole packet (RFC 6946) is passed over, and hides the ports behind it."""

from __future__ import annotations

from dataclasses import replace
from socket import IPPROTO_FRAGMENT, IPPROTO_UDP

import pytest

from linux.guest import LinuxGuest
from linux.suites import CLEAR, PAYLOADS
from linux.twin import (
    GUEST_PORT,
    SHAPES,
    TRANSPORT6,
    Case,
    Shape,
    counters,
    delivered_by,
    figures,
    opened,
    packets,
    prepare,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model.policy import Action, Direction, PolicyConfig

pytestmark = pytest.mark.linux


def with_fragment_header(packet: bytes) -> bytes:
    """The IPv6 packet with a fragment header behind its first one, as if it were its only fragment.

    Its two reserved bits are set, which nobody may look at.
    """
    length = int.from_bytes(packet[4:6]) + 8
    first = packet[:4] + length.to_bytes(2) + bytes([IPPROTO_FRAGMENT]) + packet[7:40]
    return first + packet[6:7] + b"\0\0\6once" + packet[40:]


def _wire(case: Case) -> list[bytes]:
    batch = Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    case.namespace().output(batch)
    return packets(batch)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s.outer == 6], ids=lambda shape: shape.name)
def test_the_header_is_passed_over(guest: LinuxGuest, shape: Shape) -> None:
    case = Case(CLEAR, shape)
    wire = list(map(with_fragment_header, _wire(case)))
    before = prepare(guest, case)
    linuxs = [datagram.payload for datagram in delivered_by(guest, wire)]
    twin = case.twin()
    assert [payload for _, payload in opened(twin, wire)] == linuxs
    assert counters(twin) == guest.xfrm_moved(before)
    assert figures(twin) == guest.xfrm_states()
    assert linuxs == list(PAYLOADS)


@pytest.mark.parametrize("header", [False, True])
def test_ports_behind_the_header_are_not_seen(guest: LinuxGuest, header: bool) -> None:
    """A policy that blocks a port is the only one; what it does not match is delivered."""
    case = Case(CLEAR, TRANSPORT6)
    wire = [with_fragment_header(packet) if header else packet for packet in _wire(case)]
    source, target = case.shape.inner_ends
    before = prepare(guest, case)
    ends = f"src {source} dst {target} proto udp dport {GUEST_PORT}"
    guest.ip_batch(f"xfrm policy flush\nxfrm policy add {ends} dir in action block\n")
    linuxs = [datagram.payload for datagram in delivered_by(guest, wire)]

    twin = case.twin()
    twin.flush_policies()
    port = replace(case.selector(), proto=IPPROTO_UDP, dport=GUEST_PORT, dport_mask=0xFFFF)
    twin.add_policy(PolicyConfig(Direction.IN, port, action=Action.BLOCK))
    assert [payload for _, payload in opened(twin, wire) if payload is not None] == linuxs
    assert counters(twin) == guest.xfrm_moved(before)
    assert bool(linuxs) == header
