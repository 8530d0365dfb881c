"""Sequence numbers: what Linux numbers, uxfrm opens; what Linux refuses to send or receive, uxfrm refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from random import Random
from typing import NamedTuple

import pytest

from linux.guest import LinuxGuest, Sending
from linux.suites import CCM, CHACHA, CIPHERS, CLEAR, GCM, GMAC
from linux.twin import (
    SHAPES,
    TRANSPORT4,
    TUNNELS,
    Case,
    counters,
    delivered_by,
    figures,
    opened,
    outcomes,
    packets,
    prepare,
    read_datagram,
    sent_by,
    with_auth,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome
from uxfrm.model.state import OSEQ_MAY_WRAP
from uxfrm.tables.states import State

pytestmark = pytest.mark.linux

SHA256 = ("hmac(sha256)", 32, 128)
AES, CTR = (with_auth(CIPHERS[i], *SHA256) for i in (0, 3))
TURN = 1 << 32

# -- numbers that grow


def _payloads(count: int) -> list[bytes]:
    return [b"number %d" % i for i in range(count)]


BOUNDARY = [
    Case(suite, SHAPES[i % len(SHAPES)], esn=True, start=high * TURN + TURN - 4)
    for i, (suite, high) in enumerate(
        product((GCM[2], CCM[2], GMAC[0], CHACHA, AES, CTR, CLEAR), (0, 1, TURN - 2))
    )
]


@pytest.mark.parametrize("case", [case.reversed() for case in BOUNDARY], ids=lambda case: case.name)
def test_uxfrm_opens_across_the_boundary(guest: LinuxGuest, case: Case) -> None:
    """Both halves of Linux's numbers are part of what is authenticated."""
    payloads = _payloads(8)
    prepare(guest, case)
    wire, errors = sent_by(guest, case, list(map(Sending, payloads)))
    assert errors == [0] * len(payloads)
    namespace = case.namespace()
    batch = Batch.pack(wire)
    namespace.input(batch)
    assert outcomes(batch) == [Outcome.DELIVERED] * len(payloads)
    assert [read_datagram(packet) for packet in packets(batch)] == list(map(case.shape.received, payloads))

    _, sent, _, sent_hi, *_ = guest.xfrm_states()[0].replay
    _, _, seen, _, seen_hi, *_ = figures(namespace)[0].replay
    assert (seen, seen_hi) == (sent, sent_hi)
    assert sent_hi == (case.start >> 32) + 1


@pytest.mark.parametrize("case", BOUNDARY, ids=lambda case: case.name)
def test_linux_opens_across_the_boundary(guest: LinuxGuest, case: Case) -> None:
    payloads = _payloads(8)
    sealed = Batch.pack([case.shape.datagram(payload) for payload in payloads])
    case.namespace().output(sealed)
    assert outcomes(sealed) == [Outcome.SENT] * len(payloads)
    prepare(guest, case)
    assert [datagram.payload for datagram in delivered_by(guest, packets(sealed))] == payloads
    twin = case.twin()
    twin.input(Batch.pack(packets(sealed)))
    assert figures(twin) == guest.xfrm_states()


# -- numbers that end

ENDS = [
    Case(CLEAR, shape, esn, extra_flags=extra, window=window, start=end - 3)
    for shape in TUNNELS
    for esn, extra, window, end in (
        (False, 0, 32, TURN - 1),
        (False, 0, 64, TURN - 1),
        (False, OSEQ_MAY_WRAP, 32, TURN - 1),
        (False, OSEQ_MAY_WRAP, 64, TURN - 1),
        (True, 0, 64, TURN * TURN - 1),
    )
]


@pytest.mark.parametrize("case", [case.reversed() for case in ENDS], ids=lambda case: case.name)
def test_the_last_number_is_linuxs(guest: LinuxGuest, case: Case) -> None:
    payloads = _payloads(6)
    before = prepare(guest, case)
    wire, errors = sent_by(guest, case, list(map(Sending, payloads)))
    twin = case.twin()
    batch = Batch.pack([case.shape.datagram(payload) for payload in payloads])
    twin.output(batch)
    assert [outcome == Outcome.SENT for outcome in outcomes(batch)] == [not error for error in errors]
    assert counters(twin) == guest.xfrm_moved(before)
    assert figures(twin) == guest.xfrm_states()
    assert [_number(p) for p in packets(batch)[: len(wire)]] == [_number(p) for p in wire]


def _number(packet: bytes) -> bytes:
    """SPI and sequence number on the wire."""
    header = 20 if packet[0] >> 4 == 4 else 40
    return packet[header : header + 8]


# -- numbers that come again, too late, or never were


class Arrival(NamedTuple):
    """One packet of a script: its 64-bit number, and whether it is damaged on its way."""

    number: int
    damaged: bool = False


def script(case: Case, random: Random, count: int) -> list[Arrival]:
    """Numbers around a receiver's window: in order, ahead, behind, at its edges, again, far off, forged."""
    window, top = case.replay_window, case.start
    first, last = (1, TURN * TURN - 1) if case.esn else (0, TURN - 1)
    sent: list[int] = [top + 1]
    made: list[Arrival] = []
    while len(made) < count:
        number = random.choice([
            top + 1, top + 1, top + 1,
            top + random.randint(2, window + 2),
            top - random.randint(0, window - 1),
            top - window + random.randint(-2, 2),
            top - window - random.randint(0, 3 * window),
            random.choice(sent[-window:]), random.choice(sent), sent[-1],
            top + window * random.randint(1, 5),
            top + random.choice((2**31 - window, 2**31, TURN - window, TURN, TURN + 1, -TURN)),
            TURN if case.esn else 0,
        ])  # fmt: skip
        damaged = random.random() < 0.1
        if not first <= number <= last:
            continue
        made.append(Arrival(number, damaged))
        sent.append(number)
        # what is far ahead of a 64-bit receiver cannot be told from what is behind it
        if not damaged and top < number < top + TURN - window:
            top = number
    return made


def _sealed(case: Case, arrivals: list[Arrival]) -> list[bytes]:
    """The packets of a script, each with its place in it as payload."""
    sender = replace(case, extra_flags=OSEQ_MAY_WRAP, start=0).namespace()
    (state,) = sender.states
    made = []
    for place, arrival in enumerate(arrivals):
        _number_next(state, arrival.number)
        batch = Batch.pack([case.shape.datagram(b"%d" % place)])
        sender.output(batch)
        assert outcomes(batch) == [Outcome.SENT]
        packet = batch.packet(0)
        assert _number(packet)[4:] == (arrival.number % TURN).to_bytes(4)
        made.append(packet[:-1] + bytes([packet[-1] ^ 1]) if arrival.damaged else packet)
    return made


def _number_next(state: State, number: int) -> None:
    """Have a state number its next packet so, which no sender does out of order."""
    state.record["oseq_hi"], state.record["oseq"] = divmod((number - 1) % (TURN * TURN), TURN)


WINDOWS = [
    *((False, window, start) for window in (1, 7, 32) for start in (0, TURN - 300)),
    *((False, window, start) for window in (33, 64, 100, 4096) for start in (0, TURN - 300)),
    *(
        (True, window, start)
        for window in (1, 20, 32, 33, 100, 1000)
        for start in (0, 5, TURN - 60, 5 * TURN - 9)
    ),
]
SCRIPTS = [
    Case((CLEAR, GCM[2])[i % 2], TRANSPORT4 if i % 3 else TUNNELS[3], esn, window=window, start=start)
    for i, (esn, window, start) in enumerate(WINDOWS)
]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", SCRIPTS, ids=lambda case: case.name)
def test_refusals_are_linuxs(guest: LinuxGuest, case: Case, seed: int) -> None:
    # with these, see test_replays_across_the_boundary_are_linuxs
    at_once = 1 if case.esn and TURN % case.replay_window else 10
    _compare(guest, case, script(case, Random(f"{case.name} {seed}"), 120), at_once)
    (state,) = guest.xfrm_states()
    # with 64 bits, a number behind the window is taken for one of the next 2^32 and fails by its ICV
    refused = (state.replayed, state.failed) if case.esn else (state.replayed, state.failed, state.outside)
    assert min(state.packets, *refused) > 0


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("window", [33, 100])
def test_replays_across_the_boundary_are_linuxs(guest: LinuxGuest, window: int, at_once: int) -> None:
    """Linux forgets what it saw before the boundary where the window does not divide 2^32: bits move."""
    case = Case(CLEAR, TRANSPORT4, esn=True, window=window, start=TURN - 5)
    numbers = [-4, -3, -2, -1, 1, -1, -2, -3, 0, 2, 0, -4]
    _compare(guest, case, [Arrival(TURN + number) for number in numbers], at_once)
    assert guest.xfrm_states()[0].packets > len(set(numbers))


def _compare(guest: LinuxGuest, case: Case, arrivals: list[Arrival], at_once: int) -> None:
    """Give a script to the guest and to its twin, which takes `at_once` packets in a batch."""
    wire = _sealed(case, arrivals)
    before = prepare(guest, case)
    twin = case.twin()
    for at in range(0, len(wire), 10):
        linuxs = [datagram.payload for datagram in delivered_by(guest, wire[at : at + 10])]
        ends = [end for part in _parts(wire[at : at + 10], at_once) for end in opened(twin, part)]
        what = arrivals[at : at + 10], [outcome for outcome, _ in ends]
        assert [payload for _, payload in ends if payload is not None] == linuxs, what
        assert counters(twin) == guest.xfrm_moved(before), what
        assert figures(twin) == guest.xfrm_states(), what


def _parts(wire: list[bytes], size: int) -> list[list[bytes]]:
    return [wire[at : at + size] for at in range(0, len(wire), size)]
