"""A namespace beside its plain model: both are asked the same, and what they tell is compared.

What a namespace tells is put in the model's terms here; nothing else knows both.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from plain_model import Model
from plain_tables import PlainPolicy, PlainState, Refused, usersa
from uxfrm.lifecycle import events as e
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, parse
from uxfrm.model.aevent import AE_CU
from uxfrm.model.dump import PolicyDump, StateDump
from uxfrm.model.error import XfrmError
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.policy import Action, DefaultAction, Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import ESN, ReplayEsn, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

START = 1000
NEAR, FAR = 0, 1
IN, OUT = 0, 1
ADDRESSES = {name: parse(f"192.0.2.{number}") for number, name in enumerate("ABC", 1)}
NAMES = {address: name for name, address in ADDRESSES.items()}
INSIDE = (parse("10.1.0.0"), parse("10.2.0.0"), 16), (parse("10.1.0.5"), parse("10.2.0.9"), 32)
SELECTORS = [Selector(AF_INET, far, near, bits, bits) for near, far, bits in INSIDE]
COVERS = {0: {0, 1}, 1: {0}}
PRIORITIES = (20, 10)
ESN_WORDS = 2


class Host:
    """A namespace and its model, told the same."""

    def __init__(self) -> None:
        self.real = Namespace(randbytes=random.Random(1).randbytes, now_s=START)
        self.model = Model(START, COVERS)
        self.told: list[tuple[Any, ...]] = []
        self.monitors = False
        self.real.listen(self._hear, self._wants)

    def _wants(self, kind: type[e.Event]) -> bool:
        if kind is e.Acquire:
            return self.model.acquires_heard
        return kind is not e.StateMonitored or self.monitors

    def _hear(self, event: e.Event) -> bool:
        if isinstance(event, e.Acquire) and not self.model.acquires_heard:
            return False
        # What packets and timers cause where somebody monitors is tested elsewhere.
        if not isinstance(event, e.StateMonitored) or event.aevent.flags == AE_CU:
            self.told.append((self.real.now_s, *_TOLD[type(event)](event)))
        return True

    def ask(self, request: Callable[[], object], plain: Callable[[], object]) -> bool:
        """One request to both; whether it was carried out."""
        refused = wanted = None
        try:
            request()
        except XfrmError as error:
            refused = error.name
        try:
            plain()
        except Refused as error:
            wanted = str(error)
        assert refused == wanted
        self.settle()
        return refused is None

    def settle(self, in_order: bool = True) -> None:
        """Compare what both told."""
        told, self.told = self.told, []
        wanted, self.model.events = self.model.events, []
        if not in_order:
            assert [event[0] for event in told] == sorted(event[0] for event in told)
            told.sort(key=repr)
            wanted.sort(key=repr)
        assert told == wanted


def told_state(dump: StateDump) -> tuple[Any, ...]:
    c, now, replay = dump.config, dump.current, dump.replay
    bitmap: Any = replay.bitmap
    if isinstance(replay, ReplayEsn):
        bitmap = sum(word << 32 * place for place, word in enumerate(replay.bitmap))
    return (
        NAMES[c.daddr], NAMES[c.saddr], c.spi, c.reqid, dump.life.name, now.bytes, now.packets, now.add_time,
        now.use_time, dump.lastused, replay.oseq, replay.seq, bitmap, tuple(dump.stats),
    )  # fmt: skip


def told_policy(dump: PolicyDump) -> tuple[Any, ...]:
    c, template = dump.config, (*dump.config.templates, None)[0]
    ends = (NAMES[template.daddr], NAMES[template.saddr]) if template else ("", "")
    return (
        int(c.direction), SELECTORS.index(c.selector), c.index, template.reqid if template else 0,
        c.action == Action.BLOCK, dump.current.add_time, dump.current.use_time, *ends,
    )  # fmt: skip


_TOLD: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    e.StateAdded: lambda x: ("added", x.update, told_state(x.state)),
    e.StateDeleted: lambda x: ("deleted", told_state(x.state)),
    e.StatesFlushed: lambda x: ("flushed",),
    e.StateExpired: lambda x: ("expired", x.hard, usersa(told_state(x.state))),
    e.StateMonitored: lambda x: ("monitored", told_state(x.aevent.state)),
    e.PolicyAdded: lambda x: ("policy added", x.update, told_policy(x.policy)),
    e.PolicyDeleted: lambda x: ("policy deleted", told_policy(x.policy)),
    e.PolicyExpired: lambda x: ("policy expired", x.hard, told_policy(x.policy)),
    e.PoliciesFlushed: lambda x: ("policies flushed",),
    e.DefaultChanged: lambda x: ("default", x.in_ == DefaultAction.BLOCK, x.out == DefaultAction.BLOCK),
    e.Acquire: lambda x: ("acquire", x.wanted.seq, NAMES[x.wanted.daddr], x.wanted.reqid),
    e.Migrated: lambda x: ("migrated",),
}


def configured(plain: PlainState) -> StateConfig:
    """A state as the namespace is given it."""
    esn = {"replay_esn": ReplayEsn(ESN_WORDS, plain.window), "flags": ESN}
    return StateConfig(
        daddr=ADDRESSES[plain.daddr], saddr=ADDRESSES[plain.saddr], spi=plain.spi, reqid=plain.reqid,
        mode=Mode.TUNNEL, aead=algo.aead("rfc4106(gcm(aes))", plain.key.to_bytes(20), 128), seq=plain.km_seq,
        lifetime=LifetimeConfig(*plain.limits), **(esn if plain.esn else {"replay_window": plain.window}),
    )  # fmt: skip


def configured_policy(plain: PlainPolicy) -> PolicyConfig:
    """A policy as the namespace is given it."""
    templates: tuple[Template, ...] = ()
    if plain.reqid:
        ends = ADDRESSES[plain.remote], ADDRESSES[plain.local]
        templates = (Template(*ends, family=AF_INET, reqid=plain.reqid, mode=Mode.TUNNEL),)
    return PolicyConfig(
        Direction(plain.direction), SELECTORS[plain.selector], templates,
        action=Action.BLOCK if plain.block else Action.ALLOW, priority=plain.priority,
        lifetime=LifetimeConfig(*plain.limits),
    )  # fmt: skip
