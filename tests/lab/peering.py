"""uxfrm at one end of a lab and Linux at the other, with the same states and policies; programs talk through.

The ends are gateways: those that talk are they themselves in transport mode, the hosts behind them else.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lab.ends import End, answers
from lab.linux_node import LinuxNode, one_end
from linux import echo
from linux.fetch import Kernel
from linux.twin import Suite
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import ROUTER, Plan, two_gateways
from uxfrm.lab.watch import Kind
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_ESP, PROTO_UDP

ECHO = 7
NAT_T = 4500
_PROTOCOLS = {PROTO_ESP: "esp", PROTO_AH: "ah", PROTO_COMP: "comp"}
_KINDS = {PROTO_ESP: Kind.ESP, PROTO_AH: Kind.AH, PROTO_COMP: Kind.IPCOMP}
_SEALED = (*_PROTOCOLS, PROTO_UDP)
_ETHERTYPES = {4: socket.htons(0x0800), 6: socket.htons(0x86DD)}
_KEY = re.compile(r"0x(..)")
_NOWHERE = {4: "0.0.0.0", 6: "::"}
_SPI = 0x1000
_PATIENCE_S = 5.0
_TOO_LONG = "XfrmOutStateModeError"


@dataclass(frozen=True)
class Case:
    """What is between the ends: states around each other, innermost first.

    `mode` is that of the innermost; those around it are in transport mode. `generation` tells states that
    follow each other apart, by SPI.
    """

    suites: tuple[Suite, ...]
    mode: str = "tunnel"
    outer: int = 4
    inner: int = 4
    esn: bool = False
    in_udp: bool = False
    generation: int = 0

    def __str__(self) -> str:
        words = [self.mode, f"{self.inner}in{self.outer}" if self.tunnels else str(self.outer)]
        words += [suite.name for suite in self.suites]
        return " ".join([*words, *["esn"] * self.esn, *["udp"] * self.in_udp])

    @property
    def tunnels(self) -> bool:
        return self.mode != "transport"

    @property
    def kind(self) -> Kind:
        """What the router sees of it."""
        return Kind.UDP if self.in_udp else _KINDS[self.suites[-1].proto]

    def talkers(self, plan: Plan) -> tuple[str, str]:
        """The nodes whose programs talk."""
        return plan.hosts if self.tunnels else plan.ends

    def spi(self, layer: int, way: int) -> int:
        """Of a state; `way` is 0 for what the first end sends."""
        return _SPI + self.generation * 16 + layer * 2 + way

    def with_other_keys(self) -> Case:
        """The same with keys that differ in their first bytes."""
        return replace(self, suites=tuple(replace(s, text=_KEY.sub(_another, s.text)) for s in self.suites))

    def states(self, plan: Plan) -> list[str]:
        """A state each way for each layer, the same for both ends."""
        return [line for way in (0, 1) for line in self.states_of(plan, way)]

    def states_of(self, plan: Plan, way: int) -> list[str]:
        """Those of one way."""
        return [self._state(plan, layer, way) for layer in range(len(self.suites))]

    def deletions_of(self, plan: Plan, way: int) -> list[str]:
        """What takes away the states of one way."""
        return [f"state delete {self._id(plan, layer, way)}" for layer in range(len(self.suites))]

    def _id(self, plan: Plan, layer: int, way: int) -> str:
        return f"{self._ends(plan, layer, way)} spi {self.spi(layer, way)}"

    def _state(self, plan: Plan, layer: int, way: int) -> str:
        suite = self.suites[layer]
        words = [f"state add {self._id(plan, layer, way)} {self._how(layer)}"]
        if suite.proto != PROTO_COMP:
            words.append("replay-window 64")
        flags = ["esn"] * (self.esn and suite.proto != PROTO_COMP) + ["af-unspec"] * (
            self.inner != self.outer
        )
        words += ["flag", *flags] if flags else []
        words.append(suite.text)
        if self.in_udp and layer == len(self.suites) - 1:
            words.append(f"encap espinudp {NAT_T} {NAT_T} {_NOWHERE[self.outer]}")
        if self.mode == "beet" and not layer:
            words.append("sel src {} dst {}".format(*self._inner(plan, way)))
        return " ".join(words)

    def _ends(self, plan: Plan, layer: int, way: int) -> str:
        source, target = _turned([plan.address(end, self.outer) for end in plan.ends], way)
        return f"src {source} dst {target} proto {_PROTOCOLS[self.suites[layer].proto]}"

    def _how(self, layer: int) -> str:
        return f"reqid {layer + 1} mode {'transport' if layer else self.mode}"

    def _inner(self, plan: Plan, way: int) -> list[str]:
        """From where to where policies are: networks, which BEET has not."""
        if self.mode == "tunnel":
            return _turned([plan.network(host, self.inner) for host in plan.hosts], way)
        return _turned([plan.address(node, self.inner) for node in self.talkers(plan)], way)

    def policies(self, plan: Plan, end: int) -> list[str]:
        """One end's policies: out, in and, for what it forwards, fwd."""
        found = []
        for direction in ("out", "in", "fwd"):
            way = end if direction == "out" else 1 - end
            templates = [
                f"tmpl {self._ends(plan, layer, way)} {self._how(layer)}"
                # what IPComp does not compress comes without it
                + (" level use" if suite.proto == PROTO_COMP and direction != "out" else "")
                for layer, suite in enumerate(self.suites)
            ]
            selector = "src {} dst {}".format(*self._inner(plan, way))
            found.append(f"policy add {selector} dir {direction} {' '.join(templates)}")
        return found


def _another(key: re.Match[str]) -> str:
    return f"0x{int(key[1], 16) ^ 1:02x}"


def _header(packet: bytes) -> dict[str, Any]:
    """What of an IP header is not of the packet alone; of a flow label, whether there is one."""
    if packet[0] >> 4 == 4:
        _, tos, _, _, flags, hops, proto = struct.unpack_from("!BBHHHBB", packet)
        found = {"class": tos, "DF": flags >> 14 & 1, "options": packet[0] & 15}
        return found | {
            "hops": hops,
            "proto": proto,
            "source": socket.inet_ntop(socket.AF_INET, packet[12:16]),
        }
    word, _, proto, hops = struct.unpack_from("!IHBB", packet)
    found = {"class": word >> 20 & 0xFF, "label": word & 0xFFFFF != 0}
    return found | {"hops": hops, "proto": proto, "source": socket.inet_ntop(socket.AF_INET6, packet[8:24])}


def _turned(ends: list[str], way: int) -> list[str]:
    return ends[::-1] if way else ends


@dataclass
class Peering:
    """uxfrm on the first end, Linux on the second.

    `before` is what was counted when last asked; `policies` are those that both have.
    """

    lab: Lab
    uxfrm: End
    linux: LinuxNode
    before: list[dict[str, int]] = field(default_factory=lambda: [{}, {}])
    policies: list[list[str]] = field(default_factory=list)

    @property
    def ends(self) -> tuple[End, LinuxNode]:
        return self.uxfrm, self.linux

    def use(self, case: Case) -> None:
        """Have both ends do this and nothing else; what was counted and seen is forgotten."""
        plan = self.lab.plan
        policies = [case.policies(plan, number) for number in (0, 1)]
        for end, lines in zip(self.ends, policies, strict=True):
            # uxfrm changes the host's rules with each policy, which takes time
            end.xfrm("state flush", *([] if policies == self.policies else ["policy flush", *lines]))
            end.xfrm(*case.states(plan))
        self.policies = policies
        self.counted()
        self.lab.watch.seen()

    def open(self, number: int) -> None:
        """Take away an end's policies."""
        self.ends[number].xfrm("policy flush")
        self.policies = []

    def counted(self) -> list[dict[str, int]]:
        """What each end has counted since this was last asked."""
        now = [end.moved() for end in self.ends]
        moved = [_difference(*pair) for pair in zip(now, self.before, strict=True)]
        self.before = now
        return moved

    def succeed(self, old: Case, new: Case) -> None:
        """Have other states in the place of these while programs talk, as IKE daemons do.

        Who receives is ready before who sends begins; what was sent before has come once newer has.
        """
        for way in (0, 1):
            sender, receiver = self.ends[way], self.ends[1 - way]
            receiver.xfrm(*new.states_of(self.lab.plan, way))
            sender.xfrm(*new.states_of(self.lab.plan, way), *old.deletions_of(self.lab.plan, way))
            _until(partial(self._used, receiver, new.spi(0, way)))
            receiver.xfrm(*old.deletions_of(self.lab.plan, way))

    def forget_paths(self) -> None:
        """Have nobody who talks know what fits."""
        for version in ("-4", "-6"):
            line = ["ip", version, "route", "flush", "cache"]
            for node in (self.uxfrm.node, *self.lab.plan.hosts):
                self.lab.run(node, *line)
            self.linux.guest.run(line)

    def shrink(self, mtu: int) -> None:
        """Let the link to Linux carry less from now on, or as much as before."""
        self.lab.shrink(mtu)
        self.linux.guest.ip_batch(f"link set eth0 mtu {mtu}\n")

    # -- programs

    def pings(self, node: str, to: str, *options: str) -> bool:
        """Whether a ping is answered."""
        if node != self.linux.node:
            return answers(self.lab, node, to, *options)
        return not self.linux.guest.run(["ping", "-c1", "-W3", *options, to])[0]

    def exchange(self, node: str, other: str, family: int, size: int) -> str:
        """Have another node say back what a node says to it by TCP. What went wrong."""
        here, there = (self.lab.plan.address(name, family) for name in (node, other))
        if node == self.linux.node:
            return str(self.linux.guest.call("echo_exchange", here, there, ECHO, size))
        with self.lab.inside(node):
            return echo.exchange(here, there, ECHO, size)

    def talk(self, case: Case, size: int) -> None:
        """Pings and TCP, begun from both sides: they work, and nobody but the ends knows what they say."""
        for pair in (talkers := case.talkers(self.lab.plan)), talkers[::-1]:
            assert self.pings(pair[0], self.lab.plan.address(pair[1], case.inner)), pair
            assert self.exchange(*pair, case.inner, size) == "", pair
        self.is_sealed(case)
        self.is_content()
        self.agree()

    def outer_header(self, case: Case, node: str, other: str, *options: str) -> dict[str, Any]:
        """What the router reads in the header of a sealed ping from a node to another."""
        kind = _ETHERTYPES[case.outer]
        with self.lab.inside(ROUTER), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, kind) as listening:
            listening.settimeout(_PATIENCE_S)
            assert self.pings(node, self.lab.plan.address(other, case.inner), *options)
            ends = [self.lab.plan.address(end, case.outer) for end in self.lab.plan.ends]
            source = ends[case.talkers(self.lab.plan).index(node)]
            while True:
                packet = listening.recv(65536)
                header = _header(packet)
                if header.pop("source") == source and header["proto"] in _SEALED:
                    return header

    # -- what came of it

    def is_sealed(self, case: Case) -> None:
        """All that passed the router is of the case's kind, and something did."""
        seen = self.lab.watch.seen()
        assert seen.missed == 0
        assert {passed.kind for passed in seen.packets} == {case.kind}, (seen.packets, seen.clear)

    def is_content(self) -> None:
        """Neither end has counted an error, but for packets whose sender Linux told the MTU."""
        ours, theirs = self.counted()
        theirs.pop(_TOO_LONG, None)
        assert (ours, theirs) == ({}, {})

    def agree(self) -> None:
        """Every packet that one end sealed was opened by the other, soon; there were some each way."""
        _until(lambda: self._packets(self.uxfrm) == self._packets(self.linux))
        found = self._packets(self.uxfrm)
        assert all(count > 4 for count in found.values()), found

    def _used(self, end: End | LinuxNode, spi: int) -> bool:
        """Whether a state has seen some packets."""
        return self._packets(end)[spi] > 2

    def _packets(self, end: End | LinuxNode) -> dict[int, int]:
        """The packets of each state by SPI: but for IPComp, which leaves some as they are."""
        dumps = (dump for dump in end.dump() if dump.config.proto in (PROTO_ESP, PROTO_AH))
        return {dump.config.spi: dump.current.packets for dump in dumps}


def _until(true: Callable[[], bool]) -> None:
    """Wait for something, not for long."""
    end = time.monotonic() + _PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def _difference(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: n - before.get(name, 0) for name, n in now.items() if n != before.get(name, 0)}


@contextmanager
def peering(folder: Path, attach: tuple[str, ...], kernel: Kernel | None = None) -> Iterator[Peering]:
    """Two gateways, one with `uxfrm daemon` and these attachments, one a Linux; all nodes answer TCP."""
    options = [word for what in attach for word in ("--attach", what)]
    with Lab(two_gateways()) as lab, one_end(lab, folder, *options, kernel=kernel) as (end, node):
        node.guest.call("echo_serve", "::", ECHO)
        for family in (4, 6):
            node.guest.udp_open(f"nat-t{family}", _NOWHERE[family], NAT_T)
            node.guest.udp_encap(f"nat-t{family}")
        node.guest.run(["iperf3", "--server", "--daemon"])
        lab.start(lab.plan.hosts[1], "iperf3", "--server")
        served = [_serve(lab, name) for name in (end.node, *lab.plan.hosts)]
        yield Peering(lab, end, node)
        for listening in served:
            listening.close()


def _serve(lab: Lab, node: str) -> socket.socket:
    with lab.inside(node):
        return echo.serve("::", ECHO)
