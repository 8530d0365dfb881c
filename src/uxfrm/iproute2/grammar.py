"""Lines of `ip xfrm` into commands: `ip -batch` files, and the same lines as people type them into a shell.

More is accepted than `ip -batch` takes: a leading `ip` with its options, a prompt before it, keywords of newer
iproute2. Less is not. Follows: ip(8), ip-xfrm(8), iproute2 6.1 as observed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from uxfrm.iproute2 import grammar_policy, grammar_state, words
from uxfrm.iproute2.command import Command, ParseError, Statement
from uxfrm.iproute2.cursor import HIDDEN, Cursor, Refusal, Resolve
from uxfrm.model.address import AF_INET, AF_INET6, AF_UNSPEC
from uxfrm.model.error import XfrmError

_USAGE = "Usage: ip xfrm XFRM-OBJECT { COMMAND | help }\nwhere  XFRM-OBJECT := state | policy | monitor"
_OBJECTS: dict[str, dict[str, Callable[[Cursor, int], Command]]] = {
    "state": {**grammar_state.COMMANDS},
    "policy": {**grammar_policy.COMMANDS},
}
_ALGORITHM_WORDS = frozenset({"enc", "auth", "auth-trunc", "aead"})


def no_device(name: str) -> int | None:
    """The default resolver: no interface is known. Refusal, as `ip` words it elsewhere."""
    raise Refusal(f'Cannot find device "{name}"')


def parse_batch(lines: Iterable[str], resolve: Resolve = no_device) -> Iterator[Statement | ParseError]:
    """Read every line; a ParseError stands where a line is wrong, and reading goes on behind it.

    `resolve` gives the index of an interface name, None for none.
    """
    for line in words.logical_lines(lines):
        yield parse_line(line.text, line.number, resolve)


def parse_line(text: str, number: int = 1, resolve: Resolve = no_device) -> Statement | ParseError:
    """Read one line."""
    try:
        return _statement(words.split(text), number, resolve)
    except Refusal as refusal:
        return ParseError(number, str(refusal))
    except XfrmError as error:
        return ParseError(number, str(error), error)


def parse_words(given: list[str], resolve: Resolve = no_device) -> Command:
    """Read one command from its words (without quotes). Raises Refusal, XfrmError."""
    return _statement(given, 1, resolve).command


@dataclass
class _Options:
    """What stands between `ip` and `xfrm`."""

    family: int = AF_UNSPEC
    statistics: int = 0


def _statement(given: list[str], number: int, resolve: Resolve) -> Statement:
    options = _Options()
    cursor = Cursor(list(given), resolve)
    _skip_to_xfrm(cursor, options)
    cursor.family = options.family
    commands, name = _object(cursor)
    start = cursor.at
    command = _command(commands, name, cursor)(cursor, options.statistics)
    return Statement(number, _text(cursor, start), command)


def _skip_to_xfrm(c: Cursor, options: _Options) -> None:
    """Go past `ip`, its options and `xfrm`."""
    c.accept("ip")
    while c.word is not None and c.word.startswith("-"):
        _option(c, c.take(), options)
    word = c.word
    if word is None or not "xfrm".startswith(word):
        raise Refusal(f'Object "{_shown(word)}" is unknown, try "ip help".')
    c.step()


def _option(c: Cursor, word: str, options: _Options) -> None:
    name = word.removeprefix("-").removeprefix("-")
    if name == "4":
        options.family = AF_INET
    elif name == "6":
        options.family = AF_INET6
    elif name and ("statistics".startswith(name) or "stats".startswith(name)):
        options.statistics += 1
    elif name and "family".startswith(name):
        options.family = {"inet": AF_INET, "inet6": AF_INET6}.get(c.take(), AF_UNSPEC)
    elif not (name and "details".startswith(name)):
        raise Refusal(f'Option "{word}" is unknown, try "ip -help".')


def _shown(word: str | None) -> str:
    """A word out of place is quoted when it can't be a piece of a key."""
    return word if word and word.isalpha() and len(word) < 12 else HIDDEN


def _object(c: Cursor) -> tuple[dict[str, Callable[[Cursor, int], Command]], str]:
    for name, commands in _OBJECTS.items():
        if c.word and name.startswith(c.word):
            c.step()
            return commands, name
    raise Refusal(_USAGE)


def _command(
    commands: dict[str, Callable[[Cursor, int], Command]], name: str, c: Cursor
) -> Callable[[Cursor, int], Command]:
    """The first command that the word is a beginning of; list where there is no word."""
    if c.word is None:
        return commands["list"]
    for known, build in commands.items():
        if known.startswith(c.word):
            c.step()
            return build
    raise Refusal(f'Command "{c.word}" is unknown, try "ip xfrm {name} help".')


def _text(c: Cursor, start: int) -> str:
    """The command's words again, with keys hidden."""
    shown = [HIDDEN if at in c.keys else word for at, word in enumerate(c.words)]
    return " ".join(["xfrm", *shown[start - 2 :]])
