"""What requests do to the SAD (xfrm-semantics 3.3-3.7), with a data path that only takes notes."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from uxfrm.lifecycle.database import StateDatabase
from uxfrm.lifecycle.events import Event, StateExpired
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, AF_UNSPEC, parse
from uxfrm.model.dump import LarvalConfig, StateId
from uxfrm.model.error import XfrmError
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.mark import Mark
from uxfrm.model.selector import Selector
from uxfrm.model.state import Encap, LifeState, Rare, ReplayEsn, ReplayLegacy, SaDir, StateConfig
from uxfrm.tables.states import State, StateTable

A, B, C, ANY = (parse(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "0.0.0.0"))
ESP, AH, COMP, ANY_IPSEC, IPIP = 50, 51, 108, 255, 4
GCM = algo.aead("rfc4106(gcm(aes))", bytes(20), 128)
OTHER_GCM = algo.aead("rfc4106(gcm(aes))", b"\x55" * 20, 128)
SHA1 = algo.auth("sha1", b"")
NOW = 1000


class Sad:
    """A database whose data path notes what it is told; `random` gives the SPIs' bytes, in order."""

    def __init__(self, *random: int) -> None:
        self.table = StateTable(seed=1)
        self.events: list[Event] = []
        self.installed: list[State] = []
        self.no_engine = False
        draws = iter(random)
        self.db = StateDatabase(
            self.table,
            lambda n: next(draws).to_bytes(n),
            self._install,
            lambda state: self.installed.remove(state),
            self.events.append,
        )

    def _install(self, state: State) -> None:
        if self.no_engine:
            raise XfrmError(errno.ENOSYS)
        self.installed.append(state)

    def add(self, now: int = NOW, **change: Any) -> State:
        return self.db.add(config(**change), now)

    def update(self, now: int = NOW, **change: Any) -> State:
        return self.db.update(config(**change), now)

    def alloc(self, low: int = 0x100, high: int = 0x1FF, now: int = NOW, **change: Any) -> State:
        return self.db.alloc_spi(larval(**change), low, high, now)


def config(**change: Any) -> StateConfig:
    fields: dict[str, Any] = {"daddr": B, "saddr": A, "spi": 1, "reqid": 1}
    proto = change.get("proto", ESP)
    fields |= {ESP: {"aead": GCM}, AH: {"auth": SHA1}, COMP: {"comp": algo.comp("deflate")}}[proto]
    return StateConfig(**(fields | change))


def larval(**change: Any) -> LarvalConfig:
    fields: dict[str, Any] = {"daddr": B, "saddr": A, "proto": ESP, "reqid": 1}
    return LarvalConfig(**(fields | change))


def name(**change: Any) -> StateId:
    fields: dict[str, Any] = {"daddr": B, "spi": 1, "proto": ESP, "family": AF_INET}
    return StateId(**(fields | change))


def refusal(call: Any, *args: Any, **more: Any) -> tuple[int, str]:
    with pytest.raises(XfrmError) as caught:
        call(*args, **more)
    return caught.value.number, caught.value.text


# -- NEWSA


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"saddr": C},
        {"reqid": 9},
        {"mode": 1},
        {"mark": Mark(5, 0xFF)},  # the one there is has mark 0/0, which covers all
        {"aead": OTHER_GCM},
    ],
)
def test_an_occupied_spi_is_eexist_without_words(change: dict[str, Any]) -> None:
    sad = Sad()
    first = sad.add()
    assert refusal(sad.add, **change) == (errno.EEXIST, "")
    assert list(sad.table) == sad.installed == [first]


@pytest.mark.parametrize(
    "change", [{"daddr": C}, {"spi": 2}, {"proto": AH}, {"daddr": C, "saddr": C, "proto": COMP}]
)
def test_another_key_is_another_state(change: dict[str, Any]) -> None:
    sad = Sad()
    sad.add()
    sad.add(**change)
    assert len(sad.table) == 2


def test_marks_divide_an_spi_among_states() -> None:
    sad = Sad()
    one = sad.add(mark=Mark(1, 1))
    two = sad.add(mark=Mark(2, 3))  # 2 & 1 is not 1
    assert sad.db.get(name(mark=3)) is one
    assert sad.db.get(name(mark=2)) is two
    assert refusal(sad.db.get, name(mark=0)) == (errno.ESRCH, "")
    assert refusal(sad.add, mark=Mark(3, 3)) == (errno.EEXIST, "")


def test_spi_zero_never_collides() -> None:
    sad = Sad()
    for _ in range(3):
        sad.add(spi=0)
    assert len(sad.table) == 3


def test_an_algorithm_that_no_engine_has_leaves_nothing_behind() -> None:
    sad = Sad()
    waiting = sad.alloc(0x500, 0x500)
    sad.no_engine = True
    assert refusal(sad.add)[0] == errno.ENOSYS
    assert refusal(sad.update, spi=0x500)[0] == errno.ENOSYS
    assert list(sad.table) == [waiting]
    assert sad.installed == []
    assert refusal(sad.db.get, name())[0] == errno.ESRCH


def insert_larval(sad: Sad, **change: Any) -> State:
    return sad.table.insert(larval(**change), LifeState.ACQ, NOW)


@pytest.mark.parametrize(
    ("of_larval", "of_state", "replaced"),
    [
        ({}, {}, True),
        ({"seq": 7}, {"seq": 7}, True),
        ({"seq": 7, "saddr": C, "reqid": 9}, {"seq": 7}, True),  # by sequence, whatever else
        ({"seq": 7, "daddr": C}, {"seq": 7}, False),
        ({"seq": 7, "proto": AH}, {"seq": 7}, False),
        ({"saddr": C}, {}, False),
        ({"reqid": 9}, {}, False),
        ({"mode": 1}, {}, False),
        ({"proto": AH}, {}, False),
        ({"spi": 2}, {}, False),  # it has an SPI of its own, so UPDSA must name it
    ],
)
def test_a_new_state_takes_the_place_of_the_larval_one(
    of_larval: dict[str, Any], of_state: dict[str, Any], replaced: bool
) -> None:
    sad = Sad()
    waiting = insert_larval(sad, **of_larval)
    made = sad.add(**of_state)
    assert (waiting.row < 0) is replaced
    assert list(sad.table) == ([made] if replaced else [made, waiting])
    assert sad.events == []


def test_a_new_state_makes_bundles_through_its_rivals_stale_and_no_others() -> None:
    sad = Sad()
    rivals = [
        sad.add(spi=1),
        sad.add(spi=7, mark=Mark(1, 1)),  # a policy with mark 5 may choose between it and the new one
        sad.add(spi=8, saddr=ANY),  # those without source come second
        sad.add(spi=9, direction=SaDir.OUT, rare=Rare(pcpu=0)),
    ]
    strangers = [
        sad.add(spi=2, reqid=2),
        sad.add(spi=3, saddr=C),
        sad.add(spi=4, if_id=4),
        sad.add(spi=5, mark=Mark(6, 0xFF)),
    ]
    before, genids = [[state.genid for state in group] for group in (rivals, strangers)]
    sad.add(spi=6, mark=Mark(5, 0xFF))
    assert not {state.genid for state in rivals} & set(before)
    assert [state.genid for state in strangers] == genids


# -- UPDSA


def test_updating_what_is_not_there_is_esrch() -> None:
    sad = Sad()
    assert refusal(sad.update) == (errno.ESRCH, "")
    sad.add(spi=0)
    assert refusal(sad.update, spi=0) == (errno.ESRCH, "")


def test_an_update_changes_limits_and_keeps_keys_counters_and_window() -> None:
    sad = Sad()
    state = sad.add(selector=Selector(AF_INET, C, A, 32, 32), flags=1)
    x = state.record
    x["bytes"], x["packets"], x["use_time"], x["oseq"], x["seq"], x["bitmap"] = 10, 2, 5, 3, 9, 0b101
    x["dying"] = 1
    generation = sad.table.generation
    limits = LifetimeConfig(hard_byte=100, soft_packet=50, hard_add=600)
    assert sad.update(aead=OTHER_GCM, lifetime=limits, reqid=9, mode=1, saddr=C, flags=4) is state
    dump = state.dump()
    assert dump.config.lifetime == limits
    assert dump.config == replace(config(selector=Selector(AF_INET, C, A, 32, 32), flags=1), lifetime=limits)
    assert (dump.current.bytes, dump.current.packets, dump.current.use_time) == (10, 2, 5)
    assert dump.replay == ReplayLegacy(3, 9, 0b101)
    assert not state.dying
    assert (int(x["hard_byte"]), int(x["soft_packet"])) == (100, 50)
    assert sad.table.generation != generation
    assert sad.installed == [state]


UDP, TCP = 2, 7


@pytest.mark.parametrize(
    ("old", "new", "allowed"),
    [
        (None, None, True),
        (Encap(UDP, 4500, 4500), Encap(UDP, 1024, 4500), True),
        (Encap(UDP, 4500, 4500), Encap(TCP, 4500, 4500), False),
        (None, Encap(UDP, 4500, 4500), False),
        (Encap(UDP, 4500, 4500), None, False),
    ],
)
def test_an_update_may_move_the_ports_of_an_encapsulation_and_no_more(
    old: Encap | None, new: Encap | None, allowed: bool
) -> None:
    sad = Sad()
    state = sad.add(encap=old)
    if allowed:
        sad.update(encap=new)
        assert isinstance(state.config, StateConfig)
        assert state.config.encap == new
    else:
        assert refusal(sad.update, encap=new) == (errno.EINVAL, "")
        assert state.dump().config == config(encap=old)


def test_an_update_overwrites_set_mark_and_if_id_where_it_has_them() -> None:
    sad = Sad()
    state = sad.add(set_mark=Mark(1, 0xFF), if_id=4)
    sad.update()
    assert isinstance(state.config, StateConfig)
    assert (state.config.set_mark, state.config.if_id) == (Mark(1, 0xFF), 4)
    sad.update(set_mark=Mark(0x12, 0xF), if_id=5)
    assert (state.config.set_mark, state.config.if_id) == (Mark(0x12, 0xF), 5)
    assert (int(state.record["set_v"]), int(state.record["set_m"])) == (2, 0xF)


def test_an_update_completes_a_larval_state() -> None:
    sad = Sad()
    waiting = sad.alloc(0x300, 0x300)
    assert refusal(sad.add, spi=0x300)[0] == errno.EEXIST  # `add` does not
    made = sad.update(spi=0x300)
    assert waiting.row < 0
    assert (made.life, made.config.spi) == (LifeState.VALID, 0x300)
    assert list(sad.table) == sad.installed == [made]
    assert sad.events == []


@pytest.mark.parametrize(
    ("of_larval", "new", "allowed"),
    [
        (SaDir.UNSET, SaDir.UNSET, True),
        (SaDir.IN, SaDir.IN, True),
        (SaDir.IN, SaDir.UNSET, True),
        (SaDir.IN, SaDir.OUT, False),
        (SaDir.UNSET, SaDir.IN, False),
    ],
)
def test_a_declared_direction_must_be_the_larval_ones(of_larval: int, new: int, allowed: bool) -> None:
    sad = Sad()
    sad.alloc(0x300, 0x300, direction=of_larval)
    if allowed:
        assert sad.update(spi=0x300, direction=new).config.direction == new
    else:
        assert refusal(sad.update, spi=0x300, direction=new) == (errno.ESRCH, "")


def test_a_declared_direction_must_be_the_live_states() -> None:
    sad = Sad()
    sad.add(direction=SaDir.IN)
    assert refusal(sad.update, direction=SaDir.OUT) == (errno.ESRCH, "")
    assert sad.update(direction=SaDir.IN)


def test_a_state_that_is_no_longer_valid_cannot_be_updated() -> None:
    sad = Sad()
    sad.add().record["life"] = LifeState.EXPIRED
    assert refusal(sad.update) == (errno.EINVAL, "")


# -- DELSA, GETSA, FLUSHSA


@pytest.mark.parametrize("request_of", ["get", "delete"])
def test_what_is_not_there_is_esrch_and_other_protocols_need_a_source(request_of: str) -> None:
    sad = Sad()
    sad.add()
    call = getattr(sad.db, request_of)
    for identity in (
        name(spi=2),
        name(daddr=A),
        name(proto=AH),
        name(family=AF_INET6, daddr=bytes(16)),
        name(proto=IPIP, saddr=A),
    ):
        assert refusal(call, identity) == (errno.ESRCH, "")
    assert refusal(call, name(proto=IPIP)) == (errno.EINVAL, "")
    assert len(sad.table) == 1


def test_a_deleted_state_is_gone_everywhere_and_says_its_last_word() -> None:
    sad = Sad()
    state = sad.add()
    state.record["packets"] = 3
    assert sad.db.get(name()) is state
    assert sad.db.delete(name()) is state
    assert (state.life, state.dump().current.packets) == (LifeState.DEAD, 3)
    assert (len(sad.table), sad.installed, sad.events) == (0, [], [])
    assert refusal(sad.db.delete, name()) == (errno.ESRCH, "")
    sad.add()


@pytest.mark.parametrize(("proto", "gone"), [(0, 4), (ANY_IPSEC, 4), (ESP, 2), (AH, 1), (COMP, 1), (IPIP, 0)])
def test_flush(proto: int, gone: int) -> None:
    sad = Sad()
    sad.add()
    sad.add(proto=AH)
    sad.add(proto=COMP)
    sad.alloc(0x300, 0x300)
    assert sad.db.flush(proto) == gone
    assert len(sad.table) == 4 - gone
    assert all(state.config.proto != proto for state in sad.table)
    assert sad.events == []
    assert sad.db.flush(proto) == 0


# -- ALLOCSPI


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"proto": IPIP}, "Invalid protocol, must be one of AH, ESP, IPCOMP"),
        ({"proto": 0, "low": 9, "high": 1}, "Invalid protocol, must be one of AH, ESP, IPCOMP"),
        ({"proto": COMP, "high": 0x10000}, "IPCOMP SPI must be <= 65535"),
        ({"proto": COMP, "low": 0x20000, "high": 0x10000}, "IPCOMP SPI must be <= 65535"),
        ({"low": 2, "high": 1}, "Invalid SPI range: min > max"),
    ],
)
def test_a_bad_range_is_einval_in_the_kernels_words(change: dict[str, Any], words: str) -> None:
    sad = Sad()
    assert refusal(sad.alloc, **change) == (errno.EINVAL, words)
    assert len(sad.table) == 0


def test_a_fresh_larval_state_is_between_its_hosts_and_expires() -> None:
    sad = Sad()
    state = sad.alloc(0x300, 0x300, mark=Mark(0xAB, 0xF), direction=SaDir.IN, seq=5)
    c = state.config
    assert isinstance(c, LarvalConfig)
    assert (state.life, c.spi, c.reqid, c.seq, c.direction) == (LifeState.ACQ, 0x300, 1, 0, SaDir.IN)
    assert c.selector == Selector(AF_UNSPEC, B, A, 32, 32)
    assert c.mark == Mark(0xAB, 0xF)
    assert c.hard_add == 30
    assert sad.installed == []
    six = sad.alloc(7, 7, daddr=bytes(15) + b"\1", saddr=bytes(15) + b"\2", family=AF_INET6)
    assert isinstance(six.config, LarvalConfig)
    assert six.config.selector == Selector(AF_UNSPEC, bytes(15) + b"\1", bytes(15) + b"\2", 128, 128)


def test_an_spi_is_free_only_where_nobody_of_its_protocol_has_it() -> None:
    sad = Sad()
    sad.add(spi=0x300, daddr=C)  # another destination counts
    words = "No SPI available in the requested range"
    assert refusal(sad.alloc, 0x300, 0x300) == (errno.ENOENT, words)
    assert sad.alloc(0x300, 0x300, proto=AH).config.spi == 0x300


def test_draws_skip_what_is_used_and_give_up_in_the_end() -> None:
    sad = Sad(0, 0, 1, 2, *[0, 1, 2] * 10)
    assert sad.alloc(0x10, 0x12).config.spi == 0x10
    assert sad.alloc(0x10, 0x12).config.spi == 0x11  # 0x10 was drawn again
    assert sad.alloc(0x10, 0x12).config.spi == 0x12
    words = "No SPI available in the requested range"
    assert refusal(sad.alloc, 0x10, 0x12) == (errno.ENOENT, words)


def test_zero_is_never_drawn() -> None:
    sad = Sad(0, 0, 3)
    assert sad.alloc(0, 4).config.spi == 3


@pytest.mark.parametrize("draw", [0, 1, 0xFFFFFFFE, 0xFFFFFFFF, 2**64 - 1])
def test_a_drawn_spi_is_in_the_range(draw: int) -> None:
    sad = Sad(draw, 5)
    assert 1 <= sad.alloc(0, 2**32 - 1).config.spi <= 2**32 - 1
    sad = Sad(draw)
    assert 0x100 <= sad.alloc(0x100, 0x1FF).config.spi <= 0x1FF


def test_a_waiting_acquire_gets_the_spi() -> None:
    sad = Sad()
    waiting = insert_larval(sad, seq=9, hard_add=30)
    state = sad.alloc(0x300, 0x300, seq=9)
    assert waiting.row < 0 or waiting is state
    assert [s.config.spi for s in sad.table] == [0x300]
    assert sad.alloc(0x400, 0x400, seq=9) is state  # it has one already: no change
    assert state.config.spi == 0x300


def test_a_second_allocation_is_a_second_larval_state() -> None:
    sad = Sad()
    one, two = sad.alloc(0x300, 0x300), sad.alloc(0x301, 0x301)
    assert list(sad.table) == [two, one]


# -- restoring a dump


@pytest.mark.parametrize(
    "change",
    [
        {"replay": ReplayLegacy(5, 9, 0b11), "replay_window": 32},
        {"replay_esn": ReplayEsn(2, 64, 1, 2, 3, 4, (5, 6)), "flags": 128},
        {"lifetime": LifetimeConfig(hard_add=100)},
    ],
)
def test_what_was_dumped_comes_back(change: dict[str, Any]) -> None:
    sad = Sad()
    x = sad.add(now=500, **change).record
    x["bytes"], x["packets"], x["use_time"], x["lastused"], x["stat_replay"] = 7, 6, 510, 520, 2
    dump = sad.db.get(name()).dump()
    other = Sad()
    again = other.db.restore(dump, NOW).dump()
    assert (again.current, again.replay, again.stats) == (dump.current, dump.replay, dump.stats)
    assert (again.lastused, again.life) == (520, LifeState.VALID)
    assert again.current.add_time == 500
    assert other.db.timers.next_deadline() == (NOW + 1 if "lifetime" in change else None)


def test_a_larval_state_comes_back_larval() -> None:
    sad, other = Sad(), Sad()
    dump = sad.alloc(0x300, 0x300).dump()
    assert other.db.restore(dump, NOW + 5).dump() == dump
    other.db.advance(NOW + 30)
    assert [event.hard for event in other.events if isinstance(event, StateExpired)] == [True]
