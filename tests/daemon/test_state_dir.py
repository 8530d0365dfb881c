"""--state-dir: what a daemon that was stopped, or killed, still has when it starts again."""

from __future__ import annotations

import stat
import subprocess
import time
from pathlib import Path

import pytest

from daemon.running import ENDS, UXFRM, Daemon

KEY = "0x" + "5a" * 20
SETUP = f"""
    ip xfrm policy add {ENDS} dir out priority 7 tmpl src 1.1.1.1 dst 2.2.2.2 proto esp reqid 3 mode tunnel
    ip xfrm policy add {ENDS} dir in action block ptype sub
    ip xfrm policy add src fd00::/64 dst fd01::1 proto tcp dport 80 dir fwd mark 5 mask 7 if_id 9
    ip xfrm policy add {ENDS} dir in index 800 limit time-hard 9999
    ip xfrm policy add src 10.0.0.0/8 dst 10.0.0.2 dir out
    ip xfrm policy delete src 10.0.0.0/8 dst 10.0.0.2 dir out
    ip xfrm policy setdefault in block; ip xfrm policy set hthresh4 24 16
    ip xfrm state add {ENDS} proto esp spi 0x100 mode tunnel aead 'rfc4106(gcm(aes))' {KEY} 128
"""
LOOK = """
    ip -d xfrm policy; ip xfrm policy getdefault; ip -s -s xfrm policy count
    ip xfrm policy | wc -l; ip xfrm policy list dir in
"""


def call(path: Path, script: str) -> str:
    command = [*UXFRM, "run", "--daemon", str(path), "--", "sh", "-ec", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_policies_come_back_and_states_do_not(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with Daemon(tmp_path, "--state-dir", str(kept)) as daemon:
        call(daemon.path, SETUP)
        before = call(daemon.path, LOOK)
        assert "spi 0x00000100" in call(daemon.path, "ip xfrm state")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    (file,) = kept.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert bytes.fromhex(KEY[2:]) not in file.read_bytes()
    with Daemon(tmp_path, "--state-dir", str(kept)) as daemon:
        assert call(daemon.path, LOOK) == before
        assert call(daemon.path, "ip xfrm state") == ""


def test_a_killed_daemon_has_what_was_saved(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with Daemon(tmp_path, "--state-dir", str(kept)) as daemon:
        call(daemon.path, SETUP)
        before = call(daemon.path, LOOK)
        end = time.monotonic() + 60
        while not (kept / "policies").exists() and time.monotonic() < end:
            time.sleep(0.1)
        # One that begins after everything was there has everything.
        inode = (kept / "policies").stat().st_ino
        call(daemon.path, "ip xfrm policy setdefault in accept; ip xfrm policy setdefault in block")
        while (kept / "policies").stat().st_ino == inode and time.monotonic() < end:
            time.sleep(0.1)
        daemon.process.kill()
    with Daemon(tmp_path, "--state-dir", str(kept)) as daemon:
        assert call(daemon.path, LOOK) == before


@pytest.mark.parametrize("damage", ["cut", "other", "request"])
def test_a_damaged_file_stops_the_daemon(tmp_path: Path, damage: str) -> None:
    kept = tmp_path / "kept"
    with Daemon(tmp_path, "--state-dir", str(kept)) as daemon:
        call(daemon.path, SETUP)
    file = kept / "policies"
    data = file.read_bytes()
    magic = data.index(b"\n") + 1
    flush = data[: magic + 4] + b"\x1c" + data[magic + 5 :]
    file.write_bytes({"cut": data[:-4], "other": b"#!/bin/sh\n", "request": flush}[damage])
    command = [*UXFRM, "daemon", "--socket", str(tmp_path / "other.sock"), "--state-dir", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "policies: damaged" in done.stderr


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    kept.chmod(0o777)
    command = [*UXFRM, "daemon", "--socket", str(tmp_path / "other.sock"), "--state-dir", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "not this user's alone" in done.stderr) == (1, True)
