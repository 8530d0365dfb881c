"""`uxfrm stat`: the counters of a daemon's namespace, or of the kernel's, as /proc/net/xfrm_stat has them.

With --full, whatever else can be counted (model.statistics).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from uxfrm.cli.xfrm import EXIT_NOWHERE, connect, fail, refusals, tables_options
from uxfrm.daemon import client
from uxfrm.model.outcome import show_counters

_KERNEL = Path("/proc/net/xfrm_stat")

Figures = dict[str, dict[str, Any]]


def _text(path: Path, kernel: bool) -> str:
    try:
        return _KERNEL.read_text() if kernel else show_counters(client.counters(path))
    except OSError as error:
        fail(f"uxfrm: {error.strerror}: {_KERNEL if kernel else path}", EXIT_NOWHERE)


def _counters(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def _of_daemon(path: Path) -> Figures:
    found: Figures = msgspec.to_builtins(client.statistics(path))
    return found


def _of_kernel(path: Path) -> Figures:
    """As much as a kernel tells, by the same names."""
    with connect(path, kernel=True) as kernel:
        states, policies = kernel.sad_info(), kernel.spd_info()
    directions = {
        "incoming": policies.incnt + policies.inscnt,
        "outgoing": policies.outcnt + policies.outscnt,
        "forwarded": policies.fwdcnt + policies.fwdscnt,
    }
    return {
        "states": {"all": states.sadcnt, "kernel_buckets": states.sadhcnt},
        "policies": {
            "all": sum(directions.values()),
            **directions,
            "kernel_buckets": policies.spdhcnt + 1,
        },
    }


def _lines(figures: dict[str, Any]) -> list[str]:
    """A section: name and figure in columns; indexes, which have several, as a table."""
    plain = {name: value for name, value in figures.items() if not isinstance(value, dict)}
    tables = {name: value for name, value in figures.items() if isinstance(value, dict)}
    lines = [f"  {name:<24} {_figure(value):>14}" for name, value in plain.items()]
    if tables:
        columns = next(iter(tables.values()))
        lines.append(f"  {'':<24} " + " ".join(f"{column:>14}" for column in columns))
    for name, values in tables.items():
        lines.append(f"  {name:<24} " + " ".join(f"{_figure(value):>14}" for value in values.values()))
    return lines


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@click.command(context_settings={"max_content_width": 110})
@tables_options
@click.option("--full", is_flag=True, help="Tables, indexes, flows, held packets, timers, memory too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: a number for each counter.")
def stat(path: Path, kernel: bool, full: bool, as_json: bool) -> None:
    """Print /proc/net/xfrm_stat of a daemon's tables, or with --kernel this machine's own."""
    text = _text(path, kernel)
    if not full:
        click.echo(_json(_counters(text)) if as_json else text, nl=False)
        return
    with refusals(path, kernel):
        figures = _of_kernel(path) if kernel else _of_daemon(path)
    figures["counters"] = _counters(text)
    if as_json:
        click.echo(_json(figures), nl=False)
    else:
        click.echo("\n\n".join("\n".join([name, *_lines(of)]) for name, of in figures.items()))


def _json(found: object) -> str:
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"
