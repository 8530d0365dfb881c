"""Clients that nobody here wrote for uxfrm, and what they get from a kernel: the same under `uxfrm run`.

pyroute2's generic netlink socket, which looks closely at the socket it has, and a static program, which no
library could serve.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from daemon.test_run import KERNEL, UXFRM

pytestmark = pytest.mark.linux

PRIVATE = [*UXFRM, "run", "--private"]


def run(prefix: list[str], *command: str) -> tuple[int, str, str]:
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> str:
    program = tmp_path_factory.mktemp("static") / "client"
    source = Path(__file__).with_name("client.c")
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Werror", "-o", program, source], check=True)
    return str(program)


@pytest.mark.parametrize("mode", [[], ["--strict"], ["--plain"]], ids=["chosen", "strict", "plain"])
def test_a_static_program(static: str, mode: list[str]) -> None:
    theirs = run(KERNEL, static)
    assert theirs[0] == 0
    assert len(theirs[1].splitlines()) == 11
    assert run([*PRIVATE, *mode, "--"], static) == theirs


PYROUTE2 = """
import struct
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, nlmsg
from pyroute2.netlink.nlsocket import NetlinkSocket

class body(nlmsg):
    fields = (("data", "s"),)

def ask(kind, flags, data):
    message = body()
    message["data"] = data
    try:
        found = [dict(m["header"]) for m in xfrm.nlm_request(message, kind, NLM_F_REQUEST | flags)]
    except Exception as error:
        found = [type(error).__name__, getattr(error, "code", None)]
    for header in found:
        keys = ("type", "length", "flags")
        print(kind, [header[k] for k in keys] if isinstance(header, dict) else header)

xfrm = NetlinkSocket(family=6)
xfrm.bind()
ends = bytes([10, 0, 0, 2]) + bytes(12) + bytes([10, 0, 0, 1]) + bytes(12)
selector = ends + bytes(8) + struct.pack("=HBBB11x", 2, 32, 32, 0)
limits = struct.pack("=8Q", *[2**64 - 1] * 4, 0, 0, 0, 0)
policy = selector + limits + bytes(32) + struct.pack("=IIBBBB4x", 7, 0, 1, 0, 0, 0)
named = selector + struct.pack("=IB3x", 0, 1)
ask(0x13, NLM_F_ACK, policy)
ask(0x13, NLM_F_ACK, policy)
ask(0x15, NLM_F_DUMP, named)
ask(0x15, 0, named)
ask(0x14, NLM_F_ACK, named)
ask(0x14, NLM_F_ACK, named)
ask(0x25, 0, bytes(4))
xfrm.close()

events = NetlinkSocket(family=6)
events.bind(groups=0x8)
maker = NetlinkSocket(family=6)
maker.bind()
xfrm = maker
ask(0x13, NLM_F_ACK, policy)
for message in events.get():
    print("event", message["header"]["type"], message["header"]["length"])
"""


@pytest.mark.parametrize("mode", [[], ["--strict"]], ids=["chosen", "strict"])
def test_pyroute2(mode: list[str]) -> None:
    theirs = run(KERNEL, sys.executable, "-c", PYROUTE2)
    assert theirs[0] == 0, theirs[2]
    assert "event" in theirs[1]
    assert run([*PRIVATE, *mode, "--"], sys.executable, "-c", PYROUTE2) == theirs
