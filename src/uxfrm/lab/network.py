"""A plan brought to life: a network namespace for each node, veth pairs, addresses, routes."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from pyroute2 import IPRoute, NFCTSocket, netns

from uxfrm.lab import names
from uxfrm.lab.plan import ROUTER, Interface, Link, Plan
from uxfrm.lab.watch import Watch

_NODAD = 0x02  # IFA_F_NODAD: usable at once
_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv6/conf/default/accept_dad": "0",  # link-local addresses are usable at once
}
_FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
_MASQUERADE = """add table ip uxfrm-lab
delete table ip uxfrm-lab
table ip uxfrm-lab {{
  chain out {{
    type nat hook postrouting priority srcnat;
    oifname {{ {names} }} meta l4proto udp masquerade {ports}
    oifname {{ {names} }} masquerade
  }}
}}
"""


class Lab:
    """The network of a plan, as a context manager; `watch` is on the router.

    Needs CAP_SYS_ADMIN and CAP_NET_ADMIN. Raises OSError, netlink's NetlinkError, CalledProcessError.
    """

    watch: Watch

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._started: list[subprocess.Popen[bytes]] = []
        self._made: list[str] = []

    def __enter__(self) -> Self:
        for namespace in names.stale():
            names.remove(namespace)
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End what runs on the nodes and remove them."""
        if hasattr(self, "watch"):
            self.watch.close()
        for namespace in self._made:
            names.remove(namespace)
        for process in self._started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        self._made, self._started = [], []

    # -- programs

    def command(self, node: str, *command: str) -> list[str]:
        """The command line that runs a command on a node; it ends with the thread that started it."""
        there = f"--net={names.path(names.name(node))}"
        return ["nsenter", there, "setpriv", "--pdeathsig", "KILL", "--", *command]

    def run(self, node: str, *command: str, timeout_s: float = 60, check: bool = True) -> str:
        """What a command says on a node. Raises CalledProcessError, TimeoutExpired."""
        done = subprocess.run(
            self.command(node, *command), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if check and done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def start(
        self, node: str, *command: str, said: IO[bytes] | int = subprocess.DEVNULL, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start a program on a node, to run until it ends or the lab does; `options` as for Popen."""
        line = self.command(node, *command)
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=said, stderr=said, **options)
        self._started.append(process)
        return process

    def inside(self, node: str) -> Any:
        """Be on a node: a context manager, within which this thread opens sockets there."""
        return names.inside(names.name(node))

    # -- building

    def _build(self) -> None:
        """1. namespaces  2. links  3. addresses, up  4. routes, for which all links must be up  5. NAT."""
        for node in self.plan.nodes:
            netns.create(names.name(node))
            self._made.append(names.name(node))
            self._set_sysctls(node)
        for link in self.plan.links:
            self._join(link)
        for node in self.plan.nodes:
            self._route(node)
        if self.plan.masquerade:
            self._masquerade()
        self.watch = Watch(names.name(ROUTER))

    def _set_sysctls(self, node: str) -> None:
        values = _SYSCTLS | (dict.fromkeys(_FORWARDING, "1") if self.plan.forwards(node) else {})
        with self.inside(node):
            for name, value in values.items():
                (Path("/proc/sys") / name).write_text(value)

    def _join(self, link: Link) -> None:
        """Make a veth pair with its ends on both nodes, and give them what they have."""
        (left, right), mtu = link.ends, link.mtu
        with self._netlink(left.node) as ip, (names.path(names.name(right.node))).open() as there:
            peer = {"ifname": right.name, "net_ns_fd": there.fileno(), "mtu": mtu}
            ip.link("add", ifname=left.name, kind="veth", mtu=mtu, peer=peer)
        for end in link.ends:
            with self._netlink(end.node) as ip:
                _bring_up(ip, end)

    def _route(self, node: str) -> None:
        with self._netlink(node) as ip:
            for route in (route for route in self.plan.routes if route.node == node):
                family = 10 if ":" in route.via else 2
                ip.route("add", dst=route.to, gateway=route.via, family=family)

    def _masquerade(self, ports: str = "") -> None:
        quoted = ", ".join(f'"{name}"' for name in self.plan.masquerade)
        rules = _MASQUERADE.format(names=quoted, ports=ports)
        subprocess.run(self.command(ROUTER, "nft", "-f", "-"), input=rules.encode(), check=True)

    def remap(self, port: int) -> None:
        """Let the NAT forget what it knew, and give everybody's UDP this port, as after a restart."""
        self._masquerade(f"to :{port}")
        with self.inside(ROUTER), NFCTSocket() as conntrack:
            conntrack.flush()

    def shrink(self, mtu: int) -> None:
        """Let the router's link to the second end take less from now on."""
        name = f"to-{self.plan.hosts[1]}"
        with self._netlink(ROUTER) as ip:
            ip.link("set", index=ip.link_lookup(ifname=name)[0], mtu=mtu)

    def _netlink(self, node: str) -> IPRoute:
        with self.inside(node):
            return IPRoute()


def _bring_up(ip: IPRoute, end: Interface) -> None:
    (index,) = ip.link_lookup(ifname=end.name)
    ip.link("set", index=1, state="up")
    ip.link("set", index=index, state="up")
    for text in end.addresses:
        address, length = text.split("/")
        flags = _NODAD if ":" in address else 0
        ip.addr("add", index=index, address=address, prefixlen=int(length), flags=flags)
