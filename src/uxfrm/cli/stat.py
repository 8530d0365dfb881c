"""`uxfrm stat`: the counters of a daemon's namespace, or of the kernel's, as /proc/net/xfrm_stat has them."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from uxfrm.cli.xfrm import EXIT_NOWHERE, fail, tables_options
from uxfrm.daemon.client import counters
from uxfrm.model.outcome import show_counters

_KERNEL = Path("/proc/net/xfrm_stat")


def _text(path: Path, kernel: bool) -> str:
    return _KERNEL.read_text() if kernel else show_counters(counters(path))


@click.command(context_settings={"max_content_width": 110})
@tables_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object: a number for each counter.")
def stat(path: Path, kernel: bool, as_json: bool) -> None:
    """Print /proc/net/xfrm_stat of a daemon's tables, or with --kernel this machine's own."""
    try:
        text = _text(path, kernel)
    except OSError as error:
        fail(f"uxfrm: {error.strerror}: {_KERNEL if kernel else path}", EXIT_NOWHERE)
    if as_json:
        values = {name: int(value) for name, value in (line.split() for line in text.splitlines())}
        text = msgspec.json.format(msgspec.json.encode(values), indent=2).decode() + "\n"
    click.echo(text, nl=False)
