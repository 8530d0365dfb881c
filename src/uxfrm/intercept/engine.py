"""What the supervisor asks of the engine behind the sockets.

A port is what netlink(7) calls nl_pid. The engine reads requests from the server end of each socket and
writes replies and events there, one datagram each. The supervisor tells it what clients said by other system
calls.

Every method may raise OSError: its errno is the answer that the client's call gets (EPERM, EADDRINUSE ...).
A port that is not open: ENOENT.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Peer:
    """A process, as the supervisor sees it: effective ids, inode of its network namespace (0: not known).

    `net_admin`: it has CAP_NET_ADMIN, in its own user namespace.
    """

    pid: int
    uid: int
    gid: int
    netns: int
    net_admin: bool


class Engine(Protocol):
    """Serves NETLINK_XFRM sockets."""

    def open(self, server: socket.socket, port: int, peer: Peer) -> None:
        """A client made a socket; the engine now owns its server end (AF_UNIX, SOCK_SEQPACKET), and closes it
        when the client has. EADDRINUSE: the port is taken by a client that has not closed, another one is
        tried; `server` stays the caller's."""

    def bind(self, port: int, groups: int) -> None:
        """Replace the multicast groups by this mask: bit 0 is group 1."""

    def join(self, port: int, group: int) -> None:
        """NETLINK_ADD_MEMBERSHIP."""

    def leave(self, port: int, group: int) -> None:
        """NETLINK_DROP_MEMBERSHIP."""

    def option(self, port: int, name: int, value: int) -> None:
        """A flag of the socket, 0 or 1: NETLINK_EXT_ACK, NETLINK_CAP_ACK ..."""

    def rename(self, old_port: int, new_port: int) -> None:
        """The client bound itself to a port of its own choice. EADDRINUSE: the port is taken."""

    def drain(self, port: int) -> None:
        """Return when everything the client has sent was answered, and a close noticed."""

    def counters(self) -> list[int]:
        """The values of /proc/net/xfrm_stat, in its order."""

    def sysctls(self) -> dict[str, int]:
        """Every sysctl that XFRM reads, by name, with its value."""

    def set_sysctl(self, name: str, text: str, peer: Peer) -> None:
        """Write to a sysctl, as to its file. ENOENT, EINVAL; EPERM without CAP_NET_ADMIN."""

    def statistics(self, peer: Peer) -> bytes:
        """The JSON of model.statistics.Statistics. EPERM without CAP_NET_ADMIN."""

    def encapsulate(self, udp: socket.socket, kind: int, peer: Peer) -> int:
        """UDP_ENCAP on the client's UDP socket, of which `udp` is a duplicate: the engine's to close. An
        errno."""

    def socket_policy(self, client: socket.socket, family: int, policy: bytes | None, peer: Peer) -> int:
        """IP_XFRM_POLICY (AF_INET) or IPV6_XFRM_POLICY (AF_INET6): struct xfrm_userpolicy_info and templates.

        None takes the policies away; no bytes stand for a length that cannot be.

        `client` is a duplicate of the client's socket: the engine's to close. It may be bound later, so its
        address is to be asked when it is needed. An errno.
        """
