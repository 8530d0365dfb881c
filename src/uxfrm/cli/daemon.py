"""`uxfrm daemon`: one set of tables for all programs under `uxfrm run`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from uxfrm.cli.run import SOCKET
from uxfrm.daemon.serve import daemon as serve


@click.command()
@click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=SOCKET,
    show_default=True,
    metavar="PATH",
    help="Where supervisors connect.",
)
@click.option(
    "--anybody",
    is_flag=True,
    help="Let other users' programs connect; what the kernel wants CAP_NET_ADMIN for, they need it for.",
)
def daemon(path: Path, anybody: bool) -> None:
    """Keep XFRM tables in memory and serve them to `uxfrm run`, until SIGTERM or SIGINT.

    The socket is the owner's alone (0600; 0666 with --anybody). Nothing is written to disk.
    """
    try:
        asyncio.run(serve(path, 0o666 if anybody else 0o600, anybody))
    except OSError as error:
        click.echo(f"uxfrm: {path}: {error.strerror}", err=True)
        sys.exit(1)
