"""`uxfrm sysctl` and `uxfrm stat --full`: on a daemon, for whom they are, and on the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.running import UXFRM, Daemon
from daemon.test_access import AS_ROOT, NOBODY
from daemon.test_run import ENDS, KERNEL, call
from uxfrm.model.sysctl import SYSCTLS

OURS = " ".join(UXFRM)
LARVAL_DROP, ACQ_EXPIRES = "net.core.xfrm_larval_drop", "net.core.xfrm_acq_expires"


@pytest.fixture(scope="module")
def at() -> Iterator[str]:
    """The option that names a daemon."""
    with tempfile.TemporaryDirectory() as directory, Daemon(Path(directory)) as daemon:
        yield f"--socket {daemon.path}"


def test_all_of_them_then_one_set(at: str) -> None:
    code, out, _ = call([], f"{OURS} sysctl {at}")
    assert code == 0
    assert [line.split(" = ")[0] for line in out.splitlines()] == list(SYSCTLS)
    assert call([], f"{OURS} sysctl {at} {ACQ_EXPIRES}=0x10") == (0, f"{ACQ_EXPIRES} = 16\n", "")
    assert json.loads(call([], f"{OURS} sysctl {at} --json {ACQ_EXPIRES}")[1]) == {ACQ_EXPIRES: 16}
    larval = call([], f"{OURS} state {at} allocspi {ENDS} proto esp > /dev/null; {OURS} state -s {at}")[1]
    assert "expire add: soft 0(sec), hard 16(sec)" in larval
    assert call([], f"{OURS} state {at} flush") == (0, "", "")


def test_what_is_refused_stops_nothing_else(at: str) -> None:
    words = f"net.core.nosuch {LARVAL_DROP}=99999999999 net/core/xfrm_larval_drop=0 {ACQ_EXPIRES}="
    code, out, err = call([], f"{OURS} sysctl {at} {words}")
    assert (code, out) == (1, f"{LARVAL_DROP} = 0\n")
    assert err.splitlines() == [
        "uxfrm: net.core.nosuch: No such file or directory",
        f"uxfrm: {LARVAL_DROP}: Invalid argument",
        f"uxfrm: {ACQ_EXPIRES}: Invalid argument",
    ]


@pytest.mark.linux
@pytest.mark.parametrize(
    "words", ["net.ipv4.ip_no_pmtu_disc=1", "net.ipv4.xfrm4_gc_thresh=7 8", "net.ipv4.x"]
)
def test_the_kernels_as_sysctl_sets_them(words: str) -> None:
    """In a network namespace of a user's own, where only some are."""
    name = words.partition("=")[0]
    theirs = call(KERNEL, f"sysctl -q '{words}'; code=$?; sysctl -n {name} 2> /dev/null; exit $code")
    ours = call(KERNEL, f"{OURS} sysctl --kernel '{words}'")
    assert ours[0] == theirs[0]
    assert ours[1].split("=")[-1].split() == theirs[1].split()


def test_figures_agree_with_ip(at: str) -> None:
    policies = "".join(f"{OURS} policy {at} add {ENDS} dir {way};" for way in ("in", "out", "fwd"))
    assert call([], f"{policies} {OURS} state {at} allocspi {ENDS} proto esp > /dev/null") == (0, "", "")
    found = json.loads(call([], f"{OURS} stat {at} --full --json")[1])
    states = json.loads(call([], f"{OURS} state {at} count --json")[1])
    assert found["states"]["all"] == states["sadcnt"] == 1
    assert found["states"]["kernel_buckets"] == states["sadhcnt"]
    assert (found["states"]["larval"], found["timers"]["states"]) == (1, 1)
    assert found["states"]["by_spi"] == {"entries": 1, "buckets": 8, "used": 1, "longest": 1}
    assert (found["policies"]["all"], found["policies"]["classifiers"]) == (3, 3)
    assert found["counters"] == json.loads(call([], f"{OURS} stat {at} --json")[1])


def test_the_same_figures_as_text(at: str) -> None:
    assert call([], f"{OURS} state {at} flush")[0] == 0  # larval states end by themselves
    found = json.loads(call([], f"{OURS} stat {at} --full --json")[1])
    out = call([], f"{OURS} stat {at} --full")[1]
    sections = {lines.split("\n")[0]: lines.split("\n")[1:] for lines in out.rstrip("\n").split("\n\n")}
    assert list(sections) == list(found)
    for section, figures in found.items():
        told = [line.split() for line in sections[section] if line.split()[0] in figures]
        assert [name for name, *_ in told] == list(figures)
        for name, *values in told:
            value = figures[name]
            plain = list(value.values()) if isinstance(value, dict) else [value]
            if (section, name) != ("timers", "next"):  # some time passed
                assert values == [str(each) for each in plain]


@pytest.mark.linux
def test_of_a_kernel_as_much_as_it_tells() -> None:
    script = f"""
        ip xfrm policy add {ENDS} dir in; ip xfrm policy add {ENDS} dir out
        ip xfrm state allocspi {ENDS} proto esp > /dev/null; {OURS} stat --kernel --full --json
    """
    found = json.loads(call(KERNEL, script)[1])
    assert found["states"] == {"all": 1, "kernel_buckets": 8}
    policies = {"all": 2, "incoming": 1, "outgoing": 1, "forwarded": 0, "kernel_buckets": 8}
    assert found["policies"] == policies
    assert set(found) == {"states", "policies", "counters"}


def as_nobody(words: str) -> tuple[int, str]:
    """Exit status and errors of `uxfrm` for a user without rights."""
    done = subprocess.run(
        [*AS_ROOT, *NOBODY, sys.executable, "-m", "uxfrm.cli.main", *words.split()],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"HOME": "/"},
    )  # fmt: skip
    return done.returncode, done.stderr


def test_others_may_read_sysctls_and_change_nothing() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with Daemon(Path(directory), "--anybody", prefix=AS_ROOT) as daemon:
            at = f"--socket {daemon.path}"
            assert as_nobody(f"sysctl {at}") == (0, "")
            refused = f"uxfrm: {LARVAL_DROP}: Operation not permitted\n"
            assert as_nobody(f"sysctl {at} {LARVAL_DROP}=0") == (1, refused)
            assert as_nobody(f"stat {at}") == (0, "")
            code, error = as_nobody(f"stat {at} --full")
            assert (code, "Operation not permitted" in error) == (1, True)
