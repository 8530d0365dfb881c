"""A walk over the words of one command, and the refusals that iproute2 answers wrong words with.

Knows the words and where it stands; knows no keyword. `family` is what `ip` calls the preferred family: given by
-4 and -6, then learnt from the first addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from uxfrm.iproute2 import numbers
from uxfrm.iproute2.numbers import Prefix
from uxfrm.iproute2.vocabulary import Words
from uxfrm.model.address import AF_INET, AF_INET6, AF_UNSPEC, Address

Resolve = Callable[[str], int | None]

HIDDEN = "<hidden>"


class Refusal(Exception):
    """A command that `ip` would refuse before asking the kernel, in its words."""


def wrong(word: str, why: str) -> NoReturn:
    """Refuse one argument."""
    raise Refusal(f'Error: argument "{word}" is wrong: {why}')


def duplicate(what: str, word: str) -> NoReturn:
    """Refuse what was given before."""
    raise Refusal(f'Error: duplicate "{what}": "{word}" is the second value.')


def missing(what: str) -> NoReturn:
    """Refuse for a word that is not there."""
    raise Refusal(f'Error: argument "{what}" is required')


class Cursor:
    """The words of a command from the left to the right."""

    def __init__(self, words: list[str], resolve: Resolve, family: int = AF_UNSPEC) -> None:
        self.words = words
        self.at = 0
        self.resolve = resolve
        self.family = family
        self.keys: set[int] = set()  # where key material stands

    @property
    def word(self) -> str | None:
        """The word under the cursor, None at the end."""
        return self.words[self.at] if self.at < len(self.words) else None

    @property
    def last(self) -> str:
        """The word before the cursor."""
        return self.words[self.at - 1]

    def step(self) -> None:
        """Go past the current word."""
        self.at += 1

    def take(self) -> str:
        """The current word, which must be there; go past it."""
        if self.word is None:
            raise Refusal('Command line is not complete. Try option "help"')
        self.at += 1
        return self.words[self.at - 1]

    def take_key(self) -> bytes:
        """Key material, which must be there and is never shown."""
        if self.word is None:
            missing("ALGO-KEYMAT")
        self.keys.add(self.at)
        key = numbers.key(self.take())
        if key is None:
            wrong(HIDDEN, "ALGO-KEYMAT value is invalid")
        return key

    def accept(self, word: str) -> bool:
        """Go past `word` if it is the current one."""
        found = self.word == word
        self.at += found
        return found

    def unknown(self) -> NoReturn:
        """Refuse the current word; what follows a key may be the rest of it and is not shown."""
        after_key = self.keys and self.at - max(self.keys) <= 2
        wrong(HIDDEN if after_key else str(self.word), "unknown")

    def number(self, bits: int, why: str) -> int:
        """A number below 2**bits."""
        word = self.take()
        value = numbers.unsigned(word, bits)
        if value is None:
            wrong(word, why)
        return value

    def of(self, table: Words, why: str) -> int:
        """A word of `table`."""
        word = self.take()
        if word not in table:
            wrong(word, why)
        return table[word]

    def prefix(self) -> Prefix:
        """An address, with or without a length, of the preferred family."""
        word = self.take()
        found = numbers.prefix(word, self.family)
        if found is None:
            raise Refusal(f'Error: {_FAMILY[self.family]} prefix is expected rather than "{word}".')
        return found

    def prefix_after(self, keyword: str) -> Prefix:
        """A prefix whose family must be clear."""
        found = self.prefix()
        if found.family == AF_UNSPEC:
            wrong(self.last, f'value after "{keyword}" has an unrecognized address family')
        return found

    def address(self) -> Address:
        """An address of any family; zeros for `any`."""
        word = self.take()
        found = numbers.address(word)
        if found is None:
            raise Refusal(f'Error: any valid address is expected rather than "{word}".')
        return found

    def same_family(self, src: Prefix | None, dst: Prefix | None) -> int:
        """The family of two prefixes, the preferred one where neither is given."""
        if src and dst and src.family != dst.family:
            wrong(self.last, 'the same address family is required between values after "src" and "dst"')
        given = src or dst
        return given.family if given else self.family


_FAMILY = {AF_UNSPEC: "any valid", AF_INET: "inet", AF_INET6: "inet6"}
