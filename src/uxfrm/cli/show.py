"""The summary of a replay, for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TextIO

from rich.console import Console
from rich.table import Table

from uxfrm.explain.oneline import protocol
from uxfrm.model.address import show
from uxfrm.replay.host import Host
from uxfrm.replay.summary import StateTotal, Summary


def show_summary(summary: Summary, host: Host, file: TextIO) -> None:
    """Print frames, outcomes, counters and totals per state."""
    console = Console(file=file, highlight=False, width=None if file.isatty() else 140)
    console.print(f"\n[bold]{_frames(host)}[/bold]")
    console.print(_outcomes(summary))
    counters = summary.counters(host.namespace)
    if counters:
        console.print(_counters(counters))
    if summary.states:
        console.print(_states(summary))
    for hint in summary.hints(host):
        console.print(f"[yellow]hint:[/yellow] {hint}")


def _frames(host: Host) -> str:
    first = host.first_ns or 0
    start = datetime.fromtimestamp(first / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    skipped = host.skipped
    left_out = [
        f"{count} {what}"
        for count, what in (
            (skipped.other, "not for this host"),
            (skipped.not_ip, "not IP"),
            (skipped.unknown, "of unknown direction"),
        )
        if count
    ]
    rest = f" ({', '.join(left_out)})" if left_out else ""
    return f"{host.frames} frames in {(host.last_ns - first) / 1e9:.3f} s from {start}{rest}"


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return table


def _outcomes(summary: Summary) -> Table:
    table = _table("direction", "outcome", "frames", right=("frames",))
    for (direction, outcome), count in sorted(summary.outcomes.items()):
        table.add_row(direction, outcome, str(count))
    return table


def _counters(counters: dict[str, int]) -> Table:
    table = _table("counter", "value", right=("value",))
    for name, value in counters.items():
        table.add_row(name, str(value))
    return table


def _states(summary: Summary) -> Table:
    numbers = ("reqid", "frames", "bytes", "packets", "old", "replayed", "failed")
    table = _table("state", "spi", *numbers, "outcomes", right=numbers)
    for total in summary.states.values():
        table.add_row(*_state(total))
    return table


def _state(total: StateTotal) -> tuple[str, ...]:
    dump = total.dump
    c = dump.config
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in total.outcomes.most_common())
    return (
        f"{protocol(c.proto)} {show(c.saddr)} > {show(c.daddr)}",
        f"0x{c.spi:08x}",
        str(c.reqid),
        str(total.frames),
        str(dump.current.bytes),
        str(dump.current.packets),
        str(dump.stats.replay_window),
        str(dump.stats.replay),
        str(dump.stats.integrity_failed),
        outcomes,
    )
