"""Packets that uxfrm protects are opened by Linux, which delivers exactly what was put in."""

from __future__ import annotations

import pytest

from linux import suites
from linux.guest import LinuxGuest
from linux.twin import GUEST_PORT, SHAPES, TRANSPORT4, TRANSPORT6, TUNNELS, Case, ip_usage
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome

pytestmark = pytest.mark.linux

PAYLOADS = tuple(bytes(i * 7 + size & 0xFF for i in range(size)) for size in (0, 1, 15, 16, 17, 100, 1000))


def _sealed(case: Case) -> list[bytes]:
    batch = Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    case.namespace().output(batch)
    return [batch.packet(i) for i in range(len(batch))]


def _cases() -> list[Case]:
    made = [Case(suite, shape) for suite in suites.BASIC for shape in SHAPES]
    made += [Case(suite, SHAPES[i % len(SHAPES)]) for i, suite in enumerate(suites.PRODUCT)]
    shapes = (TRANSPORT4, TRANSPORT6, TUNNELS[0], TUNNELS[3])
    made += [Case(suite, shape, esn=True) for suite in suites.WITH_ESN for shape in shapes]
    return made


@pytest.mark.parametrize("case", _cases(), ids=lambda case: case.name)
def test_linux_opens_what_uxfrm_seals(guest: LinuxGuest, case: Case) -> None:
    guest.udp_open("u", case.shape.inner_ends[1], GUEST_PORT)
    guest.ip_batch(case.batch())
    before = guest.xfrm_stat()
    namespace = case.namespace()

    batch = Batch.pack([case.shape.datagram(payload) for payload in PAYLOADS])
    namespace.output(batch)
    assert [Outcome.of(int(n)) for n in batch.packets["outcome"]] == [Outcome.SENT] * len(PAYLOADS)
    for i in range(len(batch)):
        guest.send_ip(batch.packet(i))

    got = guest.udp_take("u", len(PAYLOADS))
    moved = {name: n - before.get(name, 0) for name, n in guest.xfrm_stat().items() if n != before.get(name)}
    assert moved == {}
    assert [datagram.payload for datagram in got] == list(PAYLOADS)
    assert {datagram.sender for datagram in got} == {case.shape.inner_ends[0]}
    current = case.dump(namespace).current
    assert guest.xfrm_usage() == [(current.bytes, current.packets)]


def test_usage_is_what_ip_shows(guest: LinuxGuest) -> None:
    case = Case(suites.GCM[2], TRANSPORT4)
    guest.ip_batch(case.batch())
    guest.udp_open("u", case.shape.inner_ends[1], GUEST_PORT)
    for packet in _sealed(case):
        guest.send_ip(packet)
    guest.udp_take("u", len(PAYLOADS))
    assert guest.xfrm_usage() == [ip_usage(guest)]
    assert ip_usage(guest)[1] == len(PAYLOADS)
