"""IP-TFS, whatever is sent, however it is cut, and whatever becomes of it on the way.

Two ends of one tunnel; what comes out is compared with what went in. The reorder window is compared with one
that is written down plainly.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfrag import (
    NOW,
    arrived,
    chosen,
    end,
    header,
    in_pieces,
    ipv4,
    ipv6,
    outcomes,
    receive,
    sealed,
    send,
)  # fmt: skip
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome, Verdict

SIZES = st.one_of(st.integers(40, 130), st.integers(40, 4000))
KINDS = st.tuples(SIZES, st.booleans())
ROOMS = st.one_of(st.integers(46, 200), st.integers(46, 1500))


def made(kinds: list[tuple[int, bool]]) -> list[bytes]:
    """Inner packets, no two the same."""
    return [ipv6(n, size) if six else ipv4(n, size) for n, (size, six) in enumerate(kinds)]


def batches(packets: list[bytes], cuts: list[int]) -> list[list[bytes]]:
    """A list in parts."""
    ends = sorted(cut % (len(packets) + 1) for cut in cuts)
    return [packets[a:b] for a, b in zip([0, *ends], [*ends, len(packets)], strict=True)]


@given(
    st.lists(KINDS, max_size=20), ROOMS, st.lists(st.integers(0, 99), max_size=4),
    st.lists(st.integers(0, 99), max_size=4), st.booleans(),
)  # fmt: skip
def test_what_goes_in_comes_out(
    kinds: list[tuple[int, bool]], room: int, cuts: list[int], others: list[int], delay: bool
) -> None:
    inner = made(kinds)
    options = f"iptfs-opts pkt-size {room} init-delay {int(delay)}"
    out, into = end("out", options), end("in")
    outer = []
    for part in batches(inner, cuts):
        outer += send(out, part)
        out.advance(out.now + 0.1)
        outer += [packet for batch in out.released() for packet in chosen(batch, Verdict.SENT)]
    assert [p for part in batches(outer, others) for p in receive(into, part)] == inner


@given(st.lists(KINDS, max_size=12), st.integers(12, 1500), st.lists(st.integers(0, 99), max_size=3))
def test_whatever_the_sender_cuts(kinds: list[tuple[int, bool]], size: int, cuts: list[int]) -> None:
    """RFC 9347 lets senders cut every packet, not only the first of a payload, as Linux does."""
    inner, into = made(kinds), end("in")
    outer = [sealed(n, payload) for n, payload in enumerate(in_pieces(inner, size), 1)]
    assert [p for part in batches(outer, cuts) for p in receive(into, part)] == inner


class Window:
    """The reorder window, plainly: what is let out of it by each number, and by the end of all waiting."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.wanted: int | None = None
        self.waiting: set[int] = set()

    def take(self, number: int) -> list[int]:
        if self.wanted is None:
            self.wanted = number
        if number < self.wanted or number in self.waiting:
            return []
        self.waiting.add(number)
        out = []
        lowest = number - self.width
        while self.wanted < lowest or self.wanted in self.waiting:
            if self.wanted in self.waiting:
                self.waiting.remove(self.wanted)
                out.append(self.wanted)
            self.wanted += 1
        return out


@given(
    st.integers(0, 6), st.integers(1, 40), st.randoms(use_true_random=False), st.integers(0, 12),
    st.lists(st.integers(0, 99), max_size=4),
)  # fmt: skip
def test_order_is_restored_within_the_window(
    width: int, count: int, dice: random.Random, spread: int, cuts: list[int]
) -> None:
    numbers = [n for n in range(1, count + 1) if dice.random() < 0.9 or n == 1]
    arriving = sorted(numbers, key=lambda n: n + dice.randint(0, spread) if n > 1 else 0)
    packets = {n: ipv4(n, 60) for n in numbers}
    into, oracle = end("in", f"iptfs-opts reorder-window {width}", replay=0), Window(width)
    expected = [packets[n] for number in arriving for n in (oracle.take(number) if width else [number])]
    outer = [sealed(n, header() + packets[n]) for n in arriving]
    assert [p for part in batches(outer, cuts) for p in receive(into, part)] == expected
    late = [packets[n] for n in sorted(oracle.waiting)] if width else []
    assert arrived(into, NOW + 10) == late


@given(
    st.lists(KINDS, min_size=1, max_size=16), ROOMS, st.randoms(use_true_random=False),
    st.lists(st.integers(0, 99), max_size=4), st.integers(0, 5),
)  # fmt: skip
def test_a_bad_way_loses_packets_but_changes_none(
    kinds: list[tuple[int, bool]], room: int, dice: random.Random, cuts: list[int], width: int
) -> None:
    inner = made(kinds)
    outer = send(end("out", f"iptfs-opts pkt-size {room}"), inner)
    arriving = [p for p in outer for _ in range(dice.choice((0, 1, 1, 1, 1, 1, 2)))]
    order = sorted(range(len(arriving)), key=lambda k: k + dice.choice((0, 0, 0, 1, 2, 7)))
    into = end("in", f"iptfs-opts reorder-window {width}")
    got = [p for part in batches([arriving[k] for k in order], cuts) for p in receive(into, part)]
    got += arrived(into, NOW + 10)
    assert len(set(got)) == len(got)
    assert set(got) <= set(inner)
    if width:
        assert got == [p for p in inner if p in set(got)]


BLOCKS = st.one_of(
    st.binary(max_size=60),
    st.builds(ipv4, st.integers(0, 9), st.integers(20, 90)),
    st.builds(
        lambda n, size, cut: ipv6(n, size)[:cut], st.integers(0, 9), st.integers(40, 90), st.integers(0, 90)
    ),
    st.builds(lambda n: bytes([0x45, 0, n >> 8, n & 255]) + bytes(16), st.integers(0, 65535)),
    st.builds(lambda n: b"\x60\0\0\0" + n.to_bytes(2), st.integers(0, 65535)),
)
HOSTILE = st.tuples(
    st.integers(0, 3), st.sampled_from((0, 0, 0, 1)), st.one_of(st.integers(0, 100), st.integers(0, 65535)),
    st.lists(BLOCKS, max_size=5), st.integers(0, 2),
)  # fmt: skip


def hostile(parts: list[tuple[int, int, int, list[bytes], int]]) -> list[bytes]:
    """Outer packets that a peer with the keys might send: numbers that go on, mostly."""
    number, outer = 1, []
    for subtype, flags, block, blocks, step in parts:
        payload = header(block, subtype if subtype < 3 else 0, flags) + b"".join(blocks)
        outer.append(sealed(number, payload[: len(payload) if number % 7 else 3]))
        number += step
    return outer


@given(st.lists(HOSTILE, max_size=25), st.integers(0, 3), st.lists(st.integers(0, 99), max_size=3))
def test_whatever_a_peer_sends_has_an_outcome(
    parts: list[tuple[int, int, int, list[bytes], int]], width: int, cuts: list[int]
) -> None:
    into, came = end("in", f"iptfs-opts reorder-window {width}"), 0
    for part in batches(hostile(parts), cuts):
        batch = Batch.pack(part, int(into.now))
        into.input(batch)
        assert Outcome.PENDING not in outcomes(batch)
        came += len(batch)
        for packet in chosen(batch, Verdict.DELIVERED):
            whole = int.from_bytes(packet[2:4]) if packet[0] >> 4 == 4 else 40 + int.from_bytes(packet[4:6])
            assert len(packet) == whole
    into.advance(NOW + 10)
    came += sum(map(len, into.arrived()))
    assert came == sum(into.path.totals)


def test_memory_is_bounded_by_what_one_packet_may_be() -> None:
    into = end("in", "iptfs-opts reorder-window 3", replay=0)
    long = b"\x60\0\0\0\xff\xff" + bytes(1300)
    for number in range(1, 4000, 2):
        receive(into, [sealed(number, header(60000) + b"" if number % 4 == 1 else header() + long)])
    iptfs = into.path.iptfs
    assert sum(len(window) for window in iptfs.windows.values()) <= 3
    assert iptfs.store.shape[0] <= 4 * 65575
    assert into.path.iptfs.nbytes < 1 << 20


@pytest.mark.parametrize("count", [1, 7, 200])
def test_many_states_have_their_own_pieces(count: int) -> None:
    """Pieces of as many states as there are, in one batch, state after state."""
    lines = [
        f"ip xfrm state add src 192.0.2.1 dst 192.0.2.{k % 200 + 3} proto esp spi {0x2000 + k} "
        f"mode iptfs dir DIR reqid {k + 9} aead rfc4106(gcm(aes)) 0x{bytes([k]).hex() * 20} 128"
        for k in range(count)
    ]
    lines += [
        f"ip xfrm policy add src 10.0.3.{k + 1}/32 dst 10.0.2.0/24 dir DIR tmpl src 192.0.2.1 "
        f"dst 192.0.2.{k % 200 + 3} proto esp reqid {k + 9} mode iptfs"
        for k in range(count)
    ]
    out = end("out", more=[line.replace("DIR", "out") for line in lines])
    into = end("in", more=[line.replace("DIR", "in") for line in lines])
    inner = []
    for n in range(3 * count):
        packet = bytearray(ipv4(n, 2000))
        packet[12:16] = bytes([10, 0, 3, n % count + 1])
        packet[10:12] = bytes(2)
        total = sum(int.from_bytes(packet[k : k + 2]) for k in range(0, 20, 2))
        packet[10:12] = (0xFFFF - (total % 0xFFFF)).to_bytes(2)
        inner.append(bytes(packet))
    outer = send(out, inner)
    assert len(outer) > 4 * count
    mixed = sorted(range(len(outer)), key=lambda k: (outer[k][24:28], outer[k][20:24]))
    assert sorted(receive(into, [outer[k] for k in mixed])) == sorted(inner)


GCM = f"aead rfc4106(gcm(aes)) 0x{bytes(20).hex()} 128"
CBC = f"enc cbc(aes) 0x{bytes(16).hex()} auth-trunc hmac(sha256) 0x{bytes(32).hex()} 128"
LAST = "replay-oseq 4294967290"
UDP = "encap espinudp 4500 4500 0.0.0.0"


@pytest.mark.parametrize(
    ("both", "out_only", "in_only"),
    [
        (GCM, "", "replay-window 64 flag esn"),
        (f"{GCM} {UDP}", f"flag esn {LAST}", f"replay-window 64 flag esn {LAST.replace('o', '')}"),
        (GCM, "flag esn replay-oseq-hi 2147483647 replay-oseq 4294967290",
         "replay-window 64 flag esn replay-seq-hi 2147483647 replay-seq 4294967290"),
        (CBC, "", "replay-window 32"),
        (f"{CBC} {UDP}", "extra-flag dont-encap-dscp", "replay-window 0"),
        (f"enc ecb(cipher_null) '' {CBC.split(' ', 3)[3]}", "", ""),
    ],
)  # fmt: skip
def test_with_any_algorithm_in_udp_and_over_the_ends_of_numbers(
    both: str, out_only: str, in_only: str
) -> None:
    base = "ip xfrm state add src 192.0.2.1 dst 192.0.2.9 proto esp spi 7 reqid 9 mode iptfs"
    policy = (
        "ip xfrm policy add src 10.0.1.0/24 dst 10.0.2.0/28 dir DIR priority 1 "
        "tmpl src 192.0.2.1 dst 192.0.2.9 proto esp reqid 9 mode iptfs"
    )
    if "esn" in in_only and "esn" not in out_only:
        out_only += " flag esn"
    out = end("out", more=[f"{base} dir out {both} {out_only}", policy.replace("DIR", "out")])
    into = end("in", more=[f"{base} dir in {both} {in_only}", policy.replace("DIR", "in")])
    inner = [ipv4(n, size) for n, size in enumerate((60, 3000, 60, 1400, 700, 700, 20, 9000))]
    outer = send(out, inner)
    assert max(map(len, outer)) <= 1500
    assert receive(into, outer) == inner
