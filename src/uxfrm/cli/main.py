"""The command line: `uxfrm COMMAND`. Each command has a module of its own beside this one."""

from __future__ import annotations

import click

from uxfrm import __version__
from uxfrm.cli.replay import replay

_HELP = """Linux's IPsec (XFRM) in user space: the same tables, the same decisions, and an answer to why.

\b
Start with a capture and the tables of the host it was taken on:
  tcpdump -i eth0 -w traffic.pcap esp
  (ip -s xfrm state; ip -s xfrm policy) > tables.txt
  uxfrm replay traffic.pcap --setup tables.txt --mac 02:00:00:00:00:0b
"""


@click.group(help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="uxfrm")
def main() -> None:
    """The group of all commands."""


main.add_command(replay)

if __name__ == "__main__":
    main()
