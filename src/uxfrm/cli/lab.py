"""`uxfrm lab`: a small network of namespaces with uxfrm on its ends, to look at and to play with."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from uxfrm.daemon import client
from uxfrm.iproute2.commands import parse_words
from uxfrm.iproute2.execute import execute
from uxfrm.lab import names
from uxfrm.lab.ends import End, EndError
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import Plan, two_gateways, two_hosts
from uxfrm.lab.setup import Setup, gcm
from uxfrm.lab.watch import Kind, Seen
from uxfrm.model.outcome import show_counters

_INSIDE = "UXFRM_LAB_INSIDE"
_ALONE = (
    *("unshare", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
    *("sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh", sys.executable, "-m", "uxfrm.cli.main"),
)
"""How somebody who is not root is so in namespaces of their own; there must be a /dev/net/tun for all."""
_PINGS = 3


@click.command()
@click.option("--hosts", is_flag=True, help="Two hosts and a router; without it, two gateways as well.")
@click.option("--nat", is_flag=True, help="The first end is behind NAT (IPv4).")
@click.option("--mtu", type=click.IntRange(1280, 65535), default=1500, help="Of the way to the second end.")
@click.option("--in-udp", is_flag=True, help="ESP in UDP, port 4500.")
@click.option("--clear", is_flag=True, help="Without uxfrm: see what the router sees then.")
@click.option("--stay", is_flag=True, help="Keep it until Enter is pressed, and say how to get in.")
def lab(hosts: bool, nat: bool, mtu: int, in_udp: bool, clear: bool, stay: bool) -> None:
    """Build a lab, ping through it, show what the router saw and what the ends' tables say; remove it.

    \b
      a - ga - router - gb - b       the gateways ga and gb run uxfrm, with keys of this one time
      a - router - b                 with --hosts
    """
    if os.geteuid() and _INSIDE not in os.environ:
        os.environ[_INSIDE] = "1"
        os.execvp(_ALONE[0], [*_ALONE, *sys.argv[1:]])
    plan = two_hosts(mtu, nat) if hosts else two_gateways(mtu, nat)
    setup = Setup(gcm(os.urandom(20)), tunnel=not hosts, in_udp=in_udp)
    console = Console()
    try:
        with tempfile.TemporaryDirectory(prefix="uxfrm-lab-") as folder, Lab(plan) as built:
            well = _show(built, None if clear else setup, Path(folder), stay, console)
    except (EndError, OSError, subprocess.CalledProcessError) as error:
        click.echo(f"uxfrm: {error}", err=True)
        sys.exit(1)
    sys.exit(0 if well else 1)


def _show(built: Lab, setup: Setup | None, folder: Path, stay: bool, console: Console) -> bool:
    """Everything, in the order in which it happens; False where it was not as it should be."""
    console.print(_drawn(built.plan))
    ends = [End(built, number, setup, folder) for number in range(2)] if setup else []
    for end in ends:
        end.wait()
    built.watch.seen()
    arrived = [_ping(built, family, console) for family in (4, 6)]
    seen = built.watch.seen()
    console.print(_table(seen))
    for end in ends:
        console.rule(f"{end.node}: uxfrm state, uxfrm stat")
        console.print(_told(end), markup=False, highlight=False, end="")
    if stay:
        _stay(built, ends, console)
    for end in ends:
        end.stop()
    return all(arrived) and not (ends and seen.total(Kind.CLEAR))


def _drawn(plan: Plan) -> str:
    rows = [
        " - ".join(
            (plan.hosts[0], "ga", "router", "gb", plan.hosts[1]) if len(plan.nodes) > 3 else plan.nodes
        )
    ]
    for node in plan.nodes:
        addresses = (text for interface in plan.interfaces(node).values() for text in interface.addresses)
        rows.append(f"  {node:<7} {'  '.join(addresses)}")
    return "\n".join(rows)


def _ping(built: Lab, family: int, console: Console) -> bool:
    """Ping from host to host; whether all was answered."""
    a, b = (built.plan.address(host, family) for host in built.plan.hosts)
    said = built.run(built.plan.hosts[0], "ping", "-q", f"-c{_PINGS}", "-i0.2", "-W2", b, check=False)
    line = next((line for line in said.splitlines() if "packet loss" in line), "no ping")
    console.print(f"ping {a} -> {b}: {line}", highlight=False, soft_wrap=True)
    return f" {_PINGS} received" in line


def _table(seen: Seen) -> Table:
    table = Table("what", "from", "to", "packets", title="What the router saw")
    for passed, count in sorted(seen.packets.items(), key=lambda item: item[0].kind.value):
        style = "bold red" if passed.kind is Kind.CLEAR else ""
        table.add_row(passed.kind.value, passed.source, passed.destination, str(count), style=style)
    return table


def _told(end: End) -> str:
    """An end's states, without keys, and the counters that moved."""
    with client.connect(end.socket) as tables:
        states = execute(parse_words(["-s", "xfrm", "state", "list", "nokeys"]), tables)
    counters = show_counters(client.counters(end.socket)).splitlines(keepends=True)
    return states + "".join(line for line in counters if line.split()[1] != "0")


def _stay(built: Lab, ends: list[End], console: Console) -> None:
    for node in built.plan.nodes:
        console.print(f"  nsenter --net={names.path(names.name(node))} bash", highlight=False, soft_wrap=True)
    for end in ends:
        console.print(
            f"  uxfrm state --socket {end.socket}      # {end.node}", highlight=False, soft_wrap=True
        )
    click.pause("Enter removes it all.")
