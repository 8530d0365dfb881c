"""Programs that know nothing of uxfrm are served: iproute2, a static one, Python, children, odd processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from intercept.conftest import Run

Serve = Callable[..., Run]

PYTHON_CLIENT = """
import os, socket, struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 6)
s.bind((0, 0))
assert s.getsockname() == (os.getpid(), 0), s.getsockname()
request = struct.pack("=IHHII", 24, 0x1c, 5, 9, 0) + bytes(8)
for _ in range(200):
    s.sendto(request, (0, 0))
    data, sender = s.recvfrom(4096, socket.MSG_DONTWAIT)
    assert sender == (0, 0), sender
    assert struct.unpack_from("=IHHII", data)[3] == 9
s.settimeout(0.2)
try:
    s.recv(10)
except TimeoutError:
    print("late")
s.settimeout(None)
s.send(request)
data, _, flags, sender = s.recvmsg(10)
print(len(data), flags & socket.MSG_TRUNC, sender)
print(s.getsockopt(1, 3), s.getsockopt(1, 38), s.getsockopt(1, 39))
"""


@pytest.mark.parametrize("mode", ["plain", "strict"])
def test_ip_xfrm_state(serve: Serve, mode: str) -> None:
    done = serve("ip", "xfrm", "state", mode=mode)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert [words[1] for words in done.said("request")] == ["18"]
    assert done.said("fds") == [["0"]]


@pytest.mark.parametrize("mode", ["plain", "strict"])
def test_ip_xfrm_state_flush(serve: Serve, mode: str) -> None:
    done = serve("ip", "xfrm", "state", "flush", mode=mode)
    assert (done.status, done.out, done.err) == (0, "", "")
    assert [words[1] for words in done.said("request")] == ["28"]


@pytest.mark.parametrize("mode", ["plain", "strict"])
def test_ip_xfrm_monitor_hears_of_another_process_flush(serve: Serve, mode: str) -> None:
    script = "ip xfrm monitor & sleep 0.5; ip xfrm state flush; sleep 0.5; kill $!; wait"
    done = serve("sh", "-c", script, mode=mode)
    assert (done.status, done.out) == (0, "Flushed state proto 0\n")


def test_a_static_program(serve: Serve, client: str) -> None:
    done = serve(client, "raw", "bind=0", "name", "request", "request")
    reply = "reply 36 type 2 seq 7 from family 1 pid 0 len 12 flags 0"
    assert done.out.splitlines() == [
        "socket ok",
        "bind ok",
        "name ok family 16 own 1 size 12 groups 0",
        reply,
        reply,
    ]


def test_strict_mode_gives_the_netlink_family_and_replies_at_once(serve: Serve, client: str) -> None:
    done = serve(client, "raw", "bind=0", *["at-once"] * 100, mode="strict")
    reply = "reply 36 type 2 seq 7 from family 16 pid 0 len 12 flags 0"
    assert done.out.splitlines()[2:] == [reply] * 100


def test_strict_mode_is_chosen_for_python(serve: Serve) -> None:
    done = serve(sys.executable, "-c", PYTHON_CLIENT, mode="auto")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == ["late", "10 32 (0, 0)", "3 6 16"]


@pytest.mark.parametrize("way", ["dup", "high", "fork", "pass"])
def test_a_socket_is_known_however_it_was_handed_on(serve: Serve, client: str, way: str) -> None:
    done = serve(client, "raw", "bind=0", way, "name", "request")
    named = "name ok family 16 own 0 size 12 groups 0" if way == "fork" else "name ok family 16 own 1"
    assert done.status == 0
    assert done.out.splitlines()[2].startswith(named)
    assert done.out.splitlines()[3].startswith("reply 36 type 2")


def test_children_and_grandchildren(serve: Serve, client: str) -> None:
    done = serve("sh", "-c", f"ip xfrm state; sh -c '{client} raw bind=0 name; true'; ip xfrm state flush")
    assert (done.status, done.err) == (0, "")
    assert "name ok family 16 own 1 size 12 groups 0" in done.out
    assert len(done.said("open")) == 3


def test_an_explicit_port(serve: Serve, client: str) -> None:
    done = serve(client, "raw", "bind=4711", "raw", "bind=4711", "bind=4712", "bind=4713")
    assert done.out.splitlines() == [
        *("socket ok", "bind ok", "socket ok", "bind EADDRINUSE"),
        *("bind ok", "bind EINVAL"),
    ]


def test_the_second_socket_may_be_bound_to_the_pid(serve: Serve, client: str) -> None:
    # As libreswan's pluto does: the first socket is never bound.
    done = serve(client, "raw", "raw", "bind=pid", "name")
    assert done.out.splitlines()[2:] == ["bind ok", "name ok family 16 own 1 size 12 groups 0"]


@pytest.mark.parametrize(
    "drop",
    [
        ("setpriv", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534"),
        ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-all"),
        ("unshare", "-U"),
        ("unshare", "-Urn"),
    ],
)
def test_processes_without_capabilities(serve: Serve, drop: tuple[str, ...]) -> None:
    done = serve(*drop, "ip", "xfrm", "state", "flush")
    assert (done.status, done.out, done.err) == (0, "", "")
    assert len(done.said("request")) == 1


def test_the_supervisor_itself_without_any_right(client: str) -> None:
    from intercept.conftest import serve_words

    nobody = ("setpriv", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534")
    line = serve_words("plain", command=["ip", "xfrm", "state", "flush"])
    done = subprocess.run([*nobody, *line], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_pid_namespace_of_its_own(serve: Serve, client: str) -> None:
    done = serve("unshare", "-pf", client, "raw", "bind=0", "name", "request")
    assert "name ok family 16 own 1 size 12 groups 0" in done.out
    assert "reply 36 type 2" in done.out
