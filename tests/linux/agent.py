"""The agent: process 1 of the guest. It takes requests from the host and answers each with one message.

Started by the init script that uml.py writes, with the host's Python. Starting any program in here takes 20 to
30 ms, a request to this process 0.1 ms: so sockets, namespaces and netlink are done in Python, within it. There is
one thread; a request that names a network namespace moves it there and back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from wire import CONTROL, MARKER, MTU, Assembler, encode, ethernet

SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
BUFFER = 16 << 20
SOL_UDP, UDP_ENCAP = 17, 100
IP_PKTINFO, IP_RECVTTL, IP_MTU_DISCOVER, IP_RECVTOS = 8, 12, 10, 13
IPV6_MTU_DISCOVER, IPV6_DONTFRAG = 23, 62
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
TC_PRIO_BULK = 2
RTM_NEWLINK, NLM_F_REQUEST_ACK, IFLA_NET_NS_FD = 16, 5, 28
NLMSG_ERROR, NLMSG_DONE, NLM_F_ACK, NLM_F_DUMP = 2, 3, 4, 0x300
CLONE_NEWNET, MS_BIND, MNT_DETACH, POWER_OFF = 0x40000000, 4096, 2, 0x4321FEDC
SIOCSIFFLAGS, IFF_UP = 0x8914, 1

libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: Any) -> None:
    """Call a system call that Python 3.11 does not have."""
    if getattr(libc, name)(*args):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


# ---- network namespaces ------------------------------------------------------------------------------------

ROOT = os.open("/proc/self/ns/net", os.O_RDONLY)
namespaces: dict[str | None, int] = {None: ROOT}


@contextlib.contextmanager
def inside(netns: str | None) -> Iterator[None]:
    """Do something in a network namespace; None is the first one."""
    if netns is None:
        yield
        return
    _call("setns", namespaces[netns], CLONE_NEWNET)
    try:
        yield
    finally:
        _call("setns", ROOT, CLONE_NEWNET)


def add_namespace(name: str, sysctls: dict[str, str]) -> None:
    """Make a network namespace, which `ip -n NAME` finds too."""
    _call("unshare", CLONE_NEWNET)
    try:
        namespaces[name] = os.open("/proc/self/ns/net", os.O_RDONLY)
        path = f"/run/netns/{name}"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        _call("mount", b"/proc/self/ns/net", path.encode(), b"none", MS_BIND, None)
        for key, value in sysctls.items():
            with open("/proc/sys/" + key.replace(".", "/"), "w") as file:
                file.write(value)
    finally:
        _call("setns", ROOT, CLONE_NEWNET)


def delete_namespace(name: str) -> None:
    """Close the namespace's sockets, save vec0 from it and let it go."""
    for number in [n for n, listener in listeners.items() if listener.netns == name]:
        close(number)
    with inside(name), contextlib.suppress(OSError):
        move_link("vec0", None)
    _call("umount2", f"/run/netns/{name}".encode(), MNT_DETACH)
    os.unlink(f"/run/netns/{name}")
    os.close(namespaces.pop(name))


def move_link(device: str, to: str | None) -> None:
    """Move a device from the namespace we are in to another (`ip link set DEVICE netns TO`)."""
    body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(device), 0, 0)
    body += struct.pack("=HHi", 8, IFLA_NET_NS_FD, namespaces[to])
    header = struct.pack("=IHHII", 16 + len(body), RTM_NEWLINK, NLM_F_REQUEST_ACK, 1, 0)
    (reply,) = netlink(header + body, protocol=socket.NETLINK_ROUTE)
    (code,) = struct.unpack_from("=i", reply, 16)
    if code:
        raise OSError(-code, f"{device}: {os.strerror(-code)}")


def take_link(netns: str) -> None:
    """Move vec0 from the first namespace to this one."""
    move_link("vec0", netns)


# ---- programs, files, snippets -----------------------------------------------------------------------------


def run(argv: list[str], stdin: str, timeout: float) -> dict[str, Any]:
    done = subprocess.run(argv, input=stdin.encode(), capture_output=True, timeout=timeout, check=False)
    stdout, stderr = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return {"returncode": done.returncode, "stdout": stdout, "stderr": stderr}


def file(path: str) -> str:
    with open(path, errors="replace") as opened:
        return opened.read()


def write(path: str, text: str) -> None:
    with open(path, "w") as opened:
        opened.write(text)


kept: dict[str, Any] = {}


def python(code: str, args: dict[str, Any], timeout: float) -> Any:
    """Evaluate an expression, or run statements and return what they left in `result`.

    Statements find `args` as variables, this module's names, and a dictionary `kept` that outlives the request.
    """

    def late(*_: object) -> None:
        raise TimeoutError(f"the snippet took longer than {timeout} seconds")

    scope = {**globals(), **args, "result": None}
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        try:
            return eval(compile(code, "<snippet>", "eval"), scope)
        except SyntaxError:
            exec(compile(code, "<snippet>", "exec"), scope)
        return scope["result"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def netlink(request: bytes, protocol: int) -> list[bytes]:
    """Send one netlink request; return the answers to it, the terminating error or done message included."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as asked:
        asked.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        asked.settimeout(5)
        asked.send(request)
        _, _, flags, _, _ = struct.unpack_from("=IHHII", request)
        more = flags & (NLM_F_ACK | NLM_F_DUMP)
        answers: list[bytes] = []
        while True:
            answers += messages(asked.recv(1 << 20))
            (last,) = struct.unpack_from("=H", answers[-1], 4)
            if not more or last in (NLMSG_ERROR, NLMSG_DONE):
                return answers


def messages(data: bytes) -> list[bytes]:
    """Cut what a netlink socket returned into messages."""
    cut = []
    while len(data) >= 16:
        (length,) = struct.unpack_from("=I", data)
        cut.append(data[:length])
        data = data[(length + 3) & ~3 :]
    return cut


# ---- sockets that record what they receive -----------------------------------------------------------------


class Listener:
    """A socket whose queue is the record: it is read when the host asks."""

    def __init__(self, netns: str | None, opened: socket.socket, bound: tuple[str, int] | None = None) -> None:
        self.netns, self.socket, self.bound = netns, opened, bound
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        opened.setblocking(False)

    def received(self) -> list[list[Any]]:
        """Each datagram as [data, address, {ancillary level.type: data}]."""
        found: list[list[Any]] = []
        while True:
            try:
                data, ancillary, _, address = self.socket.recvmsg(1 << 16, 1024)
            except BlockingIOError:
                return found
            notes = {f"{level}.{kind}": value for level, kind, value in ancillary}
            found.append([data, list(address) if isinstance(address, tuple) else address, notes])


listeners: dict[int, Listener] = {}
numbers = itertools.count(1)


def _listen(listener: Listener) -> int:
    number = next(numbers)
    listeners[number] = listener
    return number


def _internet(address: str, kind: int, protocol: int = 0) -> socket.socket:
    """Open an IPv4 or IPv6 socket that tells destination, TOS and TTL of what it receives."""
    if ":" in address:
        opened = socket.socket(socket.AF_INET6, kind, protocol)
        for option in (socket.IPV6_RECVPKTINFO, socket.IPV6_RECVTCLASS, socket.IPV6_RECVHOPLIMIT):
            opened.setsockopt(socket.IPPROTO_IPV6, option, 1)
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return opened
    opened = socket.socket(socket.AF_INET, kind, protocol)
    for option in (IP_PKTINFO, IP_RECVTOS, IP_RECVTTL):
        opened.setsockopt(socket.IPPROTO_IP, option, 1)
    return opened


def listen_udp(netns: str | None, address: str, port: int, encap: int) -> int:
    opened = _internet(address, socket.SOCK_DGRAM)
    opened.bind((address, port))
    if encap:
        opened.setsockopt(SOL_UDP, UDP_ENCAP, encap)
    return _listen(Listener(netns, opened, (address, opened.getsockname()[1])))


def listen_raw(netns: str | None, address: str, protocol: int) -> int:
    opened = _internet(address, socket.SOCK_RAW, protocol)
    opened.bind((address, 0))
    return _listen(Listener(netns, opened))


def listen_packets(netns: str | None, device: str | None, protocol: int, headers: bool) -> int:
    kind = socket.SOCK_RAW if headers else socket.SOCK_DGRAM
    opened = socket.socket(socket.AF_PACKET, kind, socket.htons(protocol))
    if device:
        opened.bind((device, protocol))
    return _listen(Listener(netns, opened))


def listen_netlink(netns: str | None, protocol: int, groups: list[int]) -> int:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    opened.bind((0, 0))
    for group in groups:
        opened.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    return _listen(Listener(netns, opened))


def received(number: int) -> list[list[Any]]:
    return listeners[number].received()


def close(number: int) -> None:
    listeners.pop(number).socket.close()


def send_udp(netns: str | None, datagrams: list[dict[str, Any]]) -> list[str | None]:
    """Send datagrams; return for each the name of the error, or None."""
    return [_send_udp(netns, **datagram) for datagram in datagrams]


def _send_udp(
    netns: str | None,
    source: str,
    sport: int,
    destination: str,
    dport: int,
    data: bytes,
    tos: int = 0,
    ttl: int = 64,
    df: bool | None = None,
) -> str | None:
    """Send one datagram, from the listener on that address and port if there is one."""
    try:
        with _sender(netns, source, sport) as sender:
            _mark(sender, tos, ttl, df)
            sender.sendto(data, (destination, dport))
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return None


@contextlib.contextmanager
def _sender(netns: str | None, source: str, port: int) -> Iterator[socket.socket]:
    for listener in listeners.values():
        if listener.netns == netns and listener.bound == (source, port):
            yield listener.socket
            return
    with socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind((source, port))
        yield opened


def _mark(sender: socket.socket, tos: int, ttl: int, df: bool | None) -> None:
    """Set TOS, TTL and whether to fragment: None is the kernel's default, path MTU discovery."""
    discover = {None: 1, True: 2, False: 0}[df]
    if sender.family == socket.AF_INET6:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, discover)
        sender.setsockopt(socket.IPPROTO_IPV6, IPV6_DONTFRAG, df is True)
        return
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
    sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, discover)


def settle(number: int, nonce: bytes, timeout: float) -> None:
    """Wait until all frames that were sent before this marker are dealt with, then answer with a marker.

    The marker tells that the frames before it left the device. Decapsulated packets are queued once more (GRO
    cells; in transport mode a work queue), and a short sleep lets those run: this machine has one processor.
    """
    marker = listeners[number]
    while marker.received()[-1:] != [] or select.select([marker.socket], [], [], timeout)[0]:
        found = [data for data, _, _ in marker.received()]
        if any(nonce in data for data in found):
            break
    os.sched_yield()
"""Placeholder."""
