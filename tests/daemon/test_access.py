"""Who may connect and change tables: real processes of several users, with and without CAP_NET_ADMIN.

Each claims to its supervisor's end that it has every right.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.running import Daemon
from uxfrm.daemon.access import Access, Need, Visitor, has_net_admin
from uxfrm.daemon.privileges import Capability

TESTS = Path(__file__).parent.parent
AS_ROOT = () if os.geteuid() == 0 else ("sudo", "-n", "--preserve-env=NOTIFY_SOCKET,PYTHONPATH")
NOBODY = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
OWN_NAMESPACE = "nobody, root of a namespace of its own"
WHO = {
    "root": ("setpriv",),
    "root without capabilities": ("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
    "nobody": NOBODY,
    "nobody of another group": ("setpriv", "--reuid", "nobody", "--regid", "daemon", "--clear-groups"),
    "nobody with the capability": (*NOBODY, "--inh-caps", "+net_admin", "--ambient-caps", "+net_admin"),
    OWN_NAMESPACE: NOBODY,
}
EXPECTED = {
    (): {"root": "done", "root without capabilities": "done", "nobody": "EACCES",
         "nobody with the capability": "EACCES"},
    ("--need-capability", "everybody"): {"root": "done", "root without capabilities": "EPERM"},
    ("--anybody",): {"root without capabilities": "done", "nobody": "EPERM",
                     "nobody with the capability": "done",
                     OWN_NAMESPACE: "EPERM"},
    ("--anybody", "--need-capability", "nobody"): {"nobody": "done"},
    ("--group", "nogroup"): {"root without capabilities": "done", "nobody": "EPERM",
                             "nobody with the capability": "done", "nobody of another group": "EACCES"},
}  # fmt: skip


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="uxfrm-access-") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def visit(path: Path, who: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    command = [*AS_ROOT, *WHO[who], sys.executable, str(TESTS / "daemon/running.py"), str(path)]
    command += ["own"] if who == OWN_NAMESPACE else []
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("options", EXPECTED, ids=" ".join)
def test_what_visitors_may_do(directory: Path, options: tuple[str, ...]) -> None:
    with Daemon(directory, *options, prefix=AS_ROOT) as daemon:
        found = {who: visit(daemon.path, who) for who in EXPECTED[options]}
    assert found == EXPECTED[options]


def test_the_socket_is_its_owners_or_its_groups(directory: Path) -> None:
    with Daemon(directory, "--group", "nogroup", prefix=AS_ROOT) as daemon:
        info = daemon.path.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o660, 0)


def test_others_are_turned_away_though_the_mode_lets_them_in(directory: Path) -> None:
    with Daemon(directory, prefix=AS_ROOT) as daemon:
        subprocess.run([*AS_ROOT, "chmod", "666", str(daemon.path)], check=True)
        assert visit(daemon.path, "nobody") == "ECONNREFUSED"
    assert "another user" in daemon.log


@contextlib.contextmanager
def sleeping(program: Path) -> Iterator[int]:
    # The shell in between has no rights, as one who connects to the daemon has none.
    command = [*NOBODY, "sh", "-c", f"exec {program} -c 'read x'"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        while not Path(f"/proc/{process.pid}/cmdline").read_text().startswith(str(program)):
            pass
        yield process.pid
        process.stdin.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make privileged programs")
def test_rights_gained_since_by_executing_a_privileged_program_do_not_count(directory: Path) -> None:
    program = directory / "sh-copy"
    program.write_bytes(Path("/bin/sh").read_bytes())
    program.chmod(0o755)
    net_admin = struct.pack("<IIIII", 0x02000001, 1 << 12, 0, 0, 0)
    os.setxattr(program, "security.capability", net_admin)
    with sleeping(program) as pid:
        capabilities = Path(f"/proc/{pid}/status").read_text().split("CapEff:")[1].split()[0]
        assert int(capabilities, 16) >> 12 & 1
        assert not has_net_admin(Visitor(pid, 65534, 65534))


@pytest.mark.parametrize(
    ("access", "asks"),
    [
        (Access(), False),
        (Access(need=Need.EVERYBODY), True),
        (Access(others=True), True),
        (Access(others=True, need=Need.NOBODY), False),
    ],
)
def test_a_right_is_kept_where_visitors_are_asked_about(access: Access, asks: bool) -> None:
    assert access.rights_to_ask == ({Capability.SYS_PTRACE} if asks else set())
