"""Make src/uxfrm/datapath/crypto/known_answers_data.py from the recorded Linux captures.

Run from the project's root: python scripts/known_answers.py. For every ESP capture the smallest frame that
the kernel sealed, with the state's keys: what the engines must reproduce before they are used.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from scapy.utils import RawPcapReader

DATA = Path("tests/captures/data")
OUT = Path("src/uxfrm/datapath/crypto/known_answers_data.py")
HEADER = '''"""ESP packets that a Linux kernel sealed, made by scripts/known_answers.py from the captures.

Each row: (source, AEAD, auth, cipher, ESN, the packet from SPI to ICV); an algorithm is (kernel name, key in
hex, ICV bits; 0: the default). The keys protected nothing but these recordings.
"""

Named = tuple[str, str, int]
Row = tuple[str, Named | None, Named | None, Named | None, bool, str]

ROWS: tuple[Row, ...] = ('''
HOST_B = bytes.fromhex("02000000000b")


def states(case: Path) -> dict[int, list[str]]:
    """SPI -> keywords of the ESP states that ip was given."""
    found = {}
    for line in (case / "setup-b.batch").read_text().splitlines():
        words = shlex.split(line)
        if words[:3] == ["xfrm", "state", "add"] and "esp" in words:
            found[int(words[words.index("spi") + 1], 0)] = words
    return found


def algorithm(words: list[str], keyword: str, bits: bool) -> list[object] | None:
    """(name, key in hex, ICV bits) of a keyword."""
    if keyword not in words:
        return None
    at = words.index(keyword)
    key = words[at + 2].removeprefix("0x")
    return [words[at + 1], key, int(words[at + 3]) if bits else 0]


def main() -> None:
    rows = []
    for case in sorted(DATA.iterdir()):
        if not case.name.startswith(("esp-", "esn-cbc", "esn-window64", "mode-tunnel-4in4-gcm")):
            continue
        truth = json.loads((case / "truth.json").read_text())
        known = states(case)
        best: tuple[int, bytes, list[str]] | None = None
        for frame, _ in RawPcapReader(str(case / "wire.pcap")):
            packet = frame[14:]
            esp = packet[20 : int.from_bytes(packet[2:4])]
            words = known.get(int.from_bytes(esp[:4]))
            sent = frame[6:12] == HOST_B
            if words and sent and packet[9] == 50 and (best is None or len(esp) < best[0]):
                best = (len(esp), esp, words)
        assert best is not None, case
        _, esp, words = best
        esn = "esn" in words
        rows.append(
            (
                f"{case.name}, Linux {truth['kernel']}",
                algorithm(words, "aead", True),
                algorithm(words, "auth-trunc", True) or algorithm(words, "auth", False),
                algorithm(words, "enc", False),
                esn,
                esp.hex(),
            )
        )
    lines = HEADER.splitlines()
    for source, aead, auth, enc, esn, packet in rows:
        parts = [f'        "{source}",']
        for value in (aead, auth, enc):
            parts.append(f"        {tuple(value) if value else None!r},")
        parts.append(f"        {esn},")
        pieces = [packet[i : i + 96] for i in range(0, len(packet), 96)]
        parts.append("        " + "\n        ".join(f'"{piece}"' for piece in pieces) + ",")
        lines += ["    (", *parts, "    ),"]
    lines.append(")")
    OUT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
