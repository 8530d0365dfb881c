"""A real Linux kernel as a node of a lab: user-mode Linux on the node's own interfaces.

The guest has the node's interfaces with their names, MAC addresses, addresses and routes; the namespace,
whose kernel is the machine's, keeps the veth ends as mere wires.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from lab.ends import End
from linux.fetch import Kernel
from linux.guest import LinuxGuest, Wire
from uxfrm.iproute2.commands import parse_words
from uxfrm.iproute2.execute import execute
from uxfrm.iproute2.words import split
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import Interface
from uxfrm.model.dump import StateDump

_ALL = 0x0003  # ETH_P_ALL
_SOL_PACKET, _IGNORE_OUTGOING = 263, 23
_RCVBUFFORCE, _BUFFER = 33, 8 << 20
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
_SYSCTLS = """\
for d in /proc/sys/net/ipv4/conf/*; do echo 0 > $d/rp_filter; done
for d in /proc/sys/net/ipv6/conf/*; do echo 0 > $d/accept_dad; done
"""
_FORWARDING = """\
echo 1 > /proc/sys/net/ipv4/ip_forward
echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
"""


class LinuxNode:
    """A node's Linux, with the means of an `End`: `xfrm`, and `moved`. It runs until closed."""

    def __init__(self, lab: Lab, node: str, kernel: Kernel | None = None) -> None:
        self._lab, self.node = lab, node
        wires = [self._take(name) for name in lab.plan.interfaces(node)]
        self.guest = LinuxGuest(kernel, wires=wires, setup=self._setup())

    def __enter__(self) -> Self:
        self.guest.__enter__()
        self._tables = self.guest.connect("tables")
        return self

    def __exit__(self, *_: object) -> None:
        self.guest.close()

    def xfrm(self, *lines: str) -> str:
        """What `ip xfrm` would print for each line."""
        return "".join(execute(parse_words(split(f"xfrm {line}")), self._tables) for line in lines)

    def dump(self) -> list[StateDump]:
        """All its states."""
        return list(self._tables.dump_states())

    def moved(self) -> dict[str, int]:
        """The counters that are not 0."""
        return self.guest.xfrm_stat()

    # -- making it

    def _take(self, name: str) -> Wire:
        """Take an interface from the node's namespace: a socket of its frames.

        A frame can't say what its sender left undone, so the interface opposite has to do everything.
        """
        lab, node = self._lab, self.node
        opposite = self._opposite(name)
        with lab.inside(opposite.node):
            _complete(opposite.name)
        lab.run(node, "ip", "address", "flush", "dev", name)
        with lab.inside(node):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            frames.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            frames.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER)
            frames.bind((name, _ALL))
        mac: bytes = frames.getsockname()[4]
        return Wire(frames, mac.hex(":"))

    def _opposite(self, name: str) -> Interface:
        ends = (link.ends for link in self._lab.plan.links)
        pairs = (pair for left, right in ends for pair in ((left, right), (right, left)))
        return next(there for here, there in pairs if (here.node, here.name) == (self.node, name))

    def _setup(self) -> str:
        """What the guest's shell does: what the lab does for its nodes."""
        plan, lines = self._lab.plan, ["link set lo up"]
        for number, end in enumerate(plan.interfaces(self.node).values()):
            lines += [f"link set vec{number} name {end.name}", f"link set {end.name} up"]
            lines += [f"address add {address} dev {end.name} {_nodad(address)}" for address in end.addresses]
        lines += [f"route add {route.to} via {route.via}" for route in plan.routes if route.node == self.node]
        batch = "\n".join(lines)
        forwarding = _FORWARDING if plan.forwards(self.node) else ""
        return f"{_SYSCTLS}{forwarding}ip -batch - <<'END'\n{batch}\nEND\n"


@contextmanager
def one_end(
    lab: Lab, folder: Path, *options: str, kernel: Kernel | None = None
) -> Iterator[tuple[End, LinuxNode]]:
    """A daemon on the lab's first end, a Linux on the second."""
    end = End(lab, lab.plan.ends[0], folder, *options)
    try:
        with LinuxNode(lab, lab.plan.ends[1], kernel) as node:
            end.wait()
            yield end, node
    finally:
        if end.process.poll() is None:
            end.stop()
        print(end.log(), file=sys.stderr)


def _nodad(address: str) -> str:
    return "nodad" if ":" in address else ""


def _complete(name: str) -> None:
    """Have an interface of this namespace finish checksums, and with them segments, before it sends."""
    value = ctypes.create_string_buffer(struct.pack("II", _ETHTOOL_STXCSUM, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        fcntl.ioctl(asked, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), ctypes.addressof(value)))
