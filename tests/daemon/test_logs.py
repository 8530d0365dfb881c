"""What the daemon writes: enough to see what happened, and no key, whatever goes wrong."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from daemon.running import ENDS, UXFRM, Daemon, Visitor, errno_of
from netlink.compare import attribute as attr
from netlink.compare import request
from netlink.test_kernel_answers import algorithm, state

KEY = b"SecretKeyOfTests"
HEX = KEY.hex()


def leaks(text: str) -> list[str]:
    """Forms of the key, or of parts of it, that are in a text."""
    forms = {
        KEY.decode(), HEX, HEX.upper(), base64.b64encode(KEY).decode()[:16], str(list(KEY))[1:-1],
        KEY[4:12].decode(), HEX[8:24], repr(KEY)[2:-1], "\\x53\\x65", "0x5365",
    }  # fmt: skip
    return [form for form in forms if form in text]


def provoke(path: Path) -> None:
    """Install states with the key, and fail with it in every way that there is."""
    run = [*UXFRM, "run", "--daemon", str(path), "--", "sh", "-c"]
    good = f"proto esp spi 0x100 enc 'cbc(aes)' 0x{HEX} auth 'hmac(sha1)' 0x{HEX}"
    script = f"""
        ip xfrm state add {ENDS} {good}; ip xfrm state add {ENDS} {good}; ip xfrm state update {ENDS} {good}
        ip xfrm state add {ENDS} proto esp spi 1 enc 'nosuch' 0x{HEX}
        ip xfrm state add {ENDS} proto esp spi 1 enc 'cbc(aes)' 0x{HEX}00
        ip xfrm state add {ENDS} proto esp spi 1 aead 'rfc4106(gcm(aes))' 0x{HEX} 128
        ip xfrm state get {ENDS} proto esp spi 0x100; ip xfrm state flush
    """
    subprocess.run([*run, script], capture_output=True, timeout=120, check=False)
    visitor = Visitor(path)
    client = visitor.open()
    crypt = attr(2, algorithm("cbc(aes)", KEY))
    for body in (state() + crypt[:-3], state() + crypt * 2 + KEY, KEY * 20, state(family=77) + crypt,
                 state() + attr(2, algorithm("cbc(aes)", KEY, bits=4000))):  # fmt: skip
        errno_of(client, request(0x10, body))
    named = attr(1, algorithm(KEY.decode(), KEY))
    assert errno_of(client, request(0x10, state() + named))
    client.send(KEY * 100)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as raw:
        raw.connect(str(path))
        for datagram in (
            KEY,
            b'{"call":"' + KEY + b'"}',
            b'{"call":"bind","port":"' + KEY + b'","groups":1}',
        ):
            raw.send(datagram)
            assert b"errno" in raw.recv(1000)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_key_is_ever_written(tmp_path: Path, form: str) -> None:
    with Daemon(tmp_path, "--log-level", "debug", "--log-format", form) as daemon:
        provoke(daemon.path)
    assert daemon.code == 0
    assert not leaks(daemon.log)
    lines = daemon.log.splitlines()
    if form == "json":
        told = [json.loads(line) for line in lines]
        refused = {(x["type"], x["errno"]) for x in told if x["event"] == "request refused"}
        assert {("NEWSA", "EEXIST"), ("NEWSA", "ENOSYS"), ("NEWSA", "EINVAL")} <= refused
        (connected, *_) = [x for x in told if x["event"] == "connected"]
        assert (connected["uid"], connected["rights"]) == (os.getuid(), "trusted")
        assert [x["event"] for x in told][-1] == "stopped"
    else:
        assert any("request refused" in line and "errno=EEXIST" in line for line in lines)


def test_levels(tmp_path: Path) -> None:
    with Daemon(tmp_path, "--log-level", "error") as daemon:
        provoke(daemon.path)
    assert daemon.log == ""
