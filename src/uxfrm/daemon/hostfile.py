"""One file for a whole host: attachments, policies, states, sysctls, for those without an IKE daemon.

    attach = ["tun=uxfrm0", "raw"]
    policies = ["src 10.1.0.0/24 dst 10.2.0.0/24 dir out tmpl proto esp mode tunnel src ... dst ..."]
    states = ["src ... dst ... proto esp spi 0x1001 mode tunnel aead rfc4106(gcm(aes)) 0x... 128"]
    [sysctls]
    "net.core.xfrm_acq_expires" = 30

Policies and states are in the words of `ip xfrm policy add` and `ip xfrm state add`, each one string, which
may have several lines.

Rule 1: all of it is read and understood before anything is done.
Rule 2: it holds keys: it is its owner's alone. No message quotes one.
"""

from __future__ import annotations

import os
import socket
import stat
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uxfrm.daemon import attached
from uxfrm.iproute2.commands import answer, parse_words
from uxfrm.iproute2.execute import execute
from uxfrm.iproute2.requests import Command
from uxfrm.iproute2.words import ParseError, split
from uxfrm.model.error import XfrmError
from uxfrm.namespace import Namespace

_KEYS = ("attach", "policies", "states", "sysctls")
_OPEN_TO_OTHERS = 0o077


class HostFileError(Exception):
    """A file that is not as it should be; the text says where and why, without keys."""


@dataclass(frozen=True)
class HostFile:
    """What a file says; `name` for messages."""

    name: str
    attach: attached.Wanted
    policies: tuple[Command, ...]
    states: tuple[Command, ...]
    sysctls: dict[str, int]

    def apply(self, namespace: Namespace) -> None:
        """Set sysctls, add policies, then states. HostFileError for what is refused."""
        for name, value in self.sysctls.items():
            self._try(f"sysctls: {name}", lambda n=name, v=value: namespace.set_sysctl(n, v))
        for kind in ("policies", "states"):
            for number, command in enumerate(getattr(self, kind), 1):
                self._try(f"{kind}[{number}]", lambda c=command: execute(c, namespace))

    def _try(self, where: str, do: Any) -> None:
        try:
            do()
        except XfrmError as error:
            raise HostFileError(f"{self.name}: {where}: {answer(error).removeprefix('Error: ')}") from None


def read(path: Path) -> HostFile:
    """Read a file. Raises HostFileError, OSError."""
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        if info.st_uid not in (0, os.geteuid()) or info.st_mode & _OPEN_TO_OTHERS:
            mode = stat.S_IMODE(info.st_mode)
            raise HostFileError(f"{path}: mode {mode:04o}: it holds keys and must be yours alone (chmod 600)")
        text = file.read()
    try:
        said = tomllib.loads(text.decode())
    except UnicodeDecodeError:
        raise HostFileError(f"{path}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise HostFileError(f"{path}: not TOML: {_place(error)}") from None
    return _understood(str(path), said)


def _place(error: tomllib.TOMLDecodeError) -> str:
    """Where it went wrong; what stands there may be a key."""
    _, found, place = str(error).rpartition("(at ")
    return f"at {place.rstrip(')')}" if found else "somewhere"


def _understood(name: str, said: dict[str, Any]) -> HostFile:
    unknown = said.keys() - {*_KEYS}
    if unknown:
        raise HostFileError(f"{name}: {min(unknown)}: unknown; there are {', '.join(_KEYS)}")
    try:
        wanted = attached.parse(_strings(name, said, "attach"))
    except ValueError as error:
        raise HostFileError(f"{name}: attach: {error}") from None
    sysctls = said.get("sysctls", {})
    if not isinstance(sysctls, dict) or not all(type(value) is int for value in sysctls.values()):
        raise HostFileError(f"{name}: sysctls: a table of names and whole numbers")
    policies, states = (_commands(name, said, key) for key in ("policies", "states"))
    return HostFile(name, wanted, policies, states, sysctls)


def _strings(name: str, said: dict[str, Any], key: str) -> Sequence[str]:
    found = said.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise HostFileError(f"{name}: {key}: a list of strings")
    return found


def _commands(name: str, said: dict[str, Any], key: str) -> tuple[Command, ...]:
    kind = {"policies": "policy", "states": "state"}[key]
    return tuple(
        _command(f"{name}: {key}[{number}]", ["xfrm", kind, "add", *split(" ".join(text.split()))])
        for number, text in enumerate(_strings(name, said, key), 1)
    )


def _command(where: str, words: Iterable[str]) -> Command:
    try:
        return parse_words(list(words), _index)
    except ParseError as error:
        raise HostFileError(f"{where}: {error.text.removeprefix('Error: ')}") from None
    except XfrmError as error:
        raise HostFileError(f"{where}: {answer(error).removeprefix('Error: ')}") from None


def _index(name: str) -> int | None:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None
