"""`uxfrm daemon`: one set of tables for all programs under `uxfrm run`."""

from __future__ import annotations

import asyncio
import grp
import sys
from pathlib import Path

import click

from uxfrm.attach.attachment import AttachmentError
from uxfrm.cli.run import SOCKET
from uxfrm.daemon import attached, logs
from uxfrm.daemon.access import Access, Need
from uxfrm.daemon.serve import Options
from uxfrm.daemon.serve import daemon as serve


def _group(_: click.Context, __: click.Parameter, name: str | None) -> int:
    """The number of a group's name; -1 for none."""
    if name is None:
        return -1
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise click.BadParameter(f"there is no group {name}") from None


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
@click.option("--group", callback=_group, metavar="NAME", help="Let this group's users connect (0660).")
@click.option("--anybody", is_flag=True, help="Let all users connect (0666).")
@click.option(
    "--need-capability",
    "need",
    type=click.Choice([need.value for need in Need]),
    default=Need.OTHERS.value,
    show_default=True,
    help="Whose programs need CAP_NET_ADMIN for what the kernel wants it for; others are all users but the "
    "daemon's own and root.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Keep policies, defaults and thresholds there, and restore them at start. States are never kept.",
)
@click.option(
    "--attach",
    "words",
    multiple=True,
    metavar="WHAT",
    help="Where packets come from and go to: " + ", ".join(attached.FORMS) + ". Again for each.",
)
@click.option("--log-format", type=click.Choice(logs.FORMATS), default="text", show_default=True)
@click.option("--log-level", type=click.Choice(logs.LEVELS), default="info", show_default=True)
def daemon(
    path: Path,
    group: int,
    anybody: bool,
    need: str,
    state_dir: Path | None,
    words: tuple[str, ...],
    log_format: str,
    log_level: str,
) -> None:
    """Keep XFRM tables in memory and serve them to `uxfrm run`, until SIGTERM or SIGINT.

    The socket is the owner's alone (0600) unless --group or --anybody says otherwise. Nothing is written to
    disk without --state-dir, and nothing secret with it. Logs go to standard error, without keys.
    """
    logs.configure(log_format, log_level)
    mode = 0o666 if anybody else 0o660 if group >= 0 else 0o600
    access = Access(others=anybody or group >= 0, need=Need(need))
    try:
        wanted = attached.parse(words) if words else None
        well = asyncio.run(serve(Options(path, mode, group, access, state_dir, wanted)))
    except (ValueError, AttachmentError) as error:
        click.echo(f"uxfrm: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        click.echo(f"uxfrm: {error.filename or path}: {error.strerror}", err=True)
        sys.exit(1)
    sys.exit(0 if well else 1)
