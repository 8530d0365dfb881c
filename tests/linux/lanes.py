"""Many cases side by side, each in a lane of its own: its port, its SPIs, its policy.

So that a matrix of thousands costs little: the guest is prepared once for a group of them, and uxfrm is given
the packets of all of them as one batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from linux.guest import LinuxGuest, Sending
from linux.twin import FORGET, GUEST_PORT, SPI, Case, opened_datagrams, settle
from uxfrm.datapath.batch import Batch
from uxfrm.lifecycle.sockets import Socket
from uxfrm.model.address import AF_INET, AF_INET6, ANY4, ANY6, Address
from uxfrm.model.flow import PROTO_AH
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.template import MAX_DEPTH, Mode
from uxfrm.namespace import Namespace

_T = TypeVar("_T")

_FIRST_PORT = 10_000
_ENCAP_PORT = 4500
# What Linux keeps waiting without losing any.
_AT_ONCE = 60

Delivered = dict[str, list[bytes]]
"""The payloads that came out of each case, by its name, sorted: decompressing lets packets overtake."""


def parts(whole: Sequence[_T], size: int) -> list[Sequence[_T]]:
    """In order, `size` at a time."""
    return [whole[at : at + size] for at in range(0, len(whole), size)]


@dataclass(frozen=True)
class Lanes:
    """Cases of one direction; the `payloads` go through each. `lossless`: all that is sent is delivered."""

    name: str
    cases: tuple[Case, ...]
    payloads: tuple[bytes, ...]
    lossless: bool = True

    @classmethod
    def of(cls, name: str, cases: Iterable[Case], payloads: Sequence[bytes], lossless: bool = True) -> Lanes:
        """Give each case its lane."""
        made = tuple(_in_lane(number, case) for number, case in enumerate(cases))
        assert len({case.name for case in made}) == len(made), "a case is there twice"
        return cls(name, made, tuple(payloads), lossless)

    def reversed(self) -> Lanes:
        """The same for packets from the guest."""
        return replace(self, cases=tuple(case.reversed() for case in self.cases))

    @property
    def whole(self) -> Delivered:
        """What comes out when nothing is lost."""
        return {case.name: sorted(self.payloads) for case in self.cases}

    @property
    def compresses(self) -> bool:
        """What is compressed is as long as its identifications and flow labels let it be."""
        return any(layer.suite.comp for case in self.cases for layer in case.layers)

    @property
    def pads(self) -> bool:
        """Who receives counts TFC padding, who sends does not."""
        return any(layer.tfcpad for case in self.cases for layer in case.layers)

    # -- uxfrm

    def namespace(self) -> Namespace:
        """uxfrm at the host's end: out when the guest receives, in when it sends."""
        return self._namespace(Direction.OUT if self._to_guest else Direction.IN)

    def twin(self) -> Namespace:
        """uxfrm that does what the guest does."""
        return self._namespace(Direction.IN if self._to_guest else Direction.OUT)

    @property
    def _to_guest(self) -> bool:
        return self.cases[0].shape.to_guest

    def _namespace(self, direction: Direction) -> Namespace:
        made = Namespace(randbytes=os.urandom)
        for case in self.cases:
            case.add_to(made, direction)
        return made

    def inner(self) -> Batch:
        """The packets to protect: of each case all payloads, then of the next."""
        return Batch.pack([case.shape.datagram(payload) for case in self.cases for payload in self.payloads])

    def delivered(self, namespace: Namespace, wire: Sequence[bytes]) -> Delivered:
        """What a uxfrm namespace lets through of these packets."""
        batch = Batch.pack(wire, 1000)
        if self._encapsulated:
            bypass = {4: _bypassing(namespace, AF_INET, ANY4), 6: _bypassing(namespace, AF_INET6, ANY6)}
            batch.packets["socket"] = [bypass[packet[0] >> 4].number for packet in wire]
        namespace.input(batch)
        side = 0 if self._to_guest else 1
        return self._sorted((found[2 + side], found[-1]) for found in opened_datagrams(batch))

    def _sorted(self, found: Iterable[tuple[int, bytes]]) -> Delivered:
        names = {case.shape.port: case.name for case in self.cases}
        taken: Delivered = {name: [] for name in names.values()}
        for port, payload in found:
            taken[names[port]].append(payload)
        return {name: sorted(payloads) for name, payloads in taken.items()}

    # -- the guest

    def prepare(self, guest: LinuxGuest) -> dict[str, int]:
        """Give the guest the cases and a socket at each of its ends; return its counters so far."""
        for address in self._guest_ends:
            guest.udp_open(address, address, GUEST_PORT)
        for address in ("10.0.0.2", "fd00::2") if self._encapsulated else ():
            guest.udp_open(f"ike-{address}", address, _ENCAP_PORT)
            guest.udp_encap(f"ike-{address}")
        guest.ip_batch(FORGET)
        if any(_past_ip(layer) for case in self.cases for layer in case.layers):
            with guest.connect("requests") as client:
                for case in self.cases:
                    case.add_to(client, Direction.IN if self._to_guest else Direction.OUT)
        else:
            guest.ip_batch("".join(case.lines() for case in self.cases))
        guest.drain()
        return guest.xfrm_stat()

    @property
    def _encapsulated(self) -> bool:
        return any(layer.encap for case in self.cases for layer in case.layers)

    @property
    def _guest_ends(self) -> set[str]:
        return {case.shape.inner_ends[1 if self._to_guest else 0] for case in self.cases}

    def received(self, guest: LinuxGuest, wire: Sequence[bytes]) -> Delivered:
        """What the sockets of the guest receive of these packets."""
        for some in parts(wire, _AT_ONCE):
            for packet in some:
                guest.send_ip(packet)
            settle(guest)
        found = [
            (datagram.port, datagram.payload)
            for address in self._guest_ends
            for datagram in guest.udp_take(address, len(wire), timeout=0)
        ]
        return self._sorted(found)

    def sent(self, guest: LinuxGuest) -> list[bytes]:
        """What the guest puts on the wire: a packet for each datagram."""
        wire: list[bytes] = []
        datagrams = list(map(Sending, self.payloads))
        for cases in parts(self.cases, max(_AT_ONCE // len(datagrams), 1)):
            errors = [
                error
                for case in cases
                for error in guest.udp_send(
                    case.shape.inner_ends[0], (case.shape.inner_ends[1], case.shape.port), datagrams
                )
            ]
            found = guest.take_ip(len(errors), timeout=5)
            assert (len(found), set(errors)) == (len(errors), {0}), [case.name for case in cases]
            wire += found
        return wire


def _in_lane(number: int, case: Case) -> Case:
    first = SPI + number * MAX_DEPTH
    shape = replace(case.shape, port=_FIRST_PORT + number)
    around = tuple(replace(layer, spi=first + i) for i, layer in enumerate(case.around, 1))
    return replace(case, shape=shape, spi=first, around=around, narrow=True)


def _past_ip(layer: Case) -> bool:
    """The kernel takes BEET for AH, `ip` does not."""
    return layer.suite.proto == PROTO_AH and layer.shape.mode == Mode.BEET


def _bypassing(namespace: Namespace, family: int, anywhere: Address) -> Socket:
    """The socket of a key manager."""
    socket = namespace.open_socket(family)
    socket.set_policy(PolicyConfig(Direction.IN, Selector(family, anywhere, anywhere)))
    return socket
