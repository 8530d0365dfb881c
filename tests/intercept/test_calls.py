"""What single calls return: the same as from this machine's kernel, for good and for hostile callers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from intercept.conftest import Run

Serve = Callable[..., Run]

# Every call, with whatever it returns or fails with. Ports differ, so only whose they are is printed.
CALLS = """
import errno, os, socket
def say(what, call):
    try:
        got = call()
    except OSError as error:
        got = errno.errorcode[error.errno]
    if isinstance(got, tuple) and got and got[0]:
        got = ("pid" if got[0] == os.getpid() else "negative" if got[0] >> 31 else got[0], *got[1:])
    print(what, got)
for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
    s, t = socket.socket(16, kind, 6), socket.socket(16, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 6)
    say("peer", s.getpeername)
    say("bind", lambda: s.bind((0, 5)))
    say("name", s.getsockname)
    say("bind again", lambda: s.bind((77, 5)))
    say("bind groups", lambda: s.bind((os.getpid(), 0x22)))
    say("connect", lambda: t.connect((0, 0)))
    say("connected", t.getsockname)
    say("peer", t.getpeername)
    say("empty", lambda: t.recv(1))
    for level, names in ((270, range(1, 14)), (1, (3, 38, 39))):
        for name in names:
            for value in (0, 1, 2, 32, 33, -1):
                if level == 270:
                    say(("set", name, value), lambda: s.setsockopt(level, name, value))
            for size in (0, 1, 3, 4, 8):
                say(("get", name, size), lambda: s.getsockopt(level, name, size))
            say(("get", name), lambda: s.getsockopt(level, name))
    say("name", s.getsockname)
    say("blocking", lambda: (0, s.getblocking(), t.getblocking(), os.get_inheritable(t.fileno())))
    s.close(); t.close()
"""

UNRELATED = """
import socket
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.bind(("127.0.0.1", 0))
assert u.getsockname()[0] == "127.0.0.1" and u.getsockname()[1]
v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); v.connect(u.getsockname())
assert v.getpeername() == u.getsockname()
assert v.getsockopt(1, 3) == 2 and v.getsockopt(1, 39) == 2
r = socket.socket(16, 3, 0); r.bind((0, 1)); r.setsockopt(270, 1, 5); r.setsockopt(270, 11, 1)
assert r.getsockname()[1] == 0x11 and r.getsockopt(270, 11) == 1
a, b = socket.socketpair(); assert a.getsockname() == "" and a.getsockopt(1, 38) == 0
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen(); c = socket.create_connection(l.getsockname())
assert c.getpeername() == l.getsockname()
try: l.setsockopt(17, 100, 2)
except OSError as error: print(error.errno)
"""

UDP = """
import errno, socket
for family in (socket.AF_INET, socket.AF_INET6):
    u = socket.socket(family, socket.SOCK_DGRAM)
    level, name = (0, 17) if family == socket.AF_INET else (41, 35)
    u.setsockopt(level, name, bytes(168))
    u.setsockopt(17, 100, 2)
    try: u.setsockopt(17, 100, 9)
    except OSError as error: print(errno.errorcode[error.errno])
    w = socket.socket(family, socket.SOCK_DGRAM); w.bind(("127.0.0.1" if level == 0 else "::1", 0))
    u.sendto(bytes(4) + b"ike", w.getsockname()); print(len(w.recv(100)))
"""


@pytest.mark.linux
@pytest.mark.parametrize("mode", ["plain", "strict"])
def test_calls_return_what_the_kernel_returns(serve: Serve, mode: str) -> None:
    kernel = ["unshare", "-n", sys.executable, "-c", CALLS]
    native = subprocess.run(kernel, capture_output=True, text=True, check=True)
    served = serve(sys.executable, "-c", CALLS, mode=mode)
    assert served.err == ""
    assert served.out.splitlines() == native.stdout.splitlines()
    assert len(native.stdout.splitlines()) > 300


@pytest.mark.linux
@pytest.mark.parametrize("mode", ["plain", "strict"])
def test_hostile_arguments_get_the_kernels_errors(serve: Serve, client: str, mode: str) -> None:
    native = subprocess.run(["unshare", "-n", client, "hostile"], capture_output=True, text=True, check=True)
    served = serve(client, "hostile", mode=mode)
    assert served.out.splitlines() == native.stdout.splitlines()
    assert len(served.out.splitlines()) == 19


@pytest.mark.parametrize("mode", ["plain", "strict"])
def test_other_sockets_are_left_alone(serve: Serve, mode: str) -> None:
    done = serve(sys.executable, "-c", UNRELATED, mode=mode)
    assert (done.status, done.err, done.out) == (0, "", "92\n")
    assert done.log == ["fds 0"]


def test_ip_link_prints_what_it_prints(serve: Serve) -> None:
    native = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True)
    assert serve("ip", "link").out == native.stdout


def test_udp_encapsulation_and_socket_policies_go_to_the_engine(serve: Serve) -> None:
    done = serve(sys.executable, "-c", UDP)
    assert (done.status, done.err) == (0, "")
    assert done.out.split() == ["ENOPROTOOPT", "7"] * 2
    assert done.said("socket_policy") == [["2", "168"], ["10", "168"]]
    assert [words[1] for words in done.said("encapsulate")] == ["2", "9", "2", "9"]


@pytest.mark.parametrize("mode", ["plain", "strict"])
def test_a_process_that_dies_within_calls(serve: Serve, client: str, mode: str) -> None:
    script = f"for i in 1 2 3 4 5; do {client} raw die; done; {client} quit; {client} raw bind=0 request"
    done = serve("bash", "-c", script, mode=mode)
    assert done.status == 0
    assert "reply 36" in done.out
    assert done.said("fds") == [["0"]]


def test_many_sockets_are_bounded(serve: Serve, client: str) -> None:
    limited = ["prlimit", "--nofile=200", client, "many=500"]
    assert serve(*limited).out == "many some EMFILE\n"
    # Many sockets in each of many processes: the supervisor has its own limit, and refuses quickly.
    done = serve("bash", "-c", f"for i in $(seq 40); do {client} many=200 & done; wait; ip xfrm state flush")
    assert done.status == 0
    assert len(done.out.splitlines()) == 40
    assert "ENFILE" in done.out


def test_sockets_that_come_and_go_are_forgotten(serve: Serve, client: str) -> None:
    done = serve(client, "churn=3000", "raw", "bind=0", "request")
    assert done.out.splitlines()[0] == "churn 0"
    assert "reply 36" in done.out
    assert done.said("fds") == [["0"]]


@pytest.mark.parametrize("mode", ["plain", "strict"])
def test_over_a_connection_it_is_the_same(serve: Serve, client: str, mode: str) -> None:
    steps = ["raw", "bind=4711", "name", "raw", "bind=4711", "request"]
    near = serve(client, *steps, mode=mode)
    far = serve(client, *steps, mode=mode, words=("remote",))
    assert far.out == near.out
    far = serve(sys.executable, "-c", UDP, mode=mode, words=("remote",))
    assert (far.status, far.out.split()) == (0, ["ENOPROTOOPT", "7"] * 2)
