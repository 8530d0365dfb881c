"""Lines and listings that the real `ip` answered: see data/README."""

import json
import re
from datetime import UTC
from pathlib import Path

import pytest

from uxfrm.iproute2.commands import answer, parse_batch
from uxfrm.iproute2.execute import execute
from uxfrm.model.error import XfrmError
from uxfrm.namespace import Namespace

DATA = Path(__file__).parent / "data"
LIFETIME = re.compile(
    r"\tlifetime config:\n"
    r"(\t  limit: soft \(INF\)\((bytes|packets)\), hard \(INF\)\((bytes|packets)\)\n){2}"
    r"(\t  expire (add|use): soft 0\(sec\), hard 0\(sec\)\n){2}"
    r"\tlifetime current:\n\t  0\(bytes\), 0\(packets\)\n\t  add \S+ \S+ use -\n"
)
KERNEL = re.compile(r"RTNETLINK answers: .*|Error: [^\"]*\.", re.DOTALL)
# `ip` newer than 6.1 has these words, and so has uxfrm
NEWER = re.compile(r"(0x00|esp) dir in$|allocspi .* if_id|offload (packet|crypto)|encap espintcp")
HIDDEN = '"..."'


def load(name):
    return json.loads((DATA / name).read_text())


def still(text):
    text = re.sub(
        r"add \d{4}-\d\d-\d\d \d\d:\d\d:\d\d use", "add NOW use", LIFETIME.sub("\tLIFETIME\n", text)
    )
    return re.sub(r"index \d+", "index N", text)


def resolve(name):
    return {"lo": 1}.get(name) or (int(name[2:]) if re.fullmatch(r"if\d+", name) else None)


def name_of(index):
    return "lo" if index == 1 else f"if{index}"


def run(line, show):
    """Our answer to a line, and the two listings after it."""
    namespace = Namespace(randbytes=lambda n: bytes(n), now_s=1_700_000_000)
    said, out = "", ""
    for statement in parse_batch([line + "\n"], resolve):
        said = statement.error or ""
        if statement.command is not None:
            try:
                out = execute(statement.command, namespace, zone=UTC, name_of=name_of)
            except XfrmError as error:
                said = answer(error)
    (command,) = parse_batch([show])
    lists = [
        still(execute(command.command, namespace, statistics, UTC, name_of)) for statistics in (True, False)
    ]
    return said, still(out), lists


def same_words(ours, theirs):
    """True when the words are `ip`'s; those of kernels differ, and keys are never shown."""
    if KERNEL.fullmatch(theirs):
        return bool(ours)
    before, found, after = ours.partition(HIDDEN)
    return ours == theirs or bool(found and theirs.startswith(before) and theirs.endswith(after))


@pytest.mark.parametrize("row", load("policies.json"), ids=lambda row: row[0])
def test_policy_line(row):
    line, _, words, out, *lists = [*row, "", "", ""][:6]
    if " ctx " in line or line.startswith("ip ") or "mode iptfs" in line:
        pytest.skip("a kernel without security contexts; what uxfrm takes and `ip` 6.1 does not")
    said, printed, listed = run(line, "xfrm policy")
    assert same_words(said, words)
    assert (printed, listed) == (still(out), [still(text) for text in lists] if lists[0] else ["", ""])


# What Linux 6.1 did and uxfrm does not: see docs/compat.md.
NOT_HERE = re.compile(r"add .*proto (hao|route2)|encap espinudp-nonike")
NOT_EVEN = re.compile(r"^xfrm m ")


@pytest.mark.parametrize("row", load("states.json"), ids=lambda row: row[0])
def test_state_line(row):
    line, code, words, out, *lists = [*row, "", "", ""][:6]
    if NEWER.search(line) or NOT_EVEN.search(line) or (not code and NOT_HERE.search(line)):
        pytest.skip("not done by uxfrm, or not by `ip` 6.1")
    said, printed, listed = run(line, "xfrm state")
    assert same_words(said, words)
    ours, theirs = (printed, *listed), (still(out), *(without_others(still(text)) for text in lists))
    if "allocspi" in line and "min" not in line:
        ours, theirs = (
            [re.sub(r"spi 0x\w+(\(\d+\))?", "spi", text) for text in texts] for texts in (ours, theirs)
        )
    assert tuple(ours) == tuple(theirs)


def without_others(text):
    """Drop what uxfrm does not make: mobility states."""
    entries = re.split(r"(?m)^(?=src )", text)
    return "".join(entry for entry in entries if not re.search(r"\tproto hao ", entry))


def test_filters_of_states():
    recorded = load("filters.json")
    namespace = Namespace(randbytes=lambda n: bytes(n), now_s=1_700_000_000)
    for statement in parse_batch(recorded["setup"], resolve):
        if "proto hao" not in recorded["setup"][statement.line - 1]:
            execute(statement.command, namespace)
    for line, _, out, words in recorded["lists"]:
        (statement,) = parse_batch([f"ip {line}"], resolve)
        assert (statement.error or "") == words, line
        if statement.command is not None:
            got = execute(statement.command, namespace, line.startswith("-s"), UTC)
            assert still(got) == without_others(out), line
