"""`uxfrm state`, `policy`, `monitor`, `stat`: what `ip` prints, on a kernel's tables and on a daemon's.

One script runs three times: with `ip` and with `uxfrm --kernel`, each in a network namespace of its own, and
with `uxfrm` on a daemon.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from daemon.test_run import ENDS, KERNEL, SCRIPTS, UXFRM, call
from uxfrm.model.outcome import Counter
from waiting import until

# As `ip`, which guesses the family of an address that is no address from what it has seen before.
OURS = " ".join(UXFRM)
KEY = "0x" + "07" * 20
AEAD = f"aead 'rfc4106(gcm(aes))' {KEY} 128"
STATE = f"state add {ENDS} proto esp spi 0x100 mode tunnel reqid 5 replay-window 32 {AEAD}"


def ours(script: str, where: str) -> str:
    """The script with `uxfrm` in place of `ip xfrm`."""
    return re.sub(r"\bip((?: -s)*) xfrm (\w+)", rf"{OURS} \2 {where}\1", script)


def masked(result: tuple[int, str, str]) -> tuple[int, str, str]:
    """Without the seconds of dates, which may pass between two runs."""
    return result[0], re.sub(r"(add|use) \d{4}-\S+ \S+", r"\1 DATE", result[1]), result[2]


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a daemon that is ready."""
    path = tmp_path_factory.mktemp("daemon") / "uxfrm.sock"
    daemon = subprocess.Popen([*UXFRM, "daemon", "--socket", str(path)], stderr=subprocess.PIPE, text=True)
    try:
        assert daemon.stderr is not None
        assert str(path) in daemon.stderr.readline()
        yield path
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0


@pytest.fixture
def empty(socket: Path) -> Path:
    """The daemon's socket, its tables empty."""
    at = f"--socket {socket}"
    script = f"{OURS} state {at} flush; {OURS} policy {at} flush; {OURS} policy {at} flush ptype sub"
    reset = f"{OURS} policy {at} setdefault in accept fwd accept out accept"
    hashes = f"{OURS} policy {at} set hthresh4 32 32 hthresh6 128 128"
    assert call([], f"{script}; {reset}; {hashes}") == (0, "", "")
    return socket


# `ip xfrm nosuch` is uxfrm's own usage, not ip's; a daemon that served other scripts has its own indexes.
REFUSALS = SCRIPTS["refusals"].replace("ip xfrm nosuch; ", "")


@pytest.mark.linux
@pytest.mark.compiled
@pytest.mark.parametrize("name", SCRIPTS)
def test_what_ip_prints_uxfrm_prints(name: str) -> None:
    script = REFUSALS if name == "refusals" else SCRIPTS[name]
    theirs = masked(call(KERNEL, script))
    assert theirs[1] or theirs[2]
    assert masked(call(KERNEL, ours(script, "--kernel"))) == theirs
    daemon = f"""
        S=$(mktemp -u /tmp/uxfrm-test-XXXXXX.sock); mkfifo $S.ready
        {OURS} daemon --socket $S 2> $S.ready & read line < $S.ready
        ({ours(script, "--socket $S")}) ; code=$?; kill $!; wait $!; rm -f $S $S.ready; exit $code
    """
    assert masked(call([], daemon)) == theirs


GRAMMAR = (
    "state foo", "state add", "state add src 1 dst", "policy add dir out action nope", "state help",
    "state list src 1.2.3.4/99", "monitor foo", "policy delete index 9 dir out",
)  # fmt: skip


@pytest.mark.linux
@pytest.mark.parametrize("words", GRAMMAR)
def test_grammar_ends_as_it_ends_ip(words: str) -> None:
    code, out, err = call(KERNEL, f"ip xfrm {words}")
    kind, *rest = words.split()
    found = call(KERNEL, f"{OURS} {kind} --kernel {' '.join(rest)}")
    assert found[:2] == (code, out)
    assert words == "state help" or found[2].splitlines()[0] == err.splitlines()[0]


def test_a_daemons_states(empty: Path) -> None:
    at = f"--socket {empty}"
    assert call([], ours(f"ip xfrm {STATE}", at)) == (0, "", "")
    code, out, err = call([], ours(f"ip xfrm {STATE}", at))
    assert (code, out, err) == (2, "", "RTNETLINK answers: File exists\n")
    run = [*UXFRM, "run", "--daemon", str(empty), "--"]
    for words in ("", "-s"):
        theirs = call(run, f"ip {words} xfrm state")
        assert call([], f"{OURS} state {at} {words}") == theirs
        assert f"aead rfc4106(gcm(aes)) {KEY}" in theirs[1]
    assert call([], f"{OURS} state {at} list nokeys")[1].count("<<Keys hidden>>") == 1


def test_states_for_wireshark(empty: Path, tmp_path: Path) -> None:
    """Only what is listed, readable by its owner; what Wireshark cannot open is said, and is status 1."""
    file = tmp_path / "esp_sa"
    at = f"--socket {empty}"
    assert call([], ours(f"ip xfrm {STATE}", at)) == (0, "", "")
    ccm = STATE.replace("spi 0x100", "spi 0x200").replace("rfc4106(gcm(aes))", "rfc4309(ccm(aes))")
    assert call([], ours(f"ip xfrm {ccm[:-6]} 128", at).replace(KEY, KEY[:-2])) == (0, "", "")
    assert call([], f"{OURS} state {at} list spi 0x100 --esp-sa {file}") == (0, "", "")
    [row] = [line for line in file.read_text().splitlines() if line[0] != "#"]
    assert row.endswith(f'"0x00000100","AES-GCM with 16 octet ICV [RFC4106]","{KEY}","NULL",""')
    assert file.stat().st_mode & 0o777 == 0o600
    code, out, err = call([], f"{OURS} state {at} --esp-sa {file}")
    assert (code, out) == (1, "")
    assert err == f"{file}: 10.0.0.1 > 10.0.0.2 spi 0x00000200: Wireshark has no rfc4309(ccm(aes))\n"
    assert file.read_text().count(KEY[:-2]) == 1
    assert call([], f"{OURS} state {at} flush --esp-sa {file}")[0] == 2
    assert len(json.loads(call([], f"{OURS} state {at} --json")[1])) == 2


def test_listings_as_json(empty: Path) -> None:
    at = f"--socket {empty} --json"
    assert call([], ours(f"ip xfrm {STATE} sel src 10.1.0.0/16 dst 10.2.0.0/16", f"--socket {empty}"))[0] == 0
    policy = f"{OURS} policy --socket {empty} add {ENDS} proto tcp dport 80 dir out priority 7 mark 5 mask 7"
    assert call([], f"{policy} tmpl src 1.1.1.1 dst 2.2.2.2 proto esp mode tunnel reqid 5") == (0, "", "")
    [state] = json.loads(call([], f"{OURS} state {at}")[1])
    assert (state["src"], state["dst"], state["spi"], state["reqid"]) == ("10.0.0.1", "10.0.0.2", 0x100, 5)
    assert state["aead"] == {"name": "rfc4106(gcm(aes))", "key_len": 160, "icv_len": 128, "key": KEY[2:]}
    assert state["sel"]["src"] == "10.1.0.0/16"
    assert state["lft"]["hard_byte"] is None
    [hidden] = json.loads(call([], f"{OURS} state {at} list nokeys")[1])
    assert KEY[2:] not in json.dumps(hidden)
    [found] = json.loads(call([], f"{OURS} policy {at}")[1])
    assert (found["dir"], found["priority"], found["mark"]) == ("out", 7, {"v": 5, "m": 7})
    assert found["sel"]["dport"] == 80
    assert found["tmpl"][0]["dst"] == "2.2.2.2"
    assert json.loads(call([], f"{OURS} policy {at} count")[1])["outcnt"] == 1
    assert json.loads(call([], f"{OURS} state {at} count")[1])["sadcnt"] == 1
    default = json.loads(call([], f"{OURS} policy {at} getdefault")[1])
    assert default == {"in": "accept", "fwd": "accept", "out": "accept"}


def test_counters(empty: Path) -> None:
    code, out, _ = call([], f"{OURS} stat --socket {empty}")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == [counter.name for counter in Counter]
    assert json.loads(call([], f"{OURS} stat --socket {empty} --json")[1])["XfrmInNoStates"] == 0


@pytest.mark.linux
def test_the_kernels_counters() -> None:
    assert call(KERNEL, f"{OURS} stat --kernel") == call(KERNEL, "cat /proc/net/xfrm_stat")


def test_without_a_daemon_it_says_so(tmp_path: Path) -> None:
    code, out, err = call([], f"{OURS} state --socket {tmp_path / 'none'}")
    assert (code, out) == (1, "")
    assert "uxfrm daemon" in err


@pytest.mark.linux
@pytest.mark.parametrize("words", ["policy count", "policy list", "state deleteall"])
def test_without_rights_the_kernel_refuses(words: str) -> None:
    """In a user namespace of its own this user has no rights over the network namespace that it is in."""
    nobody = ["unshare", "--user"]
    assert call(nobody, f"{OURS} {words} --kernel") == call(nobody, f"ip xfrm {words}")


MONITORED = f"""
    ip xfrm policy add {ENDS} dir out priority 7 tmpl proto esp mode transport
    ip xfrm policy update {ENDS} dir out priority 8; ip xfrm policy delete {ENDS} dir out
    ip xfrm state allocspi {ENDS} proto esp reqid 8 min 0x100 max 0x100 > /dev/null
    ip xfrm state delete {ENDS} proto esp spi 0x100; ip xfrm policy setdefault in block
    ip xfrm policy add {ENDS} dir in; ip xfrm policy flush; ip xfrm policy setdefault in accept
"""


PROBE = "policy --socket {} setdefault in accept"
"""Also the script's last event: by it a monitor shows that it listens, and that it has heard all."""


@contextmanager
def watching(path: Path, *watchers: list[str]) -> Iterator[list[Path]]:
    """Monitors that are listening to a daemon; the files that they write."""
    with ExitStack() as stack:
        files = [path.with_name(f"watched-{os.getpid()}-{number}") for number in range(len(watchers))]
        for file, watcher in zip(files, watchers, strict=True):
            out = stack.enter_context(file.open("w"))
            process = stack.enter_context(subprocess.Popen(watcher, stdout=out))
            stack.callback(process.send_signal, signal.SIGTERM)
        until(
            lambda: call([], f"{OURS} {PROBE.format(path)}")[0] == 0 and all(f.stat().st_size for f in files)
        )
        yield files


def since(text: str, probe: str) -> str:
    """What came after the probes."""
    while text.startswith(probe):
        text = text[len(probe) :]
    return text


@pytest.mark.linux
def test_events_of_a_daemon_are_printed_as_by_ip(empty: Path) -> None:
    """Both listen to the same daemon at the same time."""
    run = [*UXFRM, "run", "--daemon", str(empty), "--"]
    mine = [*UXFRM, "monitor", "--socket", str(empty)]
    default = "Default policies:\n in:  accept\n fwd: accept\n out: accept\n"
    with watching(empty, mine, [*run, "ip", "xfrm", "monitor", "all"]) as files:
        assert call([], ours(MONITORED, f"--socket {empty}"))[0] == 0
        until(lambda: all(since(file.read_text(), default).endswith(default) for file in files))
        found, theirs = (since(file.read_text(), default) for file in files)
    assert "Deleted" in found
    assert found == theirs


def test_events_as_json(empty: Path) -> None:
    watcher = [*UXFRM, "monitor", "--socket", str(empty), "--json", "policy"]
    default = '{"event":"getdefault","in":"accept","fwd":"accept","out":"accept"}\n'
    with watching(empty, watcher) as (file,):
        assert call([], ours(MONITORED, f"--socket {empty}"))[0] == 0
        until(lambda: since(file.read_text(), default).endswith(default))
        lines = since(file.read_text(), default).splitlines()
    names = [json.loads(line)["event"] for line in lines]
    policies = ["newpolicy", "updpolicy", "delpolicy", "getdefault", "newpolicy", "flushpolicy", "getdefault"]
    assert names == policies


CAPTURE = Path(__file__).parent.parent / "captures" / "data" / "ah-cmac-aes" / "wire.pcap"


@pytest.mark.linux
def test_replay_takes_the_kernels_own_tables(tmp_path: Path) -> None:
    """Policies and larval states of a namespace come out of replay as `ip` prints them there."""
    script = f"""
        ip xfrm policy add {ENDS} dir in priority 7 tmpl src 1.1.1.1 dst 2.2.2.2 proto esp mode tunnel
        ip xfrm policy add {ENDS} dir out priority 8 ptype sub mark 3 mask 3
        ip xfrm state allocspi {ENDS} proto esp reqid 7 mode tunnel min 0x100 max 0x100 > /dev/null
        {OURS} replay {CAPTURE} --setup kernel: --local 10.0.0.2 -q --tables {tmp_path} > /dev/null
        ip -s xfrm policy; ip -s xfrm state
    """
    code, out, err = call(KERNEL, script)
    assert (code, err) == (0, "")
    tables = (tmp_path / "policy.txt").read_text() + (tmp_path / "state.txt").read_text()
    assert masked((0, tables, "")) == masked((0, out, ""))
