"""Setups as people have them: prompts, options, a batch before pasted output, what other versions print."""

import json
import re
from datetime import UTC
from pathlib import Path

import pytest

from uxfrm.iproute2.commands import parse_batch
from uxfrm.iproute2.paste import parse_dump
from uxfrm.iproute2.requests import PolicyAdd, RestoreState, StateAdd, StateList
from uxfrm.iproute2.setup import parse_setup
from uxfrm.model.address import AF_INET6, AF_UNSPEC

DATA = Path(__file__).parent / "data"
ADD = "xfrm policy add dir in priority 7"


@pytest.mark.parametrize(
    "before",
    [
        "ip ",
        "sudo ip ",
        "sudo -n /sbin/ip ",
        "/usr/sbin/ip -s -d ",
        "$ ip ",
        "$ sudo ip ",
        "root@gw:~# ip ",
        "root@gw:/etc/ipsec.d# ip -6 ",
        "[root@gw ~]# ip ",
        "(venv) me@gw:~$ sudo ip ",
        "gw ~ # ip ",
        "-s ",
        "-f inet6 ",
    ],
)
def test_what_stands_before_a_command_is_taken(before):
    (statement,) = parse_setup([before + ADD + "\n"])
    assert isinstance(statement.command, PolicyAdd)
    assert statement.command.config.priority == 7
    assert (statement.command.config.selector.family == AF_INET6) == ("6" in before)


def test_options_that_ip_refuses():
    lines = [
        "ip -foo xfrm policy",
        "ip -f foo xfrm policy",
        "ip -n foo xfrm policy count",
        "ip -- xfrm policy count",
    ]
    assert [statement.error for statement in parse_batch(lines)] == [
        'Option "-foo" is unknown, try "ip -help".',
        'Error: argument "foo" is wrong: invalid protocol family',
        'Cannot open network namespace "foo": No such file or directory',
        None,
    ]


def test_a_commented_command_is_no_command():
    lines = ["# ip xfrm state flush", ADD, f"# ip {ADD}", "#ip xfrm state flush", f"{ADD} # ip xfrm x"]
    assert [statement.line for statement in parse_setup(lines)] == [2, 5]


def test_where_all_lines_have_a_hash_it_is_a_prompt():
    first, second = parse_setup(["# root's commands", f"# ip {ADD}", "", "# ip -6 xfrm policy flush"])
    assert isinstance(first.command, PolicyAdd)
    assert (second.line, second.error) == (4, None)


def test_pasted_output_may_follow_a_batch():
    recorded = json.loads((DATA / "filters.json").read_text())
    pasted = next(out for line, _, out, _ in recorded["lists"] if line == "xfrm state list reqid 1")
    batch = ["xfrm state add src 1.1.1.1 dst 2.2.2.2 proto esp spi 5 \\", ' enc ecb(cipher_null) ""', ""]
    lines = [*batch, "root@gw:~# ip xfrm state list reqid 1", *pasted.splitlines(), "root@gw:~#"]
    statements = list(parse_setup(lines))
    assert [s.error for s in statements] == [None] * 4
    assert [type(s.command) for s in statements] == [StateAdd, StateList, RestoreState, RestoreState]
    assert [s.line for s in statements] == [1, 4, 5, 11]


def test_hidden_keys_are_an_error_where_there_are_any():
    recorded = json.loads((DATA / "filters.json").read_text())
    shown = next(out for line, _, out, _ in recorded["lists"] if line == "xfrm state list nokeys")
    statements = list(parse_dump(shown.splitlines()))
    protocols = re.findall(r"\tproto (\w+)", shown)
    hidden = [protocol for protocol, s in zip(protocols, statements, strict=True) if s.error]
    assert hidden == [protocol for protocol in protocols if protocol in ("esp", "ah", "hao")]


def test_ipcomp_has_no_key_to_hide():
    recorded = json.loads((DATA / "filters.json").read_text())
    shown = next(
        out for line, _, out, _ in recorded["lists"] if line == "xfrm state list src 1.2.3.4 reqid 3 nokeys"
    )
    (statement,) = parse_dump(shown.splitlines())
    assert statement.error is None
    assert statement.command.dump.config.comp.name == "deflate"


def states(line):
    """The states that a recorded line left, as its listing with -s is read."""
    rows = {row[0]: row for row in json.loads((DATA / "states.json").read_text())}
    lines = rows[line][4].replace("\tLIFETIME\n", "").splitlines()
    return [statement.command.dump for statement in parse_dump(lines, {"lo": 1}.get, UTC)]


BASE = "xfrm state add src 1.2.3.4 dst 1.2.3.5 proto esp spi 5 enc aes 0x00112233445566778899aabbccddeeff"


def test_figures_that_ip_shows_in_its_own_way_are_read_back():
    (dump,) = states(f"{BASE} seq 0x01020304")
    assert dump.config.seq == 0x04030201
    (dump,) = states(f"{BASE} sel proto 135 type 1 code 2")
    assert (dump.config.selector.sport, dump.config.selector.dport) == (1, 2)
    (dump,) = states(f"{BASE} mode tunnel flag af-unspec sel proto tcp")
    assert (dump.config.selector.family, dump.config.selector.proto) == (AF_UNSPEC, 6)


# iproute2 6.15 printed these lines for flags of the numbers given, as `ip -s xfrm monitor` did for 6.1.
OFFLOAD = {
    "crypto offload parameters: dev lo dir in": 2,
    "crypto offload parameters: dev lo dir out": 0,
    "crypto offload parameters: dev lo dir out mode crypto": 0,
    "crypto offload parameters: dev lo dir in mode crypto": 2,
    "crypto offload parameters: dev lo dir out mode packet": 4,
    "crypto offload parameters: dev lo dir in mode packet": 6,
}


@pytest.mark.parametrize("text", OFFLOAD)
def test_offload_of_older_and_newer_ip(text):
    (entry,) = (row[5] for row in json.loads((DATA / "states.json").read_text()) if row[0] == f"{BASE} seq 1")
    pasted = entry.replace("\tsel ", f"\t{text}\n\tsel ")
    (statement,) = parse_dump(pasted.splitlines(), {"lo": 1}.get)
    assert statement.command.dump.config.rare.offload.flags == OFFLOAD[text]


def test_offload_of_policies_has_no_direction_in_newer_ip():
    lines = [
        "src 0.0.0.0/0 dst 0.0.0.0/0 uid 5",
        "\tdir in action allow index 8 priority 3 ptype main share any flag  ",
    ]
    lines += ["\tcrypto offload parameters: dev lo mode packet", "\tif_id 0x9"]
    (statement,) = parse_dump(lines, {"lo": 1}.get)
    assert statement.error == "Error: Policy offload is not supported."  # read, and refused by the model
