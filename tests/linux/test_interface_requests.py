"""Making and changing XFRM interfaces: what Linux 6.12's rtnetlink refuses, and in which words."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from linux.guest import LinuxGuest
from uxfrm.model.device import Device, XfrmInterface
from uxfrm.model.error import XfrmError
from uxfrm.namespace import Namespace

pytestmark = pytest.mark.linux

VEC0, FIRST, EXTERNAL, NEW = 2, 100, 101, 102
RTM_NEWLINK, RTM_DELLINK = 16, 17
REQUEST, ACK, EXCL, CREATE = 1, 4, 0x200, 0x400
IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO = 3, 4, 18
INFO_KIND, INFO_DATA = 1, 2
IFLA_XFRM_LINK, IFLA_XFRM_IF_ID, IFLA_XFRM_COLLECT_METADATA = 1, 2, 3
MESSAGE, ATTR_MSG = 2, 1


@dataclass(frozen=True)
class Attempt:
    """A new interface, or with `change` another configuration of one."""

    xfrmi: XfrmInterface
    ifindex: int = NEW
    name: str = "new"
    change: bool = False


ATTEMPTS = {
    "if_id 0": Attempt(XfrmInterface(0)),
    "a new one": Attempt(XfrmInterface(6)),
    "an if_id that is taken": Attempt(XfrmInterface(5)),
    "that if_id on a link": Attempt(XfrmInterface(5, link=VEC0)),
    "collect_md with an if_id": Attempt(XfrmInterface(6, collect_md=True)),
    "collect_md with a link": Attempt(XfrmInterface(link=VEC0, collect_md=True)),
    "collect_md twice": Attempt(XfrmInterface(collect_md=True)),
    "a small MTU": Attempt(XfrmInterface(6, mtu=67)),
    "the smallest MTU": Attempt(XfrmInterface(6, mtu=68)),
    "a big MTU": Attempt(XfrmInterface(6, mtu=65536)),
    "a name that is taken": Attempt(XfrmInterface(6), name="first"),
    "an index that is taken": Attempt(XfrmInterface(6), ifindex=FIRST),
    "changed to if_id 0": Attempt(XfrmInterface(0), FIRST, "first", change=True),
    "changed to another if_id": Attempt(XfrmInterface(6), FIRST, "first", change=True),
    "changed to its own": Attempt(XfrmInterface(5), FIRST, "first", change=True),
    "changed to one on a link": Attempt(XfrmInterface(6, link=VEC0), FIRST, "first", change=True),
    "changed to collect_md": Attempt(XfrmInterface(6, collect_md=True), FIRST, "first", change=True),
    "collect_md changed": Attempt(XfrmInterface(6), EXTERNAL, "external", change=True),
    "collect_md changed to a taken if_id": Attempt(XfrmInterface(5), EXTERNAL, "external", change=True),
    "changed, but not there": Attempt(XfrmInterface(6), NEW, "new", change=True),
}


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def request(attempt: Attempt) -> bytes:
    """The message that asks for it. Changes say nothing of the MTU."""
    x = attempt.xfrmi
    data = attribute(IFLA_XFRM_LINK, struct.pack("=I", x.link)) if x.link else b""
    data += attribute(IFLA_XFRM_IF_ID, struct.pack("=I", x.if_id)) if x.if_id else b""
    data += attribute(IFLA_XFRM_COLLECT_METADATA, b"") if x.collect_md else b""
    info = attribute(INFO_KIND, b"xfrm\0") + attribute(INFO_DATA, data)
    body = struct.pack("=BxHiII", 0, 0, attempt.ifindex, 0, 0) + attribute(IFLA_LINKINFO, info)
    flags = REQUEST | ACK
    if not attempt.change:
        flags |= CREATE | EXCL
        body += attribute(IFLA_IFNAME, attempt.name.encode() + b"\0")
        body += attribute(IFLA_MTU, struct.pack("=I", x.mtu))
    return struct.pack("=IHHII", 16 + len(body), RTM_NEWLINK, flags, 1, 0) + body


def answer(message: bytes) -> tuple[str, str]:
    """The errno's name of an acknowledgement, and the kernel's words."""
    length, kind, _, _, _, error, size = struct.unpack_from("=IHHIIiI", message)
    assert kind == MESSAGE
    at = 20 + (size if error else 16)
    words = ""
    while at + 4 <= length:
        step, name = struct.unpack_from("=HH", message, at)
        if name & 0x3FFF == ATTR_MSG:
            words = message[at + 4 : at + step].rstrip(b"\0").decode()
        at += (step + 3) & ~3
    return errno.errorcode[-error] if error else "", words


def asked(linux: LinuxGuest, attempt: Attempt) -> tuple[str, str]:
    (message,) = linux.call("xfrm_ask", "links", request(attempt).hex())
    return answer(bytes.fromhex(message))


STANDING = (
    Attempt(XfrmInterface(5), FIRST, "first"),
    Attempt(XfrmInterface(collect_md=True), EXTERNAL, "external"),
)


@pytest.fixture
def linux(guest612: LinuxGuest) -> Iterator[LinuxGuest]:
    guest612.call("xfrm_open", "links", 0)  # NETLINK_ROUTE
    for attempt in STANDING:
        assert asked(guest612, attempt) == ("", "")
    yield guest612
    for index in (NEW, FIRST, EXTERNAL):
        body = struct.pack("=BxHiII", 0, 0, index, 0, 0)
        gone = struct.pack("=IHHII", 16 + len(body), RTM_DELLINK, REQUEST | ACK, 1, 0) + body
        guest612.call("xfrm_ask", "links", gone.hex())


def ours(attempt: Attempt) -> tuple[str, str]:
    devices = Namespace(randbytes=bytes).devices
    for standing in STANDING:
        devices.add(Device(standing.ifindex, standing.name, xfrmi=standing.xfrmi))
    try:
        if attempt.change:
            devices.change(attempt.ifindex, attempt.xfrmi)
        else:
            devices.add(Device(attempt.ifindex, attempt.name, xfrmi=attempt.xfrmi))
    except XfrmError as error:
        return error.name, error.text
    return "", ""


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_interfaces_are_refused_as_linux_6_12_does(linux: LinuxGuest, attempt: Attempt) -> None:
    assert ours(attempt) == asked(linux, attempt)
