"""What two IKE daemons are told of each other, whichever they are, and where they run."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Protocol

SECRET = "not a secret, a test"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
OWN_RUN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run; exec "$@"', "sh")
"""What starts a program with a /run of its own."""


@dataclass(frozen=True)
class Connection:
    """One end's view: addresses, names by which the ends authenticate, networks behind them."""

    me: str
    peer: str
    name: str
    other: str
    net: str
    other_net: str


class Start(Protocol):
    """Starts a command on an end's host, with nothing but this in its environment and a PATH."""

    def __call__(self, *command: str, **environment: str) -> subprocess.Popen[bytes]: ...
