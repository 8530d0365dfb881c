"""Random sessions of `ip xfrm policy`, answered by this machine's `ip` and kernel and by ours."""

import json
import random
import re
import subprocess
import sys
from datetime import UTC

import pytest

from uxfrm.iproute2.commands import answer, parse_batch
from uxfrm.iproute2.execute import execute
from uxfrm.model.error import XfrmError
from uxfrm.namespace import Namespace

ADDRESSES4 = [
    "10.1.0.0/16",
    "10.1.5.0/24",
    "10.1.5.9",
    "10/8",
    "0/0",
    "1.2.3.4",
    "1.2.3.4/255.255.0.0",
    "10.1",
]
ADDRESSES6 = [
    "fd::/16",
    "fd::1",
    "::/0",
    "::1.2.3.4",
    "::ffff:1.2.3.4/96",
    "::1:0",
    "1:0:0:2:0:0:0:3",
    "::ffff",
]
UPPER = [
    *(
        "",
        "",
        "",
        "proto tcp",
        "proto TCP",
        "proto udp sport 53",
        "proto tcp sport 0 dport 80",
        "sport 7 dport 0",
    ),
    *("proto icmp type 0", "proto icmp type 3 code 4", "proto ipv6-icmp code 1", "proto 135 type 1 code 2"),
    *("proto gre key 0", "proto gre key 1.2.3.4", "proto gre", "proto 99", "proto 0", "proto sctp dport 8"),
    *("proto icmp sport 3", "proto tcp type 3", "key 5", "proto nosuch", "sport 65536", "proto gre key 1.x"),
]
DEVICE = ["", "", "", "dev lo", "dev nosuch"]
DIRECTION = ["dir in", "dir in", "dir out", "dir fwd", "dir x", ""]
IDENTITY = ["", "", "", "ptype sub", "ptype x", "if_id 7", "mark 5", "mark 7 mask 3", "mark x"]
REST = [
    *(
        "",
        "priority 5",
        "priority 0x10",
        "priority -1",
        "action block",
        "action x",
        "flag icmp",
        "flag localok icmp",
    ),
    *(
        "flag 0x2",
        "flag 0x100",
        "limit byte-soft 5",
        "limit time-use-hard 9",
        "limit packet-hard -1",
        "limit x 5",
    ),
    *("index 8", "index 9", "index 16", "share any", "mask 5"),
]
TEMPLATES = [
    *("", "", "", "tmpl proto esp", "tmpl src 1.1.1.1 dst 2.2.2.2 proto esp mode tunnel reqid 4", "tmpl"),
    *(
        "tmpl src fd::1 dst fd::2 proto ah mode tunnel level use",
        "tmpl proto comp spi 65536",
        "tmpl proto hao",
    ),
    *(
        "tmpl proto esp spi 5 mode beet tmpl proto ah",
        "tmpl proto ipsec-any",
        "tmpl reqid 5",
        "tmpl mode tunnel",
    ),
    *("tmpl src any dst any proto esp", "tmpl proto esp mode nosuch", "tmpl src 1.1.1.1 dst fd::1 proto esp"),
    *("tmpl proto route2 mode ro", "tmpl proto esp level x", "tmpl src fd::1 proto esp mode transport"),
]
FILTERS = [
    "nosock",
    "dir in",
    "ptype sub",
    "action block",
    "priority 5",
    "index 8",
    "flag icmp",
    "flag 0x0",
    "foo",
]
OPTIONS = ["", "", "", "", "-4", "-6", "-f inet6", "-s"]
ALL = ["xfrm policy", "-s xfrm policy", "-4 xfrm policy list", "-6 xfrm policy list", "xfrm policy count"]
ALL += ["-s -s xfrm policy count", "xfrm policy getdefault"]

RUN = """
import json, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"])
one = lambda l: subprocess.run(["ip", *l.split()], capture_output=True, text=True)
print(json.dumps([(r.returncode, r.stdout, r.stderr) for l in json.load(sys.stdin) for r in [one(l)]]))
"""


def selector(random):
    ends = random.choice((ADDRESSES4, ADDRESSES4, ADDRESSES6, [*ADDRESSES4[:2], *ADDRESSES6[:2], "any", "x"]))
    parts = [
        f"{word} {random.choice(ends)}" for word in random.choice((["src"], ["dst"], ["src", "dst"], []))
    ]
    return " ".join([*parts, random.choice(UPPER), random.choice(DEVICE)])


def line(random):
    direction, identity = random.choice(DIRECTION[: random.choice((4, 4, 4, 6))]), random.choice(IDENTITY)
    parts = [selector(random), direction, identity]
    verb = random.choice(("add", "add", "add", "update", "delete", "get", "list", "list", "deleteall"))
    if verb in ("add", "update"):
        parts += [random.choice(REST), random.choice(REST), random.choice(TEMPLATES)]
    elif verb in ("delete", "get"):
        parts += [random.choice(("", "", "", "index 8", "priority 5"))]
    else:
        parts = [selector(random), random.choice(FILTERS), random.choice(["", *FILTERS])]
    if random.random() < 0.2:
        random.shuffle(parts)
    return " ".join(f"{random.choice(OPTIONS)} xfrm policy {verb} {' '.join(parts)}".split())


def still(text):
    # the kernel enlarges its table later, and only when one direction's table is full too
    text = re.sub(r"buckets: count \d+", "buckets: count N", text)
    return re.sub(r"add \d\S* \S+ use", "add NOW use", text)


def ours(namespace, text):
    """What our `ip` prints and says."""
    (statement,) = parse_batch([f"ip {text}"], {"lo": 1}.get)
    if statement.command is None:
        return "", statement.error
    try:
        statistics = text.split("xfrm")[0].count("-s")
        return execute(statement.command, namespace, statistics, UTC, {1: "lo"}.__getitem__), ""
    except XfrmError as error:
        return "", answer(error)


@pytest.mark.linux
@pytest.mark.parametrize("seed", range(4))
def test_session_is_answered_as_by_linux(seed):
    dice = random.Random(seed)
    lines = [text for number in range(300) for text in ([line(dice)] + (ALL if number % 60 == 59 else []))]
    run = subprocess.run(
        ["unshare", "--map-root-user", "--net", sys.executable, "-c", RUN],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    namespace = Namespace(randbytes=lambda n: bytes(n), now_s=1_700_000_000)
    for text, (_, out, err) in zip(lines, json.loads(run.stdout), strict=True):
        printed, said = ours(namespace, text)
        err = err.strip().replace("Failed to send delete-all request", "RTNETLINK answers")
        assert (still(printed), said) == (still(out), err), text
