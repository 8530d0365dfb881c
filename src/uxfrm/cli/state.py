"""`uxfrm state` and `uxfrm policy`: the grammar and the output of `ip xfrm`, on tables anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from uxfrm.cli.tables_json import Form, defaults
from uxfrm.cli.xfrm import connect, fail, interface, interface_name, refusals, tables_options
from uxfrm.explain.esp_sa import esp_sa_table
from uxfrm.iproute2 import requests
from uxfrm.iproute2.commands import parse_words, refusal
from uxfrm.iproute2.execute import execute
from uxfrm.iproute2.requests import Command
from uxfrm.model.error import XfrmError
from uxfrm.netlink import Client
from uxfrm.replay import private

_FAMILIES = {"-4": "inet", "-6": "inet6"}


def _as_json(command: Command, client: Client) -> Any:
    """What a listing lists; None for a command that lists nothing, and was not done."""
    nokeys = isinstance(command, requests.StateList) and command.nokeys
    form = Form(interface_name, nokeys)
    match command:
        case requests.StateList():
            return [form.state(dump) for dump in client.dump_states() if command.filter.picks(dump)]
        case requests.StateGet():
            return form.state(client.get_state(command.id))
        case requests.StateAllocSpi():
            return form.state(client.alloc_spi(command.wanted, command.low, command.high))
        case requests.StateCount():
            return client.sad_info()._asdict()
        case requests.PolicyList():
            return [form.policy(dump) for dump in client.dump_policies() if command.filter.picks(dump)]
        case requests.PolicyGet():
            return form.policy(client.get_policy(command.id))
        case requests.PolicyCount():
            ipv4, ipv6 = client.get_thresholds()
            thresholds = {"hthresh4": ipv4._asdict(), "hthresh6": ipv6._asdict()}
            return client.spd_info()._asdict() | thresholds
        case requests.PolicyGetDefault():
            return defaults(*client.get_default())
    return None


def _carry_out(
    kind: str, words: tuple[str, ...], family: str, statistics: int, as_json: bool, path: Path, kernel: bool
) -> None:
    with refusals(path, kernel):
        command = parse_words([*([family] if family else []), "xfrm", kind, *words], interface)
        with connect(path, kernel) as client:
            try:
                text = _printed(command, client, statistics, as_json)
            except XfrmError as error:
                fail(*refusal(command, error))
            click.echo(text, nl=False)


def _write_esp_sa(words: tuple[str, ...], family: str, file: Path, path: Path, kernel: bool) -> None:
    """Write what `state list WORDS` would list as Wireshark's table; say what Wireshark has no name for."""
    with refusals(path, kernel):
        command = parse_words([*([family] if family else []), "xfrm", "state", *words], interface)
        if not isinstance(command, requests.StateList):
            raise click.UsageError("--esp-sa goes with a listing: `uxfrm state list [FILTER] --esp-sa FILE`")
        with connect(path, kernel) as client:
            dumps = [dump for dump in client.dump_states() if command.filter.picks(dump)]
    text, problems = esp_sa_table(dumps)
    try:
        private.write(file, text)
    except OSError as error:
        fail(f"uxfrm: {file}: {error.strerror}", 1)
    if problems:
        fail("\n".join(f"{file}: {problem}" for problem in problems), 1)


def _printed(command: Command, client: Client, statistics: int, as_json: bool) -> str:
    found = _as_json(command, client) if as_json else None
    if found is None:
        return execute(command, client, statistics, name_of=interface_name)
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode() + "\n"


def _command(kind: str, text: str) -> click.Command:
    settings = {"ignore_unknown_options": True, "max_content_width": 110}

    @click.command(kind, help=text, context_settings=settings)
    @tables_options
    @click.option(
        "--json", "as_json", is_flag=True, help="Listings as JSON (docs/commands.md has the fields)."
    )
    @click.option("-s", "--statistics", count=True, help="More of it, as `ip -s`; -s -s for yet more.")
    @click.option("-4", "family", flag_value="-4", default="", help="IPv4 only, as `ip -4`.")
    @click.option("-6", "family", flag_value="-6", help="IPv6 only, as `ip -6`.")
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    def command(
        words: tuple[str, ...],
        family: str,
        statistics: int,
        as_json: bool,
        path: Path,
        kernel: bool,
        esp_sa: Path | None = None,
    ) -> None:
        if esp_sa is not None:
            _write_esp_sa(words, family, esp_sa, path, kernel)
            return
        _carry_out(kind, words, family, statistics, as_json, path, kernel)

    return command


state = _command(
    "state",
    """`ip xfrm state WORDS` on the tables of a daemon, or with --kernel on this machine's own.

    \b
      uxfrm state
      uxfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 1 aead 'rfc4106(gcm(aes))' 0x... 128
      uxfrm state list --kernel --json nokeys

    The words and what is printed are those of iproute2's `ip xfrm state`: add, update, allocspi, get,
    delete, list, deleteall, flush, count.
    """,
)
click.option(
    "--esp-sa",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write what is listed there, with keys, as Wireshark's table of ESP SAs (docs/wireshark.md).",
)(state)

policy = _command(
    "policy",
    """`ip xfrm policy WORDS` on the tables of a daemon, or with --kernel on this machine's own.

    \b
      uxfrm policy
      uxfrm policy list dir out --json
      uxfrm policy -s count --kernel

    The words and what is printed are those of iproute2's `ip xfrm policy`: add, update, get, delete, list,
    deleteall, flush, count, set, setdefault, getdefault.
    """,
)
