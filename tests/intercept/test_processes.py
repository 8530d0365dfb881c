"""A served command looks like the command itself: exit status, signals, terminal; nothing is left behind."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from intercept.conftest import Run, serve_words

Serve = Callable[..., Run]


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("exec false", 1)],
)
def test_exit_status(serve: Serve, script: str, status: int) -> None:
    assert serve("sh", "-c", script).status == status


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("no-such-command", 127, "uxfrm: no-such-command: No such file or directory\n"),
        ("/etc/passwd", 126, "uxfrm: /etc/passwd: Permission denied\n"),
    ],
)
def test_a_command_that_can_not_be_started(serve: Serve, command: str, status: int, words: str) -> None:
    done = serve(command)
    assert (done.status, done.err, done.said("fds")) == (status, words, [["0"]])


def test_nested_use_is_said_to_be_impossible(serve: Serve) -> None:
    done = serve(*serve_words("plain", command=["true"]))
    assert done.status == 125
    assert done.err.startswith("uxfrm: this already runs under uxfrm")
    assert done.err.count("\n") == 1


# A filter that answers seccomp(2) itself: what a sandbox does.
REFUSE = """
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, {number}), (6, 0, 0, 0x50000 | {errno}), (6, 0, 0, 0x7fff0000)]
data = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
program = struct.pack("=HxxxxxxQ", len(code), ctypes.addressof(data))
libc = ctypes.CDLL(None)
assert not libc.prctl(38, 1, 0, 0, 0) and not libc.prctl(22, 2, program, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("number", [1, 22, 38])
def test_a_host_without_seccomp_is_said_to_be_one(number: int) -> None:
    from uxfrm.intercept.machine import this_machine

    machine = this_machine()
    assert machine
    refuse = REFUSE.format(number=machine.seccomp, errno=number)
    line = [sys.executable, "-c", refuse, *serve_words("plain", command=["true"])]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125
    assert done.stderr.startswith("uxfrm: can't intercept system calls here")
    assert os.strerror(number) in done.stderr


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH]
)
@pytest.mark.parametrize("threads", ["", "threads"])
def test_signals_are_passed_on(number: signal.Signals, threads: str) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo {name}; exit 7' {name}; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        serve_words("plain", threads, command=["sh", "-c", script]), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"{name}\n"
        assert process.wait(10) == 7


def test_ignored_and_default_signals_are_the_callers() -> None:
    line = serve_words("plain", command=["grep", "SigIgn\\|SigBlk", "/proc/self/status"])
    plain = subprocess.run(line[line.index("grep") :], capture_output=True, text=True, check=True)
    served = subprocess.run(line, capture_output=True, text=True, check=True)
    assert served.stdout == plain.stdout
    for name, last in (("HUP", "1\n"), ("CHLD", "10000\n")):
        ignore = ["env", f"--ignore-signal={name}"]
        plain = subprocess.run(
            [*ignore, *line[line.index("grep") :]], capture_output=True, text=True, check=True
        )
        ignoring = subprocess.run([*ignore, *line], capture_output=True, text=True, check=True, timeout=60)
        assert plain.stdout.endswith(last)
        assert ignoring.stdout == plain.stdout


def on_terminal(command: Sequence[str], talk: Sequence[tuple[str, bytes]]) -> tuple[str, int]:
    """Run on a terminal: wait for each text, then type; the output and the exit status."""
    child, terminal = pty.fork()
    if not child:
        os.execvp(command[0], list(command))
    seen, out = 0, ""
    deadline = time.monotonic() + 20
    steps = list(talk)
    while time.monotonic() < deadline:
        if steps and steps[0][0] in out[seen:]:
            seen = len(out)
            time.sleep(0.1)
            os.write(terminal, steps.pop(0)[1])
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                data = os.read(terminal, 4096)
            except OSError:
                break
            if not data:
                break
            out += data.decode(errors="replace")
    else:
        os.kill(child, signal.SIGKILL)
    os.close(terminal)
    return out, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("threads", ["", "threads"])
def test_an_interrupt_from_the_terminal_arrives_once(threads: str) -> None:
    script = (
        "trap 'echo got' INT; echo ready; n=0; while [ $n -lt 20 ]; do sleep 0.05; n=$((n+1)); done; exit 5"
    )
    out, status = on_terminal(
        serve_words("plain", threads, command=["sh", "-c", script]), [("ready", b"\x03")]
    )
    assert out.count("got") == 1
    assert status == 5


@pytest.mark.parametrize("threads", ["", "threads"])
def test_an_interrupt_ends_both(threads: str) -> None:
    line = serve_words("plain", threads, command=["sh", "-c", "echo ready; exec sleep 30"])
    _, status = on_terminal(line, [("ready", b"\x03")])
    assert status == 130


@pytest.mark.parametrize("threads", ["", "threads"])
def test_job_control(threads: str) -> None:
    job = " ".join(serve_words("plain", threads, command=["sh", "-c", "'echo go; sleep 30'"])).encode()
    talk = [
        ("prompt>", job + b"\n"),
        ("\rgo", b"\x1a"),
        ("Stopped", b"fg\n"),
        ("sleep 30", b"\x03"),
        ("prompt>", b"echo status $?; exit 9\n"),
    ]
    out, status = on_terminal(["env", "PS1=prompt>", "bash", "--norc", "--noprofile", "-i"], talk)
    assert re.search(r"status 130\r", out), out
    assert status == 9


def test_a_shell_under_it_has_the_terminal() -> None:
    line = serve_words("plain", command=["env", "PS1=prompt>", "bash", "--norc", "--noprofile", "-i"])
    talk = [
        ("prompt>", b"sleep 30\n"),
        ("sleep 30", b"\x1a"),
        ("Stopped", b"ip xfrm state flush && echo fl''ushed; kill %1; tty; exit 4\n"),
    ]
    out, status = on_terminal(line, talk)
    assert "flushed" in out
    assert "/dev/pts/" in out
    assert status == 4


@pytest.mark.parametrize(("words", "said"), [((), 0), (("linger",), 1)])
def test_a_daemon_left_behind(serve: Serve, tmp_path: Path, words: tuple[str, ...], said: int) -> None:
    left = tmp_path / "left"
    daemon = f"sleep 0.5; ip xfrm state flush; echo $? >{left}.new; mv {left}.new {left}"
    script = f"({daemon}) >/dev/null 2>&1 & exit 6"
    done = serve("sh", "-c", script, words=words)
    assert done.status == 6
    assert len(done.said("request")) == said
    deadline = time.monotonic() + 10
    while not left.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    # Never the kernel's: without a supervisor the call fails.
    assert left.read_text() == ("0\n" if said else "1\n")


def test_many_short_programs_leave_no_file_and_no_zombie(serve: Serve) -> None:
    script = "for i in $(seq 40); do ip xfrm state flush; done; ps -o stat= --ppid $PPID | grep -c Z"
    done = serve("bash", "-c", script)
    assert done.out == "0\n"
    assert len(done.said("open")) == 40
    assert done.said("fds") == [["0"]]


def test_a_killed_supervisor_leaves_no_way_to_the_kernel(tmp_path: Path) -> None:
    script = f"echo ready; sleep 0.6; ip xfrm state >{tmp_path}/out 2>&1; echo $? >{tmp_path}/done"
    process = subprocess.Popen(
        serve_words("plain", command=["sh", "-c", script]), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    with process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
    deadline = time.monotonic() + 10
    while not (tmp_path / "done").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.05)
    assert (tmp_path / "done").read_text() == "1\n"
    assert "Function not implemented" in (tmp_path / "out").read_text()
