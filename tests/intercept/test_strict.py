"""Strict mode: waiting for messages, and all the ways in which waiting ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from intercept.conftest import Run

Serve = Callable[..., Run]

SETUP = """
import os, signal, socket, struct, threading, time
def opened():
    s = socket.socket(16, 3, 6)
    s.bind((0, 4))
    return s
def flush(on, flags=1):
    on.send(struct.pack("=IHHII", 24, 0x1C, flags, 9, 0) + bytes(8))
s = opened()
assert s.fileno() >= 900
"""


def test_a_waiting_reader_is_woken_by_an_event(serve: Serve) -> None:
    script = """
other = opened()
threading.Timer(0.3, flush, (other,)).start()
data, sender = s.recvfrom(4096)
print(len(data), sender)
"""
    done = serve(sys.executable, "-c", SETUP + script, mode="strict")
    assert (done.out, done.err) == ("24 (0, 0)\n", "")


def test_a_signal_interrupts_and_no_message_is_lost(serve: Serve) -> None:
    script = """
class Interrupted(Exception): pass
def interrupt(*_): raise Interrupted
signal.signal(signal.SIGALRM, interrupt)
other = opened()
for _ in range(20):
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        s.recv(4096)
    except Interrupted:
        pass
    else:
        print("a message from nowhere")
    flush(other)
    assert len(s.recv(4096)) == 24
    other.recv(4096)
print("interrupted")
"""
    done = serve(sys.executable, "-c", SETUP + script, mode="strict")
    assert (done.out, done.err) == ("interrupted\n", "")


def test_time_limits(serve: Serve) -> None:
    script = """
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 0, 200000))
start = time.monotonic()
try:
    s.recv(10)
except BlockingIOError:
    print("late", 0.15 < time.monotonic() - start < 2)
"""
    done = serve(sys.executable, "-c", SETUP + script, mode="strict")
    assert (done.out, done.err) == ("late True\n", "")


def test_a_reader_that_is_killed_is_forgotten(serve: Serve, client: str) -> None:
    script = f"{client} raw bind=4711 wait & sleep 0.3; kill -9 $!; sleep 0.4; {client} raw bind=4711 at-once"
    done = serve("bash", "-c", script, mode="strict")
    assert done.out.splitlines()[:4] == ["socket ok", "bind ok", "socket ok", "bind ok"]
    assert done.out.splitlines()[4].startswith("reply 36")


def test_peeking_and_short_buffers(serve: Serve) -> None:
    script = """
flush(s, 5)
assert s.recv(4096, socket.MSG_PEEK) == s.recv(4096, socket.MSG_PEEK)
print(s.recvmsg(0, 0, socket.MSG_PEEK | socket.MSG_TRUNC)[2] == socket.MSG_TRUNC)
one, two = bytearray(20), bytearray(100)
print(s.recvmsg_into([one, two])[::2], two[:4] == bytes(4))
reply = s.recvmsg_into([one, two])
print(reply[0], reply[2])
try:
    s.recv(1, socket.MSG_DONTWAIT)
except BlockingIOError:
    print("empty")
"""
    done = serve(sys.executable, "-c", SETUP + script, mode="strict")
    assert done.err == ""
    # The event, then the acknowledgement of 36 bytes.
    assert done.out.splitlines() == ["True", "(24, 0) True", "36 0", "empty"]


def test_a_process_without_high_files_is_served_all_the_same(serve: Serve, client: str) -> None:
    done = serve("prlimit", "--nofile=64", client, "raw", "bind=0", "request", mode="strict")
    assert done.out.splitlines()[2].startswith("reply 36 type 2 seq 7 from family 1")
