"""Go and Python programs are known by their files; broken files are neither."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from uxfrm.intercept.strictness import wants_strict


def executable(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("line", "strict"),
    [
        ("#!/usr/bin/python3", True),
        ("#!/usr/bin/env python3.11", True),
        ("#!/usr/bin/env -S python3 -u", True),
        ("#! /usr/bin/pypy3", True),
        ("#!/bin/sh", False),
        ("#!/usr/bin/perl -w python", True),
        ("#!", False),
        ("", False),
    ],
)
def test_scripts(tmp_path: Path, line: str, strict: bool) -> None:
    assert wants_strict(executable(tmp_path / "script", line.encode() + b"\nprint(1)\n")) == strict


def test_pythons_own_program(tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(executable(tmp_path / "python3.99", b"\x7fELF"))
    assert wants_strict(str(tmp_path / "other"))
    assert not wants_strict("ip")
    assert not wants_strict("no-such-command")


@pytest.mark.parametrize("section", [".go.buildinfo", ".note.go.buildid"])
def test_go_programs_are_known_by_a_section(tmp_path: Path, client: str, section: str) -> None:
    note = tmp_path / "note"
    note.write_bytes(b"go")
    go = tmp_path / "go"
    assert not wants_strict(client)
    subprocess.run(["objcopy", f"--add-section={section}={note}", client, go], check=True)
    assert wants_strict(str(go))
    subprocess.run(["strip", go], check=True)
    assert wants_strict(str(go))


def test_broken_programs_are_nothing(tmp_path: Path) -> None:
    found = shutil.which("ip")
    assert found
    whole = Path(found).read_bytes()
    for size in (4, 5, 63, 64, 256, len(whole) // 2):
        assert not wants_strict(executable(tmp_path / "short", whole[:size]))
    for offset in (40, 58, 60, 62):
        wild = bytearray(whole)
        struct.pack_into("<H", wild, offset, 0xFFFF)
        assert not wants_strict(executable(tmp_path / "wild", bytes(wild)))
    wild = bytearray(whole)
    struct.pack_into("<Q", wild, 40, (1 << 64) - 1)
    assert not wants_strict(executable(tmp_path / "wild", bytes(wild)))
