"""No sequence number and no IV twice with one key, whatever crashes: a namespace that is gone was killed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP

from uxfrm.daemon.numbers import AHEAD, Numbers, NumbersError
from uxfrm.datapath.batch import Batch
from uxfrm.model import algorithm as algo
from uxfrm.model.address import parse
from uxfrm.model.migrate import MigrateEntry, Migration
from uxfrm.model.outcome import Outcome
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import ESN, ReplayEsn, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

LEFT, RIGHT, AWAY = (parse(f"192.0.2.{number}") for number in (1, 2, 3))
KEY, OTHER = bytes(range(20)), bytes(range(1, 21))
PACKET = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=4001, dport=5000))


def host(keys: dict[int, bytes], seed: int, esn: bool = False) -> Namespace:
    """States by SPI, each with the key given, and the policies that send through them by mark."""
    made = Namespace(randbytes=random.Random(seed).randbytes)
    more = {"flags": ESN, "replay_esn": ReplayEsn(1, 32)} if esn else {}
    for spi, key in keys.items():
        gcm = algo.aead("rfc4106(gcm(aes))", key, 128)
        made.add_state(StateConfig(RIGHT, LEFT, spi=spi, reqid=spi, mode=Mode.TUNNEL, aead=gcm, **more))
    return made


def sent(namespace: Namespace, reqid: int, count: int, to: bytes = RIGHT) -> list[tuple[int, bytes]]:
    """Sequence number and IV of what leaves through the state with this reqid."""
    namespace.flush_policies()
    template = Template(to, LEFT, family=2, reqid=reqid, mode=Mode.TUNNEL)
    namespace.add_policy(PolicyConfig(Direction.OUT, Selector(2), (template,)))
    batch = Batch.pack([PACKET] * count)
    namespace.output(batch)
    assert {Outcome.of(int(number)) for number in batch.packets["outcome"]} == {Outcome.SENT}
    went = [batch.packet(i) for i in range(count)]
    return [(int.from_bytes(packet[24:28]), packet[28:36]) for packet in went]


def test_a_new_key_begins_with_number_1(tmp_path: Path) -> None:
    namespace = host({1: KEY}, 1)
    Numbers(tmp_path / "state", namespace)
    assert [number for number, _ in sent(namespace, 1, 3)] == [1, 2, 3]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(1, 60)), min_size=2, max_size=12))
def test_no_number_and_no_iv_comes_twice(tmp_path: Path, steps: list[tuple[int, int, int]]) -> None:
    """Two states with one key, on two hosts that run at the same time, each killed again and again."""
    folder = tmp_path / os.urandom(8).hex()
    seen: set[int] = set()
    ivs: set[bytes] = set()
    hosts: dict[int, tuple[Namespace, Numbers]] = {}
    for seed, (which, reqid, count) in enumerate(steps):
        if which == 2 or which not in hosts:
            which %= 2
            namespace = host({1: KEY, 2: KEY}, seed)
            hosts[which] = namespace, Numbers(folder, namespace)
        namespace, numbers = hosts[which]
        found = sent(namespace, reqid, count)
        numbers.keep()
        assert not seen & {number for number, _ in found}
        assert not ivs & {iv for _, iv in found}
        seen |= {number for number, _ in found}
        ivs |= {iv for _, iv in found}


def test_numbers_are_noted_long_before_they_are_used(tmp_path: Path) -> None:
    namespace = host({1: KEY}, 1)
    numbers = Numbers(tmp_path, namespace)
    (state,) = namespace.states
    state.record["oseq"] = AHEAD - 1000
    numbers.keep()
    again = host({1: KEY}, 2)
    Numbers(tmp_path, again)
    assert sent(again, 1, 1)[0][0] > AHEAD * 2 - 1000


def test_the_row_of_a_state_that_is_gone_is_not_its_own(tmp_path: Path) -> None:
    namespace = host({1: KEY, 2: KEY}, 1)
    numbers = Numbers(tmp_path, namespace)
    namespace.flush_states()
    gcm = algo.aead("rfc4106(gcm(aes))", OTHER, 128)
    for spi in (3, 4):
        made = namespace.add_state(StateConfig(RIGHT, LEFT, spi=spi, reqid=spi, mode=Mode.TUNNEL, aead=gcm))
        made.record["oseq"] = 5 * AHEAD
    before = numbers.path.read_bytes()
    numbers.keep()
    assert numbers.path.read_bytes() == before
    assert [int(state.record["oseq"]) for state in namespace.states] == [5 * AHEAD] * 2


def moved(namespace: Namespace) -> None:
    """Another address for the end of a state's tunnel, by XFRM_MSG_MIGRATE."""
    ends = MigrateEntry(RIGHT, LEFT, AWAY, LEFT, 50, Mode.TUNNEL, 1, 2, 2)
    namespace.migrate(Migration(Selector(2), Direction.OUT, (ends,)))


def readdressed(namespace: Namespace) -> None:
    """The same by deleting and adding, with no word of the numbers that were used."""
    (state,) = namespace.states
    namespace.flush_states()
    assert isinstance(state.config, StateConfig)
    namespace.add_state(replace(state.config, daddr=AWAY))


@pytest.mark.parametrize("move", [moved, readdressed])
def test_a_state_that_moves_takes_no_number_again(tmp_path: Path, move: Callable[[Namespace], None]) -> None:
    namespace = host({1: KEY}, 1)
    numbers = Numbers(tmp_path, namespace)
    used = sent(namespace, 1, 3)
    move(namespace)
    numbers.keep()
    used += sent(namespace, 1, 3, AWAY)
    (state,) = namespace.states
    state.record["oseq"] += AHEAD
    numbers.keep()
    used += sent(namespace, 1, 3, AWAY)
    assert [number for number, _ in used] == sorted({number for number, _ in used})
    again = host({1: KEY}, 2)
    Numbers(tmp_path, again)
    assert sent(again, 1, 1)[0][0] > used[-1][0]


def test_other_keys_are_not_noted(tmp_path: Path) -> None:
    namespace = host({1: KEY}, 1)
    numbers = Numbers(tmp_path, namespace)
    before = numbers.path.read_bytes()
    gcm = algo.aead("rfc4106(gcm(aes))", OTHER, 128)
    namespace.add_state(StateConfig(RIGHT, LEFT, spi=3, reqid=3, mode=Mode.TUNNEL, aead=gcm))
    numbers.keep()
    assert numbers.path.read_bytes() == before
    assert [number for number, _ in sent(namespace, 3, 1)] == [1]


@pytest.mark.parametrize("esn", [False, True])
def test_keys_that_are_used_up(tmp_path: Path, esn: bool) -> None:
    namespace = host({1: KEY, 7: OTHER}, 1, esn)
    numbers = Numbers(tmp_path, namespace)
    used = next(state for state in namespace.states if state.config.spi == 1)
    used.record["oseq"] = 0xFFFFFFF0
    numbers.keep()
    again = host({1: KEY}, 2, esn)
    if esn:
        Numbers(tmp_path, again)
        assert len(sent(again, 1, 2)) == 2
    else:
        with pytest.raises(NumbersError, match="SPI 0x00000001 were used"):
            Numbers(tmp_path, again)


def test_what_is_noted_is_no_key_and_its_owners_alone(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path / "state", host({1: KEY}, 1))
    text = numbers.path.read_bytes()
    assert not any(part in text for part in (KEY, KEY[:16], KEY.hex().encode(), KEY[:16].hex().encode()))
    assert numbers.path.stat().st_mode & 0o777 == 0o600
    assert numbers.path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("text", ["", "x\n", "MAGIC\nab 12\n", "MAGIC\nab x 00\n", "MAGIC\nab 1 00\n"])
def test_damaged_notes_are_not_guessed_at(tmp_path: Path, text: str) -> None:
    (tmp_path / "numbers").write_text(text.replace("MAGIC", "uxfrm sequence numbers 1"))
    with pytest.raises(NumbersError, match="damaged"):
        Numbers(tmp_path, host({1: KEY}, 1))
