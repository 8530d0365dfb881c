"""`uxfrm up FILE` and `uxfrm down` on both gateways: from the first packet to the last nothing in clear."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.ends import UXFRM, answers, silent
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_gateways
from uxfrm.lab.setup import Setup, gcm
from uxfrm.lab.watch import Kind

pytestmark = pytest.mark.linux

SETUP = Setup(gcm(bytes(range(20))))


class Host:
    """A gateway with its file."""

    def __init__(self, lab: Lab, number: int, folder: Path) -> None:
        self._lab, self._node = lab, lab.plan.ends[number]
        self.socket, self.file = folder / f"{self._node}.sock", folder / f"{self._node}.toml"
        self.folder = folder / f"{self._node}.state"
        self.file.touch(0o600)
        self.file.write_text(SETUP.host_file(lab.plan, number))

    def uxfrm(self, *words: str) -> subprocess.CompletedProcess[str]:
        line = self._lab.command(self._node, *UXFRM, *words, "--socket", str(self.socket))
        # the daemon is to outlive the command: it must not end with its parent
        return subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)

    def up(self, *options: str) -> None:
        done = self.uxfrm("up", *options, "--state-dir", str(self.folder), str(self.file))
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Lab, Host, Host]]:
    with Lab(two_gateways()) as lab:
        yield lab, Host(lab, 0, tmp_path), Host(lab, 1, tmp_path)


def test_up_and_down(hosts: tuple[Lab, Host, Host]) -> None:
    lab, left, right = hosts
    a, b = (lab.plan.address(host) for host in "ab")
    assert answers(lab, "a", b)
    lab.start("a", "ping", "-i0.01", b)
    left.up()
    lab.watch.seen()
    time.sleep(0.2)
    # one end is enough for nothing to leave in clear
    assert [passed.source for passed in lab.watch.seen().packets if passed.kind is Kind.CLEAR] == []
    right.up()
    assert answers(lab, "a", b)
    assert answers(lab, "b", a)
    assert lab.watch.seen().total(Kind.CLEAR) == 0
    again = left.uxfrm("up", "--state-dir", str(left.folder), str(left.file))
    assert again.returncode == 1
    assert "in use" in again.stderr
    assert answers(lab, "a", b)
    assert left.uxfrm("down", "--closed").stderr == "stopped\n"
    assert silent(lab, "a", b)
    seen = lab.watch.seen()
    assert seen.total(Kind.CLEAR) == 0, seen.clear
    assert right.uxfrm("down").stderr == "stopped\n"
    assert silent(lab, "a", b)
    assert left.uxfrm("down").stderr == "there was no daemon\n"
    assert answers(lab, "a", b)
    for node in lab.plan.ends:
        assert lab.run(node, "nft", "list", "ruleset") == ""
        assert "uxfrm0" not in lab.run(node, "ip", "link")


def test_a_file_that_is_wrong_changes_nothing(hosts: tuple[Lab, Host, Host]) -> None:
    lab, left, _ = hosts
    left.file.write_text(left.file.read_text().replace("dir out", "dir nowhere", 1))
    for option in ("--check", "--foreground"):
        done = left.uxfrm("up", option, str(left.file))
        assert done.returncode == 1
        assert "policies[1]" in done.stderr
    assert answers(lab, "a", lab.plan.address("b"))
    assert not left.socket.exists()


def test_what_is_lacking_is_said(hosts: tuple[Lab, Host, Host]) -> None:
    _, left, _ = hosts
    left.file.write_text(left.file.read_text().replace("tun=uxfrm0", "tun=a-name-that-is-too-long"))
    done = left.uxfrm("up", "--state-dir", str(left.folder), str(left.file))
    assert done.returncode == 1
    assert "1 to 15 bytes" in done.stderr
    assert not left.socket.exists()
