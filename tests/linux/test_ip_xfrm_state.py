"""`ip xfrm state` under `uxfrm run`, unmodified, prints what it prints on Linux 6.1.

The guest and `uxfrm run --private` are given the same shell scripts. What differs is listed, with the reason.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from linux.guest import LinuxGuest

RECORDED = Path(__file__).parents[1] / "iproute2/data/states.json"
UXFRM = [sys.executable, "-m", "uxfrm.cli.main", "run", "--private", "--"]
ENDS = "src 10.0.0.1 dst 10.0.0.2"
ENDS6 = "src fd00::1 dst fd00::2"
GCM = f"aead 'rfc4106(gcm(aes))' 0x{'01' * 20} 128"
CBC = f"enc 'cbc(aes)' 0x{'02' * 16} auth-trunc 'hmac(sha256)' 0x{'03' * 32} 128"

# Lines of `ip` that its own parser takes, on which Linux 6.1 and uxfrm are not of one mind.
DIFFERENT = {
    r"proto (hao|route2)": "mobility states are absent: refused as by a kernel without the modules",
    r"encap espinudp-nonike": "refused, as newer kernels do",
    r"encap espintcp": "the guest's kernel is built without it; uxfrm takes it",
    r"limit time": "gone or not by the time of the list",
}
# Linux 6.18 and uxfrm say why, where 6.1 says only "Invalid argument".
NEWER_WORDS = {"Error: IPCOMP SPI must be <= 65535.": "RTNETLINK answers: Invalid argument"}

SESSIONS = {
    "add, update, get, delete": f"""
        ip xfrm state add {ENDS} proto esp spi 0x100 mode tunnel reqid 7 {GCM}
        ip xfrm state add {ENDS} proto esp spi 0x100 mode tunnel reqid 7 {GCM}
        ip xfrm state add {ENDS} proto esp spi 0x101 mode transport reqid 8 replay-window 32 {CBC} \
            sel src 10.0.0.1/32 dst 10.0.0.2/32 proto tcp dport 80
        ip xfrm state update {ENDS} proto esp spi 0x100 mode tunnel reqid 9 {GCM}
        ip xfrm state update {ENDS} proto esp spi 0x100 mode tunnel reqid 7 \
            limit byte-soft 5 {GCM}
        ip xfrm state update {ENDS} proto esp spi 0x102 {GCM}
        ip xfrm state get {ENDS} proto esp spi 0x100
        ip -s xfrm state get {ENDS} proto esp spi 0x101
        ip xfrm state get {ENDS} proto esp spi 0x103
        ip xfrm state add {ENDS} proto esp spi 0x104 mark 5 mask 7 output-mark 9 if_id 3 {GCM}
        ip xfrm state get {ENDS} proto esp spi 0x104
        ip xfrm state get {ENDS} proto esp spi 0x104 mark 5
        ip xfrm state delete {ENDS} proto esp spi 0x104
        ip xfrm state delete {ENDS} proto esp spi 0x104 mark 5
        ip xfrm state delete {ENDS} proto esp spi 0x100; ip xfrm state delete {ENDS} proto esp spi 0x100
        ip -s xfrm state; ip xfrm state count
    """,
    "allocspi": f"""
        ip xfrm state allocspi {ENDS} proto esp reqid 7 mode tunnel min 0x100 max 0x100
        ip -s xfrm state
        ip xfrm state allocspi {ENDS} proto esp reqid 7 min 0x200 max 0x100
        ip xfrm state allocspi {ENDS} proto comp min 0x100 max 0x10000
        ip xfrm state update {ENDS} proto esp spi 0x100 reqid 7 mode tunnel {GCM}
        ip xfrm state update {ENDS} proto esp spi 0x100 reqid 7 mode tunnel {CBC}
        ip -s xfrm state; ip xfrm state flush; ip xfrm state
    """,
    "lists": f"""
        ip xfrm state add {ENDS} proto esp spi 1 mode tunnel reqid 1 flag af-unspec {GCM}
        ip xfrm state add {ENDS} proto ah spi 2 reqid 2 auth 'hmac(sha1)' 0x{"05" * 20}
        ip xfrm state add src 10.0.0.2 dst 10.0.0.1 proto esp spi 3 mode tunnel flag esn \
            replay-window 128 {GCM}
        ip xfrm state add {ENDS6} proto esp spi 4 mode beet replay-window 40 {CBC}
        ip xfrm state add {ENDS} proto esp spi 5 encap espinudp 4500 4501 0.0.0.0 {CBC}
        ip xfrm state add {ENDS} proto comp spi 6 comp deflate
        ip xfrm state; ip xfrm state list nokeys; ip -4 xfrm state; ip -6 xfrm state; ip -s xfrm state
        ip xfrm state list {ENDS}; ip xfrm state list src 10.0.0.0/30; ip xfrm state list dst 10.0.0.1
        ip xfrm state list proto ah; ip xfrm state list proto esp mode tunnel; ip xfrm state list reqid 2
        ip xfrm state list spi 3; ip xfrm state list mode beet; ip xfrm state list flag esn
        ip xfrm state list src fd00::/16; ip xfrm state list proto esp src 10.0.0.1
        ip xfrm state count; ip -s xfrm state count; ip -s -s xfrm state count
        ip xfrm state deleteall proto esp mode tunnel; ip xfrm state list nokeys
        ip xfrm state flush proto esp; ip xfrm state list nokeys; ip xfrm state flush proto nosuch
        ip xfrm state deleteall; ip xfrm state; ip xfrm state deleteall
    """,
    "monitor": f"""
        ip xfrm monitor > $OUT & watcher=$!; sleep 2
        ip xfrm state add {ENDS} proto esp spi 1 mode tunnel reqid 1 flag esn replay-window 64 {GCM}
        ip xfrm state update {ENDS} proto esp spi 1 mode tunnel reqid 1 flag esn replay-window 64 {GCM}
        ip xfrm state delete {ENDS} proto esp spi 1
        ip xfrm state allocspi {ENDS} proto esp min 0x100 max 0x100 > $OUT.spi
        ip xfrm state update {ENDS} proto esp spi 0x100 mark 0 if_id 5 {CBC}
        ip xfrm state add {ENDS} proto ah spi 2 limit time-soft 1 limit time-hard 2 \
            auth 'hmac(sha1)' 0x{"05" * 20}
        sleep 4
        ip xfrm state flush proto esp; ip xfrm state flush; ip xfrm state deleteall
        sleep 2; exec 3>&2 2> /dev/null; kill $watcher; wait $watcher; exec 2>&3; cat $OUT
    """,
}


def still(text: str) -> str:
    """Without the times of day."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "NOW", text)


def both(guest: LinuxGuest, script: str, folder: Path) -> tuple[list[str], list[str]]:
    """What a script prints in a namespace of the guest and under uxfrm, each with a file $OUT of its own."""
    script = f"exec 2>&1; export LC_ALL=C\n{script}"
    file = folder / "script"
    file.write_text(script.replace("$OUT", str(folder / "out")))
    with (
        file.open() as lines,
        subprocess.Popen([*UXFRM, "sh"], stdin=lines, stdout=subprocess.PIPE, text=True) as ours,
    ):
        theirs = guest.call(
            "run", ["unshare", "--net", "sh"], script.replace("$OUT", "/run/out"), timeout=120
        )
        said, _ = ours.communicate(timeout=120)
    assert ours.returncode == theirs[0]
    return still(theirs[1]).splitlines(), still(said).splitlines()


def assert_same(theirs: list[str], ours: list[str]) -> None:
    """The same lines, but that 6.1 has fewer words."""
    ours = [NEWER_WORDS.get(line, line) for line in ours]
    different = "\n".join(difflib.unified_diff(theirs, ours, "Linux 6.1", "uxfrm", lineterm=""))
    assert not different, different


def additions() -> str:
    """The recorded lines that reach a kernel and mean the same to both, with SPIs of their own, as a script.

    Those that Linux took are one batch; what it refuses may end an `ip`.
    """
    rows = json.loads(RECORDED.read_text())
    chosen = [
        (re.sub(r"\bspi \S+", f"spi {0x1000 + n}", line, count=1), code)
        for n, (line, code, *_) in enumerate(rows)
        if line.startswith("xfrm state add ") and code in (0, 2)
        if not any(re.search(pattern, line) for pattern in DIFFERENT)
    ]
    taken = "\n".join(line for line, code in chosen if not code)
    assert taken.count("\n") > 100
    refused = [shlex.join(["ip", *shlex.split(line)]) for line, code in chosen if code]
    return "\n".join([f"ip -batch - <<'END'\n{taken}\nEND", *refused])


@pytest.mark.linux
@pytest.mark.compiled
def test_states_of_every_kind_are_taken_refused_and_shown_alike(
    own_guest: LinuxGuest, tmp_path: Path
) -> None:
    shown = "ip xfrm state; ip -s xfrm state; ip -s xfrm state count"
    theirs, ours = both(own_guest, f"{additions()}\n{shown}\n", tmp_path)
    assert_same(theirs, ours)


@pytest.mark.linux
@pytest.mark.compiled
@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_prints_what_it_prints_on_linux(own_guest: LinuxGuest, tmp_path: Path, name: str) -> None:
    theirs, ours = both(own_guest, SESSIONS[name], tmp_path)
    assert len(theirs) > 10
    assert_same(theirs, ours)
