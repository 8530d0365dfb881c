"""Setups: lines for `ip -batch`, what `ip xfrm` printed on a host, or the former followed by the latter.

Commands may have been copied with a shell's prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from uxfrm.iproute2.commands import parse_batch
from uxfrm.iproute2.paste import is_head, is_prompt, parse_dump
from uxfrm.iproute2.requests import Statement
from uxfrm.iproute2.selectors import Resolve

_CHANGES = {"add", "update", "set", "setdefault", "delete", "deleteall", "flush", "allocspi"}


def parse_setup(lines: Iterable[str], resolve: Resolve | None = None) -> Iterator[Statement]:
    """Read a setup; the first line that is no comment tells of which form it is."""
    rest = iter(lines)
    before: list[str] = []
    for line in rest:
        before.append(line)
        if _tells(line):
            break
    everything = chain(before, rest)
    told = bool(before) and _tells(before[-1])
    if told and _is_pasted(before[-1]):
        yield from parse_dump(everything, resolve)
        return
    batch = _Batch(everything)
    # where every line begins with # and some of them are commands, it is root's prompt
    yield from parse_batch(batch, resolve, hash_is_prompt=not told)
    if batch.head is not None:
        yield from parse_dump(chain([batch.head], everything), resolve, first_line=batch.number)


class _Batch:
    """The lines before the first entry's head, which is kept, with its number."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self.number = 0
        self.head: str | None = None

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            if is_head(line):
                self.head = line
                return
            yield line


def _tells(line: str) -> bool:
    text = line.strip()
    return bool(text) and not text.startswith("#")


def _is_pasted(line: str) -> bool:
    """True for an entry's head, and for a prompt with no command that changes anything."""
    return is_head(line) or (is_prompt(line) and not _CHANGES.intersection(line.split()))
