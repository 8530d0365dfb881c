"""A Linux 6.1 kernel with IPsec for tests: boot it, give it a network namespace, exchange frames with it.

    with LinuxGuest() as guest, guest.namespace(addresses=["10.9.0.2/24"]) as linux:
        linux.ip("xfrm", "state", "add", ...)
        answers = linux.exchange([frame])

The kernel is Debian's user-mode-linux, an ordinary process (uml.py). Its vec0 is an Ethernet link whose other end
is here (link.py). A second link carries requests to an agent within (agent.py).
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from linux.link import BUFFER, SO_SNDBUFFORCE, Link
from linux.uml import GuestError, Machine
from linux.wire import GUEST_MAC, HOST_MAC, MARKER, MTU, Assembler, encode, ethernet

__all__ = ["GUEST_MAC", "HOST_MAC", "Completed", "Datagram", "GuestError", "LinuxGuest", "Listener", "Namespace"]

NETLINK_XFRM = 6
ETH_P_ALL = 3
BOOT_SECONDS = 60
# No router to look for, no duplicate to detect, no address nobody asked for: the link carries what a test sends.
QUIET = {
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.default.accept_ra": "0",
    "net.ipv6.conf.default.router_solicitations": "0",
    "net.ipv6.conf.default.addr_gen_mode": "1",
}


@dataclass(frozen=True)
class Completed:
    """What a command in the guest left."""

    returncode: int
    stdout: str
    stderr: str

    def check(self) -> Self:
        """Raise if the command failed."""
        if self.returncode:
            raise GuestError(f"exit code {self.returncode}: {self.stderr or self.stdout}")
        return self


@dataclass(frozen=True)
class Datagram:
    """What a listener received. A raw or packet socket has no ports."""

    source: str
    sport: int
    destination: str
    data: bytes
    tos: int | None = None
    ttl: int | None = None


class Channel:
    """Requests to the agent: one at a time, each with a number and an answer."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._socket, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, self.theirs):
            with contextlib.suppress(PermissionError):
                end.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
        self._assembler = Assembler()
        self._numbers = itertools.count(1)

    def call(self, operation: str, netns: str | None, timeout: float, **args: Any) -> Any:
        """Ask the agent; raise GuestError with what it said if it could not, or with why it is mute."""
        number = next(self._numbers)
        request = {"number": number, "operation": operation, "netns": netns, "args": args}
        self._socket.settimeout(timeout)
        try:
            for frame in encode(request):
                self._socket.send(frame)
        except OSError as error:
            raise self.dead(f"could not be asked for {operation} ({error})") from error
        reply = self.reply(number, operation, timeout)
        if "error" in reply:
            raise GuestError(f"{operation}: {reply['error']}")
        return reply["result"]

    def reply(self, number: int, operation: str, timeout: float) -> dict[str, Any]:
        """Wait for the answer with this number."""
        until = time.monotonic() + timeout
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise self.dead(f"did not answer {operation} within {timeout:g} seconds")
            if not select.select([self._socket], [], [], left)[0]:
                continue
            try:
                frame = self._socket.recv(2 * MTU)
            except OSError:
                frame = b""
            if not frame:
                self._machine.wait(1)
                raise self.dead(f"died during {operation}")
            message = self._assembler.feed(frame)
            if message and message["number"] == number:
                return message

    def dead(self, how: str) -> GuestError:
        """Stop a guest that is of no more use; return the error to raise, with its last words."""
        console = self._machine.console()
        self._machine.stop()
        return GuestError(f"the Linux guest {how}. Its console ended with:\n{console}")

    def close(self) -> None:
        self._socket.close()
        self.theirs.close()


class LinuxGuest:
    """A running kernel. One serves a whole test session, with a namespace per test."""

    release: str

    def __init__(self) -> None:
        self._names = (f"test{n}" for n in itertools.count(1))
        self._boot()

    def _boot(self) -> None:
        self._machine = Machine()
        try:
            self._link = Link(self._machine.folder / "vec0")
            self._channel = Channel(self._machine)
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        theirs = self._channel.theirs
        devices = [
            f"vec0:transport=bess,dst={self._machine.folder}/vec0,mac={GUEST_MAC},depth=64",
            f"vec1:transport=fd,fd={theirs.fileno()},mac=02:00:00:00:00:fe,depth=64,mtu={MTU}",
        ]
        self._machine.start(devices, [theirs.fileno()])
        theirs.close()
        self.release = self._channel.reply(0, "boot", BOOT_SECONDS)["result"]

    # -- life

    @property
    def alive(self) -> bool:
        return self._machine.running

    @property
    def pid(self) -> int | None:
        """The kernel's process id on the host, and its process group."""
        return self._machine.pid

    @property
    def folder(self) -> Path:
        """Where this run keeps its files; gone when it is closed."""
        return self._machine.folder

    def console(self) -> str:
        """Return the last lines that the kernel wrote."""
        return self._machine.console()

    def restart(self) -> None:
        """Boot anew: for a fixture that outlives a crash."""
        self.close()
        self._boot()

    def close(self) -> None:
        """Halt the kernel and remove what it left. Twice does no harm."""
        for part in ("_channel", "_link"):
            if part in self.__dict__:
                getattr(self, part).close()
        self._machine.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- requests

    def _call(self, operation: str, netns: str | None = None, timeout: float = 20, **args: Any) -> Any:
        return self._channel.call(operation, netns, timeout, **args)

    def run(
        self, argv: Sequence[str], stdin: str = "", netns: str | None = None, timeout: float = 20
    ) -> Completed:
        """Run a program of the host's in the guest: 20 to 30 ms."""
        done = self._call("run", netns, timeout + 10, argv=list(argv), stdin=stdin, timeout=timeout)
        return Completed(**done)

    def ip(self, *args: str, netns: str | None = None) -> Completed:
        return self.run(["ip", *args], netns=netns)

    def ip_batch(self, text: str, netns: str | None = None, force: bool = False) -> Completed:
        """Run many `ip` commands in one program; with `force`, go on after errors."""
        options = ["-force"] if force else []
        return self.run(["ip", *options, "-batch", "-"], text, netns, timeout=60)

    def file(self, path: str, netns: str | None = None) -> str:
        """Return a file's text, such as /proc/net/xfrm_stat."""
        text: str = self._call("file", netns, path=path)
        return text

    def write(self, path: str, text: str, netns: str | None = None) -> None:
        """Write a file of the guest's, such as one in /proc/sys or /run."""
        self._call("write", netns, path=path, text=text)

    def python(self, code: str, netns: str | None = None, timeout: float = 20, **args: Any) -> Any:
        """Run a snippet in the agent: an expression's value, or what statements left in `result`.

        Statements find `args` as variables. JSON and bytes go in and come back.
        """
        return self._call("python", netns, timeout + 10, code=code, args=args, timeout=timeout)

    def netlink(
        self, request: bytes, netns: str | None = None, protocol: int = NETLINK_XFRM
    ) -> list[bytes]:
        """Send one raw netlink request; return the messages that answer it: 0.2 ms."""
        answers: list[bytes] = self._call("netlink", netns, request=request, protocol=protocol)
        return answers

    # -- the link

    def send(self, frame: bytes) -> None:
        """Send an Ethernet frame to vec0."""
        self._link.send(frame)

    def receive(self, timeout: float) -> bytes | None:
        """Return the next Ethernet frame that vec0 sent."""
        return self._link.receive(timeout)

    # -- namespaces

    @contextlib.contextmanager
    def namespace(
        self,
        addresses: Iterable[str] = (),
        neighbours: Mapping[str, str] | Iterable[str] = (),
        routes: Iterable[str] = (),
        loopback: Iterable[str] = (),
        sysctls: Mapping[str, str] | None = None,
        mac: str = GUEST_MAC,
        mtu: int = 1500,
        link: bool = True,
    ) -> Iterator[Namespace]:
        """Make a network namespace, with vec0 in it, and take both back afterwards.

        addresses and loopback: as `ip address add` takes them, for vec0 and for lo. neighbours: addresses behind
        the link, with their MAC addresses or all at the host's. routes: as `ip route add` takes them (`dev vec0`
        is added). Without `link` vec0 stays where it is: for a second namespace.
        """
        name = next(self._names)
        self._call("add_namespace", name=name, sysctls={**QUIET, **(sysctls or {})})
        namespace = Namespace(self, name)
        try:
            lines = ["link set lo up", *(f"address add {a} dev lo" for a in loopback)]
            if link:
                known = neighbours if isinstance(neighbours, Mapping) else dict.fromkeys(neighbours, HOST_MAC)
                self._link.restart()
                self._call("take_link", netns=name)
                lines += _link_setup(mac, mtu, addresses, known, routes)
            namespace.ip_batch("\n".join(lines) + "\n").check()
            yield namespace
        finally:
            if self.alive:
                self._call("delete_namespace", name=name)


def _link_setup(
    mac: str, mtu: int, addresses: Iterable[str], neighbours: Mapping[str, str], routes: Iterable[str]
) -> list[str]:
    """The `ip` commands that configure vec0. The long queue is for exchanges of many frames."""
    lines = [f"link set vec0 address {mac} mtu {mtu} txqueuelen 10000", "link set vec0 up"]
    lines += [f"address add {a} dev vec0" + (" nodad" if ":" in a else "") for a in addresses]
    lines += [f"neighbour add {a} lladdr {at} dev vec0 nud permanent" for a, at in neighbours.items()]
    return lines + [f"route add {route} dev vec0" for route in routes]


class Namespace:
    """One network namespace of the guest's. All that the guest can do, done in it."""

    def __init__(self, guest: LinuxGuest, name: str) -> None:
        self.guest, self.name = guest, name
        self._marker: int | None = None
        self._nonces = itertools.count(1)

    def run(self, argv: Sequence[str], stdin: str = "", timeout: float = 20) -> Completed:
        return self.guest.run(argv, stdin, self.name, timeout)

    def ip(self, *args: str) -> Completed:
        return self.guest.ip(*args, netns=self.name)

    def ip_batch(self, text: str, force: bool = False) -> Completed:
        return self.guest.ip_batch(text, self.name, force)

    def file(self, path: str) -> str:
        return self.guest.file(path, self.name)

    def write(self, path: str, text: str) -> None:
        self.guest.write(path, text, self.name)

    def python(self, code: str, timeout: float = 20, **args: Any) -> Any:
        return self.guest.python(code, self.name, timeout, **args)

    def netlink(self, request: bytes, protocol: int = NETLINK_XFRM) -> list[bytes]:
        return self.guest.netlink(request, self.name, protocol)

    def _call(self, operation: str, **args: Any) -> Any:
        return self.guest._call(operation, self.name, **args)

    # -- frames

    def send(self, frame: bytes) -> None:
        self.guest.send(frame)

    def receive(self, timeout: float) -> bytes | None:
        return self.guest.receive(timeout)

    def exchange(self, frames: Iterable[bytes]) -> list[bytes]:
        """Send frames, wait until the kernel is done with them, and return all that it sent since last asked."""
        for frame in frames:
            self.send(frame)
        return self.settle()

    def settle(self) -> list[bytes]:
        """Wait until all frames that were sent are dealt with; return the frames that came back."""
        if self._marker is None:
            self._marker = self._call("listen_packets", device="vec0", protocol=MARKER, headers=True)
        nonce = b"settle %d" % next(self._nonces)
        marker = ethernet(MARKER, nonce)
        self.send(marker)
        self._call("settle", number=self._marker, nonce=nonce, timeout=10)
        frames = []
        while (frame := self.receive(5)) != marker:
            if frame is None:
                raise GuestError("the guest's answer to a marker frame was lost")
            frames.append(frame)
        return frames

    # -- what applications send and receive

    def send_udp(
        self,
        source: str,
        sport: int,
        destination: str,
        dport: int,
        data: bytes,
        tos: int = 0,
        ttl: int = 64,
        df: bool | None = None,
    ) -> str | None:
        """Send a datagram; return the name of the error, such as "EMSGSIZE", or None.

        It leaves from the listener on that address and port if there is one. df: True sets don't-fragment, False
        clears it, None is the kernel's default.
        """
        one = {"source": source, "sport": sport, "destination": destination, "dport": dport, "data": data}
        return self.send_udp_many([{**one, "tos": tos, "ttl": ttl, "df": df}])[0]

    def send_udp_many(self, datagrams: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """Send datagrams, each with the arguments of send_udp, in one request."""
        errors: list[str | None] = self._call("send_udp", datagrams=[dict(d) for d in datagrams])
        return errors

    def udp(self, address: str, port: int, encap: int = 0) -> Listener:
        """Open a UDP socket that records. encap: 2 takes ESP out of UDP (UDP_ENCAP_ESPINUDP)."""
        return Listener(self, self._call("listen_udp", address=address, port=port, encap=encap))

    def raw(self, address: str, protocol: int) -> Listener:
        """Open a raw IP socket: IPv4 packets with their header, IPv6 payloads."""
        return Listener(self, self._call("listen_raw", address=address, protocol=protocol))

    def packets(
        self, device: str | None = None, protocol: int = ETH_P_ALL, headers: bool = False
    ) -> Listener:
        """Open a packet socket: what devices receive and, for ETH_P_ALL, send; decapsulated packets too."""
        number = self._call("listen_packets", device=device, protocol=protocol, headers=headers)
        return Listener(self, number)

    def events(self, groups: Sequence[int], protocol: int = NETLINK_XFRM) -> Listener:
        """Join netlink groups (XFRMNLGRP_ACQUIRE is 1); messages() are the events."""
        return Listener(self, self._call("listen_netlink", groups=list(groups), protocol=protocol))

    def xfrm_stat(self) -> dict[str, int]:
        """Return /proc/net/xfrm_stat."""
        lines = self.file("/proc/net/xfrm_stat").splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines)}


class Listener:
    """A socket in the guest that records what it receives."""

    def __init__(self, namespace: Namespace, number: int) -> None:
        self._namespace, self._number = namespace, number

    def _received(self) -> list[Any]:
        found: list[Any] = self._namespace._call("received", number=self._number)
        return found

    def datagrams(self) -> list[Datagram]:
        """Return what a UDP or raw socket received since last asked."""
        return [_datagram(*found) for found in self._received()]

    def messages(self) -> list[bytes]:
        """Return the bytes alone, of any kind of socket, received since last asked."""
        return [data for data, _, _ in self._received()]

    def close(self) -> None:
        """Close the socket; the namespace's end does it too."""
        self._namespace._call("close", number=self._number)


# (level, type) of the control messages, with the offset of the destination in IP_PKTINFO and IPV6_PKTINFO.
PKTINFO = {"0.8": (socket.AF_INET, 8, 12), "41.50": (socket.AF_INET6, 0, 16)}
TOS, TTL = ("0.1", "41.67"), ("0.2", "41.52")


def _datagram(data: bytes, address: list[Any], notes: dict[str, bytes]) -> Datagram:
    destination = ""
    for key, (family, start, end) in PKTINFO.items():
        if key in notes:
            destination = socket.inet_ntop(family, notes[key][start:end])
    tos, ttl = (
        next((int.from_bytes(notes[key], "little") for key in keys if key in notes), None) for keys in (TOS, TTL)
    )
    return Datagram(address[0], address[1], destination, data, tos, ttl)
