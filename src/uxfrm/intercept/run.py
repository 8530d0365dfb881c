"""Run a command whose NETLINK_XFRM is served by an engine.

    status = run(["ip", "xfrm", "state"], engine)

The command is not changed and knows nothing. Its children are served as it is. Exit statuses, as env(1) has
them: the command's own, 128 + N if signal N ended it, 125 if interception is not possible here (or already
at work: it does not nest), 126 if the command can't be executed, 127 if it is not found.

When the command ends, `run` returns. Processes it left behind would be served no more: every call that is
intercepted then fails with ENOSYS (nothing ever goes to the kernel instead). `linger` serves them to the end.

In strict mode sockets lie at files 900 to 1023; what a program duplicates to a lower number is served as
without. Not served: programs for another instruction set (i386 on x86-64), processes whose memory the kernel
does not let this one read (they changed their user; Yama's ptrace_scope and a daemon that left its parent),
io_uring.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from uxfrm.intercept.engine import Engine
from uxfrm.intercept.notify import Listener
from uxfrm.intercept.signals import Signals
from uxfrm.intercept.start import StartError, start
from uxfrm.intercept.strictness import wants_strict
from uxfrm.intercept.supervisor import Supervisor


def run(
    command: Sequence[str],
    engine: Engine,
    strict: bool | None = None,
    *,
    linger: bool = False,
    signals: Signals | None = None,
) -> int:
    """Run the command and return its exit status. To be called in the main thread.

    `strict`: recvfrom and recvmsg are served too, so that the sender's family is AF_NETLINK and replies come
    at once; slower. None chooses by the command: on for Go and Python programs.
    `signals`: a `Signals` that the caller has entered, best before it started any thread.
    """
    if strict is None:
        strict = wants_strict(command[0])
    try:
        if signals is not None:
            return _serve(command, engine, strict, linger, signals)
        with Signals() as own:
            return _serve(command, engine, strict, linger, own)
    except StartError as error:
        print(f"uxfrm: {error}", file=sys.stderr, flush=True)
        return error.status


def _serve(command: Sequence[str], engine: Engine, strict: bool, linger: bool, signals: Signals) -> int:
    child, listener, machine = start(command, strict, signals)
    supervisor = Supervisor(Listener(listener), engine, machine, strict)
    try:
        return supervisor.serve(child, signals, linger)
    finally:
        supervisor.close()
