"""Make docs/replay.svg, the README's picture, from a recorded capture: python scripts/picture.py."""

from __future__ import annotations

import os
import re
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from uxfrm.attach.pcap import open_capture
from uxfrm.cli.render import Lines, header
from uxfrm.namespace import Namespace
from uxfrm.replay.host import Host
from uxfrm.replay.setup import Interfaces, apply_setup

CASE = Path("tests/captures/data/esp-gcm128-icv128")
SHOWN = range(26, 40)


def main() -> None:
    namespace = Namespace(randbytes=os.urandom, now_s=1)
    apply_setup(namespace, (CASE / "setup-b.batch").read_text().splitlines(), "setup", False, Interfaces())
    host = Host(namespace, bytes.fromhex("02000000000b"))
    lines = Lines(host.reporter, True, frozenset())
    found: list[tuple[int, str]] = []
    with open_capture(CASE / "wire.pcap") as capture:
        for frames in capture:
            for part in host.play(frames):
                found += lines.write(part)
    console = Console(record=True, width=172, file=StringIO())
    console.print("[bold]$ uxfrm replay wire.pcap --setup tables.txt --mac 02:00:00:00:00:0b[/]")
    console.print(Text.from_ansi(header(True).rstrip()), no_wrap=True, overflow="ellipsis")
    for number, line in sorted(found):
        if number in SHOWN:
            console.print(Text.from_ansi(line.rstrip()), no_wrap=True, overflow="ellipsis")
    picture = console.export_svg(title="uxfrm replay")
    # The fonts would be fetched from the network: the viewer's own monospace does.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.S)
    Path("docs/replay.svg").write_text(picture)


if __name__ == "__main__":
    main()
