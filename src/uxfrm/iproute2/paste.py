"""Text that `ip xfrm state` or `ip xfrm policy` printed on some host, back into states and policies.

It may come with or without -s, from both tables, with prompts, carriage returns and other blanks. What is
outside of entries is passed over. A companion that IPComp made (protocol 4 or 41) is kept
without keys. Policies of sockets belong to their sockets and are passed over too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import tzinfo
from functools import partial
from typing import Any

from uxfrm.iproute2.commands import answer, no_interfaces
from uxfrm.iproute2.paste_lines import BOTH, POLICY, STATE, Entry, read_selector
from uxfrm.iproute2.requests import RestorePolicy, RestoreState, Statement
from uxfrm.iproute2.selectors import Resolve
from uxfrm.iproute2.words import ParseError, shown
from uxfrm.model.address import family, parse
from uxfrm.model.dump import LarvalConfig, PolicyDump, StateDump, StateStats
from uxfrm.model.error import XfrmError
from uxfrm.model.flow import PROTO_DSTOPTS, PROTO_IPIP, PROTO_IPV6, PROTO_ROUTING
from uxfrm.model.lifetime import LifetimeConfig, LifetimeCurrent
from uxfrm.model.policy import PolicyConfig
from uxfrm.model.state import LifeState, Rare, ReplayEsn, StateConfig
from uxfrm.model.template import Template

_STATE_HEAD = re.compile(r"src ([0-9a-f.:]+) dst ([0-9a-f.:]+)")
_POLICY_HEAD = re.compile(r"src [0-9a-f.:]+/\d+ dst [0-9a-f.:]+/\d+( .*)?")
_PROMPT = re.compile(
    r"(?!.*<<Keys hidden>>)"
    r"(.*[$#>%] ?(sudo )?(\S*/)?ip\b.*|.*[$#>%]|(sudo )?(\S*/)?ip (-\S+ )*x\w* .*)"
)


def parse_dump(
    lines: Iterable[str], resolve: Resolve | None = None, zone: tzinfo | None = None, first_line: int = 1
) -> Iterator[Statement]:
    """Read pasted dumps: one Statement per entry. Dates are of `zone`, None for this machine's."""
    reading: _Reading | None = None
    for number, raw in enumerate(lines, first_line):
        text = " ".join(raw.split())
        if not text:
            continue
        begun = _begin(number, text, resolve or no_interfaces, zone)
        if begun is not None or _PROMPT.fullmatch(text):
            yield from _end(reading)
            reading = begun
        elif reading is not None:
            reading.take(number, text)
    yield from _end(reading)


def is_head(line: str) -> bool:
    """True for the first line of an entry."""
    text = " ".join(line.split())
    return bool(_STATE_HEAD.fullmatch(text) or _POLICY_HEAD.fullmatch(text))


def is_prompt(line: str) -> bool:
    """True for a shell's prompt, with or without a command of `ip`."""
    return bool(_PROMPT.fullmatch(" ".join(line.split())))


class _Reading:
    """The entry that is open, and what was wrong with it first."""

    def __init__(self, entry: Entry, state: bool) -> None:
        self.entry = entry
        self.state = state
        self.error: str | None = None
        self.patterns = (STATE if state else POLICY) + BOTH

    def attempt(self, step: Callable[[], None]) -> None:
        """Do `step`; keep what is wrong."""
        try:
            step()
        except ParseError as error:
            self.error = self.error or error.text
        except XfrmError as error:
            self.error = self.error or answer(error)
        except (ValueError, OverflowError):
            self.error = self.error or "a number is not understood"

    def take(self, number: int, text: str) -> None:
        """Read one more line of the entry."""
        for pattern, handler in self.patterns:
            found = pattern.fullmatch(text)
            if found is not None:
                self.attempt(partial(handler, self.entry, found))
                return
        self.error = self.error or f'line {number} is not understood: "{shown(text.split()[0])} ..."'


def _begin(number: int, text: str, resolve: Resolve, zone: tzinfo | None) -> _Reading | None:
    entry = Entry(number, resolve, zone)
    ends = _STATE_HEAD.fullmatch(text)
    if ends is not None:
        reading = _Reading(entry, state=True)
        reading.attempt(lambda: _ends(entry, ends[1], ends[2]))
        return reading
    if _POLICY_HEAD.fullmatch(text):
        reading = _Reading(entry, state=False)
        reading.attempt(lambda: entry.values.update(selector=read_selector(entry, text)))
        return reading
    return None


def _ends(entry: Entry, saddr: str, daddr: str) -> None:
    entry.values |= {"saddr": parse(saddr), "daddr": parse(daddr)}
    entry.values["family"] = family(entry.values["daddr"])


def _end(reading: _Reading | None) -> Iterator[Statement]:
    if reading is None or reading.entry.socket:
        return
    made: list[RestoreState | RestorePolicy] = []
    if reading.error is None:
        make = _state if reading.state else _policy
        reading.attempt(lambda: made.append(make(reading.entry)))
    yield Statement(reading.entry.line, made[0] if made else None, reading.error)


def _state(e: Entry) -> RestoreState:
    _need(e, "proto", "mode")
    keyed = e.values.keys() & {"aead", "auth", "crypt", "comp"}
    larval = not keyed and e.values["proto"] not in (PROTO_DSTOPTS, PROTO_ROUTING)
    config = _larval(e) if larval else _made(e)
    companion = e.values["proto"] in (PROTO_IPIP, PROTO_IPV6)
    life = LifeState.ACQ if larval and not companion else LifeState.VALID
    current, stats = LifetimeCurrent(**e.current), StateStats(*e.stats)
    return RestoreState(StateDump(config, current, e.replay, stats, e.lastused, life))


def _made(e: Entry) -> StateConfig:
    values: dict[str, Any] = dict(e.values)
    if isinstance(e.replay, ReplayEsn):
        values["replay_esn"] = ReplayEsn(e.replay.words, e.replay.replay_window)
        values["replay_window"] = 0
    if e.rare:
        values["rare"] = Rare(**e.rare)
    return StateConfig(**values, lifetime=LifetimeConfig(**e.limits))


_LARVAL = frozenset(LarvalConfig.__dataclass_fields__)


def _larval(e: Entry) -> LarvalConfig:
    values: dict[str, Any] = {name: value for name, value in e.values.items() if name in _LARVAL}
    return LarvalConfig(**values, pcpu=e.rare.get("pcpu"), hard_add=e.limits.get("hard_add", 0))


def _policy(e: Entry) -> RestorePolicy:
    _need(e, "direction")
    templates = tuple(Template(**values) for values in e.templates)
    lifetime = LifetimeConfig(**e.limits)
    rare: dict[str, Any] = {name: e.rare[name] for name in ("context", "offload") if name in e.rare}
    config = PolicyConfig(**e.values, **rare, templates=templates, lifetime=lifetime)
    return RestorePolicy(PolicyDump(config, LifetimeCurrent(**e.current)))


def _need(e: Entry, *fields: str) -> None:
    if not all(name in e.values for name in fields):
        raise ParseError(0, "the entry is not complete")
