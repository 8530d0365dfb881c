"""`uxfrm sysctl`: sysctl(8) for the names that XFRM reads, of a daemon's namespace or of the kernel's."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Protocol

import click
import msgspec

from uxfrm.cli.xfrm import EXIT_NOWHERE, refusals, tables_options
from uxfrm.daemon import client
from uxfrm.model.sysctl import SYSCTLS


class _Tree(Protocol):
    """Where sysctls are. `read` leaves out those that are not there; `write` raises OSError."""

    def read(self) -> dict[str, int]: ...

    def write(self, name: str, text: str) -> None: ...


class _Kernel:
    """/proc/sys of the network namespace that this process is in."""

    def read(self) -> dict[str, int]:
        paths = {name: _path(name) for name in SYSCTLS}
        return {name: int(path.read_text()) for name, path in paths.items() if path.exists()}

    def write(self, name: str, text: str) -> None:
        with _path(name).open("w") as file:
            file.write(text)


class _Daemon:
    """A daemon's."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, int]:
        return client.sysctls(self._path)

    def write(self, name: str, text: str) -> None:
        client.set_sysctl(self._path, name, text)


def _path(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))


def _carry_out(tree: _Tree, words: tuple[str, ...]) -> tuple[dict[str, int], bool]:
    """What is asked for, with its value afterwards; False where anything of it was refused."""
    asked: list[str] = []
    good = True
    known = tree.read()
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().replace("/", ".")
        try:
            if name not in known:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            if equals:
                tree.write(name, f"{text.strip()}\n")
            asked.append(name)
        except OSError as error:
            click.echo(f"uxfrm: {name}: {error.strerror}", err=True)
            good = False
    if not words:
        return known, good
    found = tree.read()
    return {name: found[name] for name in asked}, good


@click.command(context_settings={"max_content_width": 110})
@tables_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object: a number for each name.")
@click.argument("words", nargs=-1, metavar="[NAME[=VALUE]]...")
def sysctl(path: Path, kernel: bool, as_json: bool, words: tuple[str, ...]) -> None:
    """Print or set what XFRM reads of /proc/sys/net, of a daemon's tables or with --kernel of this machine's.

    \b
      uxfrm sysctl
      uxfrm sysctl net.core.xfrm_acq_expires
      uxfrm sysctl net.core.xfrm_larval_drop=0

    As with sysctl(8); printed are values as they are afterwards.
    """
    with refusals(path, kernel):
        values, good = _carry_out(_Kernel() if kernel else _Daemon(path), words)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(values), indent=2).decode())
    else:
        click.echo("".join(f"{name} = {value}\n" for name, value in values.items()), nl=False)
    if not good:
        sys.exit(EXIT_NOWHERE)
