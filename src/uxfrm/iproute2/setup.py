"""Setups of either form: lines for `ip -batch`, or what `ip xfrm` printed on a host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from uxfrm.iproute2.commands import parse_batch
from uxfrm.iproute2.grammar import Resolve
from uxfrm.iproute2.paste import is_head, is_prompt, parse_dump
from uxfrm.iproute2.requests import Statement


def parse_setup(lines: Iterable[str], resolve: Resolve | None = None) -> Iterator[Statement]:
    """Read a setup of either form; the first line that means something tells which."""
    rest = iter(lines)
    before: list[str] = []
    for line in rest:
        before.append(line)
        if _tells(line):
            break
    pasted = bool(before) and _is_pasted(before[-1])
    return (parse_dump if pasted else parse_batch)(chain(before, rest), resolve)


def _tells(line: str) -> bool:
    text = line.strip()
    return bool(text) and not text.startswith("#")


def _is_pasted(line: str) -> bool:
    """True for an entry's head, and for a prompt that is no command of a batch."""
    command = line.split()[:1] == ["ip"] and not {"list", "show", "ls"}.intersection(line.split())
    changes = {"add", "update", "set", "setdefault", "delete", "flush", "allocspi"}.intersection(line.split())
    return is_head(line) or (is_prompt(line) and not (command and changes))
