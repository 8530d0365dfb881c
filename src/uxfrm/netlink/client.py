"""NETLINK_XFRM from the other side: typed requests to a kernel, to a daemon, or to a server in this process.

`Client` has the methods of `Namespace`, so what is written for one works with the other. How datagrams travel
is the transport's business; nothing here opens a socket.
"""

from __future__ import annotations

import errno
import struct
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from uxfrm.lifecycle.events import Event
from uxfrm.model.aevent import Aevent, AeventUpdate
from uxfrm.model.counts import SadInfo, SpdInfo, Thresholds
from uxfrm.model.dump import LarvalConfig, PolicyDump, PolicyId, StateDump, StateId
from uxfrm.model.error import XfrmError
from uxfrm.model.migrate import Migration
from uxfrm.model.policy import PolicyConfig, PolicyType
from uxfrm.model.state import StateConfig
from uxfrm.netlink import asking, replies
from uxfrm.netlink import layouts as L
from uxfrm.netlink.constants import Attr, Group, SadAttr, SpdAttr, Xfrm
from uxfrm.netlink.wire import (
    HEADER,
    NLA_TYPE_MASK,
    NLM_F_ACK,
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_MULTI,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_OVERRUN,
    Extack,
    Message,
    aligned,
    attribute,
    attributes,
    messages,
)

_ERROR = struct.Struct("=i")
_SEQ_MAX = 0xFFFFFFFF
_DUMPS_MAX = 10


class EventsLost(Exception):
    """There were more events than this client read in time; those in between are gone (ENOBUFS)."""


class Transport(Protocol):
    """A netlink socket, or what does as one. Every method may raise OSError."""

    def send(self, datagram: bytes) -> None:
        """Send a request."""

    def receive(self, timeout_s: float | None = None) -> bytes | None:
        """The next datagram; None when none came in time (None: for ever). EventsLost where some are gone."""

    def join(self, group: int) -> None:
        """NETLINK_ADD_MEMBERSHIP."""

    def close(self) -> None:
        """Let go of it."""


class Client:
    """Requests and events over one transport, one at a time.

    Every request raises XfrmError with the errno and the words of the other side, EPERM where the right is
    missing; OSError where the other side is gone.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._seq = 0
        self._events: deque[Message] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the transport."""
        self._transport.close()

    # -- states

    def add_state(self, config: StateConfig) -> None:
        """`ip xfrm state add`: EEXIST, EINVAL, ENOSYS."""
        self._do(Xfrm.NEWSA, asking.state(config))

    def update_state(self, config: StateConfig) -> None:
        """`ip xfrm state update`: ESRCH, EINVAL."""
        self._do(Xfrm.UPDSA, asking.state(config))

    def delete_state(self, identity: StateId) -> None:
        """`ip xfrm state delete`: ESRCH."""
        self._do(Xfrm.DELSA, asking.state_id(identity))

    def get_state(self, identity: StateId) -> StateDump:
        """`ip xfrm state get`: ESRCH."""
        return replies.new_state(self._ask(Xfrm.GETSA, asking.state_id(identity)))

    def alloc_spi(self, wanted: LarvalConfig, low: int, high: int) -> StateDump:
        """`ip xfrm state allocspi`: EINVAL, ENOENT."""
        return replies.new_state(self._ask(Xfrm.ALLOCSPI, asking.spi_range(wanted, low, high)))

    def dump_states(self, proto: int = 0) -> Iterator[StateDump]:
        """`ip xfrm state list`: newest first, of one protocol where one is given."""
        body = attribute(Attr.PROTO, bytes([proto])) if proto else b""
        return map(replies.new_state, self._dump(Xfrm.GETSA, body))

    def flush_states(self, proto: int = 0) -> None:
        """`ip xfrm state flush`: protocol 0 for all, 255 for AH, ESP and COMP."""
        self._do(Xfrm.FLUSHSA, L.USERSA_FLUSH.pack(proto=proto))

    def expire_state(self, identity: StateId, hard: bool) -> None:
        """XFRM_MSG_EXPIRE, for which `ip` has no command: ENOENT, EINVAL."""
        self._do(Xfrm.EXPIRE, asking.expiry(identity, hard))

    def get_aevent(self, identity: StateId, flags: int = 0) -> Aevent:
        """XFRM_MSG_GETAE, for which `ip` has no command: ESRCH."""
        # the answer repeats the port id that the request claims, by which it is told from events
        found = self._exchange(Xfrm.GETAE, asking.aevent(identity, flags), NLM_F_ACK, pid=1)
        return replies.aevent(_only(found))

    def update_aevent(self, identity: StateId, wanted: AeventUpdate) -> None:
        """XFRM_MSG_NEWAE, for which `ip` has no command: ESRCH, EINVAL."""
        self._do(Xfrm.NEWAE, asking.aevent_update(identity, wanted), NLM_F_REPLACE)

    def sad_info(self) -> SadInfo:
        """`ip xfrm state count`."""
        found = replies.tail(self._ask(Xfrm.GETSADINFO, bytes(4)), 4)
        (count,) = struct.unpack("=I", found[SadAttr.CNT])
        return SadInfo(count, *L.SAD_HINFO.unpack(found[SadAttr.HINFO]))

    # -- policies

    def add_policy(self, config: PolicyConfig) -> None:
        """`ip xfrm policy add`: EEXIST, EINVAL."""
        self._do(Xfrm.NEWPOLICY, asking.policy(config))

    def update_policy(self, config: PolicyConfig) -> None:
        """`ip xfrm policy update`: EINVAL."""
        self._do(Xfrm.UPDPOLICY, asking.policy(config))

    def delete_policy(self, identity: PolicyId) -> None:
        """`ip xfrm policy delete`: ENOENT."""
        self._do(Xfrm.DELPOLICY, asking.policy_id(identity))

    def get_policy(self, identity: PolicyId) -> PolicyDump:
        """`ip xfrm policy get`: ENOENT."""
        return replies.new_policy(self._ask(Xfrm.GETPOLICY, asking.policy_id(identity)))

    def dump_policies(self) -> Iterator[PolicyDump]:
        """`ip xfrm policy list`: newest first, those of sockets too."""
        return map(replies.new_policy, self._dump(Xfrm.GETPOLICY, b""))

    def flush_policies(self, type: PolicyType | int = PolicyType.MAIN) -> None:
        """`ip xfrm policy flush`."""
        kind = attribute(Attr.POLICY_TYPE, L.USERPOLICY_TYPE.pack(type=int(type)))
        self._do(Xfrm.FLUSHPOLICY, kind)

    def expire_policy(self, identity: PolicyId, hard: bool) -> None:
        """XFRM_MSG_POLEXPIRE, for which `ip` has no command: ENOENT."""
        self._do(Xfrm.POLEXPIRE, asking.policy_expiry(identity, hard))

    def migrate(self, wanted: Migration) -> None:
        """XFRM_MSG_MIGRATE, for which `ip` has no command: EINVAL, ENOENT, ENODATA."""
        self._do(Xfrm.MIGRATE, asking.migration(wanted))

    def acquire(self, wanted: LarvalConfig, policy: PolicyConfig, masks: tuple[int, int, int]) -> None:
        """XFRM_MSG_ACQUIRE, for which `ip` has no command: EINVAL."""
        self._do(Xfrm.ACQUIRE, asking.acquire(wanted, policy, masks))

    def set_default(self, in_: int = 0, fwd: int = 0, out: int = 0) -> None:
        """`ip xfrm policy setdefault`: DefaultAction of each direction, 0 to leave it."""
        self._do(Xfrm.SETDEFAULT, L.USERPOLICY_DEFAULT.pack(in_=in_, fwd=fwd, out=out))

    def get_default(self) -> tuple[int, int, int]:
        """`ip xfrm policy getdefault`: the actions of in, fwd, out."""
        in_, fwd, out = L.USERPOLICY_DEFAULT.unpack(self._ask(Xfrm.GETDEFAULT, bytes(3)).payload)
        return in_, fwd, out

    def set_thresholds(self, ipv4: Thresholds | None = None, ipv6: Thresholds | None = None) -> None:
        """`ip xfrm policy set hthresh4 ... hthresh6 ...`: EINVAL."""
        self._do(Xfrm.NEWSPDINFO, asking.thresholds(ipv4, ipv6))

    def get_thresholds(self) -> tuple[Thresholds, Thresholds]:
        """The prefix lengths of `ip xfrm policy set`, for IPv4 and IPv6."""
        found = self._spd()
        ipv4, ipv6 = (Thresholds(*found[n]) for n in (SpdAttr.IPV4_HTHRESH, SpdAttr.IPV6_HTHRESH))
        return ipv4, ipv6

    def spd_info(self) -> SpdInfo:
        """`ip xfrm policy count`."""
        found = self._spd()
        return SpdInfo(*L.SPD_INFO.unpack(found[SpdAttr.INFO]), *L.SPD_HINFO.unpack(found[SpdAttr.HINFO]))

    def _spd(self) -> dict[int, bytes]:
        return replies.tail(self._ask(Xfrm.GETSPDINFO, bytes(4)), 4)

    # -- events

    def join(self, *groups: Group) -> None:
        """Listen to these groups from now on; all of them where none is named."""
        for group in groups or Group:
            self._transport.join(group)

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        """`ip xfrm monitor`: the next event; None when none came in time. EventsLost where some are gone."""
        while True:
            while self._events:
                found = replies.event(self._events.popleft())
                if found is not None:
                    return found
            datagram = self._transport.receive(timeout_s)
            if datagram is None:
                return None
            self._take_events(datagram)

    def _take_events(self, datagram: bytes) -> None:
        for message in messages(datagram):
            if message.type == NLMSG_OVERRUN:
                raise EventsLost
            self._events.append(message)

    # -- requests

    def _do(self, kind: int, body: bytes, flags: int = 0) -> None:
        self._exchange(kind, body, flags | NLM_F_ACK)

    def _ask(self, kind: int, body: bytes) -> Message:
        """A request that is answered by one message."""
        return _only(self._exchange(kind, body, NLM_F_ACK))

    def _dump(self, kind: int, body: bytes) -> Iterator[Message]:
        """A whole dump; taken again where the table changed meanwhile and the other side says so."""
        for _ in range(_DUMPS_MAX):
            found = self._exchange(kind, body, NLM_F_DUMP)
            if not any(message.flags & NLM_F_DUMP_INTR for message in found):
                return iter(found)
        raise XfrmError(errno.EAGAIN, "the table keeps changing")

    def _exchange(self, kind: int, body: bytes, flags: int, pid: int = 0) -> list[Message]:
        """Send a request; the messages that answer it. Raises XfrmError."""
        self._seq = self._seq % _SEQ_MAX + 1
        self._transport.send(Message(kind, flags | NLM_F_REQUEST, self._seq, pid, body).pack())
        found: list[Message] = []
        while True:
            datagram = self._transport.receive()
            if datagram is None:
                raise XfrmError(errno.EPROTO, "no answer")
            for message in messages(datagram):
                if message.seq != self._seq or message.type == NLMSG_OVERRUN:
                    self._events.append(message)
                elif message.type in (NLMSG_ERROR, NLMSG_DONE):
                    _check(message)
                    return found
                elif self._is_event(message, flags):
                    self._events.append(message)
                else:
                    found.append(message)

    @staticmethod
    def _is_event(message: Message, flags: int) -> bool:
        """Events that a request causes carry its sequence number too, but port id 0, as it was sent."""
        return not message.pid and not (flags & NLM_F_DUMP and message.flags & NLM_F_MULTI)


def _only(found: list[Message]) -> Message:
    """The one message of an answer."""
    if not found:
        raise XfrmError(errno.EPROTO, "no answer before the acknowledgement")
    return found[0]


def _check(message: Message) -> None:
    """Raise what an acknowledgement or the end of a dump says."""
    number = -_ERROR.unpack_from(message.payload)[0] if len(message.payload) >= _ERROR.size else 0
    if number:
        raise XfrmError(number, _words(message))


def _words(message: Message) -> str:
    """The text of an extended acknowledgement, behind the request's echo."""
    if not message.flags & NLM_F_ACK_TLVS:
        return ""
    at = _ERROR.size
    if message.type == NLMSG_ERROR:
        (size,) = struct.unpack_from("=I", message.payload, at)
        at += HEADER.size if message.flags & NLM_F_CAPPED else aligned(size)
    for found in attributes(message.payload, at)[0]:
        if found.type & NLA_TYPE_MASK == Extack.MSG:
            return found.payload.split(b"\0")[0].decode("utf-8", "replace")
    return ""
