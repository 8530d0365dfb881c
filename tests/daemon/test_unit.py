"""The systemd unit, as systemd reads it; and what the daemon tells a service manager."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemon.running import UXFRM
from uxfrm.cli.daemon import daemon as command

UNIT = Path(__file__).parents[2] / "packaging" / "uxfrm.service"
PACKETS = UNIT.with_name("packets.conf")


@pytest.mark.parametrize("packets", [False, True])
def test_systemd_accepts_the_unit(tmp_path: Path, packets: bool) -> None:
    unit = tmp_path / "uxfrm.service"
    unit.write_text(UNIT.read_text().replace("/usr/bin/uxfrm", "/bin/true"))
    if packets:
        more = tmp_path / "uxfrm.service.d" / "packets.conf"
        more.parent.mkdir()
        more.write_text(PACKETS.read_text().replace("/usr/bin/uxfrm", "/bin/true"))
    verify = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    assert "uxfrm.service" not in done.stderr, done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("file", [UNIT, PACKETS], ids=["unit", "packets"])
def test_the_units_command_is_one_that_there_is(file: Path) -> None:
    (line,) = re.findall(r"^ExecStart=\S+ daemon (.*)$", file.read_text(), re.M)
    named = [word for word in shlex.split(line) if word.startswith("--")]
    known = CliRunner().invoke(command, ["--help"]).output
    assert named
    assert all(name in known for name in named)


def test_the_service_manager_is_told_of_start_life_and_end(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(120)
        told = os.environ | {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "400000"}
        arguments = [*UXFRM, "daemon", "--socket", str(tmp_path / "uxfrm.sock")]
        with subprocess.Popen(arguments, env=told, stderr=subprocess.DEVNULL) as process:
            words = [manager.recv(100) for _ in range(4)]
            process.send_signal(signal.SIGTERM)
            while words[-1] != b"STOPPING=1":
                words.append(manager.recv(100))
            assert process.wait(60) == 0
    assert words[0] == b"READY=1"
    assert set(words[1:-1]) == {b"WATCHDOG=1"}
    assert not (tmp_path / "uxfrm.sock").exists()
