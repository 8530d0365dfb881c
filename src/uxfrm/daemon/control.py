"""What supervisors may ask: one engine per control connection, which knows that connection's ports alone."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from uxfrm.daemon.access import Rights
from uxfrm.daemon.ports import Hub
from uxfrm.intercept.engine import Peer
from uxfrm.model.error import XfrmError
from uxfrm.model.state import ENCAP_ESPINUDP
from uxfrm.model.sysctl import SYSCTLS
from uxfrm.netlink.constants import Group
from uxfrm.netlink.server import Port

_CAP_ACK, _EXT_ACK = 10, 11
PORTS_MAX, PORTS_OF_OTHERS = 4096, 128
"""Open sockets of one connection, and of one of a user who is neither the daemon's own nor root."""


@contextmanager
def _as_oserror() -> Iterator[None]:
    try:
        yield
    except XfrmError as error:
        raise _refusal(error.number) from None


def _refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class ControlledEngine:
    """An Engine (see intercept.engine) for one control connection.

    What its clients may do without CAP_NET_ADMIN, and whether its word on who has it counts, `rights` says.
    """

    def __init__(self, hub: Hub, rights: Rights, most: int = PORTS_MAX) -> None:
        self._hub = hub
        self._rights = rights
        self._most = most
        self._own: set[Port] = set()

    def _port(self, id: int) -> Port:
        port = self._hub.server.ports.get(id)
        if port is None or port not in self._own:
            raise _refusal(errno.ENOENT)
        return port

    def _forget_closed(self) -> None:
        self._own &= set(self._hub.server.ports.values())

    def open(self, server: socket.socket, port: int, peer: Peer) -> None:
        """As Engine.open. ENFILE for too many."""
        self._forget_closed()
        if len(self._own) >= self._most:
            raise _refusal(errno.ENFILE)
        if port in self._hub.endpoints:
            # Who asks for a port again has often just closed it.
            self._hub.drain(port)
        with _as_oserror():
            self._own.add(self._hub.open(server, port, self._capable(peer)))

    def close(self) -> None:
        """Close all ports of this connection."""
        self._forget_closed()
        for port in self._own:
            self._hub.close(self._hub.endpoints[port.id])

    def _capable(self, peer: Peer) -> bool:
        return self._rights is Rights.TRUSTED or (self._rights is Rights.BELIEVED and peer.net_admin)

    def bind(self, port: int, groups: int) -> None:
        """As Engine.bind."""
        self._port(port).groups = groups & ((1 << max(Group)) - 1)

    def join(self, port: int, group: int) -> None:
        """As Engine.join."""
        self._port(port).groups |= 1 << (group - 1)

    def leave(self, port: int, group: int) -> None:
        """As Engine.leave."""
        self._port(port).groups &= ~(1 << (group - 1))

    def option(self, port: int, name: int, value: int) -> None:
        """As Engine.option; other options change nothing here."""
        found = self._port(port)
        if name == _EXT_ACK:
            found.extended = bool(value)
        elif name == _CAP_ACK:
            found.capped = bool(value)

    def rename(self, old_port: int, new_port: int) -> None:
        """As Engine.rename."""
        with _as_oserror():
            self._hub.rename(self._port(old_port), new_port)

    def drain(self, port: int) -> None:
        """As Engine.drain."""
        self._port(port)
        self._hub.drain(port)

    def counters(self) -> list[int]:
        """As Engine.counters."""
        return self._hub.server.namespace.counters()

    def sysctls(self) -> dict[str, int]:
        """As Engine.sysctls: anybody may read them."""
        namespace = self._hub.server.namespace
        return {name: namespace.sysctl(name) for name in SYSCTLS}

    def set_sysctl(self, name: str, text: str, peer: Peer) -> None:
        """As Engine.set_sysctl."""
        self._demand_rights(peer)
        with _as_oserror():
            self._hub.server.namespace.set_sysctl(name, text)

    def statistics(self, peer: Peer) -> bytes:
        """As Engine.statistics, of now."""
        self._demand_rights(peer)
        self._hub.clock.tick()
        found = self._hub.server.namespace.statistics()
        return msgspec.json.encode(self._hub.attached(found) if self._hub.attached else found)

    def _demand_rights(self, peer: Peer) -> None:
        if not self._capable(peer):
            raise _refusal(errno.EPERM)

    def encapsulate(self, udp: socket.socket, kind: int, peer: Peer) -> int:
        """As Engine.encapsulate: of no effect unless the daemon serves IKE daemons' ports."""
        with udp:
            if kind == ENCAP_ESPINUDP and self._hub.ike is not None:
                self._hub.ike.ask(udp)
        return 0

    def socket_policy(self, client: socket.socket, family: int, policy: bytes | None, peer: Peer) -> int:
        """As Engine.socket_policy."""
        with client, _as_oserror():
            self._hub.sockets.set_policy(client, family, policy, self._capable(peer))
        return 0
