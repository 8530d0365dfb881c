"""Lines of `ip -batch` cut into words, and a cursor over the words of one command.

This module knows quotes, comments and continuation lines; it knows no keyword.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from uxfrm.model.address import AF_UNSPEC

_BLANK = " \t\r\n"
_MAX_WORDS = 499
_NUMBER = re.compile(r"\s*([+-]?)([0-9A-Za-z]+)", re.ASCII)
_LONG = 1 << 64


class ParseError(Exception):
    """A line that is not understood: its number (0: not known yet) and what `ip` would say of it.

    `text` never holds key material.
    """

    def __init__(self, line: int, text: str) -> None:
        super().__init__(line, text)
        self.line = line
        self.text = text

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


HIDDEN = "..."
# More digits than a number of 32 bits has, or without 0x than any number that is not decimal.
_LIKE_A_KEY = re.compile(r"0[xX].{9,}|(?=.*[a-fA-F])[0-9a-fA-F]{16,}")


def shown(word: str) -> str:
    """`word` as messages may show it: long hexadecimal may be a key in a wrong place."""
    return HIDDEN if _LIKE_A_KEY.fullmatch(word) else word


def wrong(value: str, why: str) -> ParseError:
    """`ip`'s answer to a value that it does not take."""
    return ParseError(0, f'Error: argument "{shown(value)}" is wrong: {why}')


def twice(keyword: str, value: str) -> ParseError:
    """`ip`'s answer to a keyword given twice."""
    return ParseError(0, f'Error: duplicate "{keyword}": "{shown(value)}" is the second value.')


class Line(NamedTuple):
    """The words of one command and the number of the line on which it starts."""

    number: int
    words: list[str]


def logical_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Join lines that end in a backslash; a `#` not inside quotes ends a line, as in `ip`'s reader."""
    start, text = 0, ""
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        start = start or number
        if line.endswith("\\") and _without_comment(line) == line:
            text += line[:-1]
            continue
        yield start, text + line
        start, text = 0, ""
    if start:
        yield start, f"{text}\\"


def split(text: str) -> list[str]:
    """The words of a line: blanks divide, quotes of either kind group at a word's start, `#` ends."""
    if text.endswith("\\") and _without_comment(text) == text:
        raise ParseError(0, "Missing continuation line")
    words: list[str] = []
    rest = _without_comment(text).strip(_BLANK)
    while rest:
        if rest[0] in "'\"":
            word, closed, rest = rest[1:].partition(rest[0])
            if not closed:
                raise ParseError(0, "Unterminated quoted string")
        else:
            word = _first_word(rest)
            rest = rest[len(word) :]
        words.append(word)
        rest = rest.lstrip(_BLANK)
    if len(words) > _MAX_WORDS:
        raise ParseError(0, "Too many arguments to command")
    return words


def _first_word(text: str) -> str:
    return text.split(None, 1)[0]


def _without_comment(text: str) -> str:
    return text.partition("#")[0]


class Cursor:
    """The words of one command, taken from the left, and the family that -4 or -6 asks for."""

    def __init__(self, words: list[str], family: int = AF_UNSPEC) -> None:
        self._words = words
        self.at = 0
        self.family = family

    def __bool__(self) -> bool:
        return self.at < len(self._words)

    @property
    def here(self) -> str:
        """The word that comes next; "" at the end."""
        return self._words[self.at] if self else ""

    def take(self) -> str:
        """The next word, which must be there."""
        if not self:
            raise ParseError(0, 'Command line is not complete. Try option "help"')
        self.at += 1
        return self._words[self.at - 1]

    def back(self) -> None:
        """Put the word last taken back."""
        self.at -= 1

    @property
    def behind(self) -> str:
        """The word last taken."""
        return self._words[self.at - 1]

    def peek(self) -> str:
        """The next word, which must be there and is left there."""
        word = self.take()
        self.back()
        return word

    def follows(self, *keywords: str) -> bool:
        """True, and one word further, when the next word is one of `keywords`."""
        if self and self.here in keywords:
            self.at += 1
            return True
        return False

    def number(self, bits: int, why: str, base: int = 0) -> int:
        """Take an unsigned number as C's strtoul reads it; ParseError with `why` for anything else."""
        word = self.take()
        value = unsigned(word, bits, base)
        if value is None:
            raise wrong(word, why)
        return value

    def chosen(self, table: Callable[[str], int | None], why: str) -> int:
        """Take a word that `table` knows; ParseError with `why` for others."""
        word = self.take()
        value = table(word)
        if value is None:
            raise wrong(word, why)
        return value


def unsigned(word: str, bits: int, base: int = 0) -> int | None:
    """The number that strtoul reads from all of `word`, None where it reads none or more than `bits`."""
    found = _NUMBER.fullmatch(word)
    if found is None:
        return None
    sign, digits = found.groups()
    if base in (0, 16) and digits[:2] in ("0x", "0X"):
        digits, base = digits[2:], 16
    try:
        value = int(digits, base or (8 if digits.startswith("0") else 10))
    except ValueError:
        return None
    if sign == "-" and value < _LONG:
        value = -value % _LONG
    return value if value < 1 << bits else None
