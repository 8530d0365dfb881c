"""A daemon's packets: its attachments, opened as the command line names them, on its event loop.

    nfqueue[=FIRST]        what policies may want is taken by rules into four queues (out, and in again)
    tun=NAME[,mtu=BYTES]   what policies may want is routed into this device      (out, and in again)
    udp=PORT               ESP in UDP on this port, of IPv4 and IPv6               (both ways)
    udp=ike                ESP in UDP on the ports for which IKE daemons under `uxfrm run` ask (UDP_ENCAP)
    raw                    ESP, AH and IPComp, and what may go out in clear         (both ways)

Rule 1: whatever is opened is opened closed: routes lead into the device before anything could leave it.
Rule 2: an attachment has turns like every client of the daemon.
Rule 3: a fault of an attachment ends the daemon. What its policies protect stays closed then.
Rule 4: what is opened later (a port of an IKE daemon) needs no more rights than following policies does.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from uxfrm.attach.attachment import OWN_MARK, Attachment, AttachmentError, Counts, Loss, Waitable
from uxfrm.attach.nfqueue import Queue
from uxfrm.attach.raw import AH, COMP, ESP, ICMP, ICMPV6, Raw, open_raw
from uxfrm.attach.rules import QUEUES
from uxfrm.attach.tun import Tun, open_tun
from uxfrm.attach.udp import Udp, open_udp
from uxfrm.daemon import logs, privileges
from uxfrm.daemon.detour import Detour
from uxfrm.daemon.gateway import Gateway, Outlets
from uxfrm.daemon.numbers import Numbers, NumbersError
from uxfrm.daemon.ports import Hub
from uxfrm.daemon.privileges import Capability, Need
from uxfrm.daemon.sharing import Key, SharedPorts
from uxfrm.daemon.surroundings import Surroundings
from uxfrm.daemon.taken import Taken
from uxfrm.model.statistics import AttachmentFigures, GatewayFigures, Statistics
from uxfrm.namespace import Namespace

FORMS = ("nfqueue[=FIRST]", "tun=NAME[,mtu=BYTES]", "udp=PORT", "udp=ike", "raw")
_TURN = 8
"""Batches from one attachment before others have their turn."""
_MTU = 1400
_QUEUE = 4500
_MTU_LEAST, _MTU_MOST = 1280, 65535
_VERSIONS = {4: socket.AF_INET, 6: socket.AF_INET6}
_RECEIVED = {4: (ESP, AH, COMP, ICMP), 6: (ESP, AH, COMP, ICMPV6)}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `--attach` says. `mtu` is the TUN device's; `ike`: with the ports of IKE daemons.

    `queue` is the first of four NFQUEUEs, 0 for none.
    """

    tun: str = ""
    mtu: int = _MTU
    ports: tuple[int, ...] = ()
    ike: bool = False
    raw: bool = False
    queue: int = 0

    def demand_rights(self) -> None:
        """Raise AttachmentError where what is wanted needs capabilities that are not there; it says which."""
        if missing := privileges.lacking(self._needs()):
            raise AttachmentError(f"rights are missing: {missing}: start it as root, or give it these alone")

    def _needs(self) -> Iterator[Need]:
        if self.tun:
            yield Need(Capability.NET_ADMIN, f"tun={self.tun}: the device, its routes and rules")
        if self.queue:
            yield Need(Capability.NET_ADMIN, "nfqueue: queues and rules")
        if self.queue or self.raw:
            yield Need(Capability.NET_RAW, f"{'nfqueue' if self.queue else 'raw'}: raw sockets")


def parse(words: Sequence[str]) -> Wanted:
    """Read what `--attach` was given, each one of FORMS. ValueError with words for the user."""
    tun, mtu, ports, queue = "", _MTU, [], 0
    for word in words:
        kind, _, value = word.partition("=")
        if kind == "tun" and value and not tun:
            tun, mtu = _parse_tun(value)
        elif kind == "nfqueue" and not queue:
            queue = _parse_queue(word, value)
        elif word in ("udp=ike", "raw"):
            continue
        elif kind == "udp" and value.isdecimal() and 0 < int(value) < 1 << 16:
            ports.append(int(value))
        else:
            raise ValueError(f"{word}: one of {', '.join(FORMS)}, and one TUN device only")
    if bool(tun) == bool(queue):
        raise ValueError("for the host's packets either nfqueue or a TUN device is needed: tun=NAME")
    return Wanted(tun, mtu, tuple(dict.fromkeys(ports)), "udp=ike" in words, "raw" in words, queue)


def _parse_queue(word: str, value: str) -> int:
    number = int(value) if value.isdecimal() else 0
    if word == "nfqueue":
        return _QUEUE
    if not 0 < number <= 0xFFFF - QUEUES:
        raise ValueError(f"{word}: the first of four queues, 1 to {0xFFFF - QUEUES}")
    return number


def _parse_tun(value: str) -> tuple[str, int]:
    name, comma, option = value.partition(",")
    if not comma:
        return name, _MTU
    key, _, number = option.partition("=")
    if key != "mtu" or not number.isdecimal() or not _MTU_LEAST <= int(number) <= _MTU_MOST:
        raise ValueError(f"tun={value}: mtu={_MTU_LEAST} to {_MTU_MOST} may follow the name")
    return name, int(number)


class Attached:
    """The attachments of one namespace. `failed` is told when one of them can't go on.

    `numbers` are kept for states whose keys outlive the daemon. Raises AttachmentError where something can't
    be opened; nothing is open then.
    """

    def __init__(
        self, hub: Hub, wanted: Wanted, failed: Callable[[], None], numbers: Numbers | None = None
    ) -> None:
        self._hub = hub
        self._keep = _nothing if numbers is None else numbers.keep
        self._loop: asyncio.AbstractEventLoop = hub.loop
        self._failed = failed
        self._close = contextlib.ExitStack()
        self._by_port: dict[Key, Udp] = {}
        self._leading: Detour | Taken
        try:
            self._open(wanted)
        except BaseException:
            self.close()
            raise

    def _open(self, wanted: Wanted) -> None:
        """1. what takes the host's packets, closed  2. sockets  3. packets are served."""
        namespace = self._hub.server.namespace
        self.surroundings = Surroundings()
        self._close.callback(self.surroundings.close)
        self.surroundings.tell(namespace)
        # NFQUEUEs take what the host has cut to fit inside: it knows the peer's address by what fits there.
        self._heeding = not wanted.queue
        attachments = self._take(namespace, wanted) if wanted.queue else self._lead(namespace, wanted)
        for port in wanted.ports:
            for version, family in _VERSIONS.items():
                self._by_port[version, port, ""] = udp = open_udp(port, family, heeding=self._heeding)
                self._listen(udp)
        self._attachments = attachments
        for attachment in attachments:
            self._serve(attachment)
        self.surroundings.watch(self._loop, self._look_again)
        if wanted.ike:
            listen, leave = self._listen, self._unlisten
            self._hub.ike = SharedPorts(self._loop, self._by_port, listen, leave, self._heeding)
            self._close.callback(self._hub.ike.close)
        self._hub.sockets.let_by = _let_by
        self._hub.settle, self._hub.attached = self.settle, self._with_figures

    @property
    def rights_to_go_on(self) -> frozenset[Capability]:
        """What is needed after everything is open.

        CAP_NET_ADMIN for routes, rules, verdicts and marks; what IKE daemons' ports and iptables need.
        """
        bind = {Capability.NET_BIND_SERVICE} if self._hub.ike is not None else ()
        return self._leading.rights_to_follow.union(bind)

    def _lead(self, namespace: Namespace, wanted: Wanted) -> list[Waitable]:
        """A device, and routes into it; raw sockets, if wanted, receive."""
        tun: Tun = open_tun(wanted.tun, mtu=wanted.mtu)[0]
        self._close.callback(tun.close)
        self._leading = Detour(namespace.policies, tun, self.surroundings)
        raw, back = (self._raw(_RECEIVED, OWN_MARK), self._raw({}, 0)) if wanted.raw else ({}, {})
        self.gateway = Gateway(namespace, Outlets(tun, raw, self._by_port, back))
        self.gateway.deaf_to = tun.ifindex
        namespace.path.cut_before = True  # to the device's MTU, by the kernel
        return [tun, *raw.values()]

    def _take(self, namespace: Namespace, wanted: Wanted) -> list[Waitable]:
        """Queues, and rules that fill them; what raw sockets would receive comes by them too."""
        taken = Taken(namespace.policies, wanted.queue)
        self._close.callback(taken.close)
        self._leading = taken
        host, back = taken.queues[0], self._raw({}, 0)
        self.gateway = Gateway(namespace, Outlets(host, taken.raw, self._by_port, back))
        return [*taken.queues]

    def _raw(self, protocols: Mapping[int, tuple[int, ...]], mark: int) -> dict[int, Raw]:
        """Raw sockets by IP version. What they send without our mark is led to us if a policy wants it."""
        opened = {}
        for version, family in _VERSIONS.items():
            opened[version] = open_raw(family, protocols.get(version, ()), mark)
            self._close.callback(opened[version].close)
        return opened

    def close(self) -> None:
        """Let everything go; what policies protect stays closed."""
        self._hub.settle = self._hub.attached = self._hub.ike = self._hub.sockets.let_by = None
        for udp in self._by_port.values():
            self._unlisten(udp)
            udp.close()
        self._by_port.clear()
        self._close.close()

    # -- packets

    def _serve(self, attachment: Waitable) -> None:
        """Serve an attachment whenever it has something."""
        self._loop.add_reader(attachment.fileno(), self._turn, attachment)
        self._close.callback(self._loop.remove_reader, attachment.fileno())

    def _turn(self, attachment: Waitable) -> None:
        now = time.time()
        try:
            for _ in range(_TURN):
                if not self.gateway.serve(attachment, now):
                    break
                self._keep()
        except (OSError, NumbersError) as error:
            logs.failure("attachment failed", error, kind=type(attachment).__name__)
            self._failed()
        self._hub.flush()

    def settle(self) -> None:
        """Before requests are answered: what they changed is in force, what they let go is sent.

        Sequence numbers are noted first: a state that came may take the place of one that has used some.
        """
        try:
            self._leading.follow()
            self._keep()
            self.gateway.settle()
        except AttachmentError as error:
            logs.error("policies are not in force", why=str(error))
            self._failed()
        except (OSError, NumbersError) as error:
            logs.failure("sequence numbers are not kept", error)
            self._failed()

    def _look_again(self) -> None:
        """Addresses or routes of the host changed."""
        try:
            self._leading.follow(again=True)
        except AttachmentError as error:
            logs.error("routes not changed", why=str(error))

    # -- figures

    def _with_figures(self, found: Statistics) -> Statistics:
        """A namespace's figures, with those of the attachments."""
        gateway = self.gateway
        return replace(
            found,
            gateway=GatewayFigures(gateway.nowhere, gateway.unclaimed, gateway.failed),
            attachments={name: _figures(attachment.counts) for name, attachment in self._named()},
        )

    def _named(self) -> Iterator[tuple[str, Attachment]]:
        """Every attachment by a name for people."""
        outlets = self.gateway.outlets
        for attachment in self._attachments:
            if isinstance(attachment, Tun):
                yield f"tun {attachment.name}", attachment
            elif isinstance(attachment, Queue):
                yield f"nfqueue {attachment.number}", attachment
        for version, raw in outlets.wire.items():
            yield f"raw IPv{version}", raw
        for (version, port, address), udp in self._by_port.items():
            yield f"udp {address or ('0.0.0.0' if version == 4 else '[::]')}:{port}", udp
        for version, raw in outlets.back.items():
            yield f"raw IPv{version}, answers", raw

    # -- ESP in UDP

    def _listen(self, udp: Udp) -> None:
        self._loop.add_reader(udp.fileno(), self._turn, udp)

    def _unlisten(self, udp: Udp) -> None:
        self._loop.remove_reader(udp.fileno())


def _figures(counts: Counts) -> AttachmentFigures:
    lost = counts.lost
    return AttachmentFigures(
        counts.received, counts.sent, lost[Loss.FULL], lost[Loss.TOO_LONG], lost[Loss.REFUSED],
        lost[Loss.MALFORMED], lost[Loss.FOREIGN],
    )  # fmt: skip


def _let_by(client: socket.socket, in_clear: bool) -> None:
    """Mark what a socket sends as not to be led to us, or no longer.

    For sockets whose own policy has them send in clear, as IKE daemons' do.
    """
    try:
        mark = client.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) & 0xFFFFFFFF
        wanted = mark | OWN_MARK if in_clear else mark & ~OWN_MARK
        client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", wanted))
    except OSError as error:
        logs.failure("socket not let by", error)


def _nothing() -> None:
    """Settle nothing."""
