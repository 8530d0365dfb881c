"""Progress on a terminal's standard error; nothing where nobody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from uxfrm import compiled
from uxfrm.attach.pcap import CaptureReader


def compile_once() -> None:
    """Compile the data path or load it, saying so where it takes more than a moment."""
    if not compiled.cold():
        compiled.ready()
        return
    columns = (TextColumn("compiling the data path, once"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        compiled.ready(lambda done, total, _: bar.update(task, completed=done, total=total))


@contextmanager
def reading(reader: CaptureReader, name: str) -> Iterator[Callable[[], None]]:
    """Show how far a capture is read; the yielded function is called after each batch."""
    console = Console(stderr=True)
    if not console.is_terminal or sys.stdout.isatty():
        # Lines and a bar on one terminal would tear each other apart.
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name, total=reader.progress()[1])
        yield lambda: bar.update(task, completed=reader.progress()[0])
