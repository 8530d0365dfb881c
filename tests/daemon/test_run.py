"""`uxfrm run` and `uxfrm daemon` with the installed, unmodified iproute2, as a user calls them.

The same scripts run against the machine's own kernel, in a network namespace of their own.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

UXFRM = [sys.executable, "-m", "uxfrm.cli.main"]
KERNEL = ["unshare", "--map-root-user", "--net"]
ENDS = "src 10.0.0.1 dst 10.0.0.2"

SCRIPTS = {
    "policies": f"""
        ip xfrm policy add {ENDS} dir out priority 7 tmpl src 1.1.1.1 dst 2.2.2.2 proto esp mode tunnel
        ip xfrm policy add {ENDS} dir in action block ptype sub
        ip xfrm policy add {ENDS} dir out
        ip xfrm policy add src fd00::/64 dst fd01::1 proto tcp dport 80 dir fwd mark 5 mask 7 if_id 9
        ip xfrm policy update {ENDS} dir out priority 8
        ip xfrm policy get {ENDS} dir out
        ip -s xfrm policy get index 9 dir out
        ip xfrm policy; ip xfrm policy list dir in; ip xfrm policy list {ENDS}
        ip xfrm policy count; ip -s -s xfrm policy count
        ip xfrm policy delete {ENDS} dir out; ip xfrm policy delete {ENDS} dir out
        ip xfrm policy deleteall dir fwd; ip xfrm policy; ip xfrm policy flush ptype sub; ip xfrm policy flush
        ip xfrm policy
    """,
    "defaults and thresholds": """
        ip xfrm policy getdefault; ip xfrm policy setdefault in block out accept; ip xfrm policy getdefault
        ip xfrm policy set hthresh4 24 16 hthresh6 100 90; ip -s -s xfrm policy count
        ip xfrm policy set hthresh4 33 0
    """,
    "larval states": f"""
        ip xfrm state allocspi {ENDS} proto esp reqid 7 mode tunnel min 0x100 max 0x100
        ip xfrm state allocspi {ENDS} proto esp reqid 8 min 0x100 max 0x100
        ip xfrm state allocspi {ENDS} proto comp min 0x200 max 0x10000
        ip xfrm state count; ip xfrm state list proto esp; ip xfrm state get {ENDS} proto esp spi 0x101
        ip xfrm state list src 10.0.0.0/8; ip xfrm state list dst 10.9.0.0/16
        ip xfrm state delete {ENDS} proto esp spi 0x100; ip xfrm state delete {ENDS} proto esp spi 0x100
        ip xfrm state deleteall; ip xfrm state; ip xfrm state flush
    """,
    "refusals": f"""
        ip xfrm state add {ENDS} proto esp spi 1 enc nosuch 0x00
        ip xfrm state add {ENDS} proto esp spi 1 mode transport
        ip xfrm state add {ENDS} proto ah spi 1 aead 'rfc4106(gcm(aes))' 0x{"00" * 20} 128
        ip xfrm state update {ENDS} proto esp spi 1 mode 9 auth 'hmac(sha1)' 0x00
        ip xfrm policy add {ENDS} dir out tmpl proto esp mode tunnel level use
        ip xfrm policy delete index 99 dir out; ip xfrm nosuch; ip xfrm state get {ENDS} proto esp spi 1
    """,
}


def call(prefix: list[str], script: str, **options: object) -> tuple[int, str, str]:
    done = subprocess.run(
        [*prefix, "sh", "-c", script], capture_output=True, text=True, timeout=120, check=False, **options
    )  # type: ignore[call-overload]
    return done.returncode, done.stdout, done.stderr


@pytest.mark.linux
@pytest.mark.parametrize("name", SCRIPTS)
def test_ip_prints_what_it_prints_on_a_kernel(name: str) -> None:
    theirs = call(KERNEL, SCRIPTS[name])
    assert theirs[1] or theirs[2]
    assert call([*UXFRM, "run", "--private", "--"], SCRIPTS[name]) == theirs


@pytest.mark.linux
def test_ip_monitor_prints_what_it_prints_on_a_kernel() -> None:
    script = f"""
        ip xfrm monitor all > $OUT & watcher=$!; sleep 0.7
        ip xfrm policy add {ENDS} dir out priority 7 tmpl proto esp mode transport
        ip xfrm policy update {ENDS} dir out priority 8; ip xfrm policy delete {ENDS} dir out
        ip xfrm state allocspi {ENDS} proto esp reqid 8 min 0x100 max 0x100 > /dev/null
        ip xfrm state delete {ENDS} proto esp spi 0x100; ip xfrm policy setdefault in block
        ip xfrm policy add {ENDS} dir in; ip xfrm policy flush
        sleep 0.7; kill $watcher; cat $OUT
    """
    found = []
    for number, prefix in enumerate((KERNEL, [*UXFRM, "run", "--private", "--"])):
        out = f"/tmp/uxfrm-monitor-{os.getpid()}-{number}"
        try:
            found.append(call(prefix, script.replace("$OUT", out)))
        finally:
            Path(out).unlink(missing_ok=True)
    assert "Deleted" in found[0][1]
    assert found[1] == found[0]


def test_a_batch_of_ten_thousand_lines() -> None:
    lines = "".join(
        f"xfrm policy add src 10.{n >> 8}.{n & 255}.1 dst 10.0.0.2 dir out tmpl proto esp\n"
        for n in range(10_000)
    )
    code, out, err = call(
        [*UXFRM, "run", "--private", "--"],
        "ip -batch - && ip xfrm policy count && ip xfrm policy | wc -l",
        input=lines,
    )
    assert (code, err) == (0, "")
    assert out.split() == ["SPD", "IN", "0", "OUT", "10000", "FWD", "0", "40000"]


@pytest.fixture
def socket(tmp_path: Path) -> Iterator[Path]:
    """The socket of a daemon that is ready."""
    path = tmp_path / "uxfrm.sock"
    daemon = subprocess.Popen([*UXFRM, "daemon", "--socket", str(path)], stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.stderr is not None
        assert str(path) in daemon.stderr.readline()
        yield path
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    assert not path.exists()


def test_programs_share_a_daemons_tables(socket: Path) -> None:
    run = [*UXFRM, "run", "--daemon", str(socket), "--"]
    key = "0x" + "00" * 20
    state = f"ip xfrm state add {ENDS} proto esp spi 0x100 mode tunnel aead 'rfc4106(gcm(aes))' {key} 128"
    assert call(run, state) == (0, "", "")
    assert call(run, state) == (2, "", "RTNETLINK answers: File exists\n")
    code, out, _ = call(run, "ip xfrm state")
    assert code == 0
    assert f"aead rfc4106(gcm(aes)) {key} 128" in out
    assert call([*UXFRM, "run", "--private", "--"], "ip xfrm state") == (0, "", "")


def test_only_the_owner_may_connect(socket: Path) -> None:
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600


def test_time_goes_on(socket: Path) -> None:
    run = [*UXFRM, "run", "--daemon", str(socket), "--"]
    key = "0x" + "00" * 20
    add = f"ip xfrm state add {ENDS} proto esp spi 1 limit time-hard 2 aead 'rfc4106(gcm(aes))' {key} 128"
    assert call(run, add)[0] == 0
    assert "spi" in call(run, "ip xfrm state")[1]
    end = time.monotonic() + 20
    while call(run, "ip xfrm state")[1] and time.monotonic() < end:
        time.sleep(0.2)
    assert call(run, "ip xfrm state") == (0, "", "")


def test_without_a_daemon_it_says_so(tmp_path: Path) -> None:
    code, out, err = call([*UXFRM, "run", "--daemon", str(tmp_path / "none"), "--"], "ip xfrm state")
    assert (code, out) == (125, "")
    assert "uxfrm daemon" in err
