"""Who may connect, and whose programs may change tables.

What a peer is, SO_PEERCRED says: its user and process at the time it connected. Whether that process has
CAP_NET_ADMIN no socket says, so /proc is asked, and anything that can't be shown counts as no.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from uxfrm.daemon.privileges import Capability

_CREDENTIALS = struct.Struct("=iII")


class Need(Enum):
    """Whose programs need CAP_NET_ADMIN for what the kernel wants it for."""

    OTHERS = "others"
    EVERYBODY = "everybody"
    NOBODY = "nobody"


class Rights(Enum):
    """What the programs of one supervisor may do.

    TRUSTED: everything. BELIEVED: what their supervisor, which has CAP_NET_ADMIN itself, says of each of
    them. NONE: nothing that needs the capability.
    """

    TRUSTED = "trusted"
    BELIEVED = "believed"
    NONE = "none"


class Visitor(NamedTuple):
    """The process that connected."""

    pid: int
    uid: int
    gid: int

    @classmethod
    def of(cls, connection: socket.socket) -> Visitor:
        """SO_PEERCRED of a connection. Raises OSError."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return cls(*_CREDENTIALS.unpack(raw))

    @property
    def own(self) -> bool:
        """True for the daemon's own user, and root."""
        return self.uid in (0, os.geteuid())


@dataclass(frozen=True)
class Access:
    """What the daemon's owner allows. `others`: users but its own and root may connect."""

    others: bool = False
    need: Need = Need.OTHERS

    def admits(self, visitor: Visitor) -> bool:
        """Whether it may connect at all."""
        return self.others or visitor.own

    def rights(self, visitor: Visitor) -> Rights:
        """What its programs may do."""
        if self.need is Need.NOBODY or (self.need is Need.OTHERS and visitor.own):
            return Rights.TRUSTED
        return Rights.BELIEVED if has_net_admin(visitor) else Rights.NONE

    @property
    def rights_to_ask(self) -> frozenset[Capability]:
        """What the daemon needs for `rights`, where that looks into other processes' /proc."""
        asks = self.need is Need.EVERYBODY or (self.need is Need.OTHERS and self.others)
        return frozenset({Capability.SYS_PTRACE} if asks else ())


OWN_ALONE = Access()
"""What holds unless the owner says otherwise."""


def has_net_admin(visitor: Visitor) -> bool:
    """Whether a process has CAP_NET_ADMIN in the daemon's own user namespace.

    A process that gained rights since it connected, by executing a privileged file, is not believed: its
    users are no longer the one who connected, or it is not dumpable and its files in /proc are root's.
    """
    root = f"/proc/{visitor.pid}"
    try:
        with open(f"{root}/status", encoding="ascii", errors="replace") as status:
            owner = os.fstat(status.fileno()).st_uid
            fields = dict(line.split(":", 1) for line in status if ":" in line)
        same_namespace = os.path.samestat(os.stat(f"{root}/ns/user"), os.stat("/proc/self/ns/user"))
    except (OSError, ValueError):
        return False
    users = {int(number) for number in fields["Uid"].split()}
    capable = int(fields["CapEff"], 16) >> Capability.NET_ADMIN & 1
    return bool(capable) and same_namespace and users == {owner} == {visitor.uid}
