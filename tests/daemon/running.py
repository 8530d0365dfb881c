"""A daemon as a process, and clients of it that say what no supervisor would."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Self

from netlink.compare import request
from uxfrm.intercept.engine import Peer
from uxfrm.intercept.remote import RemoteEngine

UXFRM = [sys.executable, "-m", "uxfrm.cli.main"]
ENDS = "src 10.0.0.1 dst 10.0.0.2"


_ids = count(1 << 20)


class Daemon:
    """`uxfrm daemon` with options; `log` is what it wrote, once it has stopped."""

    def __init__(self, directory: Path, *options: str, prefix: tuple[str, ...] = ()) -> None:
        self.path = directory / "uxfrm.sock"
        self._log = directory / "log"
        self.log = ""
        self._command = [*prefix, *UXFRM, "daemon", "--socket", str(self.path), *options]

    def __enter__(self) -> Self:
        ready = self.path.with_name("notify")
        ready.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified, self._log.open("wb") as log:
            notified.bind(str(ready))
            ready.chmod(0o666)
            notified.settimeout(120)
            environment = os.environ | {"NOTIFY_SOCKET": str(ready)}
            self.process = subprocess.Popen(self._command, stderr=log, env=environment)
            assert notified.recv(100) == b"READY=1", self._log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.code = self.process.wait(30)
        self.log = self._log.read_text()

    def files(self) -> int:
        """How many files it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def ticks(self) -> int:
        """Clock ticks of processor time it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])


class Visitor:
    """A connection, of which each client is a socket; it claims that all have CAP_NET_ADMIN."""

    def __init__(self, path: Path) -> None:
        self.engine = RemoteEngine.connect(str(path))

    def open(self, groups: int = 0, keep: bool = False) -> socket.socket:
        """A client's socket. With `keep`, the server's end too stays open here."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.port = next(_ids)
        if keep:
            self.kept = theirs.dup()
        peer = Peer(os.getpid(), os.getuid(), os.getgid(), 0, net_admin=True)
        try:
            self.engine.open(theirs, self.port, peer)
        except OSError:
            theirs.close()
            ours.close()
            raise
        if groups:
            self.engine.bind(self.port, groups)
        ours.settimeout(60)
        return ours


def errno_of(client: socket.socket, datagram: bytes) -> int:
    """Send a request that wants an acknowledgement; its errno."""
    client.send(datagram)
    return -struct.unpack_from("=i", client.recv(65536), 16)[0]


_NEW_USER = 0x10000000  # CLONE_NEWUSER


def main(path: str, own_namespace: bool) -> None:
    """Say, on standard output, what becomes of a visitor who claims everything and flushes the policies.

    With `own_namespace` it is root of a user namespace of its own; made here and not by unshare(1), which
    would have to execute this interpreter with rights over nobody's files.
    """
    if own_namespace:
        child = os.fork()  # only a process of one thread may leave its user namespace
        if child:
            os.waitpid(child, 0)
            return
        if ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER):
            raise OSError(ctypes.get_errno(), "unshare")
    try:
        visitor = Visitor(Path(path))
        client = visitor.open()
    except OSError as error:
        print(errno.errorcode[error.errno or 0])
        return
    number = errno_of(client, request(0x1D, b""))
    print(errno.errorcode[number] if number else "done")


if __name__ == "__main__":
    main(sys.argv[1], own_namespace=len(sys.argv) > 2)
