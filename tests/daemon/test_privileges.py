"""Rights that are not there are named at the start, and those that are not needed are gone before service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.running import UXFRM, Daemon
from rights import exactly, rights
from uxfrm.daemon import client
from uxfrm.iproute2.commands import parse_words
from uxfrm.iproute2.execute import execute

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")

_NET_ADMIN, _SYS_PTRACE = 12, 19
_NO_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


@pytest.mark.parametrize(
    ("options", "kept"), [((), ()), (("--anybody",), (_SYS_PTRACE,))], ids=["own", "others"]
)
def test_tables_need_no_rights_but_to_ask_about_visitors(
    tmp_path: Path, options: tuple[str, ...], kept: tuple[int, ...]
) -> None:
    with Daemon(tmp_path, "--state-dir", str(tmp_path / "state"), *options) as daemon:
        found = rights(daemon.process.pid)
        memory = _read_without_rights(daemon.process.pid)
        with client.connect(daemon.path) as tables:
            execute(parse_words(["xfrm", "policy", "add", "dir", "out", "action", "block"]), tables)
    assert found == exactly(*kept)
    assert not memory
    assert (tmp_path / "state" / "policies").exists()


@pytest.mark.linux
def test_root_of_a_user_namespace_has_all_that_it_takes(tmp_path: Path) -> None:
    with Daemon(tmp_path, "--attach", "nfqueue", prefix=("unshare", "-Urn")) as daemon:
        found = rights(daemon.process.pid)
        with client.connect(daemon.path) as tables:
            execute(parse_words(["xfrm", "policy", "add", "dir", "out", "action", "block"]), tables)
    assert found == exactly(_NET_ADMIN)
    assert daemon.code == 0


def _read_without_rights(pid: int) -> str:
    """What root reads of a process's maps without capabilities."""
    command = [*_NO_RIGHTS, "cat", f"/proc/{pid}/maps"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_what_is_missing_is_named_with_what_it_is_for(tmp_path: Path) -> None:
    options = ("--attach", "tun=uxfrm0", "--attach", "raw")
    without = ("setpriv", "--bounding-set=-net_raw,-net_admin")
    assert _refused(tmp_path, without, *options) == (
        "uxfrm: rights are missing: CAP_NET_ADMIN (tun=uxfrm0: the device, its routes and rules), "
        "CAP_NET_RAW (raw: raw sockets): start it as root, or give it these alone\n"
    )


@pytest.fixture
def anothers(tmp_path: Path) -> Iterator[Path]:
    """A directory of root's in one that only nobody may enter."""
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True, mode=0o700)
    os.chown(outer, 65534, 65534)
    outer.chmod(0o700)
    yield outer / "inner"
    os.chown(outer, 0, 0)


def test_a_directory_that_is_out_of_reach_afterwards_is_refused_at_once(
    tmp_path: Path, anothers: Path
) -> None:
    said = _refused(tmp_path, (), "--state-dir", str(anothers))
    assert f"uxfrm: {anothers}: no writing there" in said
    assert not (tmp_path / "uxfrm.sock").exists()


def _refused(folder: Path, prefix: tuple[str, ...], *options: str) -> str:
    """What a daemon says that does not start."""
    command = [*prefix, *UXFRM, "daemon", "--socket", str(folder / "uxfrm.sock"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.linux
def test_a_private_engine_has_none_and_the_command_has_its_own() -> None:
    engine = f"pgrep -P $PPID -f '^{sys.executable} -m uxfrm.daemon.serve'"
    with subprocess.Popen(
        [
            *UXFRM,
            "run",
            "--private",
            "--",
            "sh",
            "-c",
            f"{engine}; grep ^CapEff /proc/self/status; read answer",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        found = rights(int(process.stdout.readline()))
        mine = process.stdout.readline().decode()
        process.communicate(b"\n")
    assert found == exactly()
    assert mine in Path("/proc/self/status").read_text()
