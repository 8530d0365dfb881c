"""`uxfrm up` and `uxfrm down`: a whole host's IPsec from one file, without an IKE daemon."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click

from uxfrm.attach.attachment import AttachmentError
from uxfrm.cli.run import SOCKET
from uxfrm.daemon import hostfile, logs
from uxfrm.daemon.access import Visitor
from uxfrm.daemon.detour import open_all
from uxfrm.daemon.numbers import Numbers, NumbersError
from uxfrm.daemon.serve import Options
from uxfrm.daemon.serve import daemon as serve
from uxfrm.namespace import Namespace

_END_S = 20.0

_socket = click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=SOCKET,
    show_default=True,
    metavar="PATH",
    help="Where the daemon is reached (uxfrm state, policy, stat, monitor).",
)


def _fail(text: str) -> None:
    click.echo(f"uxfrm: {text}", err=True)
    sys.exit(1)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_socket
@click.option("--foreground", is_flag=True, help="Be the daemon, and write logs to standard error.")
@click.option("--check", is_flag=True, help="Read FILE, say what is wrong with it, and do nothing.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default="/var/lib/uxfrm",
    show_default=True,
    metavar="DIR",
    help="Where it is noted how far sequence numbers were used, so that none is used twice with one key.",
)
def up(file: Path, path: Path, foreground: bool, check: bool, state_dir: Path) -> None:
    """Bring up what FILE says: attachments, policies, states.

    It returns when packets flow. From then on what policies protect is never sent in clear, whether the
    daemon is stopped or dies, until `uxfrm down`. FILE holds keys: its mode must be 0600.
    """
    try:
        said = hostfile.read(file)
        if check:
            return
        if not foreground:
            sys.exit(_in_background(file, path, state_dir))

        def set_up(namespace: Namespace) -> Numbers:
            said.apply(namespace)
            return Numbers(state_dir, namespace)

        logs.configure("text", "info")
        well = asyncio.run(serve(Options(path, attach=said.attach, setup=set_up)))
    except (hostfile.HostFileError, AttachmentError, NumbersError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or path}: {error.strerror}")
    else:
        sys.exit(0 if well else 1)


def _in_background(file: Path, path: Path, state_dir: Path) -> int:
    """Start the daemon in a session of its own; 0 when it is ready, its exit status if it ended before."""
    log = path.with_name(path.name + ".log")
    command = [sys.executable, "-m", "uxfrm.cli.main", "up", "--foreground", "--socket", str(path)]
    command += ["--state-dir", str(state_dir), str(file)]
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(descriptor, "wb") as said:
        ready.bind("")  # the kernel gives it an abstract name
        name = "@" + ready.getsockname()[1:].decode()
        process = subprocess.Popen(
            command,
            env=os.environ | {"NOTIFY_SOCKET": name},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        ended = os.pidfd_open(process.pid)
        readable, _, _ = select.select([ready.fileno(), ended], [], [])
        os.close(ended)
        if ready.fileno() in readable:
            return 0
    click.echo(log.read_text(), err=True, nl=False)
    return process.wait() or 1


@click.command()
@_socket
@click.option("--closed", is_flag=True, help="Leave what policies protected closed, as a crash would.")
def down(path: Path, closed: bool) -> None:
    """End the daemon that `uxfrm up` or `uxfrm daemon --attach` started, and let traffic go as without it.

    It also takes away what a daemon that crashed has left closed.
    """
    try:
        stopped = _stop(path)
        if not closed:
            open_all()
    except AttachmentError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or path}: {error.strerror}")
    else:
        click.echo("stopped" if stopped else "there was no daemon", err=True)


def _stop(path: Path) -> bool:
    """End the daemon behind a socket, and wait for its end; False where there is none. Raises OSError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(path))
            daemon = os.pidfd_open(Visitor.of(connection).pid)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    signal.pidfd_send_signal(daemon, signal.SIGTERM)
    if not select.select([daemon], [], [], _END_S)[0]:
        signal.pidfd_send_signal(daemon, signal.SIGKILL)
        select.select([daemon], [], [])
    os.close(daemon)
    return True
