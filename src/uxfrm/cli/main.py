"""The command line: `uxfrm COMMAND`. Each command has a module of its own beside this one."""

from __future__ import annotations

import os
from importlib import import_module

import click

from uxfrm import __version__

COMMANDS = {
    "replay": "Explain a capture: what Linux did with every packet, and why.",
    "run": "Start a program with its IPsec (NETLINK_XFRM) served by uxfrm.",
    "daemon": "Keep the tables that programs under `uxfrm run` share.",
    "up": "Bring up a host's IPsec from one file: attachments, policies, states.",
    "down": "End it, and let traffic go as without it.",
    "lab": "Build a small network of namespaces with uxfrm in it, and show it at work.",
    "state": "`ip xfrm state` on a daemon's tables, or the kernel's.",
    "policy": "`ip xfrm policy` likewise.",
    "monitor": "`ip xfrm monitor` likewise.",
    "stat": "The counters of /proc/net/xfrm_stat; with --full, the size and state of everything.",
    "sysctl": "The sysctls that XFRM reads, such as net.core.xfrm_acq_expires.",
}
_SERVING = ("daemon", "up")


class _Commands(click.Group):
    """Commands whose modules are imported when they are called: `run` must be small when it forks."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in _SERVING:
            # NumPy's OpenBLAS would start a thread for every processor, which does nothing here and keeps
            # the rights that the daemon gives up.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        found: click.Command = getattr(import_module(f"uxfrm.cli.{cmd_name}"), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


_HELP = """Linux's IPsec (XFRM) in user space: the same tables, the same decisions, and an answer to why.

\b
Start with a capture and the tables of the host it was taken on:
  tcpdump -i eth0 -w traffic.pcap esp
  (ip -s xfrm state; ip -s xfrm policy) > tables.txt
  uxfrm replay traffic.pcap --setup tables.txt --mac 02:00:00:00:00:0b
"""


@click.group(
    cls=_Commands,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="uxfrm")
def main() -> None:
    """The group of all commands."""


if __name__ == "__main__":
    main()
