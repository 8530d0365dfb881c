"""The documentation says what the code does: lists that must be complete, links that must lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

import pytest
from click.testing import CliRunner

from uxfrm.cli.main import main
from uxfrm.model.algorithm import AEADS, AUTHS, COMPS, CRYPTS
from uxfrm.model.outcome import Counter, Outcome
from uxfrm.model.sysctl import SYSCTLS
from uxfrm.netlink.constants import Attr, Xfrm
from uxfrm.tables.devices import _SYSCTLS as DEVICE_SYSCTLS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])
COMPAT = [DOCS / "compat.md", *sorted((DOCS / "compat").glob("*.md"))]
OTHER_TABLES = ("what", "until", "engines", "what it is in Linux")


def test_every_outcome_is_in_the_table_with_its_words() -> None:
    text = (DOCS / "outcomes.md").read_text()
    missing = [o.name for o in Outcome if o.words not in text or o.name not in text]
    assert missing == []


def first_cells(pages: Iterable[Path]) -> str:
    """What the rows of the pages' tables are about."""
    rows = [line.split("|")[1] for page in pages for line in page.read_text().splitlines() if line[:1] == "|"]
    return "\n".join(rows)


def words_of(pages: Iterable[Path]) -> set[str]:
    return set(re.findall(r"\w+", "\n".join(page.read_text() for page in pages)))


@pytest.mark.parametrize("names", [Counter, Xfrm, Attr], ids=["counters", "messages", "attributes"])
def test_every_name_of_the_kernels_has_a_row_in_compat(names: type[IntEnum]) -> None:
    rows = set(re.findall(r"\w+", first_cells(COMPAT)))
    assert sorted(one.name for one in names if one.name not in rows) == []


def test_every_sysctl_and_algorithm_has_a_row_in_compat() -> None:
    rows = first_cells(COMPAT)
    devices = {f"net.{family}.conf.DEV.{name}" for family, name in DEVICE_SYSCTLS}
    wanted = {*SYSCTLS, *devices, *(spec.name for spec in (*AEADS, *AUTHS, *CRYPTS, *COMPS))}
    assert sorted(name for name in wanted if name not in rows) == []


def test_every_outcome_is_in_the_compat_tables() -> None:
    known = words_of(COMPAT)
    assert sorted(o.name for o in Outcome if o.name not in known) == []


def rows_with_a_state() -> list[tuple[str, str, str]]:
    """The rows of all tables of what, state, shown by."""
    found, stated = [], False
    for line in "\n".join(page.read_text() for page in COMPAT).splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells or cells[0].startswith("---"):
            continue
        if cells[1:] == ["state", "shown by"] or cells[1] in OTHER_TABLES:
            stated = cells[1] == "state"
        elif stated:
            found.append((cells[0], cells[1], cells[2]))
    return found


def test_every_row_of_compat_is_done_differs_or_absent() -> None:
    """What is done names what shows it, or says that nothing does; what differs or is absent says why."""
    lacking = []
    for what, state, shown in rows_with_a_state():
        known = re.match(r"(done|see \d|(differs|absent)( |:|;).)", state)
        silent = state.startswith("done") and not shown and "without a test" not in state
        if not what or not known or (silent and "nothing to show" not in state):
            lacking.append((what, state, shown))
    assert lacking == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_sections_that_compat_refers_to_exist() -> None:
    text = "\n".join(page.read_text() for page in COMPAT)
    sections = set(re.findall(r"^## (\d+(?:\.\d+)?) ", text, re.M)) | {
        str(int(page.name[:2])) for page in COMPAT[1:]
    }
    assert {"1.1", "3.12", "4.8", "6.8", "9", "10", "11", "13"} <= sections
    found = [
        part
        for group in re.findall(r"see (\d[\d., and]*)", text)
        for part in re.findall(r"\d+(?:\.\d+)?", group)
    ]
    assert sorted(set(found) - sections) == []


def named_tests() -> set[tuple[str, str]]:
    """Every test that compat names: its file, and its function, if that is named."""
    text = "\n".join(page.read_text() for page in COMPAT)
    return set(re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text))


def test_every_test_that_compat_names_exists() -> None:
    functions = {name: functions_of(ROOT / name) for name, _ in named_tests() if (ROOT / name).exists()}
    assert functions
    missing = [
        f"{name}::{function}"
        for name, function in named_tests()
        if name not in functions or (function and function not in functions[name])
    ]
    assert sorted(missing) == []


def functions_of(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_sequence_that_compat_names_exists() -> None:
    """Names in brackets behind a test with named cases."""
    pattern = (
        r"`(tests/(?:netlink/test_kernel_answers|linux/test_netlink_states)\.py)` \(((?:\"[^\"]+\"(?:, )?)+)"
    )
    found = [match for page in COMPAT for match in re.findall(pattern, page.read_text())]
    assert found
    missing = [
        (path, name)
        for path, names in found
        for name in re.findall(r"\"([^\"]+)\"", names)
        if f'"{name}": [' not in (ROOT / path).read_text()
    ]
    assert missing == []


def test_every_option_of_replay_is_explained() -> None:
    text = (DOCS / "replay.md").read_text()
    options = re.findall(r"--[a-z]+", CliRunner().invoke(main, ["replay", "--help"]).output)
    assert sorted({option for option in options if option not in text} - {"--help"}) == []


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    pattern = r"/(work|farm)/|registry\.npmjs|" + "py" + r"pi\.org|files\.pythonhosted|" + "deb" + r"\.debian"
    found = subprocess.run(
        ["git", "grep", "-nIE", pattern, "--", "."], cwd=ROOT, capture_output=True, text=True
    )
    lines = [line for line in found.stdout.splitlines() if not line.startswith("tests/test_docs.py")]
    assert lines == []


def test_the_example_of_the_api_page_prints_what_it_says() -> None:
    blocks = re.findall(r"```(?:python)?\n(.*?)```", (DOCS / "api.md").read_text(), flags=re.S)
    source, printed = blocks
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert done.stdout == printed


def test_every_option_of_the_commands_is_explained() -> None:
    text = (DOCS / "commands.md").read_text()
    for command in ("state", "policy", "monitor", "stat"):
        options = re.findall(r"--[a-z]+", CliRunner().invoke(main, [command, "--help"]).output)
        assert sorted({option for option in options if option not in text} - {"--help", "--statistics"}) == []
