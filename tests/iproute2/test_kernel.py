"""Policies printed by this machine's `ip`, and its answers to wrong lines, beside ours."""

import json
import re
import subprocess
import sys
from itertools import product

import pytest

from uxfrm.iproute2.commands import parse_batch
from uxfrm.iproute2.execute import execute
from uxfrm.iproute2.requests import PolicyList
from uxfrm.namespace import Namespace

UPPER = [
    "",
    "proto tcp sport 4 dport 5",
    "proto icmp type 3 code 4",
    "proto gre key 1.2.3.4",
    "proto 99",
    "proto ipv6-icmp code 1",
    "proto mobility-header type 3",
    "dev lo",
    "proto sctp dport 8",
    "sport 3",
]
REST = [
    "dir in",
    "dir out priority 7 action block",
    "dir fwd ptype sub flag icmp localok if_id 42",
    "dir in mark 5 mask 0xff tmpl proto esp reqid 3 mode transport level use",
    "dir fwd limit byte-hard 5 limit time-soft 9 tmpl src 1.1.1.1 dst 2.2.2.2 proto esp spi 9 "
    "mode tunnel tmpl src 3.3.3.3 dst 4.4.4.4 proto ah reqid 1 mode tunnel",
]
ENDS = ["src 10.1.0.0/16 dst 10.2/24", "src 2001:db8::/32"]
LINES = [f"xfrm policy add {e} {u} {r}" for e, u, r in product(ENDS, UPPER, REST)]
RUN = """
import json, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"])
one = lambda l: subprocess.run(["ip", "-batch", "-"], input=l + "\\n", capture_output=True, text=True)
answers = [(l, r.returncode, r.stderr) for l in json.load(sys.stdin) for r in [one(l)]]
shows = [subprocess.run(["ip", *o, "xfrm", "policy"], capture_output=True, text=True).stdout
         for o in (["-s"], [])]
print(json.dumps([answers, shows]))
"""
KEY = "0x00112233445566778899aabbccddeeff"
WRONG = [
    f"xfrm state add src 1.1.1.1 dst 2.2.2.2 proto esp spi 1 enc aes {KEY} {rest} x"
    for rest in (
        "mode",
        "mark",
        "reqid",
        "seq",
        "replay-window",
        "flag reqid",
        "sel src",
        "sel proto",
        "limit",
        "limit byte-soft",
        "encap",
        "encap espinudp",
        "coa",
        "output-mark",
        "if_id",
        "tfcpad",
    )
]
WRONG += [
    f"xfrm policy {rest}"
    for rest in (
        "add",
        "add dir x",
        "add dir in priority x",
        "add dir in foo",
        "delete dir in",
        "get index 8",
        "flush foo",
        "set hthresh4 33 3",
        "setdefault in x",
        "list dir x",
        "add src 1.1.1.1 dst ::1 dir in",
        "foo",
        "add dir in tmpl proto x",
        "add dir in tmpl x",
        "add dir in dir out",
        "add dir in proto tcp type 3",
    )
]


def host(lines):
    run = subprocess.run(
        ["unshare", "--map-root-user", "--net", sys.executable, "-c", RUN],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(run.stdout)


def resolve(name):
    return 1 if name == "lo" else None


@pytest.mark.linux
def test_policies_are_printed_as_by_the_kernel():
    answers, shows = host(LINES)
    namespace = Namespace(randbytes=lambda n: bytes(n), now_s=1_700_000_000)
    for (line, code, _), statement in zip(answers, parse_batch(LINES, resolve), strict=True):
        assert (code == 0) == (statement.error is None), line
        if statement.command:
            execute(statement.command, namespace)
    for statistics, expected in zip((True, False), shows, strict=True):
        got = execute(PolicyList(), namespace, statistics, name_of={1: "lo"}.__getitem__)
        clean = [re.sub(r"add .* use", "add T use", text) for text in (got, expected)]
        assert clean[0] == clean[1]


@pytest.mark.linux
def test_wrong_lines_are_answered_as_by_ip():
    for line, _, stderr in host(WRONG)[0]:
        (statement,) = parse_batch([line], resolve)
        words = [part for part in stderr.split("\n") if part and not part.startswith("Command failed")]
        assert statement.error == "\n".join(words), line
