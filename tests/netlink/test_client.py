"""The client: against this machine's kernel in a namespace of its own, and against a server in memory.

The script below runs twice; what it prints must be the same. The kernel has no ESP, so states are larval
there; real ones are asked of the server alone, and read back.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from uxfrm.lifecycle import events as E
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET6, parse
from uxfrm.model.aevent import AE_ETHR, AE_RTHR, AeventUpdate
from uxfrm.model.counts import Thresholds
from uxfrm.model.dump import LarvalConfig, PolicyDump, PolicyId, StateDump, StateId
from uxfrm.model.error import XfrmError
from uxfrm.model.lifetime import LifetimeConfig, LifetimeCurrent
from uxfrm.model.mark import Mark
from uxfrm.model.migrate import MigrateEntry, Migration
from uxfrm.model.policy import Action, Direction, PolicyConfig, PolicyType
from uxfrm.model.selector import Selector
from uxfrm.model.state import ESN, Encap, Rare, ReplayEsn, ReplayLegacy, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace
from uxfrm.netlink import Client, EventsLost
from uxfrm.netlink.constants import Group
from uxfrm.netlink.memory import connect
from uxfrm.netlink.server import Server

A, B, C, D = (parse(f"10.0.0.{n}") for n in range(1, 5))
ENDS = Selector(2, B, A, 32, 32)
TUNNEL = Template(B, A, reqid=1, mode=Mode.TUNNEL, family=2)


def plain(value: Any) -> Any:
    """A dump or event without the second at which something was made, and without acquires' numbers."""
    if isinstance(value, StateDump | PolicyDump):
        return repr(value).replace(f"add_time={value.current.add_time}", "add_time=0")
    if isinstance(value, E.Acquire):
        return repr(value).replace(f"seq={value.wanted.seq}", "seq=0")
    if isinstance(value, E.StateAdded | E.StateDeleted | E.StateExpired):
        return type(value).__name__, plain(value.state)
    if isinstance(value, E.PolicyAdded | E.PolicyDeleted | E.PolicyExpired):
        return type(value).__name__, plain(value.policy)
    return repr(value)


def script(client: Client) -> Iterator[Any]:
    """Every request that needs no ESP, and what it gives; refusals as errno and words."""
    policy = PolicyConfig(Direction.OUT, ENDS, (TUNNEL,), priority=3)
    yield client.add_policy(policy)
    yield refused(client.add_policy, policy)
    yield client.update_policy(
        PolicyConfig(Direction.OUT, ENDS, (TUNNEL,), priority=4, lifetime=LifetimeConfig(hard_add=1000))
    )
    yield client.add_policy(
        PolicyConfig(Direction.IN, ENDS, action=Action.BLOCK, type=PolicyType.SUB, mark=Mark(1, 3), if_id=9)
    )
    yield client.get_policy(PolicyId(Direction.OUT, ENDS))
    yield client.get_policy(PolicyId(Direction.OUT, index=1))
    yield refused(client.get_policy, PolicyId(Direction.FWD, ENDS))
    yield list(client.dump_policies())
    yield client.spd_info(), client.get_thresholds(), client.get_default(), client.sad_info()
    yield client.set_thresholds(Thresholds(24, 16), Thresholds(100, 90)), client.set_default(in_=1)
    yield client.get_thresholds(), client.get_default()
    yield refused(client.set_thresholds, Thresholds(33, 0))
    wanted = LarvalConfig(B, A, 50, reqid=7, mode=Mode.TUNNEL, mark=Mark(5, 7), if_id=3)
    yield client.alloc_spi(wanted, 0x100, 0x100)
    yield refused(client.alloc_spi, wanted, 0x100, 0x100)
    yield client.get_state(StateId(B, 0x100, 50, 2, 5))
    yield refused(client.get_state, StateId(B, 0x101, 50, 2))
    yield list(client.dump_states()), list(client.dump_states(51))
    yield client.get_aevent(StateId(B, 0x100, 50, 2, 5), AE_RTHR | AE_ETHR).flags
    yield refused(client.update_aevent, StateId(B, 0x100, 50, 2, 5), AeventUpdate(maxdiff=3))
    yield refused(client.expire_state, StateId(B, 0x100, 50, 2, 5), True)
    yield client.acquire(LarvalConfig(B, A, 50, selector=ENDS), policy, (1, 2, 3))
    yield client.migrate(Migration(ENDS, Direction.OUT, (MigrateEntry(B, A, C, D, 50, 1, 1, 2, 2),)))
    yield client.get_policy(PolicyId(Direction.OUT, ENDS)).config.templates
    yield client.delete_state(StateId(B, 0x100, 50, 2, 5))
    yield refused(client.delete_state, StateId(B, 0x100, 50, 2, 5))
    yield client.expire_policy(PolicyId(Direction.OUT, ENDS), False)
    yield client.delete_policy(PolicyId(Direction.OUT, ENDS))
    yield refused(client.delete_policy, PolicyId(Direction.OUT, ENDS))
    yield client.flush_policies(PolicyType.SUB), client.flush_policies(), client.flush_states(50)
    while (event := client.next_event(0.2)) is not None:
        yield event


def refused(call: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(XfrmError) as caught:
        call(*arguments)
    return caught.value.number, caught.value.text


def show(found: Any) -> str:
    if isinstance(found, tuple | list):
        return str([show(value) for value in found])
    return str(plain(found))


def in_memory() -> Client:
    return connect(Server(Namespace(randbytes=random.Random(1).randbytes)))


KERNEL = """
import sys
from uxfrm.attach.kernel_xfrm import connect
from netlink.test_client import script, show
client = connect()
client.join()
for found in script(client):
    print(show(found))
"""


@pytest.mark.linux
def test_a_server_in_memory_answers_as_this_machines_kernel() -> None:
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-c", KERNEL]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    client = in_memory()
    client.join()
    assert [show(found) for found in script(client)] == done.stdout.splitlines()


GCM = algo.aead("rfc4106(gcm(aes))", bytes(range(20)), 128)
CBC = {"crypt": algo.crypt("cbc(aes)", bytes(16)), "auth": algo.auth_trunc("hmac(sha256)", bytes(32), 128)}
STATES = [
    StateConfig(B, A, spi=1, mode=Mode.TUNNEL, reqid=9, aead=GCM, replay_window=32),
    StateConfig(B, A, spi=2, **CBC, encap=Encap(2, 4500, 4501), mark=Mark(1, 15), set_mark=Mark(3, 255),
                if_id=4),
    StateConfig(B, A, spi=3, aead=GCM, flags=ESN, replay_esn=ReplayEsn(4, 128, 7, 6, 1, 2, (1, 2, 3, 4))),
    StateConfig(B, A, spi=4, aead=GCM, replay=ReplayLegacy(5, 6, 7), replay_window=4, direction=1,
                lifetime=LifetimeConfig(1, 2, 3, 4, 5, 60, 7, 80),
                rare=Rare(current=LifetimeCurrent(1, 2, 3, 0), pcpu=0, replay_maxage=7, replay_maxdiff=8)),
    StateConfig(parse("fd00::2"), parse("fd00::1"), spi=5, family=AF_INET6, mode=Mode.BEET, aead=GCM,
                selector=ENDS, extra_flags=1, tfcpad=0),
    StateConfig(B, A, proto=108, spi=6, comp=algo.comp("deflate")),
    StateConfig(B, A, proto=51, spi=7, auth=algo.auth("sha1", b"secret"), mode=Mode.TUNNEL),
]  # fmt: skip


KEPT = ("aead", "auth", "crypt", "comp", "selector", "encap", "mark", "set_mark", "lifetime", "flags")


@pytest.mark.parametrize("config", STATES, ids=lambda config: f"spi{config.spi}")
def test_a_state_reads_back_as_it_was_made(config: StateConfig) -> None:
    client = in_memory()
    client.add_state(config)
    identity = StateId(config.daddr, config.spi, config.proto, config.family, config.mark.v & config.mark.m)
    found = client.get_state(identity)
    told, asked = found.config, config
    assert isinstance(told, StateConfig)
    for name in KEPT:
        assert getattr(told, name) == getattr(asked, name), name
    assert found.replay == (config.replay_esn or config.replay)
    assert list(client.dump_states()) == [found]
    thresholds = client.get_aevent(identity, AE_RTHR | AE_ETHR)
    assert thresholds.maxdiff == (config.rare.replay_maxdiff or 2)
    assert thresholds.maxage == (config.rare.replay_maxage or 10)
    client.update_state(config)
    client.expire_state(identity, hard=True)
    assert not list(client.dump_states())


def test_without_the_right_everything_is_refused() -> None:
    client = connect(Server(Namespace(randbytes=random.Random(1).randbytes)), capable=False)
    for call in (client.spd_info, client.flush_policies, lambda: list(client.dump_states())):
        assert refused(call) == (1, "")


def test_a_listener_that_is_late_is_told_so() -> None:
    server = Server(Namespace(randbytes=random.Random(1).randbytes))
    listener, maker = connect(server), connect(server)
    listener.join(Group.SA)
    unnumbered = replace(STATES[0], spi=0)
    for _ in range(1200):
        maker.add_state(unnumbered)
    seen = 0
    while listener.next_event() is not None:
        seen += 1
    assert 0 < seen < 1200
    maker.add_state(unnumbered)
    with pytest.raises(EventsLost):
        listener.next_event()
    assert isinstance(listener.next_event(), E.StateAdded)
