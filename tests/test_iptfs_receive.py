"""IP-TFS received: AGGFRAG payloads that the tests make after RFC 9347, sealed by pyca/cryptography.

No kernel here has IP-TFS. What Linux does where the RFC leaves it open (counters, what is lost with what) is
written after its xfrm_iptfs.c.
"""

from __future__ import annotations

import pytest

from aggfrag import (
    NOW,
    arrived,
    chosen,
    counted,
    end,
    header,
    in_pieces,
    ipv4,
    ipv6,
    outcomes,
    receive,
    sealed,
)  # fmt: skip
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome, Verdict

SMALL = [ipv4(n, 40 + n) for n in range(6)]


def wire(payloads: list[bytes], first: int = 1, version: int = 4) -> list[bytes]:
    return [sealed(first + k, payload, version) for k, payload in enumerate(payloads)]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("padding", [b"", bytes(1), bytes(100)])
def test_packets_of_both_families_come_out_of_one_payload(version: int, padding: bytes) -> None:
    into = end("in", version=version)
    inner = [ipv4(1, 64), ipv6(2, 41), ipv6(3, 1200), ipv4(4, 20)]
    batch = Batch.pack([sealed(1, header() + b"".join(inner) + padding, version)], NOW)
    into.input(batch)
    assert chosen(batch, Verdict.DELIVERED) == inner
    assert outcomes(batch)[0] == Outcome.IN_IPTFS
    (state,) = into.dump_states()
    assert (state.current.packets, state.current.bytes) == (1, 4 + sum(map(len, inner)) + len(padding))
    assert not counted(into)


def test_the_header_with_congestion_control_is_passed_over() -> None:
    assert receive(end("in"), [sealed(1, header(subtype=1) + b"".join(SMALL))]) == SMALL


# RFC 9347 2.2.1: what a block offset of 0, within, at the end and beyond the payload says.
@pytest.mark.parametrize("size", [60, 100, 250, 1400])
def test_packets_cut_anywhere_are_made_whole(size: int) -> None:
    inner = [ipv4(1, 700), ipv4(2, 20), ipv6(3, 64), ipv4(4, 61), ipv6(5, 1500), ipv4(6, 28)]
    payloads = in_pieces(inner, size)
    assert receive(end("in"), wire(payloads)) == inner
    into = end("in")
    assert [p for packet in wire(payloads) for p in receive(into, [packet])] == inner
    assert not counted(into)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 6, 7, 19])
@pytest.mark.parametrize("inner", [ipv4(1, 60), ipv6(1, 60)])
def test_even_a_header_may_be_cut(cut: int, inner: bytes) -> None:
    payloads = [header() + SMALL[0] + inner[:cut], header(60 - cut) + inner[cut:] + SMALL[1]]
    assert receive(end("in"), wire(payloads)) == [SMALL[0], inner, SMALL[1]]


def test_what_only_carries_a_piece_says_so() -> None:
    inner = ipv4(1, 300)
    payloads = [header() + inner[:100], header(200) + inner[100:200], header(100) + inner[200:]]
    batch = Batch.pack(wire(payloads), NOW)
    end("in").input(batch)
    assert outcomes(batch) == [
        Outcome.IN_IPTFS_PART, Outcome.IN_IPTFS_PART, Outcome.IN_IPTFS, Outcome.DELIVERED,
    ]  # fmt: skip


def test_padding_alone_may_stand_between_the_pieces() -> None:
    inner = ipv4(1, 300)
    payloads = [header() + inner[:100], header() + bytes(80), header(200) + inner[100:]]
    batch = Batch.pack(wire(payloads), NOW)
    end("in").input(batch)
    assert outcomes(batch)[1] == Outcome.IN_IPTFS_PAD
    assert chosen(batch, Verdict.DELIVERED) == [inner]


# (payload, counter, outcome); what came with it in the payload is lost too.
WRONG = {
    "no header": (b"\0\0\0", "XfrmInBufferError", Outcome.IN_IPTFS_SHORT),
    "congestion header cut": (header(subtype=1)[:23], "XfrmInBufferError", Outcome.IN_IPTFS_SHORT),
    "sub-type 2": (header(subtype=2) + SMALL[0], "XfrmInHdrError", Outcome.IN_IPTFS_HEADER),
    "flags": (header(flags=1) + SMALL[0], "XfrmInHdrError", Outcome.IN_IPTFS_HEADER),
    "flags of congestion control": (
        header(subtype=1, flags=2) + SMALL[0],
        "XfrmInHdrError",
        Outcome.IN_IPTFS_HEADER,
    ),
    "version 5": (header() + SMALL[0] + b"\x50" * 40, "XfrmInBufferError", Outcome.IN_IPTFS_BLOCK),
    "IHL 4": (header() + SMALL[0] + b"\x44" + SMALL[1][1:], "XfrmInHdrError", Outcome.IN_IPTFS_LENGTH),
    "length 19": (header() + b"\x45\0\0\x13" + bytes(16), "XfrmInHdrError", Outcome.IN_IPTFS_LENGTH),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_counted_and_the_next_is_taken(name: str) -> None:
    payload, counter, outcome = WRONG[name]
    into = end("in")
    batch = Batch.pack(wire([payload, header() + SMALL[2]]), NOW)
    into.input(batch)
    assert outcomes(batch)[0] == outcome
    assert chosen(batch, Verdict.DELIVERED) == [SMALL[2]]
    assert counted(into) == {counter: 1}


BEGUN = ipv4(1, 300)
# A second payload with which the packet begun cannot go on, and what is let in of it all the same.
MISFITS = {
    "a number is missing": (3, header(200) + BEGUN[100:] + SMALL[1], [SMALL[1]]),
    "less is to come than must": (2, header(199) + BEGUN[100:299] + SMALL[1], [SMALL[1]]),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_packet_that_cannot_go_on_is_counted_once(name: str) -> None:
    seq, payload, let_in = MISFITS[name]
    into = end("in", "iptfs-opts reorder-window 0")
    assert receive(into, [sealed(1, header() + SMALL[0] + BEGUN[:100])]) == [SMALL[0]]
    batch = Batch.pack([sealed(seq, payload)], NOW)
    into.input(batch)
    assert chosen(batch, Verdict.DELIVERED) == let_in
    assert chosen(batch, Verdict.DROPPED) == [BEGUN[:100]]
    assert counted(into) == {"XfrmInIptfsError": 1}
    assert receive(into, [sealed(seq + 1, header() + SMALL[2])]) == [SMALL[2]]


def test_a_rest_without_beginning_is_passed_over() -> None:
    into = end("in")
    batch = Batch.pack(wire([header(200) + BEGUN[100:] + SMALL[1], header(2000) + bytes(90)]), NOW)
    into.input(batch)
    assert chosen(batch, Verdict.DELIVERED) == [SMALL[1]]
    assert outcomes(batch)[-1] == Outcome.IN_IPTFS_REST
    assert not counted(into)


# -- the reorder window: numbers as they come, and what is let in with each (window 3)
ORDERS = [
    ([1, 2, 3], {1: [1], 2: [2], 3: [3]}),
    ([1, 3, 2, 4], {2: [2, 3], 4: [4]}),
    ([1, 4, 3, 2], {2: [2, 3, 4]}),
    ([1, 3, 5, 2, 4], {2: [2, 3], 4: [4, 5]}),
    # Four further on than what is waited for: that is given up.
    ([1, 3, 4, 6, 5], {6: [3, 4], 5: [5, 6]}),
    ([1, 3, 100, 101, 97, 98, 99], {100: [3], 98: [98], 99: [99, 100, 101]}),
    ([5, 4, 6], {5: [5], 4: [], 6: [6]}),
]


@pytest.mark.parametrize(("numbers", "let_in"), ORDERS)
def test_payloads_are_taken_in_the_order_of_their_numbers(
    numbers: list[int], let_in: dict[int, list[int]]
) -> None:
    packets = {n: ipv4(n, 60) for n in numbers}
    outer = [sealed(n, header() + packets[n]) for n in numbers]
    one_by_one = end("in")
    for number, packet in zip(numbers, outer, strict=True):
        expected = [packets[n] for n in let_in.get(number, [number] if number == 1 else [])]
        assert receive(one_by_one, [packet]) == expected, number
    together = [n for number in numbers for n in let_in.get(number, [number] if number == 1 else [])]
    assert receive(end("in"), outer) == [packets[n] for n in together]


def test_what_waits_is_let_in_when_its_time_is_over() -> None:
    into = end("in", "iptfs-opts drop-time 500000")
    inner = {n: ipv4(n, 60) for n in range(1, 8)}
    batch = Batch.pack([sealed(n, header() + inner[n]) for n in (1, 3, 4)], NOW)
    into.input(batch)
    assert outcomes(batch)[-2:] == [Outcome.IN_IPTFS_WAITS] * 2
    assert into.next_deadline() == NOW + 0.5
    assert arrived(into, NOW + 0.4) == []
    assert arrived(into, NOW + 0.5) == [inner[3], inner[4]]
    assert into.next_deadline() is None
    assert receive(into, [sealed(2, header() + inner[2])]) == []
    assert receive(into, [sealed(5, header() + inner[5])]) == [inner[5]]
    assert not counted(into)


def test_each_gap_has_its_own_time() -> None:
    into = end("in", "iptfs-opts drop-time 500000 reorder-window 8")
    inner = {n: ipv4(n, 60) for n in range(1, 9)}
    receive(into, [sealed(n, header() + inner[n]) for n in (1, 3)])
    assert arrived(into, NOW + 0.25) == []
    receive(into, [sealed(5, header() + inner[5])])
    assert arrived(into, NOW + 0.5) == [inner[3]]
    # 4 is what is waited for now, until its own time is over.
    assert receive(into, [sealed(4, header() + inner[4])]) == [inner[4], inner[5]]


def test_a_piece_is_not_waited_for_longer_than_the_drop_time() -> None:
    into = end("in", "iptfs-opts drop-time 500000")
    assert receive(into, [sealed(1, header() + BEGUN[:100])]) == []
    into.advance(NOW + 0.5)
    (batch,) = into.arrived()
    assert outcomes(batch) == [Outcome.IN_IPTFS_TIMEOUT]
    assert receive(into, [sealed(2, header(200) + BEGUN[100:] + SMALL[0])]) == [SMALL[0]]
    assert not counted(into)


def test_what_waits_goes_with_its_state() -> None:
    into = end("in")
    receive(into, [sealed(n, header() + ipv4(n, 60)) for n in (1, 3)] + [sealed(2, header() + BEGUN[:90])])
    receive(into, [sealed(6, header() + ipv4(6, 60))])
    into.flush_states()
    (batch,) = into.arrived()
    assert set(outcomes(batch)) == {Outcome.IN_IPTFS_GONE}
    assert into.next_deadline() is None


def test_a_replayed_packet_is_refused_before_it_is_taken_apart() -> None:
    into = end("in")
    outer = sealed(1, header() + SMALL[0])
    assert receive(into, [outer, outer]) == [SMALL[0]]
    assert counted(into) == {"XfrmInStateSeqError": 1}


def test_inner_packets_meet_the_policies_one_by_one() -> None:
    into = end("in", more=["ip xfrm policy add src 10.0.1.0/24 dst 10.0.2.2 dir in action block priority 0"])
    inner = [ipv4(n, 60) for n in range(3)]
    assert receive(into, [sealed(1, header() + b"".join(inner))]) == [inner[0], inner[2]]
    assert counted(into) == {"XfrmInPolBlock": 1}


def test_dscp_and_congestion_stay_those_of_the_inner_packet() -> None:
    into = end("in", "flag decap-dscp")
    inner = [ipv4(n, 60, tos) for n, tos in enumerate((0, 1, 2, 3, 0xB8))]
    assert receive(into, [sealed(1, header() + b"".join(inner), tos=0xFF)]) == inner


def test_ipsec_within_is_opened_too() -> None:
    inside = (
        "ip xfrm state add src 10.0.1.1 dst 10.0.2.1 proto esp spi 0x77 reqid 2 mode transport "
        f"enc ecb(cipher_null) '' auth-trunc hmac(sha1) 0x{bytes(20).hex()} 96"
    )
    other = end("out", more=[inside, "ip xfrm policy add src 10.0.1.1 dst 10.0.2.1 dir out priority 0 "
                             "tmpl proto esp reqid 2 mode transport"])  # fmt: skip
    batch = Batch.pack([ipv4(0, 90)], NOW)
    other.output(batch)
    (protected,) = chosen(batch, Verdict.SENT)
    into = end("in", more=[inside, "ip xfrm policy add src 10.0.1.1 dst 10.0.2.1 dir in priority 0 "
                           "tmpl proto esp reqid 2 mode transport "
                           "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode iptfs"])  # fmt: skip
    assert receive(into, [sealed(1, header() + SMALL[1] + protected + SMALL[2])]) == [
        SMALL[1], ipv4(0, 90), SMALL[2],
    ]  # fmt: skip
