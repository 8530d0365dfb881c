"""`uxfrm run`: start a program whose NETLINK_XFRM is served by uxfrm, not by the kernel."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from uxfrm.intercept.remote import RemoteEngine
from uxfrm.intercept.run import run as supervise
from uxfrm.intercept.signals import Signals

SOCKET = Path("/run/uxfrm.sock")
EXIT_ENGINE = 125


@contextmanager
def _private() -> Iterator[RemoteEngine]:
    """An engine of our own, in a process that ends when we do."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ready, started = os.pipe()
    command = [sys.executable, "-m", "uxfrm.daemon.serve", str(theirs.fileno()), str(started)]
    with subprocess.Popen(
        command,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # as in main: no threads that keep rights
        pass_fds=(theirs.fileno(), started),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        theirs.close()
        os.close(started)
        os.read(ready, 1)
        os.close(ready)
        engine = RemoteEngine(ours)
        try:
            yield engine
        finally:
            engine.close()
            process.wait()


@contextmanager
def _shared(path: Path) -> Iterator[RemoteEngine]:
    engine = RemoteEngine.connect(str(path))
    try:
        yield engine
    finally:
        engine.close()


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--private", is_flag=True, help="Give the command tables of its own, which end with it.")
@click.option(
    "--daemon",
    type=click.Path(path_type=Path),
    default=SOCKET,
    show_default=True,
    metavar="PATH",
    help="The socket of `uxfrm daemon` whose tables the command shares.",
)
@click.option(
    "--strict/--plain",
    default=None,
    help="Also serve recvfrom and recvmsg: for programs that check the sender's address family or want "
    "replies at once. Default: on for Go and Python programs.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(private: bool, daemon: Path, strict: bool | None, command: tuple[str, ...]) -> None:
    """Start COMMAND with IPsec in user space: whatever it asks of the kernel's XFRM, uxfrm answers.

    Any program, unmodified, and its children: `ip xfrm`, IKE daemons, static binaries. No rights are needed.
    Nothing of it reaches the kernel's own IPsec.

    \b
      uxfrm run --private -- sh -c 'ip xfrm policy add dir out action block; ip xfrm policy'
      uxfrm daemon & uxfrm run -- charon

    Exit status: the command's; 128 + N if signal N ended it; 125 if it can't be intercepted here (nested use,
    no seccomp) or there is no daemon; 126 if it can't be executed; 127 if it is not found.
    """
    with Signals() as signals:
        try:
            with _private() if private else _shared(daemon) as engine:
                status = supervise(command, engine, strict, signals=signals)
        except OSError as error:
            click.echo(
                f"uxfrm: no engine: {error.strerror} ({daemon}); start `uxfrm daemon`, or use --private",
                err=True,
            )
            status = EXIT_ENGINE
    sys.exit(status)
