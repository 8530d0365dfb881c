"""Dumps and batches of the captures, read and printed."""

import re
from datetime import UTC
from pathlib import Path

import pytest

from uxfrm.iproute2.commands import parse_batch
from uxfrm.iproute2.execute import execute
from uxfrm.iproute2.output import show_policy, show_state
from uxfrm.iproute2.paste import parse_dump
from uxfrm.iproute2.requests import PolicyList, StateList
from uxfrm.iproute2.setup import parse_setup
from uxfrm.namespace import Namespace

DATA = Path(__file__).parents[1] / "captures" / "data"
DUMPS = sorted([*DATA.glob("*/state-?.txt"), *DATA.glob("*/policy-?.txt")])
BATCHES = sorted(DATA.glob("*/setup-?.batch"))
RUNNING = [  # figures that packets and the clock made
    (r"index \d+", "index N"),
    (r"\d+\(bytes\), \d+\(packets\)\n\t  add .*", "COUNTED"),
    (r"(anti-replay context:).*", r"\1"),
    (r"\t seq-hi .*", "COUNTERS"),
    (r"(\t replay_window .*)\n(?:\t (?:[0-9a-f]{8} )+\n)+", r"\1\n"),
    (r"replay-window \d+ replay \d+ failed \d+", "STATS"),
]


def printed(lines, statistics=True):
    out = ""
    for statement in parse_dump(lines, zone=UTC):
        assert statement.error is None
        dump = statement.command.dump
        show = show_policy if hasattr(dump.config, "templates") else show_state
        out += show(dump, statistics=statistics, zone=UTC)
    return out


def still(text):
    for pattern, instead in RUNNING:
        text = re.sub(pattern, instead, text)
    return text


@pytest.mark.parametrize("path", DUMPS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_dump_is_printed_back(path):
    text = path.read_text()
    assert printed(text.splitlines(True)) == text
    ragged = [f"  {line.strip()}   \r\n" for line in text.splitlines()]
    assert printed(["root@a:~# ip -s xfrm state\r\n", *ragged, "root@a:~#\r\n"]) == text
    brief = printed(text.splitlines(True), statistics=False)
    assert printed(brief.splitlines(True), statistics=False) == brief


@pytest.mark.parametrize("path", BATCHES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_batch_makes_the_hosts_tables(path):
    namespace = Namespace(randbytes=lambda n: bytes(n), now_s=1_700_000_000)
    for statement in parse_setup(path.read_text().splitlines(True)):
        assert statement.error is None
        assert execute(statement.command, namespace) == ""
    side = path.stem[-1]
    for command, name in ((StateList(), "state"), (PolicyList(), "policy")):
        expected = (path.parent / f"{name}-{side}.txt").read_text()
        got = execute(command, namespace, statistics=True, zone=UTC)
        assert still(got) == still(expected)


def test_hidden_keys_are_an_error_and_reading_goes_on():
    text = (DATA / "esp-gcm128-icv128/state-b.txt").read_text()
    first = re.sub(r"0x[0-9a-f]{40} \(160 bits\)", "<<Keys hidden>>", text, count=1)
    one, two = parse_dump(first.splitlines(True))
    assert one.error == "the keys are hidden"
    assert two.error is None


@pytest.mark.parametrize(
    "line",
    [
        "xfrm state add src ::1 dst ::2 proto esp aead 'rfc4106(gcm(aes))' 128 0xdeadbeefdeadbeef",
        "xfrm state add src ::1 dst ::2 proto esp enc aes 0xdeadbeefdeadbeefzz",
        "xfrm state add src ::1 dst ::2 proto esp enc aes deadbeef deadbeef",
        "xfrm state add src ::1 dst ::2 proto esp enc 0xdeadbeefdeadbeef mode tunnel",
        "0xdeadbeefdeadbeef",
        "xfrm state add src ::1 dst ::2 proto esp reqid 0xdeadbeefdeadbeef",
        "xfrm state add src ::1 dst ::2 proto esp reqid deadbeefdeadbeef",
        "deadbeefdeadbeef",
    ],
)
def test_errors_hold_no_keys(line):
    (statement,) = parse_batch([line])
    assert statement.error is not None
    assert "deadbeef" not in statement.error
