"""The rules of the house that no reader should have to check by eye (DESIGN, "Six rules"; STYLE 8, 9, 19)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import uxfrm

ROOT = Path(uxfrm.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
CORE = ("model", "tables", "datapath", "lifecycle", "explain", "iproute2", "namespace.py")

WHY = {
    "time": "the core reads no clock: time is an argument (`advance(now)`), so that runs repeat",
    "random": "the core draws no randomness: it is given `randbytes`, so that a seed repeats a run",
    "secrets": "the core draws no randomness: it is given `randbytes`",
    "uuid": "the core draws no randomness: it is given `randbytes`",
    "socket": "the core does no I/O: packets come in batches, from attach/",
    "select": "the core does no I/O and waits for nothing",
    "selectors": "the core does no I/O and waits for nothing",
    "asyncio": "the core has no event loop; daemon/ has",
    "threading": "the core has no threads",
    "multiprocessing": "the core has no processes",
    "subprocess": "the core starts no programs",
}
CALLS = {
    "os.urandom": WHY["random"],
    "os.getrandom": WHY["random"],
    "np.random": WHY["random"],
    "numpy.random": WHY["random"],
    "os.read": WHY["socket"],
    "os.write": WHY["socket"],
    "os.fork": WHY["multiprocessing"],
    "datetime.now": WHY["time"],
    "datetime.utcnow": WHY["time"],
    "datetime.today": WHY["time"],
    "datetime.datetime.now": WHY["time"],
}
OPENING = "the core opens no files: attach/, daemon/ and cli/ do"


def is_core(path: Path) -> bool:
    return path.relative_to(ROOT).parts[0] in CORE


def name_of(source: Path) -> str:
    return str(source.relative_to(ROOT))


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def breaches(tree: ast.Module) -> list[str]:
    """Every clock, draw and I/O of a module: `line: reason`."""
    found = []
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
            found += [
                f"{node.lineno}: {CALLS[call]}"
                for alias in node.names
                if (call := f"{node.module}.{alias.name}") in CALLS
            ]
        elif isinstance(node, ast.Attribute) and dotted(node) in CALLS:
            found.append(f"{node.lineno}: {CALLS[dotted(node)]}")
        elif isinstance(node, ast.Call) and dotted(node.func) in ("open", "io.open", "os.open"):
            found.append(f"{node.lineno}: {OPENING}")
        found += [f"{node.lineno}: {WHY[m.split('.')[0]]}" for m in modules if m.split(".")[0] in WHY]
    return found


@pytest.mark.parametrize("source", [s for s in SOURCES if is_core(s)], ids=name_of)
def test_the_core_does_no_io_reads_no_clock_and_draws_no_randomness(source: Path) -> None:
    assert breaches(ast.parse(source.read_text())) == []


@pytest.mark.parametrize(
    "code",
    [
        "import time",
        "import os, random",
        "from time import monotonic",
        "import asyncio.events",
        "from os import urandom",
        "import os\nos.urandom(4)",
        "import numpy as np\nnp.random.default_rng()",
        "from datetime import datetime\ndatetime.now()",
        "def f():\n    import socket",
        "open('x')",
    ],
)
def test_the_scan_sees_what_it_is_for(code: str) -> None:
    assert breaches(ast.parse(code))


@pytest.mark.parametrize(
    "code", ["import os\nos.strerror(2)", "p['time']", "from datetime import tzinfo", "from . import time"]
)
def test_the_scan_does_not_see_ghosts(code: str) -> None:
    assert breaches(ast.parse(code)) == []


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_no_file_becomes_a_god_file(source: Path) -> None:
    lines = len(source.read_text().splitlines())
    assert lines <= 600, f"{lines} lines: it holds more than one thing; find the seam and divide it"


@pytest.mark.parametrize("source", [s for s in SOURCES if s.name != "__init__.py"], ids=name_of)
def test_every_module_says_what_it_is_for(source: Path) -> None:
    assert ast.get_docstring(ast.parse(source.read_text())), "a module opens with what it knows"


@pytest.mark.parametrize("source", [s for s in SOURCES if s.name != "__init__.py"], ids=name_of)
def test_every_public_class_says_what_it_is_for(source: Path) -> None:
    classes = [n for n in ast.parse(source.read_text()).body if isinstance(n, ast.ClassDef)]
    mute = [c.name for c in classes if not c.name.startswith("_") and not ast.get_docstring(c)]
    assert mute == []


def test_the_package_says_what_it_is_for() -> None:
    assert uxfrm.__doc__
