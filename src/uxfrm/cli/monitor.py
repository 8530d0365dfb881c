"""`uxfrm monitor`: events as `ip xfrm monitor` prints them, or one JSON object a line."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click
import msgspec

from uxfrm.cli.tables_json import Form
from uxfrm.cli.xfrm import connect, interface_name, refusals, tables_options
from uxfrm.iproute2.monitor import show_event
from uxfrm.iproute2.words import ParseError, shown
from uxfrm.netlink import Client, EventsLost
from uxfrm.netlink.constants import Group

_OBJECTS = {
    "acquire": (Group.ACQUIRE,),
    "expire": (Group.EXPIRE,),
    "SA": (Group.SA,),
    "aevent": (Group.AEVENTS,),
    "policy": (Group.POLICY,),
    "report": (Group.REPORT,),
    "migrate": (Group.MIGRATE,),
    "all": tuple(Group),
}
_INTERRUPTED = 130


def _chosen(words: tuple[str, ...]) -> tuple[set[Group], bool]:
    """The groups that are listened to, and whether `nokeys` was said; words may be cut short."""
    groups: set[Group] = set()
    nokeys = False
    for word in words:
        if word and "nokeys".startswith(word):
            nokeys = True
            continue
        name = next((name for name in _OBJECTS if word and name.startswith(word)), None)
        if name is None:
            raise ParseError(0, f'Argument "{shown(word)}" is unknown, try "ip xfrm monitor help".')
        groups.update(_OBJECTS[name])
    return groups or set(Group), nokeys


def _follow(client: Client, statistics: bool, nokeys: bool, as_json: bool, stamped: bool) -> None:
    form = Form(interface_name, nokeys)
    while True:
        try:
            event = client.next_event()
        except EventsLost:
            click.echo('{"event":"overrun"}' if as_json else "uxfrm: events were lost", err=not as_json)
            continue
        if event is None:
            return
        stamp = datetime.now().isoformat() if stamped else ""
        if as_json:
            fields = ({"time": stamp} if stamp else {}) | form.event(event)
            text = msgspec.json.encode(fields).decode() + "\n"
        else:
            text = (f"[{stamp}] " if stamp else "") + show_event(
                event, statistics, nokeys, name_of=interface_name
            )
        sys.stdout.write(text)
        sys.stdout.flush()


@click.command(context_settings={"max_content_width": 110})
@tables_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line (docs/commands.md).")
@click.option("-s", "--statistics", is_flag=True, help="More of it, as `ip -s`.")
@click.option("--tshort", "-t", "stamped", is_flag=True, help="With the time in front, as `ip -ts`.")
@click.argument("words", nargs=-1)
def monitor(
    words: tuple[str, ...], stamped: bool, statistics: bool, as_json: bool, path: Path, kernel: bool
) -> None:
    """`ip xfrm monitor WORDS` on the tables of a daemon, or with --kernel on this machine's own.

    WORDS: all (the same as none), or any of acquire, expire, SA, aevent, policy, report, and migrate, for
    which `ip` has no word; nokeys. It ends with the daemon, or by an interrupt.
    """
    with refusals(path, kernel):
        groups, nokeys = _chosen(words)
        with connect(path, kernel) as client:
            client.join(*sorted(groups))
            try:
                _follow(client, statistics, nokeys, as_json, stamped)
            except KeyboardInterrupt:
                sys.exit(_INTERRUPTED)
