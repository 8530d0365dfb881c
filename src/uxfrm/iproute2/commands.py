"""Lines of `ip -batch` as commands.

A command is a frozen object that holds what its line said. A wrong line is a Statement with what `ip` would
have written to its standard error, without key material; the lines after it are read all the same.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator

from uxfrm.iproute2 import grammar_policy, grammar_state, names
from uxfrm.iproute2.filters import take_policy_filter, take_state_filter
from uxfrm.iproute2.grammar import Once, take_xfrm_proto
from uxfrm.iproute2.invocation import take_options, without_prompt
from uxfrm.iproute2.requests import (
    Command,
    PolicyAdd,
    PolicyCount,
    PolicyDelete,
    PolicyDeleteAll,
    PolicyFlush,
    PolicyGet,
    PolicyGetDefault,
    PolicyList,
    PolicySetDefault,
    PolicySetThresholds,
    PolicyUpdate,
    StateAdd,
    StateAllocSpi,
    StateCount,
    StateDelete,
    StateDeleteAll,
    StateFlush,
    StateGet,
    StateList,
    Statement,
    StateUpdate,
)
from uxfrm.iproute2.selectors import Resolve
from uxfrm.iproute2.words import Cursor, ParseError, logical_lines, shown, split, unsigned, wrong
from uxfrm.model.address import AF_INET, AF_INET6, BITS
from uxfrm.model.counts import Thresholds
from uxfrm.model.error import XfrmError

EXIT_FAILED, EXIT_REFUSED = 1, 2


def no_interfaces(name: str) -> int | None:
    """A resolver that knows no interface."""
    return None


def parse_batch(
    lines: Iterable[str], resolve: Resolve | None = None, hash_is_prompt: bool = False
) -> Iterator[Statement]:
    """Read the lines of a batch file; `resolve` finds interfaces' indices. Blank lines give nothing.

    Unlike `ip`, it takes lines with prompts, sudo, `ip` and options. A lone `#` before `ip` begins a comment
    unless `hash_is_prompt`.
    """
    for number, text in logical_lines(without_prompt(line, hash_is_prompt) for line in lines):
        statement = _statement(number, text, resolve or no_interfaces)
        if statement is not None:
            yield statement


def _statement(number: int, text: str, resolve: Resolve) -> Statement | None:
    try:
        words = split(text)
        return Statement(number, parse_words(words, resolve)) if words else None
    except ParseError as error:
        return Statement(number, None, error.text)
    except XfrmError as error:
        return Statement(number, None, answer(error))


def answer(error: XfrmError) -> str:
    """What `ip` writes when the kernel refuses."""
    if error.text:
        return f"Error: {error.text}."
    return f"RTNETLINK answers: {os.strerror(error.number)}"


def refusal(command: Command | None, error: XfrmError) -> tuple[str, int]:
    """What `ip` writes when the kernel refuses a command, and its exit status."""
    text = answer(error)
    match command:
        case StateDeleteAll() | PolicyDeleteAll() if error.number == errno.EPERM:
            return f"{text}\nDelete-all terminated", EXIT_FAILED
        case StateDeleteAll():
            return f"Failed to send delete-all request\n: {os.strerror(error.number)}", EXIT_FAILED
        case PolicyDeleteAll():
            return f"Failed to send delete-all request: {os.strerror(error.number)}", EXIT_FAILED
        case StateList() | PolicyList():
            return f"{text}\nDump terminated", EXIT_FAILED
    return text, EXIT_REFUSED


_USAGE = "Usage: ip xfrm XFRM-OBJECT { COMMAND | help }\nwhere  XFRM-OBJECT := state | policy | monitor"


def parse_words(words: list[str], resolve: Resolve = no_interfaces) -> Command:
    """One command from its words, which may begin with `ip` and its options. Raises ParseError, XfrmError."""
    cursor = Cursor(words)
    take_options(cursor)
    if not cursor or not "xfrm".startswith(cursor.here):
        raise ParseError(0, f'Object "{shown(cursor.here)}" is unknown, try "ip help".')
    cursor.take()
    kind = next((kind for kind in _OBJECTS if cursor.here and kind.startswith(cursor.here)), None)
    if kind is None:
        raise ParseError(0, _USAGE)
    cursor.take()
    word = cursor.take() if cursor else "list"
    for name, parser in _OBJECTS[kind]:
        if word and name.startswith(word):
            return parser(cursor, resolve)
    raise ParseError(0, f'Command "{shown(word)}" is unknown, try "ip xfrm {kind} help".')


# -- one parser per command, in the order in which `ip` tries abbreviations

Parser = Callable[[Cursor, Resolve], Command]


def _allocspi(cursor: Cursor, resolve: Resolve) -> StateAllocSpi:
    return StateAllocSpi(*grammar_state.take_allocspi(cursor, resolve))


def _state_list(cursor: Cursor, resolve: Resolve) -> StateList:
    return StateList(*take_state_filter(cursor))


def _state_deleteall(cursor: Cursor, resolve: Resolve) -> StateDeleteAll:
    return StateDeleteAll(take_state_filter(cursor)[0])


def _state_flush(cursor: Cursor, resolve: Resolve) -> StateFlush:
    once, proto = Once(), 0
    while cursor:
        if not cursor.follows("proto"):
            raise wrong(cursor.take(), "unknown")
        once.say("proto")
        proto = take_xfrm_proto(cursor)
    return StateFlush(proto)


def _policy_flush(cursor: Cursor, resolve: Resolve) -> PolicyFlush:
    once, kind = Once(), 0
    while cursor:
        if not cursor.follows("ptype"):
            raise wrong(cursor.take(), "unknown")
        once.say("ptype")
        kind = cursor.chosen(lambda word: names.number(names.PTYPE, word), "PTYPE value is invalid")
    return PolicyFlush(kind)


def _policy_set(cursor: Cursor, resolve: Resolve) -> PolicySetThresholds:
    found: dict[str, Thresholds] = {}
    once = Once()
    while cursor:
        keyword = cursor.here
        if not cursor.follows("hthresh4", "hthresh6"):
            raise wrong(cursor.take(), "unknown")
        once.say(keyword)
        bits = BITS[AF_INET if keyword == "hthresh4" else AF_INET6]
        found[keyword] = Thresholds(
            _threshold(cursor, bits, f"{keyword} LBITS"), _threshold(cursor, bits, f"{keyword} RBITS")
        )
    return PolicySetThresholds(found.get("hthresh4"), found.get("hthresh6"))


def _threshold(cursor: Cursor, most: int, what: str) -> int:
    def read(word: str) -> int | None:
        value = unsigned(word, 8)
        return value if value is not None and value <= most else None

    return cursor.chosen(read, f"{what} value is invalid")


def _policy_setdefault(cursor: Cursor, resolve: Resolve) -> PolicySetDefault:
    found: dict[str, int] = {}
    once = Once()
    while cursor:
        direction = cursor.take()
        if direction not in ("in", "fwd", "out"):
            raise wrong(direction, "unknown direction")
        once.say(direction)
        found[direction] = cursor.chosen(
            lambda word: names.number(names.DEFAULT, word), f"{direction} policy value is invalid"
        )
    return PolicySetDefault(found.get("in", 0), found.get("fwd", 0), found.get("out", 0))


_STATE: tuple[tuple[str, Parser], ...] = (
    ("add", lambda cursor, resolve: StateAdd(grammar_state.take_config(cursor, resolve))),
    ("update", lambda cursor, resolve: StateUpdate(grammar_state.take_config(cursor, resolve))),
    ("allocspi", _allocspi),
    ("delete", lambda cursor, resolve: StateDelete(grammar_state.take_id(cursor, resolve))),
    ("deleteall", _state_deleteall),
    ("delall", _state_deleteall),
    ("list", _state_list),
    ("show", _state_list),
    ("lst", _state_list),
    ("get", lambda cursor, resolve: StateGet(grammar_state.take_id(cursor, resolve))),
    ("flush", _state_flush),
    ("count", lambda cursor, resolve: StateCount()),
)
_POLICY: tuple[tuple[str, Parser], ...] = (
    ("add", lambda cursor, resolve: PolicyAdd(grammar_policy.take_config(cursor, resolve))),
    ("update", lambda cursor, resolve: PolicyUpdate(grammar_policy.take_config(cursor, resolve))),
    ("delete", lambda cursor, resolve: PolicyDelete(grammar_policy.take_id(cursor, resolve))),
    ("deleteall", lambda cursor, resolve: PolicyDeleteAll(take_policy_filter(cursor, resolve))),
    ("delall", lambda cursor, resolve: PolicyDeleteAll(take_policy_filter(cursor, resolve))),
    ("list", lambda cursor, resolve: PolicyList(take_policy_filter(cursor, resolve))),
    ("show", lambda cursor, resolve: PolicyList(take_policy_filter(cursor, resolve))),
    ("lst", lambda cursor, resolve: PolicyList(take_policy_filter(cursor, resolve))),
    ("get", lambda cursor, resolve: PolicyGet(grammar_policy.take_id(cursor, resolve))),
    ("flush", _policy_flush),
    ("count", lambda cursor, resolve: PolicyCount()),
    ("set", _policy_set),
    ("setdefault", _policy_setdefault),
    ("getdefault", lambda cursor, resolve: PolicyGetDefault()),
)
_OBJECTS = {"state": _STATE, "policy": _POLICY}
