"""What stands before `xfrm` in a command: a shell's prompt and sudo in pasted text, `ip` and its options."""

from __future__ import annotations

import re

from uxfrm.iproute2.words import Cursor, ParseError, shown, wrong
from uxfrm.model.address import AF_INET, AF_INET6

_WHERE = r"(?:\(\S+\)\s*)?(?:\[[^\]]*\]|[^\s#]*)(?: [~/]\S*)?\s?"
_BEFORE_IP = re.compile(rf"\s*({_WHERE}[$#%>]\s+)?(?:sudo\s+(?:-\S+\s+)*)?(?=(?:\S*/)?ip\s)")
_ONLY_PROMPT = re.compile(r"\s*(?:\[[^\]]*\]|[^\s#]*[@:~/][^\s#]*)?[$#%>]\s*")


def without_prompt(text: str, hash_is_prompt: bool = False) -> str:
    """The command of a line copied from a terminal; other lines as they are.

    A lone `#` may be root's prompt or begin a comment: `hash_is_prompt` tells.
    """
    found = _BEFORE_IP.match(text)
    if found is None:
        return "" if _ONLY_PROMPT.fullmatch(text) else text
    if (found[1] or "").strip() == "#" and not hash_is_prompt:
        return text
    return text[found.end() :]


_AF_BRIDGE, _AF_PACKET, _AF_MPLS = 7, 17, 28
_FAMILY = {"inet": AF_INET, "inet6": AF_INET6, "link": _AF_PACKET, "mpls": _AF_MPLS, "bridge": _AF_BRIDGE}
_FAMILY_OPTION = {"4": AF_INET, "6": AF_INET6, "0": _AF_PACKET, "M": _AF_MPLS, "B": _AF_BRIDGE}
# In the order in which `ip` tries abbreviations; the first three take a value.
_VALUED = ("loops", "rcvbuf", "batch")
_OPTIONS = (
    *("loops", "family", "human", "iec", "statistics", "details", "resolve", "oneline", "timestamp"),
    *("tshort", "force", "batch", "brief", "json", "pretty", "rcvbuf", "color", "netns", "Numeric", "all"),
)


def take_options(cursor: Cursor) -> None:
    """Take `ip` and its options where they are said; the family is the cursor's from then on."""
    if cursor.here == "ip" or cursor.here.endswith("/ip"):
        cursor.take()
    while cursor.here.startswith("-"):
        word = cursor.take()
        if word == "--":
            return
        _take_option(cursor, word, word.removeprefix("-").removeprefix("-"))


def _take_option(cursor: Cursor, word: str, option: str) -> None:
    if option in _FAMILY_OPTION:
        cursor.family = _FAMILY_OPTION[option]
        return
    name = next((name for name in _OPTIONS if option and name.startswith(option.partition("=")[0])), None)
    if name is None:
        raise ParseError(0, f'Option "{shown(word)}" is unknown, try "ip -help".')
    if name == "family":
        value = cursor.take()
        if value not in _FAMILY:
            raise wrong(value, "invalid protocol family")
        cursor.family = _FAMILY[value]
    elif name == "netns":
        value = shown(cursor.take())
        raise ParseError(0, f'Cannot open network namespace "{value}": No such file or directory')
    elif name in _VALUED:
        cursor.take()
