"""A namespace between its host and the network: what attachments receive goes through it and on to others.

    gateway = Gateway(namespace, Outlets(tun, {4: raw}, {(4, 4500, ""): nat_t}))
    while gateway.serve(tun, now): ...

Rule 1: it opens nothing and reads no clock: wires in memory and a clock of one's own will do.
Rule 2: every packet that was received is handed on, kept by the namespace, or counted: with its outcome, or
        as lost by the attachment it was for, or here.
Rule 3: whatever goes wrong in the path loses one batch. Nothing of it is sent then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from uxfrm.attach.attachment import Attachment, Way, chosen
from uxfrm.attach.datagrams import udp_ports
from uxfrm.attach.nfqueue import Queue
from uxfrm.daemon import logs
from uxfrm.datapath.batch import Batch, Int64s
from uxfrm.lifecycle.sockets import Socket
from uxfrm.model.address import AF_INET, AF_INET6
from uxfrm.model.outcome import Outcome, Verdict
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import EVERYTHING
from uxfrm.namespace import Namespace

_OF_UDP = np.array([outcome in (Outcome.SENT, Outcome.OUT_KEEPALIVE) for outcome in Outcome], np.int64)
_TO_NETWORK = (Verdict.SENT, Verdict.CLEAR)
_TO_HOST = (Verdict.DELIVERED, Verdict.FORWARDED)
# The host has them already: given back they would come round again.
_UNCLAIMED = (Verdict.CLEAR,)


@dataclass
class Outlets:
    """Where packets leave.

    `host`: those for the host, or to be routed by it. `udp`: protected ones of an IP version that have a UDP
    header with this source port, by version, port and address; any address's can send for all. `wire`: all
    others for the network, by IP version. `back`: what was made here to tell who sent something, by IP
    version; routed like anybody's packets, so that it may come round and be protected.
    """

    host: Attachment | None = None
    wire: Mapping[int, Attachment] = field(default_factory=dict)
    udp: Mapping[tuple[int, int, str], Attachment] = field(default_factory=dict)
    back: Mapping[int, Attachment] = field(default_factory=dict)


class Gateway:
    """Moves packets between attachments through a namespace, as its outcomes say.

    `nowhere` counts packets for which there is no outlet, `unclaimed` those that came from the network and
    were not IPsec, `failed` batches that an error ended. `deaf_to` is the index of the host's device: what it
    brought is not to be taken in a second time by who listens to the network.
    """

    def __init__(self, namespace: Namespace, outlets: Outlets) -> None:
        self.namespace = namespace
        namespace.path.answers_tcp = True
        self.outlets = outlets
        self.nowhere = self.unclaimed = self.failed = 0
        self.deaf_to = 0
        self._udp_sockets = [self._open_socket(family) for family in (AF_INET, AF_INET6)]

    def _open_socket(self, family: int) -> Socket:
        """What datagrams with ESP inside come to: a socket whose own policy lets them in as they are.

        Policies between the hosts themselves ask for IPsec around every datagram. Follows: IKE daemons.
        """
        opened = self.namespace.open_socket(family)
        opened.set_policy(PolicyConfig(Direction.IN, EVERYTHING[family]))
        return opened

    def serve(self, attachment: Attachment, now: float) -> bool:
        """Take one batch from an attachment and hand on what becomes of it; False if it has none.

        1. time passes, up to `now` (wall-clock seconds)  2. receive  3. the path  4. send  5. what the
        namespace had kept
        """
        self.pass_time(now)
        batch = attachment.receive(now)
        if batch is None:
            return False
        for (version, *_), udp in self.outlets.udp.items():
            if udp is attachment:
                batch.packets["socket"] = self._udp_sockets[version == 6].number
        if attachment.way is Way.IN and self.deaf_to:
            heard = batch.packets["ifindex"] != self.deaf_to
            if not heard.all():
                batch.keep(np.flatnonzero(heard))
                batch.packets["origin"] = np.arange(len(batch))
        if self._decide(batch, attachment.way):
            if isinstance(attachment, Queue):
                self._judge(attachment, batch)
            elif attachment.way is Way.OUT:
                self._hand_out(batch)
            else:
                self._hand_in(batch)
        self.settle()
        return True

    def pass_time(self, now: float) -> None:
        """Let time pass, and send what it lets go."""
        if now > self.namespace.now:
            self.namespace.advance(now)
        self.settle()

    def settle(self) -> None:
        """Hand on what the namespace had kept and keeps no longer."""
        for batch in self.namespace.released():
            self._hand_out(batch)
        for batch in self.namespace.arrived():
            self._hand_in(batch)

    def _decide(self, batch: Batch, way: Way) -> bool:
        """Put a batch through the path; False when that failed."""
        try:
            if way is Way.OUT:
                self.namespace.output(batch)
            else:
                self.namespace.input(batch)
        except Exception as error:
            self.failed += 1
            logs.failure("batch lost", error, way=way.name, packets=len(batch))
            return False
        return True

    def _hand_out(self, batch: Batch) -> None:
        """What was on its way out: to the network, or back to who sent it."""
        self._to_network(batch, chosen(batch, *_TO_NETWORK))
        self._to_sender(batch)

    def _hand_in(self, batch: Batch) -> None:
        """What was on its way in: to the host, or back to who sent it."""
        self._send(self.outlets.host, batch, chosen(batch, *_TO_HOST))
        self._to_sender(batch)
        self.unclaimed += len(chosen(batch, *_UNCLAIMED))

    def _judge(self, queue: Queue, batch: Batch) -> None:
        """What a queue gave goes on where it was, or by raw sockets; one call says what becomes of all."""
        those = self._to_udp(batch, chosen(batch, *_TO_HOST, *_TO_NETWORK))
        queue.send(batch, those)
        self._to_sender(batch)

    def _to_sender(self, batch: Batch) -> None:
        self._by_version(self.outlets.back, batch, chosen(batch, Verdict.RETURNED))

    def _to_network(self, batch: Batch, those: Int64s) -> None:
        """Each to the attachment that sends its kind; ESP in UDP leaves from the port its header names."""
        self._by_version(self.outlets.wire, batch, self._to_udp(batch, those))

    def _to_udp(self, batch: Batch, those: Int64s) -> Int64s:
        """Send what leaves from a port that an attachment has; return the others."""
        if not len(those) or not self.outlets.udp:
            return those
        versions, ports = np.empty(len(those), np.int64), np.empty(len(those), np.int64)
        udp_ports(batch.data, batch.packets, those, _OF_UDP, versions, ports)
        left = np.ones(len(those), np.bool_)
        by_port = {key[:2]: attachment for key, attachment in self.outlets.udp.items()}
        for (version, port), attachment in by_port.items():
            own = (ports == port) & (versions == version)
            self._send(attachment, batch, those[own])
            left &= ~own
        return those[left]

    def _by_version(self, outlets: Mapping[int, Attachment], batch: Batch, those: Int64s) -> None:
        """Each to the attachment of its IP version."""
        if not len(those):
            return
        versions = batch.data[batch.packets["offset"][those]] >> 4
        first = int(versions[0])
        same = versions == first
        self._send(outlets.get(first), batch, those[same])
        self._by_version(outlets, batch, those[~same])

    def _send(self, attachment: Attachment | None, batch: Batch, those: Int64s) -> None:
        if not len(those):
            return
        if attachment is None:
            self.nowhere += len(those)
        else:
            attachment.send(batch, those)
