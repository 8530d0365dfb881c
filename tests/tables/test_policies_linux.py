"""The policy table against the machine's own kernel: the same requests, the same packets.

Run as a program, this file is the guest: inside a network namespace that vanishes with it, it answers JSON
lines. It applies requests (`ip -batch`, or raw NETLINK_XFRM where iproute2 has no words, such as port masks),
tells what `ip -s xfrm policy` shows, and sends UDP datagrams. Which policy the kernel took for a datagram
shows without ESP: a block policy is EPERM; an allow policy has a template, and the ACQUIRE carries its index.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

NEWPOLICY, DELPOLICY, UPDPOLICY, FLUSHSA = 0x13, 0x14, 0x19, 0x1C
ACQUIRE_INDEX = 16 + 252  # offset of xfrm_user_acquire.policy.index behind the netlink header
SOURCES = ("10.0.0.1", "10.0.0.2", "10.1.0.1", "10.128.0.1", "10.129.3.1")
SOURCES6 = ("fd00::1", "fd00::2", "fd00:1::1", "fd00:1::8000:1")
DEVICES = {"d0": ("10.0.0.0/9", "fd00::/32"), "d1": ("10.128.0.0/9", "fd00:1::/32")}


class Guest:
    """What runs inside the namespace."""

    def __init__(self) -> None:
        self.requests = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
        self.requests.bind((0, 0))
        self.acquires = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
        self.acquires.bind((0, 1))
        self.acquires.setblocking(False)

    def setup(self) -> dict[str, int]:
        """Two interfaces, each with the routes to its half of the world; their indexes.

        They are one veth pair without ARP: what one sends is for nobody at the other.
        """
        lines = ["link set lo up", "link add d0 type veth peer name d1"]
        lines += [f"link set {device} up arp off" for device in DEVICES]
        lines += [f"route add {route} dev {device}" for device, routes in DEVICES.items() for route in routes]
        lines += [f"addr add {a}/32 dev d0" for a in SOURCES]
        lines += [f"addr add {a}/128 dev d0 nodad" for a in SOURCES6]
        assert self.batch(lines) == ""
        return {device: socket.if_nametoindex(device) for device in DEVICES}

    def batch(self, lines: list[str]) -> str:
        """Run `ip -batch`, which stops at the first refused line; what it complained of."""
        run = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, capture_output=True)
        return run.stderr

    def dump(self) -> list[list[int]]:
        """Index and priority of every policy, in the order of the kernel's dump."""
        text = subprocess.check_output(["ip", "-s", "xfrm", "policy"], text=True)
        return [[int(i), int(p)] for i, p in re.findall(r" index (\d+) priority (\d+) ", text)]

    def count(self) -> str:
        return subprocess.check_output(["ip", "-s", "-s", "xfrm", "policy", "count"], text=True)

    def netlink(self, messages: list[str]) -> list[int]:
        """Send requests (type and body in hex) one by one; their errnos."""
        return [self._request(bytes.fromhex(message)) for message in messages]

    def _request(self, message: bytes) -> int:
        kind, body = message[0], message[1:]
        self.requests.send(struct.pack("=IHHII", 16 + len(body), kind, 5, 0, 0) + body)
        return -int.from_bytes(self.requests.recv(65536)[16:20], sys.byteorder, signed=True)

    def send(self, flows: list[list[Any]]) -> list[list[int]]:
        """Send a datagram per flow: its errno, and the policy index of the ACQUIRE it caused (or 0)."""
        return [self._send(*flow) for flow in flows]

    def _send(self, dst: str, dport: int, src: str, sport: int, mark: int, device: str) -> list[int]:
        family = socket.AF_INET6 if ":" in dst else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            sender.bind((src, sport))
            try:
                sender.sendto(b"x", (dst, dport))
                number = 0
            except OSError as error:
                number = error.errno or 0
        return [number, self._acquired()]

    def _acquired(self) -> int:
        try:
            message = self.acquires.recv(65536)
        except BlockingIOError:
            return 0
        assert self._request(bytes([FLUSHSA, 255])) == 0
        return int.from_bytes(message[ACQUIRE_INDEX : ACQUIRE_INDEX + 4], sys.byteorder)

    def stat(self, name: str) -> int:
        with open("/proc/net/xfrm_stat") as file:
            return int(dict(line.split() for line in file)[name])


def serve() -> None:
    """Answer calls, one JSON line each, until standard input ends."""
    guest = Guest()
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(getattr(guest, name)(*arguments)), flush=True)


if __name__ == "__main__":
    serve()
    sys.exit()

import pytest  # noqa: E402

from uxfrm.model.address import AF_INET, AF_INET6, parse, show  # noqa: E402
from uxfrm.model.dump import PolicyId  # noqa: E402
from uxfrm.model.error import XfrmError  # noqa: E402
from uxfrm.model.flow import PROTO_UDP, Flow  # noqa: E402
from uxfrm.model.mark import Mark  # noqa: E402
from uxfrm.model.policy import Action, PolicyConfig, PolicyType  # noqa: E402
from uxfrm.model.selector import Selector  # noqa: E402
from uxfrm.model.template import Mode, Template  # noqa: E402
from uxfrm.tables.policies import PolicyTable  # noqa: E402

pytestmark = pytest.mark.linux
Call = Callable[..., Any]
DIRECTIONS = ("in", "out", "fwd")


@pytest.fixture
def kernel() -> Iterator[Call]:
    """Call the guest's methods in a namespace of this test's own."""
    command = ["unshare", "--map-root-user", "--net", sys.executable, __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        requests, answers = process.stdin, process.stdout
        assert requests is not None
        assert answers is not None

        def call(name: str, *arguments: object) -> Any:
            print(json.dumps([name, arguments]), file=requests, flush=True)
            return json.loads(answers.readline())

        yield call
        requests.close()


# Requests in iproute2's words.


def words_of_id(config: PolicyConfig) -> str:
    """The part of a command that names a policy by its selector."""
    s = config.selector
    words = f"src {show(s.saddr)}/{s.prefixlen_s} dst {show(s.daddr)}/{s.prefixlen_d}"
    if s.ifindex:
        words += " dev d0"
    if s.proto:
        words += f" proto {s.proto}"
        words += f" sport {s.sport}" if s.sport_mask else ""
        words += f" dport {s.dport}" if s.dport_mask else ""
    words += f" dir {DIRECTIONS[config.direction]}"
    return words + words_of_key(config)


def words_of_key(config: PolicyConfig) -> str:
    words = f" mark {config.mark.v} mask {config.mark.m}" if config.mark.m or config.mark.v else ""
    words += f" ptype {PolicyType(config.type).name.lower()}"
    return words + (f" if_id {config.if_id}" if config.if_id else "")


def batch_policy(draw: random.Random) -> PolicyConfig:
    """A policy out of few, so that most requests meet an identical one."""
    family, daddr, bits = draw.choice(((AF_INET, "10.0.0.{}", 32), (AF_INET6, "fd00::{}", 128)))
    proto, port = draw.choice(((0, 0), (6, 0), (17, 53)))
    length = draw.choice((0, 8, 24, bits))
    selector = Selector(
        family,
        parse(daddr.format(draw.randrange(1, 4))),
        parse(daddr.format(1)),
        length,
        draw.choice((8, bits)),
        dport=port,
        dport_mask=0xFFFF if port else 0,
        proto=proto,
    )
    direction = draw.randrange(3)
    return PolicyConfig(
        direction,
        selector,
        priority=draw.randrange(3),
        index=draw.choice((0, 0, draw.randrange(40) * 8 + direction)),
        type=draw.choice((0, 0, 0, 1)),
        mark=draw.choice((Mark(), Mark(), Mark(1, 3), Mark(5, 3))),
        if_id=draw.choice((0, 0, 5)),
    )


def batch_request(table: PolicyTable, draw: random.Random) -> tuple[str, int]:
    """One random request: done to the table, and as a line for `ip -batch`; the errno."""
    config = batch_policy(draw)
    verb = draw.choice(("add", "add", "update", "delete", "delete index"))
    if verb == "delete index":
        index = draw.randrange(40) * 8 + config.direction
        line = f"xfrm policy delete dir {DIRECTIONS[config.direction]} index {index}{words_of_key(config)}"
        return line, errno_of(table.delete, policy_id(config, index))
    line = f"xfrm policy {verb} {words_of_id(config)}"
    if verb == "delete":
        return line, errno_of(table.delete, policy_id(config))
    line += f" priority {config.priority}" + (f" index {config.index}" if config.index else "")
    return line, errno_of(table.add if verb == "add" else table.update, config, 0)


def policy_id(config: PolicyConfig, index: int = 0) -> PolicyId:
    return PolicyId(config.direction, config.selector, index, config.type, config.mark, config.if_id)


def errno_of(action: Callable[..., object], *arguments: object) -> int:
    """The errno of a request, 0 for success."""
    try:
        action(*arguments)
    except XfrmError as error:
        return error.number
    return 0


def shown(table: PolicyTable) -> list[list[int]]:
    """What Guest.dump tells of the kernel's policies."""
    return [[policy.index, policy.config.priority] for policy in table.dump()]


def compare_batch(kernel: Call, lines: list[str], failed: int) -> None:
    """Lines that succeed go together; of those that fail each goes alone, for ip stops there."""
    for batch in [[line] for line in lines] if failed else [lines]:
        complaint = kernel("batch", batch)
        assert (f"answers: {os.strerror(failed)}\n" if failed else "") in complaint, batch
        assert bool(failed) is bool(complaint), (batch, complaint)


@pytest.mark.parametrize("seed", range(4))
def test_requests_by_iproute2(kernel: Call, seed: int) -> None:
    """Errors, indexes and the order of dumps, through a few hundred random requests."""
    kernel("setup")
    table = PolicyTable()
    draw = random.Random(seed)
    seen: set[int] = set()
    for _ in range(4):
        steps = [batch_request(table, draw) for _ in range(120)]
        for failed, run in groupby(steps, key=lambda step: step[1]):
            compare_batch(kernel, [line for line, _ in run], failed)
        assert kernel("dump") == shown(table)
        seen |= {number for _, number in steps}
    assert seen == {0, errno.EEXIST, errno.ENOENT}


def test_a_fresh_namespace(kernel: Call) -> None:
    """The sequence of indexes that xfrm-semantics 13.14 tells of, requested ones, and a replacement."""
    table = PolicyTable()
    steps = (
        ("add", 0, "10.0.0.1", 0),
        ("add", 1, "10.0.0.1", 0),
        ("add", 2, "10.0.0.1", 0),
        ("add", 0, "10.0.0.2", 0),
        ("add", 1, "10.0.0.2", 801),
        ("add", 1, "10.0.0.3", 801),
        ("update", 0, "10.0.0.1", 400),
        ("update", 0, "10.0.0.9", 400),
    )
    lines = []
    for verb, direction, address, index in steps:
        selector = Selector(AF_INET, parse(address), parse("10.0.0.1"), 32, 32)
        config = PolicyConfig(direction, selector, index=index)
        (table.add if verb == "add" else table.update)(config, 0)
        lines.append(f"xfrm policy {verb} {words_of_id(config)}" + (f" index {index}" if index else ""))
    assert kernel("batch", lines) == ""
    assert [index for index, _ in kernel("dump")] == [400, 8, 33, 801, 24, 18, 9]
    assert kernel("dump") == shown(table)


@pytest.mark.parametrize("count", [0, 7, 8, 12, 20, 40])
def test_spdinfo(kernel: Call, count: int) -> None:
    """Counts and the mask of the index table, which grows as policies are added one after another."""
    table = PolicyTable()
    for n in range(count):
        config = PolicyConfig(1, Selector(AF_INET, parse(f"10.0.0.{n}"), parse("10.0.0.1"), 32, 32))
        table.add(config, 0)
        assert kernel("batch", [f"xfrm policy add {words_of_id(config)}"]) == ""
    info = table.info()
    for _ in range(50):
        text = kernel("count")
        if f"buckets: count {info.spdhcnt} Max {info.spdhmcnt}\n" in text:
            break
        time.sleep(0.02)  # the kernel grows its tables on a workqueue
    assert f"SPD IN  {info.incnt} OUT {info.outcnt} FWD {info.fwdcnt}" in text
    assert f"buckets: count {info.spdhcnt} Max {info.spdhmcnt}\n" in text


# Lookups, told by what happens to packets.


def encode_selector(s: Selector) -> bytes:
    """struct xfrm_selector."""
    ports = struct.pack(">HHHH", s.dport, s.dport_mask, s.sport, s.sport_mask)
    lengths = struct.pack("=HBBB3xiI", s.family, s.prefixlen_d, s.prefixlen_s, s.proto, s.ifindex, s.user)
    return s.daddr.ljust(16, b"\0") + s.saddr.ljust(16, b"\0") + ports + lengths


def encode_template(t: Template) -> bytes:
    """struct xfrm_user_tmpl."""
    head = t.daddr.ljust(16, b"\0") + struct.pack("=IB3xH2x", t.spi, t.proto, t.family)
    flags = struct.pack("=IBBBxIII", t.reqid, t.mode, t.share, t.optional, t.aalgos, t.ealgos, t.calgos)
    return head + t.saddr.ljust(16, b"\0") + flags


def attribute(number: int, body: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(body), number) + body.ljust((len(body) + 3) & ~3, b"\0")


def encode_key(config: PolicyConfig) -> bytes:
    """The attributes POLICY_TYPE, MARK and IF_ID."""
    key = attribute(16, struct.pack("=BxHBx", config.type, 0, 0)) + attribute(
        21, struct.pack("=II", *config.mark)
    )
    return key + attribute(31, struct.pack("=I", config.if_id))


def encode_policy(kind: int, config: PolicyConfig) -> str:
    """A NEWPOLICY or UPDPOLICY request: struct xfrm_userpolicy_info and attributes."""
    body = encode_selector(config.selector) + struct.pack("=8Q", *config.lifetime) + bytes(32)
    body += struct.pack("=II", config.priority, config.index)
    body += struct.pack("=BBBB4x", config.direction, config.action, config.flags, config.share)
    templates = b"".join(map(encode_template, config.templates))
    if templates:
        body += attribute(5, templates)
    return (bytes([kind]) + body + encode_key(config)).hex()


def encode_delete(config: PolicyConfig, index: int) -> str:
    """A DELPOLICY request: struct xfrm_userpolicy_id and attributes."""
    body = encode_selector(config.selector) + struct.pack("=IB3x", index, config.direction)
    return (bytes([DELPOLICY]) + body + encode_key(config)).hex()


class World:
    """Random policies and flows of one address family that meet often enough."""

    def __init__(self, draw: random.Random, six: bool, devices: dict[str, int]) -> None:
        self.draw = draw
        self.family = AF_INET6 if six else AF_INET
        self.bits = 128 if six else 32
        self.sources = SOURCES6 if six else SOURCES
        self.devices = devices
        self.made = 0

    def destination(self) -> str:
        """A remote address behind d0 or d1: a few high bits, a few low bits."""
        device, low = self.draw.randrange(2), self.draw.choice((9, 10, 11, 14))
        if self.family == AF_INET:
            return f"10.{device * 128 + self.draw.randrange(3)}.{self.draw.randrange(2)}.{low}"
        return f"fd00:{device}:{self.draw.randrange(3)}::{self.draw.choice((0, 0x8000)):x}:{low:x}"

    def flow(self) -> tuple[list[Any], Flow]:
        """What the guest sends, and the flow that it is."""
        draw = self.draw
        dst, src = self.destination(), draw.choice(self.sources)
        dport, sport, mark = draw.choice((53, 80, 81, 5000)), draw.randrange(20000, 20016), draw.randrange(4)
        first = dst.split(".")[1] if self.family == AF_INET else "128" if dst.startswith("fd00:1:") else "0"
        device = "d1" if int(first) >= 128 else "d0"
        bound = draw.random() < 0.5
        # IPv6 looks policies up by the interface that the socket asked for, IPv4 by the one of the route.
        oif = self.devices[device] if bound or self.family == AF_INET else 0
        sent = [dst, dport, src, sport, mark, device if bound else ""]
        return sent, Flow(parse(dst), parse(src), PROTO_UDP, sport, dport, oif, mark)

    def policy(self) -> PolicyConfig:
        draw = self.draw
        lengths = (
            (0, 8, 9, 15, 16, 17, 24, 24, 29, 31)
            if self.bits == 32
            else (0, 16, 33, 47, 48, 49, 112, 112, 127)
        )
        selector = Selector(
            self.family,
            parse(self.destination()),
            parse(draw.choice(self.sources)),
            draw.choice((*lengths, self.bits, self.bits)),
            draw.choice((*lengths, self.bits, self.bits)),
            draw.choice((53, 80, 81)),
            draw.choice((0, 0, 0, 1, 0xFFFE, 0xFFFF)),
            draw.randrange(20000, 20016),
            draw.choice((0, 0, 0, 3, 8, 0xFFF8)),
            draw.choice((0, 0, 17, 17, 6)),
            draw.choice((0, 0, 0, *self.devices.values())),
        )
        self.made += 1
        far = Template(
            parse("10.200.0.1"), parse("10.0.0.1"), family=AF_INET, reqid=self.made, mode=Mode.TUNNEL
        )
        sub = draw.random() < 0.08
        block = sub or draw.random() < 0.2
        return PolicyConfig(
            draw.choice((1, 1, 1, 1, 1, 1, 1, 1, 0, 2)),
            selector,
            () if block else (far,),
            Action.BLOCK if block else Action.ALLOW,
            draw.choice((10, 30, 30, 30, 30, 30)) if not sub else 0,
            type=PolicyType.SUB if sub else PolicyType.MAIN,
            mark=draw.choice((Mark(), Mark(), Mark(), Mark(1, 1), Mark(2, 3), Mark(4, 3))),
            if_id=draw.choice((0, 0, 0, 0, 0, 9)),
        )


def netlink_request(table: PolicyTable, world: World) -> tuple[str, int]:
    """One random change: done to the table, and as a netlink request; the errno."""
    alive = list(table.dump())
    kind = world.draw.random()
    if kind < 0.7 or not alive:
        config = world.policy()
        return encode_policy(NEWPOLICY, config), errno_of(table.add, config, 0)
    config = world.draw.choice(alive).config
    if kind < 0.9:
        return encode_policy(UPDPOLICY, config), errno_of(table.update, config, 0)
    index = world.draw.choice((0, config.index))
    return encode_delete(config, index), errno_of(table.delete, policy_id(config, index))


def expected(table: PolicyTable, flow: Flow) -> list[int]:
    """The errno of a datagram and the index of the policy that acquires for it, as Guest.send tells them."""
    policy = table.lookup(PolicyType.SUB, 1, flow) or table.lookup(PolicyType.MAIN, 1, flow)
    if policy is None:
        return [0, 0]
    return [errno.EPERM, 0] if policy.config.action == Action.BLOCK else [0, policy.index]


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("seed", range(3))
def test_lookups(kernel: Call, seed: int, six: bool) -> None:
    """The policy the kernel takes for a datagram is the one that the table finds."""
    world = World(random.Random(seed), six, kernel("setup"))
    table = PolicyTable()
    seen = []
    for _ in range(4):
        steps = [netlink_request(table, world) for _ in range(60)]
        assert kernel("netlink", [message for message, _ in steps]) == [number for _, number in steps]
        assert kernel("dump") == shown(table)
        flows = [world.flow() for _ in range(100)]
        found = [expected(table, flow) for _, flow in flows]
        taken = kernel("send", [sent for sent, _ in flows])
        assert [
            (*pair, flow) for *pair, flow in zip(taken, found, flows, strict=True) if pair[0] != pair[1]
        ] == []
        seen += found
    assert kernel("stat", "XfrmOutPolBlock") == sum(number == errno.EPERM for number, _ in seen) > 10
    assert len({index for _, index in seen}) > 8
