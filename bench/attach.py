"""What attachments cost beside the bare system calls that move the same bytes; and following policies.

    python bench/attach.py [--json FILE] [--quick] [--policies N]       # root, or rights to /dev/net/tun

With --policies only the latter: a daemon (`uxfrm up`) that has N policies, half of them out and half in, gets
more of them, one by one and many at once, until each holds.

In a network namespace of its own. "ratio" is how much of the bare loop's speed is left; Gb/s are of what a
processor that did nothing else would carry. Sent packets end on the loopback device or nowhere; what the
kernel does with them is in both figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common import finish, options, ready
from uxfrm.attach import queue_wire
from uxfrm.attach.attachment import Attachment, Way
from uxfrm.attach.coalesce import END, START, Coalescer
from uxfrm.attach.nfqueue import open_queue
from uxfrm.attach.raw import open_raw
from uxfrm.attach.tun import open_tun
from uxfrm.attach.udp import open_udp
from uxfrm.daemon.client import DaemonTransport
from uxfrm.daemon.detour import open_all
from uxfrm.datapath.batch import Batch
from uxfrm.datapath.headers import write_checksum
from uxfrm.datapath.wire import sum16
from uxfrm.iproute2.commands import parse_words
from uxfrm.iproute2.requests import PolicyAdd
from uxfrm.model.policy import PolicyConfig
from uxfrm.netlink import asking
from uxfrm.netlink.constants import Xfrm
from uxfrm.netlink.wire import NLM_F_ACK, NLM_F_REQUEST, Message

SIZE = 1400
SEGMENTS = 45
SUPERS = 30
SINGLES = 200
MARKER = "UXFRM_BENCH_ATTACH"

Timed = Callable[[], float]
"""Does its work once and returns the seconds of it that count."""


def shell(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


def udp_socket(segments: bool = True) -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, 32, 1 << 23)  # SO_SNDBUFFORCE
    if segments:
        one.setsockopt(17, 103, SIZE)  # UDP_SEGMENT
    return one


def header(length: int, proto: int, source: str, target: str) -> bytes:
    """An IPv4 header."""
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    made = np.frombuffer(
        struct.pack(">BBHHHBBH", 0x45, 0, length, 1, 0x4000, 64, proto, 0) + ends, np.uint8
    ).copy()
    write_checksum(made, 0, 20)
    return made.tobytes()


def udp_batch(count: int) -> Batch:
    """ESP in UDP from port 4500 to port 4600 of this host."""
    head = header(28 + SIZE, 17, "127.0.0.1", "127.0.0.1") + struct.pack(">HHHH", 4500, 4600, 8 + SIZE, 0)
    return Batch.pack([head + bytes(SIZE)] * count)


def tcp_batch(count: int) -> Batch:
    """A flow of TCP to nowhere."""
    packets = []
    for n in range(count):
        head = header(40 + SIZE, 6, "10.9.0.9", "10.8.0.9")
        tcp = struct.pack(">HHIIHHHH", 1, 2, n * SIZE, 1, 0x5010, 100, 0, 0) + bytes(SIZE)
        pseudo = head[12:20] + struct.pack(">HH", 6, len(tcp)) + tcp
        total = 0xFFFF - int(sum16(np.frombuffer(pseudo, np.uint8).copy(), 0, len(pseudo)))
        packets.append(head + tcp[:16] + total.to_bytes(2) + tcp[18:])
    return Batch.pack(packets)


def drain(one: Attachment, after: Callable[[Batch], None] | None = None) -> float:
    """The time to take everything that waits."""
    start = time.perf_counter()
    while (batch := one.receive(0)) is not None:
        if after is not None:
            after(batch)
    return time.perf_counter() - start


def bare_drain(read: Callable[[], Any]) -> float:
    start = time.perf_counter()
    with contextlib.suppress(BlockingIOError):
        while True:
            read()
    return time.perf_counter() - start


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def compare(what: str, packets: int, ours: Timed, bare: Timed, rounds: int) -> dict[str, Any]:
    """A row: the best of many turns, each measured in turn."""
    pairs = [(ours(), bare()) for _ in range(rounds)]
    mine, other = min(a for a, _ in pairs), min(b for _, b in pairs)
    return {
        "attachment": what,
        "ns a packet": round(mine / packets * 1e9),
        "bare": round(other / packets * 1e9),
        "ratio": round(other / mine, 2),
        "Gb/s": round(packets * SIZE * 8 / mine / 1e9, 1),
    }


def tun_rows(rounds: int) -> list[dict[str, Any]]:
    tun = open_tun("bench", mtu=1500)[0]
    shell("ip addr add 10.9.0.1/24 dev bench")
    sender, packets = udp_socket(), SUPERS * SEGMENTS

    def fill() -> None:
        drain(tun)
        for _ in range(SUPERS):
            sender.sendto(bytes(SIZE * SEGMENTS), ("10.9.0.2", 9))

    room = np.empty(1 << 17, np.uint8).data
    batch = tcp_batch(SEGMENTS * 8)
    those = np.arange(len(batch))
    out, frames = Coalescer().frames(batch, those)
    whole = [out[row[START] : row[END]].tobytes() for row in frames]

    def received() -> float:
        fill()
        return drain(tun)

    def read() -> float:
        fill()
        return bare_drain(lambda: os.readv(tun.fileno(), (room,)))

    rows = [
        compare("TUN, received", packets, received, read, rounds),
        compare(
            "TUN, sent",
            len(batch),
            lambda: timed(lambda: tun.send(batch, those)),
            lambda: timed(lambda: [os.write(tun.fileno(), frame) for frame in whole]),
            rounds,
        ),
    ]
    tun.close()
    return rows


def udp_rows(rounds: int) -> list[dict[str, Any]]:
    udp, sender = open_udp(4500), udp_socket()
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    sink.bind(("127.0.0.1", 4600))
    other = socket.socket(fileno=os.dup(udp.fileno()))
    room, batch = np.empty(1 << 17, np.uint8).data, udp_batch(SEGMENTS * 8)
    those, payload = np.arange(len(batch)), bytes(SIZE * SEGMENTS)
    segment = [(17, 103, struct.pack("H", SIZE))]

    def fill() -> None:
        drain(udp)
        for _ in range(SUPERS // 2):
            sender.sendto(payload, ("127.0.0.1", 4500))

    def received() -> float:
        fill()
        return drain(udp)

    def read() -> float:
        fill()
        return bare_drain(lambda: other.recvmsg_into((room,), 256))

    def sendmsg() -> None:
        for _ in range(8):
            other.sendmsg((payload,), segment, 0, ("127.0.0.1", 4600))

    return [
        compare("UDP, received", SUPERS // 2 * SEGMENTS, received, read, rounds),
        compare(
            "UDP, sent",
            len(batch),
            lambda: timed(lambda: udp.send(batch, those)),
            lambda: timed(sendmsg),
            rounds,
        ),
    ]


def raw_rows(rounds: int) -> list[dict[str, Any]]:
    raw = open_raw(socket.AF_INET, (50,))
    other = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)
    bare = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 51)
    bare.setsockopt(socket.SOL_SOCKET, 33, 1 << 23)
    esp = header(20 + SIZE, 50, "127.0.0.1", "127.0.0.1") + bytes(SIZE)
    ah = header(20 + SIZE, 51, "127.0.0.1", "127.0.0.1") + bytes(SIZE)
    batch, room = Batch.pack([esp] * SINGLES), np.empty(1 << 17, np.uint8).data
    those = np.arange(SINGLES)

    def received() -> float:
        for _ in range(SINGLES):
            other.sendto(esp, ("127.0.0.1", 0))
        return drain(raw)

    def read() -> float:
        for _ in range(SINGLES):
            other.sendto(ah, ("127.0.0.1", 0))
        return bare_drain(lambda: bare.recv_into(room))

    def sent() -> float:
        drain(raw)
        return timed(lambda: raw.send(batch, those))

    def sendto() -> float:
        drain(raw)
        return timed(lambda: [other.sendto(esp, ("127.0.0.1", 0)) for _ in range(SINGLES)])

    return [
        compare("raw, received", SINGLES, received, read, rounds),
        compare("raw, sent", SINGLES, sent, sendto, rounds),
    ]


def queue_rows(rounds: int) -> list[dict[str, Any]]:
    """Packets of UDP, each alone, and dropped: by us, and by a listener that knows how many there are."""
    shell("iptables -A OUTPUT -p udp --dport 9 -j NFQUEUE --queue-num 9")
    sender, none = udp_socket(False), np.empty(0, np.int64)
    room = np.empty(1 << 17, np.uint8)

    def fill() -> None:
        for _ in range(SINGLES):
            sender.sendto(bytes(SIZE), ("127.0.0.1", 9))

    def received() -> float:
        queue = open_queue(9, Way.OUT, {})
        fill()
        took = drain(queue, lambda batch: queue.send(batch, none) and None)
        queue.close()
        return took

    def read() -> float:
        queue = open_queue(9, Way.OUT, {})
        other = socket.socket(fileno=os.dup(queue.fileno()))
        fill()
        verdict = struct.pack("=IHHIIBBH", 32, queue_wire.VERDICT_BATCH, 1, 0, 0, 0, 0, 9 << 8)
        verdict += struct.pack("=HH", 12, 2) + struct.pack(">II", 0, SINGLES)

        took = bare_drain(lambda: other.recv_into(room.data))
        took += timed(lambda: other.send(verdict))
        other.close()
        queue.close()
        return took

    return [compare("NFQUEUE, received and dropped", SINGLES, received, read, rounds)]


# -- following policies


def policy_words(number: int) -> str:
    """A policy between this host's network and one address of its own, out or in turns."""
    there = f"10.{number >> 17 & 255}.{number >> 9 & 255}.{number >> 1 & 255}"
    template = "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel"
    if number & 1:
        return f"src {there} dst 172.16.0.0/16 dir in {template}"
    return f"src 172.16.0.0/16 dst {there} dir out {template}"


def policy_config(number: int) -> PolicyConfig:
    command = parse_words(["xfrm", "policy", "add", *policy_words(number).split()])
    assert isinstance(command, PolicyAdd)
    return command.config


class Followed:
    """A daemon with policies, and a client of it."""

    def __init__(self, folder: Path, attach: list[str], count: int) -> None:
        self.path = folder / "socket"
        file = folder / "host.toml"
        file.touch(0o600)
        said = {"attach": attach, "policies": [policy_words(n) for n in range(count)], "states": []}
        file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items()))
        command = [sys.executable, "-m", "uxfrm.cli.main", "up", "--foreground"]
        command += ["--socket", str(self.path), "--state-dir", str(folder / "state"), str(file)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(str(folder / "ready"))
            told.settimeout(600)
            environment = os.environ | {"NOTIFY_SOCKET": str(folder / "ready")}
            self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            told.recv(100)
        self.transport = DaemonTransport(self.path)
        self.next = count

    def add(self, count: int, at_once: int) -> float:
        """Seconds until `count` more policies hold; so many are asked for before an answer is read."""
        configs = [policy_config(self.next + n) for n in range(count)]
        self.next += count
        flags = NLM_F_REQUEST | NLM_F_ACK
        asked = [Message(Xfrm.NEWPOLICY, flags, 1, 0, asking.policy(config)).pack() for config in configs]
        start = time.perf_counter()
        for first in range(0, count, at_once):
            some = asked[first : first + at_once]
            for request in some:
                self.transport.send(request)
            for _ in some:
                answer = self.transport.receive()
                assert answer is not None
                assert not any(answer[16:20])
        return time.perf_counter() - start

    def processor_s(self) -> float:
        """Seconds of processor time that the daemon and its children have used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.transport.close()
        self.process.terminate()
        self.process.wait()
        open_all()


def follow_rows(count: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    shell("ip addr replace 192.0.2.1/24 dev lo")
    for attach in (["tun=bench", "raw"], ["nfqueue"]):
        with tempfile.TemporaryDirectory() as name:
            start = time.perf_counter()
            daemon = Followed(Path(name), attach, count)
            row: dict[str, Any] = {
                "attachment": " ".join(attach),
                "policies": count,
                "start s": round(time.perf_counter() - start, 1),
            }
            daemon.add(2, 1)
            time.sleep(1)  # what the device's coming causes is over
            before = daemon.processor_s()
            row["one more ms"] = round(daemon.add(rounds, 1) / rounds * 1e3, 1)
            time.sleep(0.5)  # what the kernel's news of it cause is part of it
            row["processor ms"] = round((daemon.processor_s() - before) / rounds * 1e3, 1)
            row["of many ms"] = round(daemon.add(1000, 64), 2)
            daemon.close()
        rows.append(row)
    return rows


def main() -> None:
    asked = options(__doc__, policies=int)
    if MARKER not in os.environ:
        command = ["unshare", "-n", sys.executable, *sys.argv]
        os.execvpe(command[0], command, os.environ | {MARKER: "1"})
    shell("ip link set lo up mtu 65535")
    ready()
    if asked.policies is not None:
        finish(follow_rows(asked.policies, 10 if asked.quick else 50), asked.json)
        return
    rounds = 20 if asked.quick else 200
    rows = tun_rows(rounds) + udp_rows(rounds) + raw_rows(rounds) + queue_rows(rounds)
    finish(rows, asked.json)


if __name__ == "__main__":
    main()
