"""The same states and policies for the guest's Linux and for a uxfrm namespace on the host's side.

Addresses end in 1 on the host's side and in 2 in the guest: 10.0.0.x and fd00::x are on the link,
10.1.0.x and fd01::x are behind a tunnel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from linux.guest import LinuxGuest
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.dump import StateDump, StateId
from uxfrm.model.flow import PROTO_ESP
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import DECAP_DSCP, ESN, NOECN, NOPMTUDISC, ReplayEsn, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

SPI, REQID = 0x12345678, 7
HOST_PORT, GUEST_PORT = 4001, 4002

_LINK = {4: "10.0.0.", 6: "fd00::"}
_BEHIND = {4: "10.1.0.", 6: "fd01::"}
_AF = {4: AF_INET, 6: AF_INET6}
_BITS = {4: 32, 6: 128}
_FLAGS = {NOECN: "noecn", DECAP_DSCP: "decap-dscp", NOPMTUDISC: "nopmtudisc"}


@dataclass(frozen=True)
class Suite:
    """Algorithms of a state: as `ip xfrm state add` takes them, and as a StateConfig does."""

    name: str
    text: str
    aead: Algorithm | None = None
    auth: Algorithm | None = None
    crypt: Algorithm | None = None


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
    """What is around what: mode, outer and inner family; `to_guest` is the direction of the packets."""

    mode: Mode
    outer: int
    inner: int
    to_guest: bool = True

    @property
    def name(self) -> str:
        if self.mode == Mode.TUNNEL:
            return f"tunnel-{self.inner}in{self.outer}"
        return f"{self.mode.name.lower()}-{self.outer}"

    def _ends(self, prefix: str) -> tuple[str, str]:
        return (prefix + "1", prefix + "2") if self.to_guest else (prefix + "2", prefix + "1")

    @property
    def outer_ends(self) -> tuple[str, str]:
        """Source and destination of what is on the wire."""
        return self._ends(_LINK[self.outer])

    @property
    def inner_ends(self) -> tuple[str, str]:
        """Source and destination of the protected packets."""
        return self._ends(_BEHIND[self.inner]) if self.mode == Mode.TUNNEL else self.outer_ends

    def datagram(self, payload: bytes, tos: int = 0, df: bool = False) -> bytes:
        """An inner packet from the host's side to the guest's socket."""
        source, target = self.inner_ends
        ports = (HOST_PORT, GUEST_PORT) if self.to_guest else (GUEST_PORT, HOST_PORT)
        upper = UDP(sport=ports[0], dport=ports[1]) / Raw(payload)
        if self.inner == 4:
            return bytes(IP(src=source, dst=target, tos=tos, flags="DF" if df else 0, id=77) / upper)
        return bytes(IPv6(src=source, dst=target, tc=tos) / upper)


TRANSPORT4, TRANSPORT6 = Shape(Mode.TRANSPORT, 4, 4), Shape(Mode.TRANSPORT, 6, 6)
TUNNELS = tuple(Shape(Mode.TUNNEL, outer, inner) for outer in (4, 6) for inner in (4, 6))
SHAPES = (TRANSPORT4, TRANSPORT6, *TUNNELS)


@dataclass(frozen=True)
class Case:
    """One state with its policy, in both tongues."""

    suite: Suite
    shape: Shape
    esn: bool = False
    flags: int = 0
    spi: int = field(default=SPI)

    @property
    def name(self) -> str:
        flags = "".join(f"-{word}" for bit, word in _FLAGS.items() if self.flags & bit)
        return f"{self.shape.name}-{self.suite.name}{'-esn' if self.esn else ''}{flags}"

    def batch(self) -> str:
        """What `ip -batch` makes of it in the guest, on which everything else is forgotten."""
        shape = self.shape
        source, target = shape.outer_ends
        inner_source, inner_target = shape.inner_ends
        words = [word for bit, word in _FLAGS.items() if self.flags & bit]
        words += ["esn"] if self.esn else []
        ends = f"src {source} dst {target} proto esp"
        window = "replay-window 64" if self.esn else "replay-window 32"
        flags = f"flag {' '.join(words)}" if words else ""
        mode = shape.mode.name.lower()
        bits = _BITS[shape.inner]
        direction = "in" if shape.to_guest else "out"
        # without a selector of the inner family, Linux takes the outer one's as the only payload
        other = f"sel src {inner_source} dst {inner_target}" if shape.inner != shape.outer else ""
        return (
            "xfrm state flush\nxfrm policy flush\n"
            f"xfrm state add {ends} spi {self.spi:#x} reqid {REQID} mode {mode} {window} {flags} "
            f"{self.suite.text} {other}\n"
            f"xfrm policy add src {inner_source}/{bits} dst {inner_target}/{bits} dir {direction} "
            f"tmpl {ends} reqid {REQID} mode {mode}\n"
        )

    def namespace(self, randbytes: Callable[[int], bytes] = os.urandom) -> Namespace:
        """A uxfrm namespace at the host's end: out when the guest receives, in when it sends."""
        made = Namespace(randbytes=randbytes)
        made.add_state(self.state())
        made.add_policy(self.policy(Direction.OUT if self.shape.to_guest else Direction.IN))
        return made

    def state(self) -> StateConfig:
        shape, suite = self.shape, self.suite
        source, target = map(parse, shape.outer_ends)
        make = partial(
            StateConfig,
            daddr=target,
            saddr=source,
            spi=self.spi,
            family=_AF[shape.outer],
            mode=shape.mode,
            reqid=REQID,
            aead=suite.aead,
            auth=suite.auth,
            crypt=suite.crypt,
        )
        if shape.inner != shape.outer:
            make = partial(make, selector=self.selector())
        if self.esn:
            return make(flags=self.flags | ESN, replay_esn=ReplayEsn(words=2, replay_window=64))
        return make(flags=self.flags, replay_window=32)

    def selector(self) -> Selector:
        source, target = map(parse, self.shape.inner_ends)
        bits = _BITS[self.shape.inner]
        return Selector(_AF[self.shape.inner], target, source, prefixlen_d=bits, prefixlen_s=bits)

    def policy(self, direction: Direction) -> PolicyConfig:
        shape = self.shape
        source, target = map(parse, shape.outer_ends)
        template = Template(target, source, proto=PROTO_ESP, family=_AF[shape.outer], reqid=REQID)
        return PolicyConfig(direction, self.selector(), (replace(template, mode=shape.mode),))

    def dump(self, namespace: Namespace) -> StateDump:
        """uxfrm's own state with its counters."""
        target = parse(self.shape.outer_ends[1])
        return namespace.get_state(StateId(target, self.spi, PROTO_ESP, _AF[self.shape.outer]))


_CURRENT = re.compile(r"lifetime current:\s+(\d+)\(bytes\), (\d+)\(packets\)")


def ip_usage(guest: LinuxGuest) -> tuple[int, int]:
    """Bytes and packets of the guest's only state, as `ip -s xfrm state` shows them."""
    code, out, err = guest.run(["ip", "-s", "xfrm", "state"])
    assert code == 0, err
    found = _CURRENT.findall(out)
    assert len(found) == 1, out
    return int(found[0][0]), int(found[0][1])
