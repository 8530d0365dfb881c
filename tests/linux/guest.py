"""A real Linux as a child process: user-mode Linux with Ethernet links, driven by an agent inside.

The host's files are its root. Its link `vec0` is one end of a socket pair: one datagram is one frame. Or it
has as many links as there are sockets of frames given.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from linux.fetch import Kernel, fetch
from linux.xstate import preloaded
from uxfrm.netlink import Client

HOST_MAC = bytes.fromhex("020000000001")
GUEST_MAC = bytes.fromhex("020000000002")
MARK = b"\x1e"

# For local experiments; the agent has the same.
_FRAME_KIND = b"\x88\xb5"

MODULES = ("xfrm_user", "esp4", "esp6", "ah4", "ah6", "ipcomp", "ipcomp6")

# The console's input stalls for good when more than its 4096 bytes are waiting; longer requests go by file.
_LINE_MAX = 2000

_INIT = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C PYTHONDONTWRITEBYTECODE=1
mount -t proc none /proc
mount -t sysfs none /sys
mount -t tmpfs none /run
export TMPDIR=/run
dmesg -n 1
{modules}
{setup}
{python} -I -S -u {agent}
halt -f
"""

_LOAD = """\
mkdir /run/bin
cat > /run/bin/modprobe <<'END'
#!/bin/sh
exec {modprobe} -C /dev/null -d {root} "$@"
END
chmod 755 /run/bin/modprobe
echo /run/bin/modprobe > /proc/sys/kernel/modprobe
/run/bin/modprobe -a {modules}
"""

_SETUP = """\
echo 1 > /proc/sys/net/ipv6/conf/vec0/addr_gen_mode
for d in all default vec0; do echo 0 > /proc/sys/net/ipv6/conf/$d/accept_ra; done
for d in all default vec0; do echo 0 > /proc/sys/net/ipv6/conf/$d/router_solicitations; done
for d in all default vec0 lo; do echo 0 > /proc/sys/net/ipv4/conf/$d/rp_filter; done
ip link set lo up
ip link set vec0 up mtu 1500
ip addr add 10.0.0.2/24 dev vec0
ip addr add fd00::2/64 dev vec0 nodad
ip addr add 10.1.0.2/32 dev lo
ip addr add fd01::2/128 dev lo nodad
ip addr add 10.2.0.2/32 dev lo
ip addr add fd02::2/128 dev lo nodad
ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev vec0 nud permanent
ip neigh add fd00::1 lladdr 02:00:00:00:00:01 dev vec0 nud permanent
ip route add 10.1.0.1/32 via 10.0.0.1 dev vec0 src 10.1.0.2
ip route add fd01::1/128 via fd00::1 dev vec0 src fd01::2
ip route add 10.2.0.1/32 via 10.0.0.1 dev vec0 src 10.2.0.2
ip route add fd02::1/128 via fd00::1 dev vec0 src fd02::2
"""


class GuestError(Exception):
    """The guest did not boot, died, or refused a call."""


class Wire(NamedTuple):
    """What a link of a guest is to be: a socket of whole frames, and its MAC address as text."""

    end: socket.socket
    mac: str


class Datagram(NamedTuple):
    """A UDP datagram as an application in the guest received it."""

    payload: bytes
    sender: str
    port: int
    tos: int


class Sending(NamedTuple):
    """A UDP datagram to send; `df` is IP_MTU_DISCOVER's value (0: DF clear, 2: set), TTL -1 the usual one."""

    payload: bytes
    tos: int = 0
    df: int = 0
    ttl: int = -1


class Figures(NamedTuple):
    """What moves in a state. `replay` is struct xfrm_replay_state (oseq, seq, bitmap) or, where the state
    has one, struct xfrm_replay_state_esn (words, oseq, seq, oseq_hi, seq_hi, window, then the bitmap)."""

    spi: int
    bytes: int
    packets: int
    outside: int
    replayed: int
    failed: int
    replay: tuple[int, ...]


_XFRMA_REPLAY_VAL, _XFRMA_REPLAY_ESN_VAL = 10, 23
# of struct xfrm_usersa_info: behind the selector and its destination; behind lifetime_cfg; itself
_SPI_AT, _CURRENT_AT, _USERSA_BYTES = 56 + 16, 160, 224


def _figures(message: bytes) -> Figures:
    """Read a state's message (struct xfrm_usersa_info and its attributes)."""
    (spi,) = struct.unpack_from(">I", message, _SPI_AT)
    used, packets, _, _, *stats = struct.unpack_from("=QQQQIII", message, _CURRENT_AT)
    attributes = {}
    at = _USERSA_BYTES
    while at < len(message):
        length, kind = struct.unpack_from("=HH", message, at)
        attributes[kind] = message[at + 4 : at + length]
        at += (length + 3) & ~3
    replay = attributes.get(_XFRMA_REPLAY_ESN_VAL) or attributes[_XFRMA_REPLAY_VAL]
    return Figures(spi, used, packets, *stats, struct.unpack(f"={len(replay) // 4}I", replay))


def _loading(kernel: Kernel) -> str:
    """What the guest does to have its modules; without any, nothing."""
    if kernel.modules is None:
        return ""
    modprobe, root = kernel.modules
    return _LOAD.format(modprobe=modprobe, root=root, modules=" ".join(MODULES))


class GuestTransport:
    """A netlink socket inside the guest, as a client's transport."""

    def __init__(self, guest: LinuxGuest, name: str) -> None:
        self._guest, self._name = guest, name
        self._waiting: deque[bytes] = deque()
        guest.call("xfrm_open", name)

    def send(self, datagram: bytes) -> None:
        """The kernel has answered before this returns."""
        self._keep(self._guest.call("xfrm_ask", self._name, datagram.hex()))

    def receive(self, timeout_s: float | None = None) -> bytes | None:
        """The next datagram that is there; it does not wait."""
        if not self._waiting:
            self._keep(self._guest.call("xfrm_take", self._name))
        return self._waiting.popleft() if self._waiting else None

    def _keep(self, found: list[str]) -> None:
        self._waiting.extend(map(bytes.fromhex, found))

    def join(self, group: int) -> None:
        """Listen to a group."""
        self._guest.call("xfrm_join", self._name, group)

    def close(self) -> None:
        """Close the socket."""
        self._guest.call("udp_close", self._name)


class LinuxGuest:
    """Boots on entry, is ended and reaped on exit."""

    def __init__(
        self,
        kernel: Kernel | None = None,
        boot_timeout: float = 30.0,
        wires: Sequence[Wire] = (),
        setup: str = _SETUP,
    ) -> None:
        """Of this kernel, or Linux 6.1.

        With `wires` its links are these, vec0, vec1 and so on, which it closes; it has none of the tests'
        own then, for `send` and `receive`. `setup` is what a shell does before the agent comes.
        """
        self._kernel, self._boot_timeout = kernel, boot_timeout
        self._wires, self._setup = wires, setup
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""
        self._console = b""
        self._number = 0
        self._frames = False

    def __enter__(self) -> Self:
        kernel = self._kernel or fetch()
        self._folder = Path(tempfile.mkdtemp(prefix="uxfrm-guest-"))
        wires = self._wires or [self._own_wire()]
        init = self._folder / "init"
        text = _INIT.format(
            modules=_loading(kernel),
            setup=self._setup,
            python=os.path.realpath(sys.executable),
            agent=Path(__file__).with_name("agent.py"),
        )
        init.write_text(text)
        init.chmod(0o755)
        argv = [
            str(kernel.program), "mem=256M", "root=/dev/root", "rootfstype=hostfs", "hostfs=/", "ro", "quiet",
            f"umid=uxfrm{os.getpid()}", f"uml_dir={self._folder}/", "con=null", "con0=fd:0,fd:1",
            f"init={init}",
            *(
                f"vec{number}:transport=fd,fd={end.fileno()},mac={mac},depth=64"
                for number, (end, mac) in enumerate(wires)
            ),
        ]  # fmt: skip
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[wire.end.fileno() for wire in wires],
                env=dict(os.environ, TMPDIR="/dev/shm", LD_PRELOAD=str(preloaded())),
                start_new_session=True,
            )
            self._answer(time.monotonic() + self._boot_timeout)
        except BaseException:
            self.close()
            raise
        finally:
            for wire in wires:
                wire.end.close()
        return self

    def _own_wire(self) -> Wire:
        """A link to the tests: they have the other end."""
        self._link, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._link, other):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        return Wire(other, GUEST_MAC.hex(":"))

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the guest with all its processes and reap it."""
        process, self._process = self._process, None
        if process is not None:
            # its own session, so the group holds what this guest started and nothing else
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if not self._wires:
            self._link.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- the agent

    def call(self, name: str, *arguments: Any, timeout: float = 30.0) -> Any:
        """Have the agent do something; GuestError when it refuses."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        self._number += 1
        file = self._folder / f"request-{self._number}"
        request = json.dumps({"id": self._number, "call": name, "arguments": arguments})
        if len(request) > _LINE_MAX:
            file.write_text(request)
            request = json.dumps(str(file))
        process.stdin.write(request.encode() + b"\n")
        process.stdin.flush()
        answer = self._answer(time.monotonic() + timeout)
        file.unlink(missing_ok=True)
        if "error" in answer:
            raise GuestError(f"{name}: {answer['error']}")
        assert answer["id"] == self._number
        return answer["value"]

    def _answer(self, deadline: float) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        while True:
            line, found, rest = self._buffer.partition(b"\n")
            if found:
                self._buffer = rest
                _, mark, text = line.partition(MARK)
                if mark:
                    return dict(json.loads(text))
                self._console += line + b"\n"
                continue
            wait = deadline - time.monotonic()
            ready = select.select([process.stdout], [], [], max(wait, 0))[0]
            read = os.read(process.stdout.fileno(), 65536) if ready else b""
            if not read:
                what = "ended" if ready else "does not answer"
                said = (self._console + self._buffer).decode(errors="replace")
                raise GuestError(f"the guest {what}; its console said:\n{said}")
            self._buffer += read

    def run(self, argv: list[str], stdin: str = "") -> tuple[int, str, str]:
        """Run a command inside: return code, output, errors."""
        code, out, err = self.call("run", argv, stdin)
        return code, out, err

    def ip_batch(self, text: str) -> None:
        """Have `ip -batch` run these lines; GuestError when one is refused, after all were tried."""
        said = self.call("ip_batch", text)
        if said:
            raise GuestError(f"ip -batch: {said}\n{text}")

    def read(self, path: str) -> str:
        """A file as the guest sees it."""
        return str(self.call("read", path))

    def write(self, path: str, text: str) -> None:
        """Write a file inside, such as a sysctl."""
        self.call("write", path, text)

    def xfrm_stat(self) -> dict[str, int]:
        """The counters of XFRM that are not 0."""
        rows = (line.split() for line in self.read("/proc/net/xfrm_stat").splitlines())
        return {name: int(value) for name, value in rows if int(value)}

    def xfrm_moved(self, before: dict[str, int]) -> dict[str, int]:
        """What was added to each counter since `xfrm_stat` told of `before`, where anything was."""
        moved = {name: n - before.get(name, 0) for name, n in self.xfrm_stat().items()}
        return {name: n for name, n in moved.items() if n}

    def xfrm_states(self) -> list[Figures]:
        """What moves in every state, oldest first."""
        return [_figures(bytes.fromhex(message)) for message in reversed(self.call("xfrm_states"))]

    def xfrm_usage(self) -> list[tuple[int, int]]:
        """Bytes and packets of every state, oldest first: what `ip -s xfrm state` shows."""
        return [(state.bytes, state.packets) for state in self.xfrm_states()]

    def udp_open(self, name: str, address: str, port: int) -> None:
        """Open a UDP socket inside; what it receives waits for `udp_take`."""
        self.call("udp_open", name, address, port)

    def udp_take(self, name: str, count: int, timeout: float = 1.0) -> list[Datagram]:
        """The next datagrams of a socket: `count` of them, or what came in time."""
        got = self.call("udp_take", name, count, timeout, timeout=timeout + 30)
        return [Datagram(bytes.fromhex(payload), *rest) for payload, *rest in got]

    def udp_send(self, name: str, to: tuple[str, int], datagrams: Iterable[Sending]) -> list[int]:
        """Send datagrams, in one round trip; for each 0, or the errno it got."""
        sent = (("udp_send", name, d.payload.hex(), *to, d.tos, d.df, d.ttl) for d in datagrams)
        return list(self.call("many", list(sent)))

    def udp_encap(self, name: str) -> None:
        """Have a UDP socket take out ESP; policies do not stop what it sends and receives."""
        self.call("udp_encap", name)

    def connect(self, name: str) -> Client:
        """A client of the guest's kernel; `name` is that of its socket inside."""
        return Client(GuestTransport(self, name))

    # -- the link

    def send(self, frame: bytes) -> None:
        """Put one Ethernet frame on the guest's link."""
        self._link.send(frame)

    def send_ip(self, packet: bytes) -> None:
        """Put one IP packet on the link, in an Ethernet frame to the guest."""
        kind = b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd"
        self.send(GUEST_MAC + HOST_MAC + kind + packet)

    def receive(self, timeout: float = 1.0) -> bytes | None:
        """The next frame that the guest sent, None when none comes in time."""
        if not select.select([self._link], [], [], timeout)[0]:
            return None
        return self._link.recv(65536)

    def receive_ip(self, timeout: float = 1.0) -> bytes | None:
        """The next unicast IP packet that the guest sent: not its multicast listener reports."""
        end = time.monotonic() + timeout
        while (frame := self.receive(max(end - time.monotonic(), 0))) is not None:
            if frame[:6] == HOST_MAC:
                return frame[14:]
        return None

    def take_ip(self, count: int, timeout: float = 1.0) -> list[bytes]:
        """The next unicast IP packets that the guest sent: `count`, or what came in time."""
        taken: list[bytes] = []
        while len(taken) < count and (packet := self.receive_ip(timeout)) is not None:
            taken.append(packet)
        return taken

    def settled(self) -> list[bytes]:
        """The unicast IP packets that the guest has sent, once it is done with all that was sent to it.

        A frame in each direction tells: they come in their order.
        """
        if not self._frames:
            self.call("frame_open")
            self._frames = True
        frame = _FRAME_KIND + b"settled?".ljust(46)
        self.send(GUEST_MAC + HOST_MAC + frame)
        assert self.call("frame_take", 10.0)
        self.call("frame_send", (HOST_MAC + GUEST_MAC + frame).hex())
        found = []
        end = time.monotonic() + 10
        while (sent := self.receive(end - time.monotonic())) is not None:
            if sent[12:14] == _FRAME_KIND:
                return found
            if sent[:6] == HOST_MAC:
                found.append(sent[14:])
        raise GuestError("the guest does not come to an end with what it sends")

    def drain(self) -> None:
        """Throw away frames that nobody asked for."""
        while self.receive(0) is not None:
            pass
