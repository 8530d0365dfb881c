"""ALGO of `ip xfrm state`: its words, and which of them go with which protocol."""

from __future__ import annotations

from typing import NamedTuple

from uxfrm.iproute2 import names
from uxfrm.iproute2.grammar import MIP6
from uxfrm.iproute2.words import HIDDEN, Cursor, ParseError, twice, unsigned, wrong
from uxfrm.model import algorithm as algo
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_ESP
from uxfrm.model.template import Mode


class Wanted(NamedTuple):
    """An algorithm as it was said; `word` is its ALGO-TYPE."""

    word: str
    name: str
    key: bytes
    bits: int

    def __repr__(self) -> str:
        return f"<Wanted {self.word} {self.name}>"

    def made(self) -> Algorithm:
        """The algorithm of the model; XfrmError ENOSYS, EINVAL."""
        if self.word == "aead":
            return algo.aead(self.name, self.key, self.bits)
        if self.word == "auth-trunc":
            return algo.auth_trunc(self.name, self.key, self.bits)
        return {"auth": algo.auth, "enc": algo.crypt, "comp": algo.comp}[self.word](self.name, self.key)


# -- algorithms: ALGO-TYPE ALGO-NAME [ ALGO-KEYMAT [ ALGO-ICV-LEN ] ]

KINDS = {"enc": "enc", "auth": "auth", "auth-trunc": "auth", "aead": "aead", "comp": "comp"}
_LENGTHS = {"aead": "ALGO-ICV-LEN", "auth-trunc": "ALGO-TRUNC-LEN"}


def take_algorithm(cursor: Cursor, found: dict[str, Wanted]) -> None:
    """Take what follows the ALGO-TYPE that was just taken, into `found` by its kind."""
    word = cursor.behind
    kind = KINDS[word]
    if kind in found or ({kind} | found.keys()) >= {"enc", "aead"}:
        raise twice("ALGO-TYPE", word)
    name, key, bits = _required(cursor, "ALGO-NAME"), b"", 0
    if word != "comp":
        key = _key(_required(cursor, "ALGO-KEYMAT"))
    if word in _LENGTHS:
        length = _required(cursor, _LENGTHS[word])
        value = unsigned(length, 32)
        if value is None:
            raise wrong(length if len(length) < 5 else HIDDEN, f"{_LENGTHS[word]} value is invalid")
        bits = value
    found[kind] = Wanted(word, name, key, bits)


def _required(cursor: Cursor, what: str) -> str:
    if not cursor:
        raise ParseError(0, f'Error: argument "{what}" is required')
    return cursor.take()


def _key(word: str) -> bytes:
    """Hexadecimal after 0x, else the word's own bytes. What is wrong with it is not told: it is a key."""
    if word[:2] not in ("0x", "0X"):
        return word.encode(errors="surrogateescape")
    digits = word[2:]
    try:
        return bytes.fromhex("0" * (len(digits) % 2) + digits)
    except ValueError:
        raise wrong(HIDDEN, "ALGO-KEYMAT value is invalid") from None


_TUNNELS = (Mode.TRANSPORT, Mode.TUNNEL)
_MODES = {PROTO_ESP: (*_TUNNELS, Mode.BEET, Mode.IPTFS), PROTO_AH: _TUNNELS, PROTO_COMP: _TUNNELS}
_MIP6_MODES = (Mode.ROUTEOPTIMIZATION, Mode.IN_TRIGGER)
# Per protocol: the kinds refused and of what `ip` then speaks, the kinds of which one must be there.
_ALGORITHMS = {
    PROTO_ESP: ({"comp"}, 'value "comp" is', {"enc", "aead"}, '"enc" or "aead"'),
    PROTO_AH: (
        {"enc", "aead", "comp"},
        'values "enc", "aead", and "comp" are',
        {"auth"},
        '"auth" or "auth-trunc"',
    ),
    PROTO_COMP: (
        {"enc", "auth", "aead"},
        'values "enc", "auth", "auth-trunc", and "aead" are',
        {"comp"},
        '"comp"',
    ),
}


def check_protocol(proto: int, mode: int | None, kinds: set[str], coa: bool) -> None:
    """Refuse what `ip` refuses before it asks the kernel."""
    of_proto = f'with XFRM-PROTO value "{names.name(names.XFRM_PROTO, proto)}"'
    if proto in MIP6:
        _check_mip6(mode, kinds, coa, of_proto)
        return
    if proto not in _ALGORITHMS:
        if kinds:
            raise ParseError(0, f"ALGO is invalid {of_proto}")
        if coa:
            raise ParseError(0, f'"coa" is invalid {of_proto}')
        return
    if mode is not None and mode not in _MODES[proto]:
        raise ParseError(0, f"MODE value is invalid {of_proto}")
    refused, subject, needed, choice = _ALGORITHMS[proto]
    if kinds & refused:
        raise ParseError(0, f"ALGO-TYPE {subject} invalid {of_proto}")
    if not kinds & needed:
        raise ParseError(0, f"ALGO-TYPE value {choice} is required {of_proto}")
    if coa:
        raise ParseError(0, f'"coa" is invalid {of_proto}')


def _check_mip6(mode: int | None, kinds: set[str], coa: bool, of_proto: str) -> None:
    if kinds:
        raise ParseError(0, f"ALGO is invalid {of_proto}")
    if not mode:
        raise ParseError(0, f'"mode" is required {of_proto}')
    if mode not in _MIP6_MODES:
        raise ParseError(0, f"MODE value is invalid {of_proto}")
    if not coa:
        raise ParseError(0, f'"coa" is required {of_proto}')
