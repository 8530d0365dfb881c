"""Selectors, marks and addresses against ipaddress and plain arithmetic (xfrm-semantics 1.3, 9)."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from uxfrm.model.address import AF_INET, AF_INET6, in_prefix, masked, parse, show
from uxfrm.model.flow import Flow
from uxfrm.model.mark import Mark
from uxfrm.model.selector import ANYTHING, EVERYTHING, Selector

U16 = st.integers(0, 2**16 - 1)
U32 = st.integers(0, 2**32 - 1)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Selector, Flow]:
    """A selector, and a flow that often is inside it: both are made from one address with bits flipped."""
    size = draw(st.sampled_from([4, 16]))
    addresses = []
    for _ in range(2):
        base = draw(st.binary(min_size=size, max_size=size))
        flip = draw(st.sampled_from([0, 1, 1 << 7, 1 << (size * 8 - 1), 1 << (size * 4)]))
        near = (int.from_bytes(base) ^ flip).to_bytes(size)
        addresses.append((base, near, draw(st.integers(0, size * 8))))
    (d, flow_d, length_d), (s, flow_s, length_s) = addresses
    port = draw(st.sampled_from([0, 80, 443, 0xFFFF]))
    mask = draw(st.sampled_from([0, 0xFFFF, 0xFF00, 1]))
    selector = Selector(
        AF_INET if size == 4 else AF_INET6,
        *(d, s, length_d, length_s),
        *(port, mask, draw(U16), draw(st.sampled_from([0, 0, 0xFFFF]))),
        proto=draw(st.sampled_from([0, 0, 6, 17])),
        ifindex=draw(st.sampled_from([0, 0, 3])),
        user=draw(U32),
    )
    flow = Flow(
        flow_d,
        flow_s,
        draw(st.sampled_from([6, 17])),
        sport=draw(st.sampled_from([selector.sport, 1])),
        dport=draw(st.sampled_from([port, port ^ 1, port ^ 0x100])),
        oif=draw(st.sampled_from([0, 3, 4])),
        mark=draw(U32),
    )
    return selector, flow


def inside(address: bytes, prefix: bytes, length: int) -> bool:
    network = ipaddress.ip_network((prefix, length), strict=False)
    return ipaddress.ip_address(address) in network


def slow_matches(selector: Selector, flow: Flow) -> bool:
    return (
        inside(flow.daddr, selector.daddr, selector.prefixlen_d)
        and inside(flow.saddr, selector.saddr, selector.prefixlen_s)
        and flow.dport & selector.dport_mask == selector.dport & selector.dport_mask
        and flow.sport & selector.sport_mask == selector.sport & selector.sport_mask
        and (not selector.proto or selector.proto == flow.proto)
        and (not selector.ifindex or selector.ifindex == flow.oif)
    )


@given(pairs())
def test_a_selector_matches_what_ipaddress_says(pair: tuple[Selector, Flow]) -> None:
    selector, flow = pair
    assert selector.matches(flow) == slow_matches(selector, flow)


V4 = Flow(parse("10.1.2.3"), parse("192.0.2.1"), 17, 5000, 53, oif=2, mark=7)
V6 = Flow(parse("2001:db8::1"), parse("2001:db8::2"), 6, 5000, 443)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({}, True),
        ({"daddr": parse("10.1.2.0"), "prefixlen_d": 24}, True),
        ({"daddr": parse("10.1.2.2"), "prefixlen_d": 31}, True),
        ({"daddr": parse("10.1.2.2"), "prefixlen_d": 32}, False),
        ({"saddr": parse("192.0.2.1"), "prefixlen_s": 32}, True),
        ({"saddr": parse("10.1.2.3"), "prefixlen_s": 32}, False),
        ({"daddr": parse("10.1.2.3"), "prefixlen_d": 33}, False),
        ({"dport": 53, "dport_mask": 0xFFFF}, True),
        ({"sport": 53, "sport_mask": 0xFFFF}, False),
        ({"dport": 0x0100, "dport_mask": 0xFF00}, False),
        ({"dport": 52, "dport_mask": 0xFFFE}, True),
        ({"proto": 17}, True),
        ({"proto": 6}, False),
        ({"ifindex": 2}, True),
        ({"ifindex": 3}, False),
        ({"user": 1000}, True),
    ],
)
def test_one_field_at_a_time(change: dict[str, object], match: bool) -> None:
    assert Selector(AF_INET, **change).matches(V4) is match  # type: ignore[arg-type]


def test_families_never_match_one_another() -> None:
    assert EVERYTHING[AF_INET].matches(V4)
    assert EVERYTHING[AF_INET6].matches(V6)
    assert not EVERYTHING[AF_INET].matches(V6)
    assert not EVERYTHING[AF_INET6].matches(V4)
    assert not ANYTHING.matches(V4)  # whoever asks must treat AF_UNSPEC as "do not ask"


def test_an_ipv6_prefix_longer_than_the_address_never_matches() -> None:
    assert Selector(AF_INET6, V6.daddr, V6.saddr, 128, 128).matches(V6)
    assert not Selector(AF_INET6, V6.daddr, V6.saddr, 129, 0).matches(V6)


def test_the_answer_of_a_flow_has_everything_swapped() -> None:
    back = V4.reversed()
    assert (back.daddr, back.saddr, back.sport, back.dport) == (V4.saddr, V4.daddr, 53, 5000)
    assert (back.proto, back.mark, back.oif) == (17, 7, 2)
    assert back.reversed() == V4


@given(U32, U32, U32)
def test_a_mark_covers_packets_by_its_mask(v: int, m: int, packet: int) -> None:
    """Bit by bit: a bit that counts must agree; a value outside its mask can never be met."""
    agree = all((packet >> b & m >> b & 1) == (v >> b & 1) for b in range(32))
    assert Mark(v, m).covers(packet) is agree
    assert Mark(v, m).normalised().covers(v)


@given(U32, U32, U32)
def test_set_mark_writes_the_bits_of_its_mask_and_no_others(v: int, m: int, packet: int) -> None:
    written = Mark(v, m).written_on(packet)
    assert 0 <= written < 2**32
    for b in range(32):
        source = v if m >> b & 1 else packet
        assert written >> b & 1 == source >> b & 1


@given(st.ip_addresses())
def test_addresses_are_spelt_so_that_they_read_back(value: ipaddress.IPv4Address) -> None:
    assert parse(show(value.packed)) == value.packed


def test_mapped_addresses_keep_their_dots() -> None:
    assert show(parse("::ffff:192.0.2.1")) == "::ffff:192.0.2.1"


@given(st.binary(min_size=4, max_size=4), st.integers(0, 32))
def test_masked_keeps_the_network(address: bytes, length: int) -> None:
    network = ipaddress.ip_network((address, length), strict=False)
    assert masked(address, length) == network.network_address.packed


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
def test_prefixes_of_the_other_family_never_hold(four: bytes, sixteen: bytes) -> None:
    assume(four and sixteen)
    assert not in_prefix(four, sixteen, 0)
    assert not in_prefix(sixteen, four, 0)
