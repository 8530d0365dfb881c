"""Runs inside the guest as its first process's child: answers requests, one JSON object per line.

Every answer begins with a mark, since the kernel may print on the same console. Nothing but the standard
library is imported, and what is beside this file and does the same: the guest runs the host's Python on the
host's files.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any

sys.path.append(os.path.dirname(os.path.abspath(__file__)))

import echo

MARK = "\x1e"
_IP_TOS, _IP_TTL, _IP_MTU_DISCOVER, _IP_RECVTOS = 1, 2, 10, 13
_IPV6_TCLASS, _IPV6_UNICAST_HOPS, _IPV6_MTU_DISCOVER, _IPV6_RECVTCLASS = 67, 16, 23, 66
_SENDING = {
    socket.AF_INET: (socket.IPPROTO_IP, _IP_TOS, _IP_MTU_DISCOVER, _IP_TTL),
    socket.AF_INET6: (socket.IPPROTO_IPV6, _IPV6_TCLASS, _IPV6_MTU_DISCOVER, _IPV6_UNICAST_HOPS),
}
_NETLINK_XFRM, _XFRM_MSG_NEWSA, _XFRM_MSG_GETSA = 6, 16, 18
_NLM_F_REQUEST, _NLM_F_DUMP = 1, 0x300
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NETLINK_EXT_ACK = 270, 1, 11
_TICK = 0.03
_TCP_ULP = 31
_CAPTURE = "/run/capture.pcap"
_FRAME_TYPE = 0x88B5  # for local experiments

_LAST_COMMAND, _LAST_ANSWER = "xfrm state count\n", "SAD count"

sockets: dict[str, socket.socket] = {}
batches: list[subprocess.Popen[str]] = []
captures: list[subprocess.Popen[str]] = []


def run(argv: list[str], stdin: str = "") -> list[Any]:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    return [done.returncode, done.stdout, done.stderr]


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def udp_open(name: str, address: str, port: int) -> None:
    """Bind a UDP socket that remembers what comes in, with the TOS of each datagram."""
    udp_close(name)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
    if family == socket.AF_INET:
        made.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
    else:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1)
    made.bind((address, port))
    sockets[name] = made


def bypass(made: socket.socket) -> None:
    """Let no policy concern a socket, as IKE daemons do with theirs."""
    level, option = (0, 17) if made.family == socket.AF_INET else (41, 35)
    for direction in (0, 1):
        policy = bytearray(168)
        struct.pack_into("=H", policy, 40, made.family)
        struct.pack_into("=B", policy, 160, direction)
        made.setsockopt(level, option, bytes(policy))


def udp_encap(name: str) -> None:
    """Let a socket take ESP in UDP out, and bypass policies as IKE daemons' sockets do."""
    made = sockets[name]
    made.setsockopt(socket.IPPROTO_UDP, 100, 2)  # UDP_ENCAP, UDP_ENCAP_ESPINUDP
    bypass(made)


@contextlib.contextmanager
def in_netns(name: str) -> Iterator[None]:
    """Have sockets made in another network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as here, open(f"/run/netns/{name}") as there:
        if libc.setns(there.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            libc.setns(here.fileno(), 0)


def tcp_connect(name: str, here: tuple[str, int], there: tuple[str, int], netns: str) -> None:
    """Connect a socket `NAME-peer` of another namespace to one here, which gets ESP and IKE out of TCP."""
    family = socket.AF_INET6 if ":" in here[0] else socket.AF_INET
    tcp_close(name)
    with socket.socket(family) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bypass(listening)
        listening.bind(tuple(here))
        listening.listen()
        with in_netns(netns):
            peer = sockets[f"{name}-peer"] = socket.socket(family)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.bind(tuple(there))
        peer.connect(tuple(here))
        made = sockets[name] = listening.accept()[0]
    made.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"espintcp")


def tcp_close(name: str) -> None:
    """End such a connection at once, so that its ports are free."""
    for which in (name, f"{name}-peer"):
        if which in sockets:
            sockets[which].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            udp_close(which)


def tcp_send(name: str, data: str, wait: bool = True) -> int:
    """Send on a connected socket; 0, or the errno it got. What is one call is one message to ESP in TCP."""
    try:
        if wait:
            sockets[name].sendall(bytes.fromhex(data))
        else:
            sockets[name].send(bytes.fromhex(data), socket.MSG_DONTWAIT)
    except OSError as refused:
        return refused.errno or -1
    return 0


def tcp_take(name: str, count: int, timeout: float) -> str:
    """What a socket received: `count` bytes, or what came in time; from ESP in TCP one message."""
    got, end = b"", time.monotonic() + timeout
    while len(got) < count:
        sockets[name].settimeout(max(end - time.monotonic(), 0.0001))
        try:
            data = sockets[name].recv(count - len(got))
        except TimeoutError:
            break
        if not data or not name.endswith("-peer"):
            return (got + data).hex()
        got += data
    return got.hex()


def echo_serve(address: str, port: int) -> None:
    """Say back by TCP what is told there."""
    sockets[f"echo {address}"] = echo.serve(address, port)


def echo_exchange(here: str, there: str, port: int, size: int) -> str:
    """Be the client of such a server: what went wrong."""
    return echo.exchange(here, there, port, size)


def tcp_error(name: str) -> int:
    """The error that is pending on a socket (SO_ERROR)."""
    return sockets[name].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def xfrm_open(name: str, protocol: int = _NETLINK_XFRM) -> None:
    """Open a netlink socket for requests, or for the events of groups that are joined."""
    udp_close(name)
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    made.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    made.bind((0, 0))
    sockets[name] = made


def xfrm_join(name: str, group: int) -> None:
    """Hear the events of a group from now on."""
    sockets[name].setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)


def xfrm_ask(name: str, request: str) -> list[str]:
    """Send a request; what came back, all of a dump."""
    sockets[name].send(bytes.fromhex(request))
    return xfrm_take(name)


def xfrm_take(name: str) -> list[str]:
    """The datagrams that are there, without waiting."""
    found: list[str] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sockets[name].recv(1 << 16, socket.MSG_DONTWAIT).hex())
    return found


def frame_open() -> None:
    """Send and receive frames of a type of our own on the link: no policy concerns them."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_FRAME_TYPE))
    made.bind(("vec0", _FRAME_TYPE))
    sockets["frame"] = made


def capture_start(device: str) -> None:
    """Have tcpdump take down all that passes a device: it copies frames, which Linux decrypts in place."""
    argv = ["tcpdump", "-Z", "root", "-U", "--immediate-mode", "-i", device, "-w", _CAPTURE]
    made = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    assert made.stderr is not None
    while "listening" not in (line := made.stderr.readline()):
        if not line:
            raise RuntimeError("tcpdump does not begin")
    captures.append(made)


def capture_stop() -> str:
    """The capture, as a file holds it."""
    made = captures.pop()
    made.send_signal(signal.SIGINT)
    made.communicate(timeout=10)
    with open(_CAPTURE, "rb") as file:
        return file.read().hex()


def frame_send(frame: str) -> None:
    sockets["frame"].send(bytes.fromhex(frame))


def frame_take(timeout: float) -> str:
    """The next such frame, or nothing where none came in time."""
    sockets["frame"].settimeout(timeout)
    try:
        return sockets["frame"].recv(2048).hex()
    except TimeoutError:
        return ""


def sleep_into(fraction: float) -> float:
    """Sleep until the next second begins unless the wall clock is not farther than this in one; its time.

    The kernel's seconds begin with a tick of its own, a little later.
    """
    into = (time.time() - _TICK) % 1
    if into > fraction:
        time.sleep(1 - into)
    return time.time()


def sleep_until(moment: float) -> None:
    """Sleep until the wall clock shows this, if it does not yet."""
    time.sleep(max(moment - time.time(), 0))


def socket_policy(name: str, policy: str) -> None:
    """Give a UDP socket a policy of its own (IP_XFRM_POLICY)."""
    sockets[name].setsockopt(socket.IPPROTO_IP, 17, bytes.fromhex(policy))


def udp_mark(name: str, mark: int) -> None:
    """Have a socket's packets carry a mark."""
    sockets[name].setsockopt(socket.SOL_SOCKET, 36, mark)  # SO_MARK


def udp_tos(name: str, tos: int) -> None:
    """Have a socket's IPv4 packets carry a DS field."""
    sockets[name].setsockopt(socket.IPPROTO_IP, _IP_TOS, tos)


def udp_options(name: str, options: str, option: int = socket.IP_OPTIONS) -> None:
    """Have a socket's packets carry IPv4 options, or the IPv6 extension header that an option sets."""
    level = socket.IPPROTO_IP if sockets[name].family == socket.AF_INET else socket.IPPROTO_IPV6
    sockets[name].setsockopt(level, option, bytes.fromhex(options))


def udp_close(name: str) -> None:
    if name in sockets:
        sockets.pop(name).close()


def udp_take(name: str, count: int, timeout: float) -> list[Any]:
    """Return [payload, sender, sender's port, TOS] of the next datagrams: `count`, or what came in time."""
    got: list[Any] = []
    end = time.monotonic() + timeout
    while len(got) < count:
        sockets[name].settimeout(max(end - time.monotonic(), 0.0001))
        try:
            payload, ancillary, _, sender = sockets[name].recvmsg(65535, 64)
        except (TimeoutError, BlockingIOError):
            break
        tos = int.from_bytes(ancillary[0][2], sys.byteorder) if ancillary else 0
        got.append([payload.hex(), sender[0], sender[1], tos])
    return got


def udp_send(name: str, payload: str, address: str, port: int, tos: int, df: int, ttl: int) -> int:
    """Send one datagram; `df` is IP_MTU_DISCOVER's value (0: DF clear, 2: set). 0, or the errno it got."""
    sender = sockets[name]
    level, *options = _SENDING[sender.family]
    for option, value in zip(options, (tos, df, ttl), strict=True):
        sender.setsockopt(level, option, value)
    try:
        sender.sendto(bytes.fromhex(payload), (address, port))
    except OSError as refused:
        return refused.errno or -1
    return 0


def many(calls: list[list[Any]]) -> list[Any]:
    """Several calls in one round trip."""
    return [CALLS[name](*arguments) for name, *arguments in calls]


def ip_batch(text: str) -> str:
    """Run lines in an `ip -batch` that stays, since a new process costs 100 ms here; return what it said.

    `-force` goes on behind a line that is refused; the last line's answer tells that all are done.
    """
    if not batches:
        argv = ["stdbuf", "-oL", "ip", "-force", "-batch", "-"]
        pipe = subprocess.PIPE
        batches.append(subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True))
    to, said = batches[0].stdin, batches[0].stdout
    assert to is not None
    assert said is not None
    to.write(text + _LAST_COMMAND)
    to.flush()
    lines = []
    while _LAST_ANSWER not in (line := said.readline()):
        if not line:
            batches.clear()
            raise RuntimeError(f"ip -batch ended: {lines}")
        lines.append(line)
    return "".join(lines)


def xfrm_states() -> list[str]:
    """Every state, newest first, as its message: what `ip xfrm state` shows, without a fork."""
    asked = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_XFRM)
    with asked:
        asked.send(struct.pack("=IHHII", 16, _XFRM_MSG_GETSA, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0))
        found = []
        while True:
            data = asked.recv(1 << 16)
            while data:
                length, kind = struct.unpack_from("=IH", data)
                if kind != _XFRM_MSG_NEWSA:
                    return found
                found.append(data[16:length].hex())
                data = data[(length + 3) & ~3 :]


CALLS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        run,
        read,
        write,
        udp_open,
        udp_encap,
        udp_close,
        udp_take,
        udp_send,
        many,
        ip_batch,
        xfrm_states,
        xfrm_open,
        xfrm_join,
        xfrm_ask,
        xfrm_take,
        frame_open,
        capture_start,
        capture_stop,
        frame_send,
        frame_take,
        sleep_into,
        sleep_until,
        socket_policy,
        udp_mark,
        udp_tos,
        udp_options,
        tcp_connect,
        tcp_close,
        tcp_send,
        tcp_take,
        tcp_error,
        echo_serve,
        echo_exchange,
    )
}


def main() -> None:
    with contextlib.suppress(OSError, termios.error):
        tty.setraw(0)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")

    def answer(**fields: Any) -> None:
        out.write(MARK + json.dumps(fields) + "\n")
        out.flush()

    answer(ready=True)
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if isinstance(request, str):  # too long for the console: the name of a file that holds it
                request = json.loads(read(request))
            answer(id=request["id"], value=CALLS[request["call"]](*request["arguments"]))
        except Exception as problem:
            answer(id=None, error=f"{type(problem).__name__}: {problem}", line=line[:2000])


main()
