"""Packets that uxfrm protects are opened by Linux, which delivers exactly what was put in."""

from __future__ import annotations

import pytest

from linux.peer import suites
from linux.peer.guest import LinuxGuest
from linux.peer.twin import GUEST_PORT, SHAPES, TRANSPORT4, TRANSPORT6, TUNNELS, Case, guest_usage
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome

pytestmark = pytest.mark.linux

PAYLOADS = tuple(bytes(i * 7 + size & 0xFF for i in range(size)) for size in (0, 1, 15, 16, 17, 100, 1000))


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
    assert (current.bytes, current.packets) == guest_usage(guest)
