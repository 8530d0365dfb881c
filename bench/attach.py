"""What attachments cost beside the bare system calls that move the same bytes.

    python bench/attach.py [--json FILE] [--quick]         # root, or rights to /dev/net/tun

In a network namespace of its own. "ratio" is how much of the bare loop's speed is left; Gb/s are of what a
processor that did nothing else would carry. Sent packets end on the loopback device or nowhere; what the
kernel does with them is in both figures.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
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
from uxfrm.datapath.batch import Batch
from uxfrm.datapath.headers import write_checksum
from uxfrm.datapath.wire import sum16

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


def main() -> None:
    asked = options(__doc__)
    if MARKER not in os.environ:
        command = ["unshare", "-n", sys.executable, *sys.argv]
        os.execvpe(command[0], command, os.environ | {MARKER: "1"})
    shell("ip link set lo up mtu 65535")
    ready()
    rounds = 20 if asked.quick else 200
    rows = tun_rows(rounds) + udp_rows(rounds) + raw_rows(rounds) + queue_rows(rounds)
    finish(rows, asked.json)


if __name__ == "__main__":
    main()
