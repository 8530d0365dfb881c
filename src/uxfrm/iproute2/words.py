"""Lines into words, as `ip -batch` cuts them.

A # starts a comment wherever it stands, also inside quotes; a line that ends with a backslash goes on in the
next; a word that begins with a quote ends at the next such quote, and only there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from uxfrm.iproute2.cursor import Refusal


class Line(NamedTuple):
    """A logical line: the number of its first physical line, and its text without comments."""

    number: int
    text: str


def logical_lines(lines: Iterable[str]) -> Iterator[Line]:
    """Join continued lines and strip comments; lines without words are left out."""
    start, text = 0, ""
    for number, raw in enumerate(lines, 1):
        piece = raw.rstrip("\r\n").split("#", 1)[0]
        start = start or number
        if piece.endswith("\\"):
            text += piece[:-1]
            continue
        if (text + piece).strip():
            yield Line(start, text + piece)
        start, text = 0, ""
    if text.strip():
        yield Line(start, text)


def split(text: str) -> list[str]:
    """The words of a line. Refusal for a quote without its pair."""
    words = []
    rest = text.lstrip()
    while rest:
        if rest[0] in "\"'":
            word, closed, rest = rest[1:].partition(rest[0])
            if not closed:
                raise Refusal("Unterminated quoted string")
        else:
            word, *tail = rest.split(None, 1)
            rest = tail[0] if tail else ""
        words.append(word)
        rest = rest.lstrip()
    return words
