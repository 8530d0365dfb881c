"""`uxfrm replay`: play a host from a capture and say what became of every packet.

Exit codes: 0 all was read and understood; 1 something was not (a line of a setup file, a part of the
capture), the rest was done; 2 wrong usage; 3 nothing could be done (no such file, not a capture).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import click
import msgspec

from uxfrm.attach import kernel_xfrm
from uxfrm.attach.link import LINUX_SLL, LINUX_SLL2
from uxfrm.attach.pcap import CaptureError, CaptureReader, FrameBatch, open_capture
from uxfrm.attach.pcapng_writer import PcapngWriter
from uxfrm.cli.progress import compile_once, reading
from uxfrm.cli.render import Lines, header, json_lines
from uxfrm.cli.show import show_summary
from uxfrm.explain.esp_sa import esp_sa_table
from uxfrm.explain.report import WORDS, Part, Report
from uxfrm.iproute2.commands import answer
from uxfrm.model.address import Address, parse
from uxfrm.model.error import XfrmError
from uxfrm.namespace import Namespace
from uxfrm.replay import private
from uxfrm.replay.host import Host
from uxfrm.replay.setup import Interfaces, apply_setup, apply_tables
from uxfrm.replay.summary import Summary
from uxfrm.replay.tables import write_tables

EXIT_PROBLEMS, EXIT_USAGE, EXIT_NOTHING = 1, 2, 3

KERNEL = "kernel:"
"""The setup that is no file: this machine's own tables."""

COOKED = frozenset({LINUX_SLL, LINUX_SLL2})

_SELDOM = frozenset({"undecided"})


class _Mac(click.ParamType[bytes]):
    name = "MAC"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        if isinstance(value, bytes):
            return value
        try:
            found = bytes.fromhex(str(value).replace(":", "").replace("-", ""))
        except ValueError:
            found = b""
        if len(found) != 6:
            self.fail(f"{value!r} is no link address such as 02:00:00:00:00:0b", param, ctx)
        return found


class _AddressType(click.ParamType[bytes]):
    name = "ADDRESS"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, bytes):
            return value
        try:
            return parse(str(value))
        except ValueError:
            self.fail(f"{value!r} is no IPv4 or IPv6 address", param, ctx)


@dataclass
class Sinks:
    """Where packets' fates go."""

    host: Host
    text: Callable[[str], object] | None
    json: Callable[[bytes], object] | None
    capture: PcapngWriter | None
    lines: Lines
    only: frozenset[str]
    summary: Summary

    def take(self, parts: Iterable[Part]) -> None:
        """Pass on a batch of frames, which come as parts and go out in their own order."""
        lines: list[tuple[int, str]] = []
        reports: list[Report] = []
        for part in parts:
            self.summary.add(self.host.namespace.path, part)
            if self.text is not None:
                lines += self.lines.write(part)
            if self.json is not None or self.capture is not None:
                reports += self.host.reporter.reports(part)
        lines.sort(key=itemgetter(0))
        if self.text is not None:
            self.text("".join(line for _, line in lines))
        reports = [r for r in reports if not self.only or r.outcome in self.only]
        reports.sort(key=itemgetter(0))
        if self.json is not None:
            self.json(b"".join(line + b"\n" for line in json_lines(reports)))
        if self.capture is not None:
            for report in reports:
                _write_inner(self.capture, report)


def _write_inner(capture: PcapngWriter, report: Report) -> None:
    """Write the inner packet of a report, if it has one, with its outcome as comment."""
    if report.inner:
        spi = "" if report.spi is None else f", {report.proto} spi 0x{report.spi:08x} seq {report.seq}"
        counter = f" [{report.counter}]" if report.counter else ""
        comment = f"frame {report.frame} {report.direction}: {report.outcome}: {report.reason}{counter}{spi}"
        capture.write(report.inner, report.time_ns, comment)


@click.command()
@click.argument("capture", metavar="CAPTURE")
@click.option("--setup", "setups", metavar="FILE", multiple=True, required=True,
              help="States and policies: what `ip -batch` takes, or the text of `ip -s xfrm state` and "
                   "`ip -s xfrm policy`; `kernel:` for this machine's own tables as they are now. May be "
                   "given more than once.")  # fmt: skip
@click.option("--mac", type=_Mac(), help="Link address of the host to play (Ethernet captures).")
@click.option("--local", type=_AddressType(), multiple=True,
              help="An address of the host, may be repeated: tells directions where frames have no link "
                   "addresses, and delivered from forwarded.")  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object per frame; with --quiet one for the summary."
)
@click.option("--quiet", "-q", is_flag=True, help="Only the summary.")
@click.option("--only", type=click.Choice(sorted(set(WORDS.values()) - _SELDOM)), multiple=True,
              help="Show only frames with this outcome; may be repeated. The summary counts all "
                   "frames.")  # fmt: skip
@click.option("--fresh", is_flag=True,
              help="Ignore counters, sequence numbers and replay windows in pasted tables: use it where the "
                   "tables were printed after the capture was taken.")  # fmt: skip
@click.option("--tables", metavar="DIR", type=click.Path(path_type=Path),
              help="Write state.txt, policy.txt and xfrm_stat.txt there, as `ip -s xfrm state`, "
                   "`ip -s xfrm policy` and /proc/net/xfrm_stat would print them afterwards.")  # fmt: skip
@click.option("--write", "written", metavar="OUT.pcapng", type=click.Path(path_type=Path),
              help="Write the inner packets, each with its outcome as comment, for Wireshark.")  # fmt: skip
@click.option("--esp-sa", metavar="FILE", type=click.Path(path_type=Path),
              help="Write the states there, with keys, as Wireshark's table of ESP SAs "
                   "(docs/wireshark.md).")  # fmt: skip
@click.option("--engine", "engines", multiple=True, metavar="NAME",
              type=click.Choice(["ipsec_mb", "libcrypto", "libnettle"]),
              help="Crypto engines in order of preference (default: all that this machine has).")  # fmt: skip
def replay(
    capture: str,
    setups: tuple[str, ...],
    mac: bytes | None,
    local: tuple[Address, ...],
    as_json: bool,
    quiet: bool,
    only: tuple[str, ...],
    fresh: bool,
    tables: Path | None,
    written: Path | None,
    esp_sa: Path | None,
    engines: tuple[str, ...],
) -> None:
    """Play the host with link address MAC from CAPTURE and explain every packet.

    CAPTURE is pcap or pcapng (Ethernet, raw IP, Linux cooked v1 and v2; `-` reads standard input; .gz is
    read too). What the host received goes through Linux's input path with the frame's own time; what it
    sent under IPsec is opened with the outbound state, so that both directions can be read. Keys stay on
    this machine; nothing is sent anywhere.

    \b
    Exit codes:
      0  everything was read and understood
      1  a line of FILE or a part of CAPTURE was not; the rest was done
      2  wrong usage
      3  nothing could be done: a file is missing, or CAPTURE is no capture
    """
    try:
        reader = open_capture("-" if capture == "-" else capture)
    except (CaptureError, OSError) as error:
        _fail(str(error))
    with reader, ExitStack() as files:
        compile_once()
        frames = _Frames(reader)
        namespace = Namespace(randbytes=os.urandom, engines=engines or None, now_s=frames.start_s)
        interfaces = Interfaces()
        problems = _set_up(namespace, setups, fresh, interfaces)
        _check_directions(frames, mac, local)
        if esp_sa is not None:
            problems += _write_esp_sa(namespace, esp_sa)
        host = Host(namespace, mac, frozenset(local))
        sinks = _sinks(host, as_json, quiet, frozenset(only), written, files)
        with reading(reader, capture) as advance:
            for batch in frames:
                sinks.take(host.play(batch))
                advance()
        problems += reader.problems
        for problem in reader.problems:
            click.echo(problem, err=True)
    if tables is not None:
        _try(lambda: write_tables(namespace, tables, interfaces.name))
    _close(sinks, host, as_json, quiet)
    if problems:
        sys.exit(EXIT_PROBLEMS)


def _fail(text: str) -> None:
    click.echo(text, err=True)
    sys.exit(EXIT_NOTHING)


def _try(action: Callable[[], object]) -> None:
    """Do what may fail for want of disk or rights."""
    try:
        action()
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}")


class _Frames(Iterator[FrameBatch]):
    """A capture's batches, the first of which is looked at before anything is set up."""

    def __init__(self, reader: CaptureReader) -> None:
        self._reader = reader
        self.first = next(reader, None)
        self._next = self.first

    @property
    def start_s(self) -> int:
        """When the capture begins, wall-clock seconds."""
        return int(self.first.time_ns[0]) // 1_000_000_000 if self.first is not None else 0

    @property
    def needs_help(self) -> bool:
        """True where the frames do not tell by themselves which way they went."""
        return self.first is not None and not set(self.first.link.tolist()) <= COOKED

    def __next__(self) -> FrameBatch:
        if self._next is not None:
            batch, self._next = self._next, None
            return batch
        return next(self._reader)


def _set_up(namespace: Namespace, setups: tuple[str, ...], fresh: bool, interfaces: Interfaces) -> list[str]:
    """Apply the setup files; return the problems, which have been printed."""
    problems: list[str] = []
    for name in setups:
        if name == KERNEL:
            problems += _from_kernel(namespace, fresh)
            continue
        try:
            with open(name, encoding="utf-8", errors="replace") as file:
                problems += apply_setup(namespace, file, name, fresh, interfaces)
        except OSError as error:
            _fail(f"{name}: {error.strerror}")
    for problem in problems:
        click.echo(problem, err=True)
    return problems


def _write_esp_sa(namespace: Namespace, path: Path) -> list[str]:
    """Write Wireshark's table of the states as they were set up; return what it has no name for."""
    text, problems = esp_sa_table(namespace.dump_states())
    _try(lambda: private.write(path, text))
    for problem in problems:
        click.echo(f"{path}: {problem}", err=True)
    return problems


def _from_kernel(namespace: Namespace, fresh: bool) -> list[str]:
    """Take this machine's own tables, as they are now."""
    try:
        with kernel_xfrm.connect() as client:
            return apply_tables(namespace, client.dump_states(), client.dump_policies(), KERNEL, fresh)
    except OSError as error:
        _fail(f"{KERNEL} {error.strerror}")
    except XfrmError as error:
        _fail(f"{KERNEL} {answer(error)}: reading the kernel's tables needs CAP_NET_ADMIN")
    return []


def _check_directions(frames: _Frames, mac: bytes | None, local: tuple[Address, ...]) -> None:
    """Refuse to guess which host is meant."""
    if mac is None and not local and frames.needs_help:
        raise click.UsageError("say which host to play: --mac MAC or --local ADDRESS")


def _sinks(
    host: Host,
    as_json: bool,
    quiet: bool,
    only: frozenset[str],
    written: Path | None,
    files: ExitStack,
) -> Sinks:
    """Open everything that reports go to."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    text = None if as_json or quiet else sys.stdout.write
    json = sys.stdout.buffer.write if as_json and not quiet else None
    capture = None
    if written is not None:
        capture = PcapngWriter(files.enter_context(_create(written)))
    if text is not None:
        text(header(colour))
    lines = Lines(host.reporter, colour, only)
    return Sinks(host, text, json, capture, lines, only, Summary())


def _create(path: Path) -> BinaryIO:
    """Make a file that only its owner may read: it holds what was encrypted."""
    try:
        return private.create(path)
    except OSError as error:
        _fail(f"{path}: {error.strerror}")
        raise


def _close(sinks: Sinks, host: Host, as_json: bool, quiet: bool) -> None:
    """Print the summary: beside JSON lines for people only, so that every line of output is a frame."""
    sys.stdout.flush()
    if as_json and quiet:
        sys.stdout.buffer.write(msgspec.json.encode(sinks.summary.as_dict(host)) + b"\n")
        sys.stdout.buffer.flush()
    else:
        show_summary(sinks.summary, host, sys.stderr if as_json else sys.stdout)
