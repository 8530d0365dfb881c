"""`uxfrm lab` as a user sees it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from uxfrm.cli.lab import _ALONE, _INSIDE

pytestmark = [
    pytest.mark.linux,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def lab(*options: str, before: tuple[str, ...] = ()) -> str:
    """What it says; nothing is left behind."""
    line = [*before, sys.executable, "-m", "uxfrm.cli.main", "lab", *options]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, complaints = process.communicate(timeout=240)
    assert (process.returncode, complaints) == (0, "")
    left = json.loads(subprocess.check_output(["ip", "-j", "netns"]) or "[]")
    assert [each["name"] for each in left if f".{process.pid}." in each["name"]] == []
    return said


def test_it_shows_what_the_router_saw_and_what_the_ends_hold() -> None:
    said = lab("--hosts", "--in-udp")
    assert said.count("3 received") == 2
    rows = [line for line in said.splitlines() if line.startswith("│")]
    assert len(rows) == 4
    assert all("ESP in UDP" in row for row in rows)
    assert said.count("proto esp spi 0x") == 8
    assert not re.search(r"0x[0-9a-f]{16}", said)


def test_without_uxfrm_the_router_sees_all() -> None:
    said = lab("--clear", "--nat")
    assert said.count("3 received") == 2
    assert "clear" in said
    assert "ESP" not in said


def test_in_a_user_namespace_it_works_as_well() -> None:
    """As for somebody who is not root, where /dev/net/tun is everybody's."""
    said = lab("--hosts", before=(*_ALONE[:-3], "env", f"{_INSIDE}=1"))
    assert said.count("3 received") == 2
