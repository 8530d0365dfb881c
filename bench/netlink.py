"""What the control plane takes: `ip -batch`, one socket's requests, dumps, events; memory and start-up.

    python bench/netlink.py [--json FILE] [--quick] [--lines N] [--only PART,...]

Kernel figures are this machine's, in a network namespace of their own, in the same run; policies only, for
a kernel without ESP has no states. iproute2 opens a socket for every line: five calls that are intercepted
and a request. "One socket" is what an IKE daemon does: request, acknowledgement, request. Parts: install,
requests, dump, events, start.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import finish, options

KERNEL = ["unshare", "--map-root-user", "--net"]
UXFRM = [sys.executable, "-m", "uxfrm.cli.main"]
PRIVATE = [*UXFRM, "run", "--private", "--plain", "--"]
HEADER = struct.Struct("=IHHII")
NEWSA, GETSA, NEWPOLICY, GETPOLICY, FLUSHSA, FLUSHPOLICY = 0x10, 0x12, 0x13, 0x15, 0x1C, 0x1D
NLMSG_ERROR, NLMSG_DONE, NLMSG_OVERRUN = 2, 3, 4
SOL_NETLINK, ADD_MEMBERSHIP, GROUP_SA = 270, 1, 3
LISTENERS = 10
QUIET_S = 1.0
Row = dict[str, Any]

# -- what is asked


def _address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def policy_line(number: int) -> str:
    """A line for `ip -batch`."""
    return (
        f"xfrm policy add src {_address(number)} dst 10.255.0.1 dir out "
        "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel"
    )


def state_line(number: int) -> str:
    """A line for `ip -batch`."""
    return (
        f"xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi {number + 256} reqid {number + 1} "
        f"mode tunnel aead rfc4106(gcm(aes)) 0x{'5a' * 20} 128"
    )


LINES: dict[str, Callable[[int], str]] = {"policies": policy_line, "states": state_line}
_SELECTOR = struct.Struct("=4s12x4s12xHHHHHBBB3xiI")
_INFINITE = struct.pack("=4Q", *[(1 << 64) - 1] * 4) + bytes(32)
_LOCAL, _REMOTE = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])


def _message(kind: int, flags: int, payload: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(payload), kind, flags, 1, 0) + payload


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload


def policy_request(number: int) -> bytes:
    """NEWPOLICY with an acknowledgement, as `policy_line`."""
    source = (0x0A000000 + number).to_bytes(4)
    selector = _SELECTOR.pack(bytes([10, 255, 0, 1]), source, 0, 0, 0, 0, 2, 32, 32, 0, 0, 0)
    info = selector + _INFINITE + bytes(32) + struct.pack("=IIBBBB4x", 0, 0, 1, 0, 0, 0)
    template = _REMOTE + bytes(12) + struct.pack("=IB3xH2x", 0, 50, 2) + _LOCAL + bytes(12)
    template += struct.pack("=IBBB1xIII", 0, 1, 0, 0, *[0xFFFFFFFF] * 3)
    return _message(NEWPOLICY, 0x605, info + _attribute(5, template))


def state_request(number: int) -> bytes:
    """NEWSA with an acknowledgement, as `state_line`."""
    identity = _REMOTE + bytes(12) + struct.pack(">IB3x", number + 256, 50)
    info = bytes(56) + identity + _LOCAL + bytes(12) + _INFINITE + bytes(32) + bytes(12)
    info += struct.pack("=IIHBBB7x", 0, number + 1, 2, 1, 0, 0)
    aead = b"rfc4106(gcm(aes))".ljust(64, b"\0") + struct.pack("=II", 160, 128) + b"\x5a" * 20
    return _message(NEWSA, 0x605, info + _attribute(18, aead))


REQUESTS: dict[str, Callable[[int], bytes]] = {"policies": policy_request, "states": state_request}
DUMPS = {"policies": GETPOLICY, "states": GETSA}
FLUSHES = {"policies": _message(FLUSHPOLICY, 5, b""), "states": _message(FLUSHSA, 5, bytes(4))}

# -- clients: processes under `uxfrm run`, or in a namespace of the kernel's


def _xfrm() -> socket.socket:
    return socket.socket(16, socket.SOCK_RAW, 6)


def _acknowledged(reply: bytes) -> None:
    kind, error = struct.unpack_from("=H", reply, 4)[0], struct.unpack_from("=i", reply, HEADER.size)[0]
    if kind != NLMSG_ERROR or error:
        raise SystemExit(f"refused: {os.strerror(-error)}")


def client_requests(kind: str, lines: str) -> Row:
    """Add over one socket, dump, flush; seconds of each, and how many a dump showed."""
    requests = [REQUESTS[kind](number) for number in range(int(lines))]
    with _xfrm() as xfrm:
        start = time.perf_counter()
        for request in requests:
            xfrm.send(request)
            _acknowledged(xfrm.recv(4096))
        added = time.perf_counter()
        count = _dump(xfrm, kind)
        dumped = time.perf_counter()
        xfrm.send(FLUSHES[kind])
        _acknowledged(xfrm.recv(4096))
        flushed = time.perf_counter()
    return {"add": added - start, "dump": dumped - added, "flush": flushed - dumped, "count": count}


def _dump(xfrm: socket.socket, kind: str) -> int:
    xfrm.send(_message(DUMPS[kind], 0x301, b""))
    count = 0
    while True:
        datagram = xfrm.recv(1 << 16)
        at = 0
        while at < len(datagram):
            size, type_ = struct.unpack_from("=IH", datagram, at)
            if type_ == NLMSG_DONE:
                return count
            count += 1
            at += (size + 3) & ~3


def client_listen(ready: str) -> Row:
    """Ten processes that listen to states until it has been quiet: what the worst of them heard."""
    pipe, results = os.pipe(), []
    for _ in range(LISTENERS):
        if not os.fork():
            os.write(pipe[1], json.dumps(_listen(Path(ready))).encode() + b"\n")
            os._exit(0)
    for _ in range(LISTENERS):
        os.wait()
    os.close(pipe[1])
    with os.fdopen(pipe[0]) as answers:
        results = [json.loads(line) for line in answers]
    worst = min(results, key=lambda x: x["events"])
    return {**worst, "seconds": max(x["seconds"] for x in results)}


def _listen(ready: Path) -> Row:
    counts = {NEWSA: 0, NLMSG_OVERRUN: 0}
    with _xfrm() as xfrm:
        xfrm.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, GROUP_SA)
        with ready.open("a") as file:
            file.write("x")
        first = last = 0.0
        xfrm.settimeout(60)
        while True:
            try:
                type_ = struct.unpack_from("=H", xfrm.recv(4096), 4)[0]
            except TimeoutError:
                break
            if not first:
                first = time.perf_counter()
                xfrm.settimeout(QUIET_S)
            last = time.perf_counter()
            if type_ in counts:
                counts[type_] += 1
    return {"events": counts[NEWSA], "overruns": counts[NLMSG_OVERRUN], "seconds": last - first}


CLIENTS: dict[str, Callable[..., Row]] = {"requests": client_requests, "listen": client_listen}


def _client(prefix: list[str], *arguments: str) -> Row:
    line = [*prefix, sys.executable, __file__, "--client", *arguments]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE)
    found: Row = json.loads(done.stdout)
    return found


# -- what is measured


@contextmanager
def daemon(folder: Path) -> Iterator[tuple[list[str], int]]:
    """A daemon: what its clients' command lines begin with, and its process id."""
    path = folder / "uxfrm.sock"
    with subprocess.Popen([*UXFRM, "daemon", "--socket", str(path)], stderr=subprocess.DEVNULL) as process:
        while not path.exists():
            time.sleep(0.05)
        try:
            yield [*UXFRM, "run", "--daemon", str(path), "--plain", "--"], process.pid
        finally:
            process.send_signal(signal.SIGTERM)


def _seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _memory(pid: int) -> int:
    """Bytes that a process holds in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _row(what: str, kernel: float | None, ours: float, count: int) -> Row:
    row: Row = {"what": what, "uxfrm /s": round(count / ours)}
    if kernel is not None:
        row |= {"kernel /s": round(count / kernel), "of kernel": kernel / ours}
    return row


def install(lines: int, folder: Path) -> list[Row]:
    """`ip -batch` and `ip xfrm ... list`, start-up taken off; what the daemon then holds."""
    rows = []
    startup = min(_seconds([*PRIVATE, "true"]) for _ in range(3))
    for kind, line in LINES.items():
        batch = folder / kind
        batch.write_text("".join(f"{line(number)}\n" for number in range(lines)))
        ip = ["ip", "-batch", str(batch)]
        kernel = _seconds([*KERNEL, *ip]) if kind == "policies" else None
        rows.append(_row(f"ip -batch, {kind}, private", kernel, _seconds([*PRIVATE, *ip]) - startup, lines))
        rows += _in_daemon(kind, ip, kernel, lines, folder)
    return rows


def _in_daemon(kind: str, ip: list[str], kernel: float | None, lines: int, folder: Path) -> list[Row]:
    name = {"policies": "policy", "states": "state"}[kind]
    with daemon(folder) as (prefix, pid):
        before = _memory(pid)
        rows = [_row(f"ip -batch, {kind}, daemon", kernel, _seconds([*prefix, *ip]), lines)]
        rows[0]["bytes each"] = (_memory(pid) - before) // lines
        rows.append(_row(f"ip xfrm {name} list", None, _seconds([*prefix, "ip", "xfrm", name]), lines))
    return rows


def requests(lines: int, _: Path) -> list[Row]:
    """One socket: add, dump without anybody printing it, flush."""
    rows = []
    for kind in REQUESTS:
        kernel = _client(KERNEL, "requests", kind, str(lines)) if kind == "policies" else {}
        ours = _client(PRIVATE, "requests", kind, str(lines))
        assert ours["count"] == lines
        for step in ("add", "dump", "flush"):
            rows.append(_row(f"one socket, {kind}, {step}", kernel.get(step), ours[step], lines))
    return rows


def events(lines: int, folder: Path) -> list[Row]:
    """States added while ten processes listen: adding with and without them, what reaches all."""
    with daemon(folder) as (prefix, _):
        alone = _client(prefix, "requests", "states", str(lines))["add"]
        ready = folder / "ready"
        line = [*prefix, sys.executable, __file__, "--client", "listen", str(ready)]
        with subprocess.Popen(line, stdout=subprocess.PIPE) as listeners:
            while not ready.exists() or ready.stat().st_size < LISTENERS:
                time.sleep(0.05)
            beside = _client(prefix, "requests", "states", str(lines))["add"]
            assert listeners.stdout is not None
            heard = json.loads(listeners.stdout.read())
    return [
        _row("states added, nobody listens", None, alone, lines),
        _row(f"states added, {LISTENERS} listen", None, beside, lines),
        {
            **_row("events that reach all of them", None, heard["seconds"], heard["events"]),
            "lost": 1 - heard["events"] / lines,
        },
    ]


def start(_: int, __: Path) -> list[Row]:
    """Seconds of `uxfrm run --private -- true`."""
    seconds = min(_seconds([*PRIVATE, "true"]) for _ in range(3))
    return [{"what": "uxfrm run --private -- true", "seconds": seconds}]


PARTS: dict[str, Callable[[int, Path], list[Row]]] = {
    "install": install, "requests": requests, "events": events, "start": start,
}  # fmt: skip


def main() -> None:
    """Measure the parts asked for, or all."""
    if sys.argv[1:2] == ["--client"]:
        print(json.dumps(CLIENTS[sys.argv[2]](*sys.argv[3:])))
        return
    given = options(__doc__, lines=int, only=str)
    lines = given.lines or (2_000 if given.quick else 100_000)
    only = given.only.split(",") if given.only else list(PARTS)
    rows = []
    for part in only:
        with tempfile.TemporaryDirectory() as folder:
            rows += PARTS[part](lines, Path(folder))
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    finish(rows, given.json)


if __name__ == "__main__":
    main()
