"""The same states and policies for the guest's Linux and for a uxfrm namespace on the host's side.

Addresses end in 1 on the host's side and in 2 in the guest: 10.0.0.x and fd00::x are on the link,
10.1.0.x and fd01::x are behind a tunnel, 10.2.0.x and fd02::x between two.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw
from scapy.utils import checksum

from linux.guest import Datagram, Figures, GuestError, LinuxGuest, Sending
from uxfrm.datapath.batch import Batch
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.dump import StateDump
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_ESP
from uxfrm.model.outcome import Counter, Outcome, Verdict
from uxfrm.model.policy import Direction, PolicyConfig, PolicyType
from uxfrm.model.selector import Selector
from uxfrm.model.state import (
    AF_UNSPEC_FLAG,
    ALIGN4,
    DECAP_DSCP,
    DONT_ENCAP_DSCP,
    ENCAP_ESPINTCP,
    ENCAP_ESPINUDP,
    ESN,
    ICMP,
    LEGACY_WINDOW_MAX,
    NOECN,
    NOPMTUDISC,
    OSEQ_MAY_WRAP,
    WILDRECV,
    Encap,
    ReplayEsn,
    ReplayLegacy,
    StateConfig,
)
from uxfrm.model.template import MAX_DEPTH, Mode, Template
from uxfrm.namespace import Namespace
from uxfrm.netlink import Client

_SEQ_MASK = 0xFFFFFFFF
SPI, REQID = 0x12345678, 7
HOST_PORT, GUEST_PORT, _SETTLE_PORT = 4001, 4002, 4003

LINK, MIDDLE, BEHIND = 0, 2, 1
_NETS = {4: "10.{}.0.", 6: "fd0{}::"}
_AF = {4: AF_INET, 6: AF_INET6}
_BITS = {4: 32, 6: 128}
_FLAGS = {
    NOECN: "noecn",
    DECAP_DSCP: "decap-dscp",
    NOPMTUDISC: "nopmtudisc",
    WILDRECV: "wildrecv",
    ICMP: "icmp",
    AF_UNSPEC_FLAG: "af-unspec",
    ALIGN4: "align4",
}
_EXTRA_FLAGS = {DONT_ENCAP_DSCP: "dont-encap-dscp", OSEQ_MAY_WRAP: "oseq-may-wrap"}


@dataclass(frozen=True)
class Suite:
    """Algorithms of a state: as `ip xfrm state add` takes them, and as a StateConfig does."""

    name: str
    text: str
    aead: Algorithm | None = None
    auth: Algorithm | None = None
    crypt: Algorithm | None = None
    comp: Algorithm | None = None

    @property
    def proto(self) -> int:
        if self.comp:
            return PROTO_COMP
        return PROTO_ESP if self.crypt or self.aead else PROTO_AH


_PROTOCOLS = {PROTO_AH: "ah", PROTO_COMP: "comp", PROTO_ESP: "esp"}

_ENCAPS = {ENCAP_ESPINUDP: "espinudp", ENCAP_ESPINTCP: "espintcp"}

FORGET = "xfrm state flush\nxfrm policy flush\nxfrm policy flush ptype sub\n"

DEFLATE = Suite("deflate", "comp deflate", comp=algo.comp("deflate"))


def _hex(key: bytes) -> str:
    return f"0x{key.hex()}" if key else '""'


def _key(what: str, size: int) -> bytes:
    """A key that looks random and is the same in every run."""
    seed = sum(what.encode()) or 1
    return bytes((seed * (i + 3) * 37 + i * i * 11 + 5) & 0xFF for i in range(size))


def aead(name: str, key_bytes: int, icv_bits: int) -> Suite:
    key = _key(name, key_bytes)
    text = f"aead {name} {_hex(key)} {icv_bits}"
    return Suite(f"{name}-{key_bytes * 8}-{icv_bits}", text, aead=algo.aead(name, key, icv_bits))


def cipher(name: str, key_bytes: int) -> Suite:
    key = _key(name, key_bytes)
    return Suite(f"{name}-{key_bytes * 8}", f"enc {name} {_hex(key)}", crypt=algo.crypt(name, key))


AH = Suite("ah", "")
"""To be completed by `with_auth`."""


def with_auth(suite: Suite, name: str, key_bytes: int, icv_bits: int = 0) -> Suite:
    """`suite` with integrity: as `auth` (its usual truncation), or as `auth-trunc` to `icv_bits`."""
    key = _key(name, key_bytes)
    if icv_bits:
        text, made = f"auth-trunc {name} {_hex(key)} {icv_bits}", algo.auth_trunc(name, key, icv_bits)
    else:
        text, made = f"auth {name} {_hex(key)}", algo.auth(name, key)
    label = f"{suite.name}+{name}" + (f"-{icv_bits}" if icv_bits else "")
    return replace(suite, name=label, text=f"{suite.text} {text}", auth=made)


@dataclass(frozen=True)
class Shape:
    """What is around what: mode, outer and inner family, and between which ends.

    `to_guest` is the direction of the packets; `net` is where the outer ends are; `port` is that of the
    datagrams on the host's side.
    """

    mode: Mode
    outer: int
    inner: int
    to_guest: bool = True
    net: int = LINK
    port: int = HOST_PORT

    @property
    def name(self) -> str:
        if self.mode.tunnels:
            return f"{self.mode.name.lower()}-{self.inner}in{self.outer}"
        return f"{self.mode.name.lower()}-{self.outer}"

    def _ends(self, family: int, net: int) -> tuple[str, str]:
        prefix = _NETS[family].format(net)
        return (prefix + "1", prefix + "2") if self.to_guest else (prefix + "2", prefix + "1")

    @property
    def outer_ends(self) -> tuple[str, str]:
        """Source and destination of what is on the wire."""
        return self._ends(self.outer, self.net)

    @property
    def inner_ends(self) -> tuple[str, str]:
        """Source and destination of the protected packets."""
        return self._ends(self.inner, BEHIND) if self.mode.tunnels else self.outer_ends

    @property
    def ports(self) -> tuple[int, int]:
        """Source and destination port of the protected datagrams."""
        return (self.port, GUEST_PORT) if self.to_guest else (GUEST_PORT, self.port)

    def datagram(self, payload: bytes, tos: int = 0, df: bool = False) -> bytes:
        """An inner packet from the host's side to the guest's socket."""
        source, target = self.inner_ends
        sport, dport = self.ports
        upper = UDP(sport=sport, dport=dport) / Raw(payload)
        if self.inner == 4:
            return bytes(IP(src=source, dst=target, tos=tos, flags="DF" if df else 0, id=77) / upper)
        return bytes(IPv6(src=source, dst=target, tc=tos) / upper)

    def received(self, payload: bytes) -> tuple[str, str, int, int, bytes]:
        """What `read_datagram` is to read from a protected packet with this payload."""
        return *self.inner_ends, *self.ports, payload


def read_datagram(packet: bytes) -> tuple[str, str, int, int, bytes]:
    """Source, destination, both ports and payload of a UDP packet, whose lengths and checksums are right.

    It may have a fragment header in front that says that it is whole.
    """
    if packet[0] >> 4 == 4:
        header, proto, length = 20, packet[9], int.from_bytes(packet[2:4])
        family, source, target = socket.AF_INET, packet[12:16], packet[16:20]
        if checksum(packet[:20]):
            raise ValueError(f"header checksum of {packet.hex()}")
    else:
        header, proto, length = 40, packet[6], 40 + int.from_bytes(packet[4:6])
        if proto == socket.IPPROTO_FRAGMENT and not int.from_bytes(packet[42:44]) & 0xFFF9:
            header, proto = 48, packet[40]
        family, source, target = socket.AF_INET6, packet[8:24], packet[24:40]
    upper = packet[header:]
    sport, dport, size, _ = struct.unpack_from(">HHHH", upper)
    if (proto, length, size) != (socket.IPPROTO_UDP, len(packet), len(upper)):
        raise ValueError(f"protocol or lengths of {packet.hex()}")
    if checksum(source + target + struct.pack(">II", size, proto) + upper):
        raise ValueError(f"UDP checksum of {packet.hex()}")
    ends = (socket.inet_ntop(family, source), socket.inet_ntop(family, target))
    return *ends, sport, dport, upper[8:]


TRANSPORT4, TRANSPORT6 = Shape(Mode.TRANSPORT, 4, 4), Shape(Mode.TRANSPORT, 6, 6)
TUNNELS = tuple(Shape(Mode.TUNNEL, outer, inner) for outer in (4, 6) for inner in (4, 6))
BEETS = tuple(Shape(Mode.BEET, outer, inner) for outer in (4, 6) for inner in (4, 6))
SHAPES = (TRANSPORT4, TRANSPORT6, *TUNNELS)


@dataclass(frozen=True)
class Case:
    """A state and its policy, in both tongues; `around` are further states, each around those before it.

    Both states begin behind number `start`, for sending as for receiving. `window` 0 is a usual one. The
    first `sub` states are asked for by a sub policy; `narrow` policies select the datagrams' ports too.
    """

    suite: Suite
    shape: Shape
    esn: bool = False
    flags: int = 0
    extra_flags: int = 0
    spi: int = SPI
    window: int = 0
    start: int = 0
    around: tuple[Case, ...] = ()
    encap: Encap | None = None
    tfcpad: int = 0
    sub: int = 0
    narrow: bool = False

    @property
    def name(self) -> str:
        words = [self.shape.name, self.suite.name, *self._flag_words, *self._extra_words]
        words += [f"window-{self.window}"] if self.window else []
        words += [f"from-{self.start:#x}"] if self.start else []
        words += [f"tfc-{self.tfcpad}"] if self.tfcpad else []
        words += [f"sub-{self.sub}"] if self.sub else []
        if self.encap:
            words.append(f"{_ENCAPS[self.encap.type]}-{self.encap.sport}-{self.encap.dport}")
        return "-".join(words) + "".join(f"-in-{layer.name}" for layer in self.around)

    def reversed(self) -> Case:
        """The same for packets from the guest."""
        shape = replace(self.shape, to_guest=not self.shape.to_guest)
        return replace(self, shape=shape, around=tuple(layer.reversed() for layer in self.around))

    @property
    def layers(self) -> tuple[Case, ...]:
        """All states, innermost first."""
        return (replace(self, around=()), *self.around)

    # -- in the guest's tongue

    def batch(self) -> str:
        """What `ip -batch` makes of it in the guest, on which everything else is forgotten."""
        return FORGET + self.lines()

    def lines(self) -> str:
        """What `ip -batch` makes of it."""
        states = "".join(layer._state_line() for layer in self.layers)
        return states + "".join(self._policy_line(*policy) for policy in self._policies())

    def _policies(self) -> list[tuple[PolicyType, tuple[Case, ...]]]:
        """Each policy's type and the states that it asks for: a policy takes no more of them."""
        layers = self.layers[:MAX_DEPTH]
        main = (PolicyType.MAIN, layers[self.sub :])
        return [(PolicyType.SUB, layers[: self.sub]), main] if self.sub else [main]

    def _policy_line(self, type: PolicyType, layers: tuple[Case, ...]) -> str:
        source, target = self.shape.inner_ends
        bits = _BITS[self.shape.inner]
        ports = " proto udp sport {} dport {}".format(*self.shape.ports) if self.narrow else ""
        direction = "in" if self.shape.to_guest else "out"
        templates = " ".join(layer._template_words() for layer in layers)
        return (
            f"xfrm policy add src {source}/{bits} dst {target}/{bits}{ports} dir {direction} "
            f"ptype {type.name.lower()} {templates}\n"
        )

    def _state_line(self) -> str:
        low, high = self.start & _SEQ_MASK, self.start >> 32
        numbers = f"replay-seq {low} replay-oseq {low} replay-seq-hi {high} replay-oseq-hi {high}"
        numbers = "" if self.suite.comp else f"replay-window {self.replay_window} {numbers}"
        flags = f"flag {' '.join(self._flag_words)}" if self._flag_words else ""
        extra_flags = f"extra-flag {' '.join(self._extra_words)}" if self._extra_words else ""
        source, target = self.shape.inner_ends
        selector = f"sel src {source} dst {target}" if self._selects else ""
        unspecified = "0.0.0.0" if self.shape.outer == 4 else "::"
        tfcpad = f"tfcpad {self.tfcpad}" if self.tfcpad else ""
        encap = ""
        if self.encap:
            kind = _ENCAPS[self.encap.type]
            encap = f"encap {kind} {self.encap.sport} {self.encap.dport} {unspecified}"
        return (
            f"xfrm state add {self._ends_words()} spi {self._spi:#x} reqid {self._reqid} "
            f"mode {self.shape.mode.name.lower()} {numbers} "
            f"{flags} {extra_flags} {encap} {tfcpad} {self.suite.text} {selector}\n"
        )

    def _template_words(self) -> str:
        level = "level use" if self.suite.comp and self.shape.to_guest else ""
        return f"tmpl {self._ends_words()} reqid {self._reqid} mode {self.shape.mode.name.lower()} {level}"

    def _ends_words(self) -> str:
        source, target = self.shape.outer_ends
        return f"src {source} dst {target} proto {_PROTOCOLS[self.suite.proto]}"

    @property
    def _flag_words(self) -> list[str]:
        words = ["esn"] if self.esn else []
        return words + [word for bit, word in _FLAGS.items() if self.flags & bit]

    @property
    def _extra_words(self) -> list[str]:
        return [word for bit, word in _EXTRA_FLAGS.items() if self.extra_flags & bit]

    @property
    def _selects(self) -> bool:
        """Without a selector of the inner family, Linux takes the outer one's as the only payload.

        BEET has its inner addresses from there.
        """
        if self.shape.mode == Mode.BEET:
            return True
        return self.shape.inner != self.shape.outer and not self.flags & AF_UNSPEC_FLAG

    @property
    def _spi(self) -> int:
        """A CPI has 16 bits."""
        return self.spi & 0xFFFF if self.suite.comp else self.spi

    @property
    def _reqid(self) -> int:
        return REQID + self.spi - SPI

    @property
    def replay_window(self) -> int:
        if self.suite.comp:
            return 0
        return self.window or (64 if self.esn else 32)

    # -- in uxfrm's

    def namespace(self, randbytes: Callable[[int], bytes] = os.urandom) -> Namespace:
        """A uxfrm namespace at the host's end: out when the guest receives, in when it sends."""
        return self._namespace(Direction.OUT if self.shape.to_guest else Direction.IN, randbytes)

    def twin(self) -> Namespace:
        """A uxfrm namespace that does what the guest does: in when it receives, out when it sends."""
        return self._namespace(Direction.IN if self.shape.to_guest else Direction.OUT, os.urandom)

    def _namespace(self, direction: Direction, randbytes: Callable[[int], bytes]) -> Namespace:
        made = Namespace(randbytes=randbytes)
        self.add_to(made, direction)
        return made

    def add_to(self, namespace: Namespace | Client, direction: Direction) -> None:
        """Have a namespace, or a kernel, do this in one direction."""
        for layer in self.layers:
            namespace.add_state(layer.state())
        for type, layers in self._policies():
            templates = tuple(layer.template(direction) for layer in layers)
            namespace.add_policy(PolicyConfig(direction, self._policy_selector(), templates, type=type))

    def state(self) -> StateConfig:
        """The innermost state."""
        shape, suite, window = self.shape, self.suite, self.replay_window
        low, high = self.start & _SEQ_MASK, self.start >> 32
        source, target = map(parse, shape.outer_ends)
        make = partial(
            StateConfig,
            daddr=target,
            saddr=source,
            spi=self._spi,
            family=_AF[shape.outer],
            mode=shape.mode,
            reqid=self._reqid,
            aead=suite.aead,
            auth=suite.auth,
            crypt=suite.crypt,
            comp=suite.comp,
            proto=suite.proto,
            flags=self.flags | (ESN if self.esn else 0),
            extra_flags=self.extra_flags,
            encap=self.encap,
            tfcpad=self.tfcpad,
        )
        if self._selects:
            make = partial(make, selector=self.selector())
        if self.esn or window > LEGACY_WINDOW_MAX:
            return make(replay_esn=ReplayEsn((window + 31) // 32, window, low, low, high, high))
        return make(replay_window=window, replay=ReplayLegacy(low, low))

    def selector(self) -> Selector:
        source, target = map(parse, self.shape.inner_ends)
        bits = _BITS[self.shape.inner]
        return Selector(_AF[self.shape.inner], target, source, prefixlen_d=bits, prefixlen_s=bits)

    def _policy_selector(self) -> Selector:
        selector = self.selector()
        if not self.narrow:
            return selector
        sport, dport = self.shape.ports
        return replace(
            selector, proto=socket.IPPROTO_UDP, sport=sport, sport_mask=0xFFFF, dport=dport, dport_mask=0xFFFF
        )

    def template(self, direction: Direction) -> Template:
        """The template that asks for the innermost state."""
        source, target = map(parse, self.shape.outer_ends)
        family, mode = _AF[self.shape.outer], self.shape.mode
        # What IPComp does not compress comes without it: those who receive cannot insist.
        optional = self.suite.comp is not None and direction == Direction.IN
        return Template(
            target, source, proto=self.suite.proto, family=family, reqid=self._reqid, mode=mode,
            optional=optional,
        )  # fmt: skip


def figures(namespace: Namespace) -> list[Figures]:
    """What `guest.xfrm_states()` is to tell when the guest's states are as those of `namespace`."""
    return [_figures_of(dump) for dump in reversed(list(namespace.dump_states()))]


def _figures_of(dump: StateDump) -> Figures:
    replay = dump.replay
    if isinstance(replay, ReplayEsn):
        halves = (replay.oseq, replay.seq, replay.oseq_hi, replay.seq_hi)
        numbers = (replay.words, *halves, replay.replay_window, *replay.bitmap)
    else:
        numbers = tuple(replay)
    return Figures(dump.config.spi, dump.current.bytes, dump.current.packets, *dump.stats, numbers)


def counters(namespace: Namespace) -> dict[str, int]:
    """The counters of XFRM that are not 0, as `guest.xfrm_stat()` tells the guest's."""
    return {counter.name: n for counter, n in zip(Counter, namespace.counters(), strict=True) if n}


def outcomes(batch: Batch) -> list[Outcome]:
    return [Outcome.of(int(number)) for number in batch.packets["outcome"]]


def packets(batch: Batch) -> list[bytes]:
    return [batch.packet(i) for i in range(len(batch))]


def prepare(guest: LinuxGuest, case: Case) -> dict[str, int]:
    """Give the guest the case and the socket at its end of the datagrams; return its counters so far."""
    guest.udp_open("u", case.shape.inner_ends[1 if case.shape.to_guest else 0], GUEST_PORT)
    guest.ip_batch(case.batch())
    guest.drain()
    return guest.xfrm_stat()


def sent_by(guest: LinuxGuest, case: Case, datagrams: Sequence[Sending]) -> tuple[list[bytes], list[int]]:
    """What a guest that is prepared puts on the wire for these, and the errno of each (0: none)."""
    errors = guest.udp_send("u", (case.shape.inner_ends[1], HOST_PORT), datagrams)
    return guest.take_ip(errors.count(0)), errors


def delivered_by(guest: LinuxGuest, wire: Sequence[bytes]) -> list[Datagram]:
    """What the socket of a guest that is prepared receives of these packets."""
    for packet in wire:
        guest.send_ip(packet)
    settle(guest)
    return guest.udp_take("u", len(wire), timeout=0)


def settle(guest: LinuxGuest) -> None:
    """Wait until the guest is done with all that was sent to it: frames are dealt with in their order."""
    guest.udp_open("settle", "10.0.0.2", _SETTLE_PORT)
    # from an address that no policy selects
    guest.send_ip(bytes(IP(src="10.0.0.99", dst="10.0.0.2") / UDP(dport=_SETTLE_PORT) / Raw(b"settled?")))
    if not guest.udp_take("settle", 1, timeout=10):
        raise GuestError("the guest does not come to an end with what was sent")


def opened_datagrams(batch: Batch) -> list[tuple[str, str, int, int, bytes]]:
    """The datagrams of a batch that was taken in which were let through, as `read_datagram` tells them."""
    through = (Verdict.DELIVERED, Verdict.CLEAR)
    ends = zip(outcomes(batch), packets(batch), strict=True)
    return [read_datagram(packet) for outcome, packet in ends if outcome.verdict in through]


def opened(namespace: Namespace, wire: Sequence[bytes]) -> list[tuple[Outcome, bytes | None]]:
    """How each packet of a batch ends on input, and the payload of those that are delivered."""
    batch = Batch.pack(wire)
    namespace.input(batch)
    return [
        (outcome, read_datagram(batch.packet(i))[-1] if outcome.verdict == Verdict.DELIVERED else None)
        for i, outcome in enumerate(outcomes(batch))
    ]


_CURRENT = re.compile(r"lifetime current:\s+(\d+)\(bytes\), (\d+)\(packets\)")


def ip_usage(guest: LinuxGuest) -> tuple[int, int]:
    """Bytes and packets of the guest's only state, as `ip -s xfrm state` shows them."""
    code, out, err = guest.run(["ip", "-s", "xfrm", "state"])
    assert code == 0, err
    found = _CURRENT.findall(out)
    assert len(found) == 1, out
    return int(found[0][0]), int(found[0][1])
