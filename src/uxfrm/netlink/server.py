"""The kernel's end of NETLINK_XFRM: requests in, replies, dumps and events out, for any number of ports.

Does no I/O. Whoever owns the sockets gives each datagram to `Server.receive` and sends what `Port.next`
returns (or peeks, and pops what was sent). What a port can make this keep is bounded: events beyond its room
are dropped, and the next one it reads tells so (NLMSG_OVERRUN, in place of ENOBUFS); requests of a port that
does not read its replies should not be read either (`Port.full`).

Follows: netlink_rcv_skb, netlink_dump, xfrm_user_rcv_msg.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator

from uxfrm.lifecycle.events import Event
from uxfrm.model.error import XfrmError
from uxfrm.namespace import Namespace
from uxfrm.netlink import decode
from uxfrm.netlink.constants import Attr, Xfrm
from uxfrm.netlink.events import GROUP_OF, notification
from uxfrm.netlink.handlers import EVENT_BODIES, HANDLERS, Call, Handler
from uxfrm.netlink.validation import LEFTOVER, SPD_RULES, XFRM_RULES, Parsed, Refused, parse
from uxfrm.netlink.wire import (
    HEADER,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_MULTI,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_MIN_TYPE,
    NLMSG_OVERRUN,
    NOTHING,
    Message,
    Report,
    acknowledge,
    aligned,
    done,
    messages,
    padded,
)

DATAGRAM_MAX = 4096
"""No datagram is longer: what the smallest of the known readers' buffers holds (charon's)."""

_TYPE_MAX = max(Xfrm)
_XFRM_LAST, _SPD_LAST = max(XFRM_RULES), max(SPD_RULES)

ROOM = 212_992
"""Bytes that may wait for one port: net.core.rmem_default."""


class Port:
    """One client's socket: its port id, options, groups, and what waits for it.

    `capable` says whether it has CAP_NET_ADMIN; `extended` and `capped` are NETLINK_EXT_ACK and
    NETLINK_CAP_ACK; `groups` has bit n-1 for group n.
    """

    __slots__ = (
        "_dump", "_lost", "_ready", "_waiting", "capable", "capped", "extended", "groups", "id", "queued",
        "room",
    )  # fmt: skip

    def __init__(self, id: int, capable: bool, room: int, ready: set[Port]) -> None:
        """`ready` is where the port puts itself when there is something to send."""
        self._ready = ready
        self.id = id
        self.capable = capable
        self.extended = False
        self.capped = False
        self.groups = 0
        self.room = room
        self.queued = 0
        self._waiting: deque[bytes] = deque()
        self._dump: Iterator[bytes] | None = None
        self._lost = False

    @property
    def dumping(self) -> bool:
        """True while a dump is not finished."""
        return self._dump is not None

    @property
    def full(self) -> bool:
        """True when no further request should be read before something has been sent."""
        return self.queued > self.room

    def put(self, datagram: bytes) -> None:
        """Queue a reply, or lose it where the port is full. Follows: netlink_attachskb."""
        if self.full:
            self._lost = True
            return
        self._ready.add(self)
        self._waiting.append(datagram)
        self.queued += len(datagram)

    def tell(self, datagram: bytes) -> None:
        """Queue an event, or lose it where there is no room."""
        if self.queued + len(datagram) > self.room:
            self._lost = True
            return
        if self._lost:
            self._lost = False
            self.put(Message(NLMSG_OVERRUN, 0, 0, 0, bytes(4)).pack())
        self.put(datagram)

    def start(self, dump: Iterator[bytes]) -> None:
        """Begin a dump: its first datagram is made at once, the others when they are asked for."""
        self._dump = dump
        self._more()

    def _more(self) -> None:
        assert self._dump is not None
        datagram = next(self._dump)
        if HEADER.unpack_from(datagram)[1] == NLMSG_DONE:
            # a new dump may begin as soon as the end of this one waits to be read
            self._dump = None
        self.put(datagram)

    @property
    def pending(self) -> bool:
        """True when there is something to send."""
        return bool(self._waiting) or self._dump is not None

    def peek(self) -> bytes | None:
        """The next datagram to send, or None."""
        if not self._waiting and self._dump is not None:
            self._more()
        return self._waiting[0] if self._waiting else None

    def pop(self) -> None:
        """The datagram last peeked at has been sent."""
        self.queued -= len(self._waiting.popleft())

    def next(self) -> bytes | None:
        """The next datagram, taken as sent; or None."""
        datagram = self.peek()
        if datagram is not None:
            self.pop()
        return datagram


_SHOWING = (Xfrm.GETPOLICY, Xfrm.GETSPDINFO)


class Server:
    """NETLINK_XFRM of one namespace. `cpus` is how many CPUs SA_PCPU may name."""

    def __init__(self, namespace: Namespace, cpus: int = 1) -> None:
        self.namespace = namespace
        self.cpus = cpus
        self.ports: dict[int, Port] = {}
        self._ready: set[Port] = set()
        self._origin = (0, 0)
        self.refused: Callable[[Port, int, int], None] | None = None
        """Told the port, the message type and the errno of each request that is refused."""
        self.showing: Callable[[], None] | None = None
        """Called before a request that shows policies is carried out."""
        namespace.listen(self._publish, self._wants)

    def open(self, id: int, capable: bool, room: int = ROOM) -> Port:
        """A new port. EADDRINUSE where the id is taken."""
        if id in self.ports:
            raise XfrmError(errno.EADDRINUSE)
        port = self.ports[id] = Port(id, capable, room, self._ready)
        return port

    def close(self, port: Port) -> None:
        """Forget a port and what waits for it."""
        self.ports.pop(port.id, None)
        self._ready.discard(port)

    def rename(self, port: Port, id: int) -> None:
        """Give a port the id that its owner asked for. EADDRINUSE where it is taken."""
        if id != port.id:
            if id in self.ports:
                raise XfrmError(errno.EADDRINUSE)
            del self.ports[port.id]
            port.id = id
            self.ports[id] = port

    def take_ready(self) -> list[Port]:
        """The ports for which something was queued since the last call."""
        ready = list(self._ready)
        self._ready.clear()
        return ready

    # -- requests

    def receive(self, port: Port, datagram: bytes) -> None:
        """Carry out the requests of a datagram; what there is to answer waits in the port."""
        for request in messages(datagram):
            number, report, quiet = 0, NOTHING, False
            if request.flags & NLM_F_REQUEST and request.type >= NLMSG_MIN_TYPE:
                number, report, quiet = self._carry_out(port, request)
            if number and self.refused is not None:
                self.refused(port, request.type, number)
            if number or (request.flags & NLM_F_ACK and not quiet):
                port.put(acknowledge(request, port.id, number, report, port.extended, port.capped))

    def _carry_out(self, port: Port, request: Message) -> tuple[int, Report, bool]:
        """Errno, what to report with it, and whether the answer is a dump, which needs no acknowledgement."""
        parsed: Parsed | None = None
        try:
            handler = HANDLERS.get(request.type)
            if handler is None and request.type > _TYPE_MAX:
                return errno.EINVAL, NOTHING, False
            if not port.capable:
                return errno.EPERM, NOTHING, False
            if self.showing is not None and request.type in _SHOWING:
                self.showing()
            if handler is not None and handler.dump and request.flags & NLM_F_DUMP == NLM_F_DUMP:
                self._dump(port, request, handler)
                return 0, NOTHING, True
            parsed = self._parse(request, handler)
            if handler is None:
                return errno.EINVAL, _report(parsed), False
            self._answer(port, request, handler, parsed)
            return 0, _report(parsed), False
        except Refused as refused:
            return refused.number, refused.report, False
        except XfrmError as error:
            report = Report(error.text) if error.text else _report(parsed)
            return error.number, report, False

    def _parse(self, request: Message, handler: Handler | None) -> Parsed:
        """Body and attributes of a request, as far as the kernel checks them for all types alike."""
        body = handler.body if handler is not None else EVENT_BODIES.get(request.type, 0)
        if len(request.payload) < body:
            raise Refused(errno.EINVAL, Report("Invalid header length"))
        if request.type == Xfrm.NEWSPDINFO:
            return parse(request.payload, aligned(body), SPD_RULES, _SPD_LAST, HEADER.size)
        parsed = parse(request.payload, aligned(body), XFRM_RULES, _XFRM_LAST, HEADER.size)
        if handler is not None:
            decode.check_kinds(parsed.attributes, handler.directed, request.type == Xfrm.ACQUIRE)
        return parsed

    def _answer(self, port: Port, request: Message, handler: Handler, parsed: Parsed) -> None:
        call = Call(self.namespace, request, parsed.attributes, self.cpus)
        self._origin = (request.seq, request.pid)
        pid = request.pid if handler.echoes else port.id
        try:
            for kind, payload in handler.act(call):
                port.put(Message(kind, 0, request.seq, pid, payload).pack())
        finally:
            self._origin = (0, 0)

    # -- dumps

    def _dump(self, port: Port, request: Message, handler: Handler) -> None:
        if port.dumping:
            raise XfrmError(errno.EBUSY)
        assert handler.dump is not None
        parsed = Parsed({}, leftover=False)
        try:
            if request.type == Xfrm.GETSA:
                parsed = parse(request.payload, 0, XFRM_RULES, max(Attr), HEADER.size)
            kind, payloads = handler.dump(Call(self.namespace, request, parsed.attributes, self.cpus))
        except (XfrmError, Refused) as error:
            report = error.report if isinstance(error, Refused) else _report(parsed)
            port.put(done(request.seq, port.id, error.number, report if port.extended else NOTHING))
        else:
            report = _report(parsed) if port.extended else NOTHING
            port.start(_datagrams(port.id, request.seq, kind, payloads, report))

    # -- events

    def _wants(self, kind: type[Event]) -> bool:
        """False while nobody would hear of such an event: then it need not be made."""
        return bool(self._joined(GROUP_OF[kind]))

    def _joined(self, group: int) -> list[Port]:
        bit = 1 << (group - 1)
        return [port for port in self.ports.values() if port.groups & bit]

    def _publish(self, event: Event) -> bool:
        """Tell everybody who joined the event's group, the requester too; False for nobody."""
        listeners = self._joined(GROUP_OF[type(event)])
        if listeners:
            found = notification(event)
            seq, pid = self._origin[0] if found.seq else 0, self._origin[1] if found.pid else 0
            datagram = Message(found.type, 0, seq, pid, found.payload).pack()
            for port in listeners:
                port.tell(datagram)
        return bool(listeners)


def _report(parsed: Parsed | None) -> Report:
    return Report(LEFTOVER) if parsed is not None and parsed.leftover else NOTHING


def _datagrams(pid: int, seq: int, kind: int, payloads: Iterator[bytes], report: Report) -> Iterator[bytes]:
    """A dump's messages, as many to a datagram as fit, then NLMSG_DONE; it reports only for an empty dump."""
    datagram = b""
    for payload in payloads:
        message = padded(Message(kind, NLM_F_MULTI, seq, pid, payload).pack())
        if datagram and len(datagram) + len(message) > DATAGRAM_MAX:
            yield datagram
            datagram = b""
        datagram += message
        report = NOTHING
    if datagram:
        yield datagram
    yield done(seq, pid, 0, report)
