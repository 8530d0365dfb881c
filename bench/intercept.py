"""What interception costs: each call natively, served, and served in strict mode.

    python bench/intercept.py [--json FILE] [--quick]

The client is a Python program, the same for all; its own cost is in every figure. Natively the calls go to
this machine's NETLINK_XFRM, in a network namespace of their own. The engine only acknowledges.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import subprocess
import sys
import threading

from common import finish, options
from uxfrm.intercept.engine import Peer
from uxfrm.intercept.run import run
from uxfrm.intercept.signals import Signals

CLIENT = """
import json, os, socket, struct, sys, time
calls = int(sys.argv[1])
def cost(action, times=calls):
    best = 1e9
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(times):
            action()
        best = min(best, (time.perf_counter() - start) / times)
    return best * 1e6
def sockets():
    socket.socket(16, 3, 6).close()
def request():
    s.sendto(message, (0, 0))
    s.recvfrom(4096)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
result = {"socket and close": cost(sockets)}
s = socket.socket(16, 3, 6)
s.bind((0, 0))
port = s.getsockname()[0]
message = struct.pack("=IHHII", 24, 0x1C, 5, 1, 0) + bytes(8)
result |= {
    "bind": cost(lambda: s.bind((port, 0))),
    "getsockname": cost(s.getsockname),
    "setsockopt": cost(lambda: s.setsockopt(270, 11, 1)),
    "request and reply": cost(request),
    "getsockname of a UDP socket": cost(udp.getsockname),
    "setsockopt of a UDP socket": cost(lambda: udp.setsockopt(1, 8, 65536)),
    "getppid": cost(os.getppid, calls * 20),
}
print(json.dumps(result))
"""


class Acknowledging:
    """An engine of one thread that acknowledges every request."""

    def __init__(self) -> None:
        self.servers: dict[int, socket.socket] = {}
        self.lock = threading.Lock()

    def open(self, server: socket.socket, port: int, peer: Peer) -> None:
        """Serve on a thread until the client has closed."""
        with self.lock:
            if port in self.servers:
                raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            self.servers[port] = server
        threading.Thread(target=self.serve, args=(server, port), daemon=True).start()

    def serve(self, server: socket.socket, port: int) -> None:
        """Acknowledge."""
        while data := server.recv(65536):
            sequence = struct.unpack_from("=I", data, 8)[0]
            server.send(struct.pack("=IHHIIi", 36, 2, 0, sequence, port, 0) + data[:16])
        with self.lock:
            del self.servers[port]
        server.close()

    def drain(self, port: int) -> None:
        """A reply comes when it comes."""
        if port not in self.servers:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def ignore(self, *_: object) -> int:
        """Everything else is right."""
        return 0

    bind = join = leave = option = rename = encapsulate = socket_policy = ignore


def child(arguments: list[str]) -> int:
    """Run the client in one of the ways, as a process of its own."""
    way, calls = arguments
    command = [sys.executable, "-c", CLIENT, calls]
    if way == "native":
        return subprocess.run(["unshare", "-n", *command], check=True).returncode
    with Signals() as signals:
        return run(command, Acknowledging(), way == "strict", signals=signals)


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        raise SystemExit(child(sys.argv[2:]))
    given = options(__doc__)
    calls = "200" if given.quick else "2000"
    results = {}
    for way in ("native", "served", "strict"):
        line = [sys.executable, __file__, "--child", way, calls]
        results[way] = json.loads(subprocess.run(line, check=True, capture_output=True).stdout)
    rows = [
        {"call": call, **{f"{way} us": results[way][call] for way in results}} for call in results["native"]
    ]
    finish(rows, given.json)


if __name__ == "__main__":
    main()
