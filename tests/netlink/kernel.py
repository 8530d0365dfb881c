"""NETLINK_XFRM of the machine's own kernel, and of uxfrm, side by side.

Run as a program, this file is the kernel's half: inside a network namespace that vanishes with it, it sends
requests given in hex and tells what came back, on the requesting socket and on one that listens to all
groups.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import Any, NamedTuple, Self

SOL_NETLINK, CAP_ACK, EXT_ACK = 270, 10, 11
EVERY_GROUP = 0xFF


def _open(groups: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
    opened.setsockopt(SOL_NETLINK, EXT_ACK, 1)
    opened.bind((0, groups))
    opened.setblocking(False)
    return opened


def _drain(opened: socket.socket) -> list[str]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(opened.recv(1 << 16).hex())
    return found


_PACKET = {"udp": (socket.SOCK_DGRAM, 0), "icmp": (socket.SOCK_RAW, 1), "ospf": (socket.SOCK_RAW, 89)}


def _send(kind: str, source: str, sport: str, target: str, dport: str) -> None:
    """Send a packet; what the network says of it does not matter. ICMP's ports are its type and code."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    with socket.socket(family, *_PACKET[kind]) as opened, contextlib.suppress(OSError):
        opened.bind((source, int(sport) if kind == "udp" else 0))
        body = bytes([int(sport), int(dport)]) + bytes(6) if kind == "icmp" else b"hello"
        opened.sendto(body, (target, int(dport) if kind == "udp" else 0))


def serve() -> None:
    """Answer lines: a request in hex, an option of the requesting socket, a CPU, a packet, a command."""
    requests, events = _open(0), _open(EVERY_GROUP)
    print(requests.getsockname()[0], flush=True)
    for line in sys.stdin:
        if line.startswith("cap"):
            requests.setsockopt(SOL_NETLINK, CAP_ACK, 1)
        elif line.startswith("cpu "):
            os.sched_setaffinity(0, {int(line.split()[1])})
        elif line.startswith("send "):
            _send(*line.split()[1:])
        elif line.startswith("sh "):
            subprocess.run(line.removeprefix("sh "), shell=True, check=True)
        else:
            requests.send(bytes.fromhex(line))
        print(json.dumps([_drain(requests), _drain(events)]), flush=True)


if __name__ == "__main__":
    serve()
    sys.exit()

from uxfrm.datapath.batch import Batch  # noqa: E402
from uxfrm.namespace import Namespace  # noqa: E402
from uxfrm.netlink.server import Port, Server  # noqa: E402


class Answer(NamedTuple):
    """Datagrams that came back, and datagrams that every listener got."""

    replies: list[bytes]
    events: list[bytes]


class Kernel:
    """The machine's kernel, in a namespace of its own."""

    def __enter__(self) -> Self:
        command = ["unshare", "--map-root-user", "--net", sys.executable, __file__]
        self._guest = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._guest.stdout is not None
        self.port = int(self._guest.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        assert self._guest.stdin is not None
        self._guest.stdin.close()
        self._guest.wait(10)

    def _call(self, line: str) -> Any:
        assert self._guest.stdin is not None
        assert self._guest.stdout is not None
        self._guest.stdin.write(line + "\n")
        self._guest.stdin.flush()
        return json.loads(self._guest.stdout.readline())

    def request(self, datagram: bytes) -> Answer:
        replies, events = self._call(datagram.hex())
        return Answer([bytes.fromhex(x) for x in replies], [bytes.fromhex(x) for x in events])

    def cap_ack(self) -> None:
        self._call("cap")

    def shell(self, command: str) -> None:
        """Have it run in the namespace."""
        self._call(f"sh {command}")

    def run_on(self, cpu: int) -> None:
        """Have it send from this CPU from now on."""
        self._call(f"cpu {cpu}")

    def send(self, *packet: str) -> Answer:
        """Send a packet there; what that made the kernel tell."""
        replies, events = self._call(f"send {' '.join(packet)}")
        return Answer([bytes.fromhex(x) for x in replies], [bytes.fromhex(x) for x in events])


class Uxfrm:
    """uxfrm with a requesting and a listening port."""

    def __init__(self, port: int, randbytes: Any, cpus: int = 1, now_s: int = 0) -> None:
        self.namespace = Namespace(randbytes=randbytes, now_s=now_s)
        self.server = Server(self.namespace, cpus)
        self.requests = self.server.open(port, capable=True)
        self.requests.extended = True
        self.events = self.server.open(1, capable=True)
        self.events.groups = EVERY_GROUP

    def request(self, datagram: bytes) -> Answer:
        self.server.receive(self.requests, datagram)
        return Answer(_take(self.requests), _take(self.events))

    def cap_ack(self) -> None:
        self.requests.capped = True

    def output(self, packet: bytes, ifindex: int, cpu: int = 0) -> Answer:
        """Give it a packet to send; what that made it tell."""
        batch = Batch.pack([packet], self.namespace.now_s, ifindex=ifindex, cpu=cpu)
        self.namespace.output(batch)
        return Answer(_take(self.requests), _take(self.events))

    def advance(self, seconds: int) -> Answer:
        """Let time pass; what that made it tell."""
        self.namespace.advance(self.namespace.now_s + seconds)
        return Answer(_take(self.requests), _take(self.events))


def _take(port: Port) -> list[bytes]:
    found = []
    while (datagram := port.next()) is not None:
        found.append(datagram)
    return found
