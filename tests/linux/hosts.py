"""A host that a scenario is played on: Linux in the guest, or a uxfrm namespace; each keeps a transcript.

Both are asked through NETLINK_XFRM by the same client and given the same packets. The transcript has what a
host's administrator, its peers and its applications see: answers, events, what is on the wire, what
applications receive, and at the end the counters and the tables. Seconds of the wall clock are told as
seconds since the scenario began; numbers that Linux chooses, in the order in which they appear.
"""

from __future__ import annotations

import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from errno import errorcode
from functools import cache, partial
from ipaddress import IPv4Address

from linux.guest import LinuxGuest, Sending
from linux.twin import (
    BEHIND,
    GUEST_PORT,
    HOST_PORT,
    LINK,
    TRANSPORT4,
    TUNNELS,
    counters,
    outcomes,
    read_datagram,
)
from uxfrm.datapath.batch import Batch
from uxfrm.iproute2.commands import parse_words
from uxfrm.iproute2.execute import execute
from uxfrm.iproute2.monitor import show_event
from uxfrm.iproute2.output import show_policy, show_state
from uxfrm.iproute2.requests import PolicyAdd
from uxfrm.iproute2.words import split
from uxfrm.model.address import AF_INET, parse
from uxfrm.model.error import XfrmError
from uxfrm.model.outcome import Verdict
from uxfrm.model.policy import PolicyConfig
from uxfrm.namespace import Namespace
from uxfrm.netlink import Client, asking
from uxfrm.netlink.constants import Group
from uxfrm.netlink.memory import connect
from uxfrm.netlink.server import Server

SHAPES = {LINK: TRANSPORT4, BEHIND: TUNNELS[0]}
SYSCTLS = {
    "net.core.xfrm_larval_drop": 1,
    "net.core.xfrm_acq_expires": 30,
    "net.core.xfrm_aevent_etime": 10,
    "net.core.xfrm_aevent_rseqth": 2,
}
# The state is there for the guest to have loaded what takes it a second.
_DEFAULTS = f"""\
xfrm state flush
xfrm state add src 10.0.0.2 dst 10.0.0.1 proto esp spi 1 aead rfc4106(gcm(aes)) 0x{"00" * 20} 128
xfrm policy flush
xfrm policy flush ptype sub
xfrm state flush
xfrm policy setdefault in accept fwd accept out accept
xfrm policy set hthresh4 32 32 hthresh6 128 128"""
_LINK = 2  # the interface index of the link
# How far into a second a scenario may begin, how much later in one it goes on after each wait, so that timers
# that were started before it have run out before, and how long all that is done then may take.
_BEGINS, _LATER, _WINDOW = 0.3, 0.15, 0.1
_WAITS_MAX = 4
_DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
# What Linux 6.1 does not tell yet: the direction of states, and when states other than mobility's were used.
_NEWER = re.compile(r"^[ |]*\t(dir out|lastused .*)$")
_CHOSEN = re.compile(r"(?<!context: )\b(seq|index) ((?:0x)?[0-9a-f]+)")


@cache
def _datagram(net: int, payload: bytes) -> bytes:
    """Scapy takes a millisecond: what is sealed within a second must not wait for it twice."""
    return SHAPES[net].datagram(payload)


def sealed_by(*lines: str) -> Callable[..., list[bytes]]:
    """A peer with these states and policies: called with payloads, it gives the packets that it sends."""
    peer = Namespace(randbytes=random.Random(1).randbytes)
    for line in lines:
        execute(parse_words(split(line)), peer)

    def seal(*payloads: bytes, net: int = BEHIND) -> list[bytes]:
        batch = Batch.pack([_datagram(net, payload) for payload in payloads])
        peer.output(batch)
        assert {outcome.verdict for outcome in outcomes(batch)} <= {Verdict.SENT, Verdict.CLEAR}
        return [batch.packet(i) for i in range(len(batch))]

    return seal


class Late(Exception):
    """The machine was too busy for what was done to be done in the second it was meant for."""


class Host(ABC):
    """One of the two hosts, in the middle of a scenario. Applications are at 10.1.0.2 and 10.0.0.2."""

    def __init__(self, client: Client, monitor: Client, began: float) -> None:
        self.client, self._monitor = client, monitor
        self._began, self._fraction = int(began), began % 1
        self._waited = self._waits = 0
        self._sent = 0
        self._chosen: dict[str, dict[int, int]] = {}
        self.transcript: list[str] = []

    # -- what a scenario does

    def listen(self, aevents: bool = False) -> None:
        """Have somebody hear all events, aevents only if told so: without, nobody is asked for states."""
        self._monitor.join(*(group for group in Group if aevents or group != Group.AEVENTS))

    def ip(self, *lines: str) -> None:
        """`ip xfrm` commands, one by one: what they print, or the errno they are refused with."""
        for line in lines:
            self.note(f"$ {line}")
            self.ask(partial(execute, parse_words(split(line)), self.client, 1, UTC))

    def ask(self, request: Callable[[], object]) -> None:
        """Make a request of the client's: what it gives (text), or its errno."""
        try:
            answer = request()
        except XfrmError as error:
            self.note(f"refused: {errorcode[error.number]}")
        else:
            self.note(*str(answer or "").splitlines())
        self._after()

    def send(self, count: int = 1, net: int = BEHIND, size: int = 8, mark: int = 0) -> None:
        """An application sends datagrams: what is on the wire then."""
        payloads = [b"%0*d" % (size, self._sent + i) for i in range(count)]
        self._sent += count
        self.note(f"sends {count}")
        self._wire(self._send(payloads, net, mark))
        self._after()

    def receive(self, packets: Sequence[bytes]) -> None:
        """Packets arrive together: what applications receive of them, and what is sent on."""
        self.note(f"receives {len(packets)}")
        payloads, wire = self._receive(packets)
        self.note(*(f"  application: {payload!r}" for payload in payloads))
        self._wire(wire)
        self._after()

    def wait(self, seconds: int) -> None:
        """Let time pass: at most four times."""
        self.note(f"{seconds} s pass")
        self._waited += seconds
        self._waits += 1
        assert self._waits <= _WAITS_MAX
        self._wire(self._sleep_until(self._now))
        self._after()

    @abstractmethod
    def sysctl(self, name: str, value: int) -> None:
        """Set a sysctl."""

    @abstractmethod
    def forward(self) -> None:
        """Be a router from now on."""

    def socket_policy(self, line: str) -> None:
        """Give the application at 10.1.0.2 a policy of its own: that of an `ip xfrm policy add`."""
        command = parse_words(split(line))
        assert isinstance(command, PolicyAdd)
        self._socket_policy(command.config)

    def counters(self) -> None:
        """The counters that moved since the scenario began."""
        self.note(*(f"  {name} {n}" for name, n in sorted(self._counters().items())))

    def tables(self) -> None:
        """All states and policies, with their statistics."""
        self.note("states:")
        for state in self.client.dump_states():
            self.note(*show_state(state, zone=UTC).splitlines())
        self.note("policies:")
        for policy in self.client.dump_policies():
            self.note(*show_policy(policy, zone=UTC).splitlines())

    @property
    def _now(self) -> float:
        """When what is done now is meant to be done."""
        return self._began + self._waited + self._fraction + self._waits * _LATER

    # -- the transcript

    def note(self, *lines: str) -> None:
        """Remember lines, without what differs from one time to the next."""
        for line in lines:
            if not _NEWER.search(line):
                self.transcript.append(_CHOSEN.sub(self._name, _DATE.sub(self._since, line)))

    def _since(self, found: re.Match[str]) -> str:
        date = datetime.fromisoformat(found[0]).replace(tzinfo=UTC)
        return f"+{int(date.timestamp()) - self._began}"

    def _name(self, found: re.Match[str]) -> str:
        what, number = found[1], int(found[2], 0)
        known = self._chosen.setdefault(what, {0: 0})
        return f"{what} #{known.setdefault(number, len(known))}"

    def _wire(self, packets: Iterable[bytes]) -> None:
        self.note(*(f"  wire: {_on_the_wire(packet)}" for packet in packets))

    def _after(self) -> None:
        """What everybody was told of since."""
        self._check_clock()
        while (event := self._monitor.next_event(0)) is not None:
            text = show_event(event, True, zone=UTC)
            self.note(*(f"  | {line}" for line in text.splitlines()))

    @abstractmethod
    def _check_clock(self) -> None: ...
    @abstractmethod
    def _send(self, payloads: list[bytes], net: int, mark: int) -> list[bytes]: ...
    @abstractmethod
    def _receive(self, packets: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]: ...
    @abstractmethod
    def _sleep_until(self, moment: float) -> list[bytes]: ...
    @abstractmethod
    def _socket_policy(self, config: PolicyConfig) -> None: ...
    @abstractmethod
    def _counters(self) -> dict[str, int]: ...


def _on_the_wire(packet: bytes) -> str:
    header, proto = (packet[0] & 15) * 4, packet[9]
    target = IPv4Address(packet[16:20])
    if proto == 17 and packet[header : header + 2] in (b"\x11\x94", b"\x11\x95"):
        ports = int.from_bytes(packet[header : header + 2]), int.from_bytes(packet[header + 2 : header + 4])
        return f"{len(packet)} bytes, ports {ports}, " + _esp(target, packet[header + 8 :])
    if proto == 50:
        return f"{len(packet)} bytes, " + _esp(target, packet[header:])
    if proto == 17:
        return f"clear {read_datagram(packet)}"
    return f"protocol {proto} to {target}"


def _esp(target: IPv4Address, esp: bytes) -> str:
    return f"ESP to {target}, SPI {int.from_bytes(esp[:4]):#x}, number {int.from_bytes(esp[4:8])}"


class LinuxHost(Host):
    """Linux 6.1, in the guest."""

    def __init__(self, guest: LinuxGuest) -> None:
        self._guest = guest
        client = guest.connect("requests")
        for line in _DEFAULTS.splitlines():
            execute(parse_words(split(line)), client)
        for name, value in SYSCTLS.items():
            self.sysctl(name, value)
        guest.write("/proc/sys/net/ipv4/ip_forward", "0")
        for net, shape in SHAPES.items():
            guest.udp_open(f"app{net}", shape.inner_ends[1], GUEST_PORT)
        self._settled()
        self._before = guest.xfrm_stat()
        monitor = guest.connect("monitor")
        super().__init__(client, monitor, guest.call("sleep_into", _BEGINS))

    def sysctl(self, name: str, value: int) -> None:
        self._guest.write(f"/proc/sys/{name.replace('.', '/')}", str(value))

    def forward(self) -> None:
        self._guest.write("/proc/sys/net/ipv4/ip_forward", "1")

    def _send(self, payloads: list[bytes], net: int, mark: int) -> list[bytes]:
        self._guest.call("udp_mark", f"app{net}", mark)
        self._guest.udp_send(f"app{net}", (SHAPES[net].inner_ends[0], HOST_PORT), map(Sending, payloads))
        return self._settled()

    def _receive(self, packets: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        for packet in packets:
            self._guest.send_ip(packet)
        wire = self._settled()
        found = [self._guest.udp_take(f"app{net}", len(packets), timeout=0) for net in SHAPES]
        return [datagram.payload for taken in found for datagram in taken], wire

    def _sleep_until(self, moment: float) -> list[bytes]:
        self._guest.call("sleep_until", moment)
        return self._settled()

    def _check_clock(self) -> None:
        if time.time() > self._now + _WINDOW:
            raise Late

    def _socket_policy(self, config: PolicyConfig) -> None:
        request = asking.policy(config)
        info, templates = request[:168], request[172:]
        self._guest.call("socket_policy", f"app{BEHIND}", (info + templates).hex())

    def _counters(self) -> dict[str, int]:
        return self._guest.xfrm_moved(self._before)

    def _settled(self) -> list[bytes]:
        return self._guest.settled()


class UxfrmHost(Host):
    """A namespace; its clock begins anywhere."""

    BEGAN = 1_700_000_000.25

    def __init__(self) -> None:
        self.namespace = Namespace(randbytes=random.Random(2).randbytes, now_s=self.BEGAN)
        local = {parse(f"10.{net}.0.2") for net in range(3)}
        self.namespace.path.is_local = local.__contains__
        self._socket = self.namespace.open_socket(AF_INET)
        self._sockets = dict.fromkeys(SHAPES, 0)
        server = Server(self.namespace)
        super().__init__(connect(server), connect(server), self.BEGAN)

    def sysctl(self, name: str, value: int) -> None:
        self.namespace.set_sysctl(name, value)

    def forward(self) -> None:
        pass

    def _send(self, payloads: list[bytes], net: int, mark: int) -> list[bytes]:
        shape = replace(SHAPES[net], to_guest=False)
        packets = [shape.datagram(payload) for payload in payloads]
        batch = Batch.pack(packets, self.namespace.now_s, mark, _LINK, socket=self._sockets[net])
        self.namespace.output(batch)
        return self._sent_of([*self.namespace.released(), batch])

    def _receive(self, packets: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        batch = Batch.pack(packets, self.namespace.now_s)
        self.namespace.input(batch)
        ours, others = [], []
        for i, outcome in enumerate(outcomes(batch)):
            if outcome.verdict in (Verdict.DELIVERED, Verdict.FORWARDED, Verdict.CLEAR):
                packet = batch.packet(i)
                local = packet[16:20] in {parse(shape.inner_ends[1])[:4] for shape in SHAPES.values()}
                (ours if local else others).append(packet)
        by_net = {parse(shape.inner_ends[1])[:4]: net for net, shape in SHAPES.items()}
        ours.sort(key=lambda packet: list(SHAPES).index(by_net[packet[16:20]]))
        return [read_datagram(packet)[-1] for packet in ours], self._forwarded(others)

    def _forwarded(self, packets: list[bytes]) -> list[bytes]:
        batch = Batch.pack(packets, self.namespace.now_s)
        self.namespace.output(batch)
        return self._sent_of([batch])

    def _sleep_until(self, moment: float) -> list[bytes]:
        self.namespace.advance(moment)
        return self._sent_of(self.namespace.released())

    def _check_clock(self) -> None:
        assert self.namespace.now == self._now

    def _socket_policy(self, config: PolicyConfig) -> None:
        self._socket.set_policy(config)
        self._sockets[BEHIND] = self._socket.number

    def _counters(self) -> dict[str, int]:
        return counters(self.namespace)

    @staticmethod
    def _sent_of(batches: Iterable[Batch]) -> list[bytes]:
        return [
            batch.packet(i)
            for batch in batches
            for i, outcome in enumerate(outcomes(batch))
            if outcome.verdict in (Verdict.SENT, Verdict.CLEAR)
        ]
