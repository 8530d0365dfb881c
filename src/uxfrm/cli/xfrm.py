"""What `uxfrm state`, `policy`, `monitor` and `stat` share: which tables, and how refusals are told.

Exit codes are those of `ip`: 2 for what is refused, 255 (some 1) for what is not understood; 1 where there
is no daemon.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click

from uxfrm.cli.run import SOCKET
from uxfrm.iproute2.commands import refusal
from uxfrm.iproute2.words import ParseError
from uxfrm.model.error import XfrmError
from uxfrm.netlink import Client

EXIT_NOWHERE, EXIT_GRAMMAR = 1, 255

# What `ip` calls a failure, not a usage error.
_FAILURES = ("Not enough information", "Error: any valid", "Error: inet ", "Error: inet6 ")

Options = Callable[[Callable[..., Any]], Callable[..., Any]]


def tables_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--socket and --kernel."""
    where = click.option(
        "--socket",
        "path",
        type=click.Path(path_type=Path),
        default=SOCKET,
        show_default=True,
        metavar="PATH",
        help="The socket of `uxfrm daemon` whose tables are meant.",
    )
    kernel = click.option("--kernel", is_flag=True, help="The tables of this machine's own kernel instead.")
    return kernel(where(command))


@contextmanager
def refusals(path: Path, kernel: bool) -> Iterator[None]:
    """A `with` block in which what is refused or not understood ends the program."""
    try:
        yield
    except XfrmError as error:
        fail(*refusal(None, error))
    except ParseError as error:
        fail(error.text, 1 if error.text.startswith(_FAILURES) else EXIT_GRAMMAR)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_NOWHERE)
    except OSError as error:
        where = "the kernel's NETLINK_XFRM" if kernel else f"{path}: start `uxfrm daemon`, or say --kernel"
        fail(f"uxfrm: {error.strerror}: {where}", EXIT_NOWHERE)


def connect(path: Path, kernel: bool) -> Client:
    """The tables that are meant. Raises OSError."""
    # imported here, for only one of them is needed
    if kernel:
        from uxfrm.attach import kernel_xfrm

        return kernel_xfrm.connect()
    from uxfrm.daemon import client

    return client.connect(path)


def fail(text: str, status: int) -> NoReturn:
    """Say why, and end."""
    click.echo(text, err=True)
    sys.exit(status)


def interface(name: str) -> int | None:
    """The index of this machine's interface."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


def interface_name(index: int) -> str:
    """What `ip` calls an interface."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"if{index}"
