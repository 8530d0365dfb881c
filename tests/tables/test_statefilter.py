"""Filtered dumps of states against ipaddress and a plain loop; and what changes while one is under way."""

from __future__ import annotations

import ipaddress
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from test_namespace import namespace, state
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.dump import LarvalConfig, StateDump, StateFilter, StateId
from uxfrm.model.state import StateConfig
from uxfrm.model.template import Mode
from uxfrm.namespace import Namespace
from uxfrm.tables.states import State

ADDRESSES = ("10.1.2.3", "10.1.2.4", "10.1.130.3", "192.0.2.1", "fd00::1", "fd00::2:0:0:1", "fd00:8000::1")
ESP, AH, COMP, IPIP, IPV6, ANY_IPSEC = 50, 51, 108, 4, 41, 255


def config(number: int, saddr: str, daddr: str) -> StateConfig:
    ends = {"saddr": parse(saddr), "daddr": parse(daddr), "spi": number, "mode": Mode.TUNNEL}
    ends["family"] = AF_INET6 if ":" in saddr else AF_INET
    if number % 3 == 0:
        return StateConfig(proto=AH, auth=algo.auth("sha1", bytes(20)), **ends)  # type: ignore[arg-type]
    if number % 3 == 1:
        return StateConfig(proto=COMP, comp=algo.comp("deflate"), **ends)  # type: ignore[arg-type]
    return state(**ends)


@cache
def many() -> Namespace:
    """States between all of the addresses, of three protocols, what goes with IPComp, and a larval one."""
    ns = namespace()
    pairs = [(s, d) for s in ADDRESSES for d in ADDRESSES if (":" in s) == (":" in d)]
    for number, (saddr, daddr) in enumerate(pairs, 1):
        ns.add_state(config(number, saddr, daddr))
    ns.alloc_spi(LarvalConfig(parse(ADDRESSES[0]), parse(ADDRESSES[1]), ESP, family=AF_INET), 999, 999)
    return ns


def wide(address: str) -> bytes:
    return parse(address).ljust(16, b"\0")


def within(address: bytes, prefix: bytes, bits: int) -> bool:
    """By ipaddress, on the 16 bytes that the kernel compares."""
    network = ipaddress.IPv6Network((prefix, bits), strict=False)
    return ipaddress.IPv6Address(address.ljust(16, b"\0")) in network


def asked_for(dump: StateDump, wanted: StateFilter) -> bool:
    c = dump.config
    protos = {0: (ESP, AH, COMP, IPIP, IPV6), ANY_IPSEC: (ESP, AH, COMP)}.get(wanted.proto, (wanted.proto,))
    return (
        c.proto in protos
        and wanted.family not in ({AF_INET, AF_INET6} - {c.family})
        and within(c.saddr, wanted.saddr, wanted.splen)
        and within(c.daddr, wanted.daddr, wanted.dplen)
    )


ENDS = st.sampled_from(ADDRESSES).map(wide) | st.binary(min_size=16, max_size=16)
BITS = st.integers(0, 128) | st.sampled_from([0, 1, 16, 24, 31, 32, 33, 64, 65, 127, 128])
FILTERS = st.builds(
    StateFilter,
    st.sampled_from([0, ESP, AH, COMP, ANY_IPSEC, 43]),
    st.sampled_from([0, AF_INET, AF_INET6, 7]),
    ENDS, BITS, ENDS, BITS,
)  # fmt: skip


@given(FILTERS)
def test_a_dump_has_what_was_asked_for_in_its_order(wanted: StateFilter) -> None:
    plain = [dump for dump in many().dump_states() if asked_for(dump, wanted)]
    assert list(many().dump_states(wanted)) == plain


def test_states_that_are_not_asked_for_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    ns = many()
    monkeypatch.setattr(State, "dump", lambda _: pytest.fail("a state was told that nobody asked for"))
    assert list(ns.dump_states(StateFilter(proto=43))) == []
    assert list(ns.dump_states(StateFilter(saddr=wide("10.9.9.9"), splen=32))) == []


def test_of_what_changes_during_a_dump_only_what_goes_is_seen() -> None:
    ns = namespace(*(state(spi=number) for number in (1, 2, 3, 4)))
    dumps = ns.dump_states()
    assert next(dumps).config.spi == 4
    ns.delete_state(StateId(state().daddr, 2, ESP, AF_INET))
    ns.add_state(state(spi=5))  # in the place of the one that went
    assert [dump.config.spi for dump in dumps] == [3, 1]
