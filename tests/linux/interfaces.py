"""Hosts with XFRM interfaces: Linux 6.12 and uxfrm, each with a transcript of what its user sees.

Applications of the host are at 10.4.0.2 and fd04::2; their peers, 10.4.0.1 and fd04::1, are behind
interfaces. Of the interfaces' own statistics the transcript has those that tell packets' ends.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter as Tally
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from scapy.layers.inet import ICMP, IP, UDP, defragment
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.packet import Raw

from linux.guest import LinuxGuest, Sending
from linux.test_path_mtu import hop
from linux.twin import GUEST_PORT, HOST_PORT, counters, delivered_by, outcomes, packets, read_datagram
from uxfrm.datapath.batch import Batch
from uxfrm.iproute2.commands import parse_words
from uxfrm.iproute2.execute import execute
from uxfrm.iproute2.words import split
from uxfrm.model.address import parse
from uxfrm.model.device import XfrmInterface
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.namespace import Namespace
from uxfrm.netlink import Client
from uxfrm.netlink.memory import connect
from uxfrm.netlink.server import Server

VEC0 = 2
_ALWAYS_FITS = 1000
GCM = f"aead rfc4106(gcm(aes)) 0x{'11' * 20} 128"
INNER = {4: ("10.4.0.2", "10.4.0.1", 32), 6: ("fd04::2", "fd04::1", 128)}
NEIGHBOUR = {4: "10.6.0.9", 6: "fd06::9"}
ROUTER = {parse(NEIGHBOUR[4]): parse("10.0.0.2"), parse(NEIGHBOUR[6]): parse("fd00::2")}
OUTER = ("10.0.0.2", "10.0.0.1")
OUTER6 = ("fd00::2", "fd00::1")


def state(outwards: bool, spi: int, words: str = "", ends: tuple[str, str] = OUTER) -> str:
    source, target = ends if outwards else reversed(ends)
    mode = "" if "mode" in words else "mode tunnel"
    return (
        f"state add src {source} dst {target} proto esp spi {spi:#x} reqid {spi} {mode} {GCM} "
        f"flag af-unspec {words}"
    )


def policy(
    outwards: bool,
    spi: int,
    words: str = "",
    family: int = 4,
    ends: tuple[str, str] = OUTER,
    more: str = "",
    here: str = "",
) -> str:
    own, there, bits = INNER[family]
    here = here or own
    source, target = (here, there) if outwards else (there, here)
    outer_source, outer_target = ends if outwards else reversed(ends)
    template = f"tmpl src {outer_source} dst {outer_target} proto esp reqid {spi} mode tunnel {more}"
    return (
        f"policy add src {source}/{bits} dst {target}/{bits} dir {'out' if outwards else 'in'} {words} "
        f"{template if spi else ''}"
    )


class Side(ABC):
    """Linux or uxfrm, in the middle of a scenario."""

    client: Client

    def __init__(self) -> None:
        self.transcript: list[str] = []
        self._sent = 0

    def ip(self, *lines: str) -> None:
        """`ip xfrm` commands."""
        for line in lines:
            execute(parse_words(split(f"xfrm {line}")), self.client, 1, UTC)

    def send(self, family: int = 4, size: int = 8, df: bool = False, count: int = 1) -> None:
        """The application sends: what leaves the host, and how the interface counts it."""
        payloads = [b"%0*d" % (size, self._sent + i) for i in range(count)]
        self._sent += count
        self.note(f"sends {count} of {size} bytes")
        self.note(*map(on_the_wire, whole(self._send(family, payloads, df))))
        self._after()

    def receive(self, *wire: bytes) -> None:
        """Packets arrive: what the application receives."""
        self.note(f"receives {len(wire)}")
        found, sent = self._receive(wire)
        self.note(*sorted(f"  delivered: {payload!r}" for payload in found))
        self.note(*map(on_the_wire, whole(sent)))
        self._after()

    def forward(self, family: int = 4, size: int = 8, df: bool = False) -> None:
        """A neighbour sends through the host: what leaves it."""
        self.note(f"forwards {size} bytes")
        payload = b"%0*d" % (size, self._sent)
        packet = outgoing(family, payload, df, NEIGHBOUR[family])
        self.note(*map(on_the_wire, whole(self._forward(packet))))
        self._after()

    def note(self, *lines: str) -> None:
        self.transcript += lines

    def _after(self) -> None:
        self.note(*(f"  {name} {n}" for name, n in sorted(self._moved().items())))

    @abstractmethod
    def interface(self, name: str, if_id: int = 0, link: bool = True, external: bool = False) -> None: ...
    @abstractmethod
    def route(self, name: str, metadata: int = 0) -> None: ...
    @abstractmethod
    def route_outer(self, address: str, name: str) -> None: ...
    @abstractmethod
    def set_up(self, name: str, up: bool) -> None: ...
    @abstractmethod
    def mtu(self, mtu: int) -> None: ...
    @abstractmethod
    def _send(self, family: int, payloads: Sequence[bytes], df: bool) -> list[bytes]: ...
    @abstractmethod
    def _forward(self, packet: bytes) -> list[bytes]: ...
    @abstractmethod
    def _receive(self, wire: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]: ...
    @abstractmethod
    def _moved(self) -> dict[str, int]: ...


def whole(wire: Sequence[bytes]) -> list[bytes]:
    """Packets, those of IPv4 put together of their fragments: who fragments them is not the matter here."""
    four = [bytes(packet) for packet in defragment([IP(p) for p in wire if p[0] >> 4 == 4])]
    return four + [packet for packet in wire if packet[0] >> 4 == 6]


def destination(packet: bytes) -> bytes:
    return packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]


def unreachable(packet: bytes) -> bool:
    """Linux tells who sent what an interface lost; nothing here does."""
    return packet[0] >> 4 == 4 and packet[9] == 1 and packet[20:22] == b"\x03\x01"


def on_the_wire(packet: bytes) -> str:
    """A packet as far as both sides make the same."""
    parsed = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    to = f"to {parsed.dst}, {len(packet)} bytes"
    if ICMP in parsed:
        return f"  wire: ICMP {parsed[ICMP].type} {parsed[ICMP].code} MTU {parsed[ICMP].nexthopmtu} {to}"
    if ICMPv6PacketTooBig in parsed:
        return f"  wire: ICMPv6 too big, MTU {parsed[ICMPv6PacketTooBig].mtu} {to}"
    four = packet[0] >> 4 == 4
    if packet[9 if four else 6] == 50:
        esp = packet[20 if four else 40 :]
        return f"  wire: ESP, SPI {int.from_bytes(esp[:4]):#x}, number {int.from_bytes(esp[4:8])} {to}"
    return f"  wire: clear {to}"


class LinuxSide(Side):
    """Linux 6.12."""

    def __init__(self, guest: LinuxGuest) -> None:
        super().__init__()
        self._guest = guest
        self.client = guest.connect("requests")
        self.ip("state flush", "policy flush")
        self._names: list[str] = []
        for family, (here, _, bits) in INNER.items():
            self._ip(f"addr add {here}/{bits} dev lo {'nodad' if family == 6 else ''}")
            guest.udp_open(f"app{family}", here, GUEST_PORT)
        self._ip("route replace 10.6.0.0/24 via 10.0.0.1 dev vec0")
        self._ip("route replace fd06::/64 via fd00::1 dev vec0")
        self._forwarding(1)
        self._guest.drain()
        self._before = self._figures()

    def close(self) -> None:
        for name in self._names:
            self._ip(f"link delete {name}")
        for here, _, bits in INNER.values():
            self._ip(f"addr del {here}/{bits} dev lo")
        self._ip("route del 10.6.0.0/24")
        self._ip("route del fd06::/64")
        self._forwarding(0)
        self._ip("link set vec0 mtu 1500")
        self.ip("state flush", "policy flush")

    def _forwarding(self, value: int) -> None:
        self._guest.write("/proc/sys/net/ipv4/ip_forward", str(value))
        self._guest.write("/proc/sys/net/ipv6/conf/all/forwarding", str(value))

    def _ip(self, line: str) -> None:
        code, _, said = self._guest.run(["ip", *line.split()])
        assert code == 0, (line, said)

    def interface(self, name: str, if_id: int = 0, link: bool = True, external: bool = False) -> None:
        self._ip(
            f"link add {name} type xfrm "
            + ("external" if external else f"if_id {if_id}" + " dev vec0" * link)
        )
        self._names.append(name)
        self._guest.write(f"/proc/sys/net/ipv4/conf/{name}/rp_filter", "0")
        self.set_up(name, True)
        self._before = self._figures()

    def set_up(self, name: str, up: bool) -> None:
        self._ip(f"link set {name} {'up' if up else 'down'}")

    def route(self, name: str, metadata: int = 0) -> None:
        encap = f"encap xfrm if_id {metadata} link_dev vec0" if metadata else ""
        for here, there, bits in INNER.values():
            self._ip(f"route replace {there}/{bits} dev {name} src {here} {encap}")
        self._settle()

    def route_outer(self, address: str, name: str) -> None:
        self._ip(f"route replace {address}/32 dev {name} src {OUTER[0]}")

    def mtu(self, mtu: int) -> None:
        self._ip(f"link set vec0 mtu {mtu}")

    def _send(self, family: int, payloads: Sequence[bytes], df: bool) -> list[bytes]:
        if len(payloads[0]) > _ALWAYS_FITS:
            # What a route has learnt of its MTU has IP fragment what comes next.
            self._ip("route flush cache")
        to = INNER[family][1], HOST_PORT
        errors = self._guest.udp_send(
            f"app{family}", to, [Sending(payload, df=3 if df or family == 6 else 0) for payload in payloads]
        )
        assert set(errors) <= {0, 1}, errors  # EPERM where the policies of the route block
        self.note(*["  refused"] * errors.count(1))
        return self._settle()

    def _forward(self, packet: bytes) -> list[bytes]:
        self._ip("route flush cache")
        self._guest.send_ip(packet)
        return [sent for sent in self._settle() if not unreachable(sent)]

    def _receive(self, wire: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        for packet in wire:
            self._guest.send_ip(packet)
        sent = self._settle()
        found = [self._guest.udp_take(f"app{family}", len(wire), timeout=0) for family in INNER]
        return [datagram.payload for taken in found for datagram in taken], sent

    def _settle(self) -> list[bytes]:
        delivered_by(self._guest, [])
        return self._guest.take_ip(1000, timeout=0.02)

    def _figures(self) -> Tally[str]:
        found = Tally(self._guest.xfrm_stat())
        for name in self._names:
            for figure, file in STATISTICS.items():
                path = f"/sys/class/net/{name}/statistics/{file}"
                found[f"{figure} of {name}"] = int(self._guest.read(path))
        return found

    def _moved(self) -> dict[str, int]:
        now = self._figures()
        moved, self._before = now - self._before, now
        return dict(moved)


STATISTICS = {
    "received": "rx_packets",
    "sent": "tx_packets",
    "carrier errors": "tx_carrier_errors",
    "collisions": "collisions",
}


class UxfrmSide(Side):
    """A namespace. What an interface counts is told by the outcomes of its packets."""

    def __init__(self) -> None:
        super().__init__()
        self.namespace = Namespace(randbytes=random.Random(3).randbytes, now_s=1000)
        local = {parse(here) for here, _, _ in INNER.values()} | {parse(OUTER[0])}
        self._local = local
        self.namespace.path.is_local = local.__contains__
        self.namespace.path.source_of = ROUTER.get
        self.namespace.set_mtu(1500)
        self.namespace.path.device_of = lambda address: self._outer.get(address, VEC0)
        self.client = connect(Server(self.namespace))
        self._outer: dict[bytes, int] = {}
        self._indices: dict[str, int] = {}
        self._route = self._metadata = 0
        self._before: Tally[str] = Tally()
        self._interfaces: Tally[str] = Tally()

    def close(self) -> None:
        pass

    def interface(self, name: str, if_id: int = 0, link: bool = True, external: bool = False) -> None:
        self._indices[name] = index = 10 + len(self._indices)
        wanted = XfrmInterface(collect_md=True) if external else XfrmInterface(if_id, VEC0 if link else 0)
        self.namespace.add_interface(index, name, wanted)

    def set_up(self, name: str, up: bool) -> None:
        self.namespace.devices.set_up(self._indices[name], up)

    def route(self, name: str, metadata: int = 0) -> None:
        self._route, self._metadata = self._indices[name], metadata

    def route_outer(self, address: str, name: str) -> None:
        self._outer[parse(address)] = self._indices[name]

    def mtu(self, mtu: int) -> None:
        self.namespace.set_mtu(mtu)

    def _send(self, family: int, payloads: Sequence[bytes], df: bool) -> list[bytes]:
        sent = [outgoing(family, payload, df) for payload in payloads]
        batch = Batch.pack(sent, 1000, ifindex=self._route)
        if self._metadata:
            batch.packets["if_id"], batch.packets["link"] = self._metadata, VEC0
        self.namespace.output(batch)
        return self._sent_of(batch)

    def _sent_of(self, batch: Batch) -> list[bytes]:
        """What goes out, in order; and how the interface counts it."""
        for i in range(int(batch.packets["origin"].max()) + 1):
            self._count(Outcome.of(int(batch.packets["outcome"][i])), batch.packets[i])
        out = (Verdict.SENT, Verdict.CLEAR, Verdict.RETURNED)
        order = [i for i in batch.in_order().tolist() if outcomes(batch)[i].verdict in out]
        return [packet for packet in map(batch.packet, order) if destination(packet) not in self._local]

    def _count(self, outcome: Outcome, packet: Any) -> None:
        name = self._name(int(packet["ifindex"]))
        if outcome.verdict in (Verdict.SENT, Verdict.CLEAR, Verdict.SPLIT):
            self._interfaces[f"sent of {name}"] += bool(name)
        elif outcome == Outcome.OUT_ROUTING_LOOP:
            self._interfaces[f"collisions of {name}"] += 1
        elif outcome not in (Outcome.OUT_NO_METADATA, Outcome.OUT_INTERFACE_TOO_BIG):
            policy = self.namespace.path.policy_at(int(packet["policy"]))
            if policy and not policy.config.if_id:
                self.note("  refused")
            else:
                self._interfaces[f"carrier errors of {name}"] += 1

    def _forward(self, packet: bytes) -> list[bytes]:
        batch = self._taken_in([packet])
        assert outcomes(batch)[0].verdict == Verdict.CLEAR
        return self._output([batch.packet(0)])

    def _output(self, packets: Sequence[bytes]) -> list[bytes]:
        batch = Batch.pack([hop(packet) for packet in packets], 1000, ifindex=self._route)
        self.namespace.output(batch)
        return self._sent_of(batch)

    def _taken_in(self, wire: Sequence[bytes]) -> Batch:
        batch = Batch.pack(wire, 1000, ifindex=VEC0)
        self.namespace.input(batch)
        for index in batch.packets["ifindex"].tolist():
            if name := self._name(index):
                self._interfaces[f"received of {name}"] += 1
        return batch

    def _receive(self, wire: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        batch = self._taken_in(wire)
        found, sent = [], []
        for i, outcome in enumerate(outcomes(batch)):
            if outcome.verdict in (Verdict.DELIVERED, Verdict.CLEAR):
                found.append(read_datagram(batch.packet(i))[-1])
            elif outcome.verdict == Verdict.FORWARDED:
                sent.append(hop(batch.packet(i)))
        return found, sent

    def _name(self, index: int) -> str:
        return next((name for name, known in self._indices.items() if known == index), "")

    def _moved(self) -> dict[str, int]:
        now = Tally(counters(self.namespace)) + self._interfaces
        moved, self._before = now - self._before, now
        return dict(moved)


def outgoing(family: int, payload: bytes, df: bool, sender: str = "") -> bytes:
    """What the application's datagram, or somebody else's, is before XFRM."""
    here, there, _ = INNER[family]
    here = sender or here
    header = IP(src=here, dst=there, flags="DF" if df else 0) if family == 4 else IPv6(src=here, dst=there)
    return bytes(header / UDP(sport=GUEST_PORT, dport=HOST_PORT) / Raw(payload))


def from_peer(
    spi: int, family: int = 4, count: int = 1, to: str = "", ends: tuple[str, str] = OUTER
) -> list[bytes]:
    """What a peer with this state sends to the application, or to somebody behind the host."""
    peer = Namespace(randbytes=random.Random(1).randbytes)
    inwards = policy(False, spi, family=family, here=to, ends=ends)
    for line in (state(False, spi, ends=ends), inwards.replace("dir in", "dir out")):
        execute(parse_words(split(f"xfrm {line}")), peer)
    here, there, _ = INNER[family]
    here = to or here
    header = (IP if family == 4 else IPv6)(src=there, dst=here)
    upper = UDP(sport=HOST_PORT, dport=GUEST_PORT)
    batch = Batch.pack([bytes(header / upper / Raw(b"in %d" % i)) for i in range(count)])
    peer.output(batch)
    assert set(outcomes(batch)) == {Outcome.SENT}
    return packets(batch)
