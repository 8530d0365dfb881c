"""The documentation says what the code does: lists that must be complete, links that must lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from uxfrm.cli.main import main
from uxfrm.model.algorithm import AEADS, AUTHS, CRYPTS
from uxfrm.model.outcome import Counter, Outcome

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md"])


def test_every_outcome_is_in_the_table_with_its_words() -> None:
    text = (DOCS / "outcomes.md").read_text()
    missing = [o.name for o in Outcome if o.words not in text or o.name not in text]
    assert missing == []


def test_every_counter_and_algorithm_has_a_row_in_compat() -> None:
    text = (DOCS / "compat.md").read_text()
    wanted = {c.name for c in Counter} | {spec.name for spec in (*AEADS, *AUTHS, *CRYPTS)}
    assert sorted(name for name in wanted if name not in text) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_test_that_compat_names_exists() -> None:
    named = set(re.findall(r"tests/[\w/]+\.py", (DOCS / "compat.md").read_text()))
    assert named
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


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
