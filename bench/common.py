"""What the benches share: tunnels, packets, timing, tables.

Figures are ratios within one run: the machines are noisy, so everything compared is measured in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uxfrm import compiled
from uxfrm.model import algorithm as algo
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_ESP
from uxfrm.model.policy import Direction, PolicyConfig
from uxfrm.model.selector import Selector
from uxfrm.model.state import ENCAP_ESPINUDP, Encap, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.namespace import Namespace

ALGORITHMS: dict[str, Callable[[], dict[str, Any]]] = {
    "AES-GCM-128": lambda: {"aead": algo.aead("rfc4106(gcm(aes))", os.urandom(20), 128)},
    "AES-CBC-128+SHA256": lambda: {
        "crypt": algo.crypt("cbc(aes)", os.urandom(16)),
        "auth": algo.auth_trunc("hmac(sha256)", os.urandom(32), 128),
    },
    "ChaCha20-Poly1305": lambda: {"aead": algo.aead("rfc7539esp(chacha20,poly1305)", os.urandom(36), 128)},
}


Keys = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Layer:
    """One transform of a tunnel."""

    keys: Keys
    proto: int = PROTO_ESP
    mode: Mode = Mode.TUNNEL
    encap: Encap | None = None


def _ah() -> dict[str, Any]:
    return {"auth": algo.auth_trunc("hmac(sha256)", os.urandom(32), 128)}


_GCM = ALGORITHMS["AES-GCM-128"]

# Beside plain ESP in tunnel mode: what is around a packet, innermost first.
TRANSFORMS: dict[str, tuple[Layer, ...]] = {
    "AES-GCM-128 in UDP": (Layer(_GCM, encap=Encap(ENCAP_ESPINUDP, 4500, 4500, bytes(4))),),
    "AH-SHA256": (Layer(_ah, PROTO_AH),),
    "IPComp (zeros)": (Layer(lambda: {"comp": algo.comp("deflate")}, PROTO_COMP),),
    "AES-GCM-128 in AH-SHA256": (Layer(_GCM), Layer(_ah, PROTO_AH, Mode.TRANSPORT)),
    "AES-GCM-128 twice": (Layer(_GCM), Layer(_GCM, mode=Mode.TRANSPORT)),
}

# What of these the crypto library alone does: seconds add up. IPComp has no such thing.
BENEATH: dict[str, tuple[str, ...]] = {
    "AES-GCM-128 in UDP": ("AES-GCM-128",),
    "AH-SHA256": ("SHA256",),
    "AES-GCM-128 in AH-SHA256": ("AES-GCM-128", "SHA256"),
    "AES-GCM-128 twice": ("AES-GCM-128", "AES-GCM-128"),
}
_SHA256 = Layer(lambda: _ah() | {"crypt": algo.crypt("ecb(cipher_null)", b"")})


def address(*parts: int) -> bytes:
    """An IPv4 address."""
    return bytes(parts)


def inner(flow: int) -> tuple[bytes, bytes]:
    """Source and destination of a flow's inner packets."""
    return (0x0A800000 + flow).to_bytes(4), (0x0AC00000 + flow).to_bytes(4)


def endpoints(flow: int) -> tuple[bytes, bytes]:
    """Tunnel endpoints of a flow."""
    return address(192, 0, 2, 1), (0xC6330000 + flow).to_bytes(4)


def packet(flow: int, size: int) -> bytes:
    """An IPv4 UDP packet of `size` bytes."""
    source, destination = inner(flow)
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, 17, 0, source, destination)
    total = sum(struct.unpack(">10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack(">H", 0xFFFF - total) + head[12:]
    return head + struct.pack(">HHHH", 4000, 5000, size - 20, 0) + bytes(size - 28)


def tunnel(flow: int, layer: Layer, spi: int = 0x1000) -> StateConfig:
    """One state of a flow's tunnel; SPIs are counted from `spi`."""
    source, destination = endpoints(flow)
    return StateConfig(
        daddr=destination, saddr=source, spi=spi + flow, reqid=flow + 1, mode=layer.mode, encap=layer.encap,
        proto=layer.proto, **layer.keys(),
    )  # fmt: skip


def policy(flow: int, direction: Direction, layers: Sequence[Layer]) -> PolicyConfig:
    """The policy of a flow. What IPComp leaves alone comes without it."""
    (source, destination), (local, remote) = inner(flow), endpoints(flow)
    selector = Selector(2, destination, source, 32, 32)
    templates = tuple(
        Template(
            remote, local, proto=layer.proto, family=2, reqid=flow + 1, mode=layer.mode,
            optional=layer.proto == PROTO_COMP and direction == Direction.IN,
        )
        for layer in layers
    )  # fmt: skip
    return PolicyConfig(direction, selector, templates)


def gateways(flows: int, what: str) -> tuple[Namespace, Namespace]:
    """Two ends with one tunnel and one policy per flow: one of ALGORITHMS or TRANSFORMS, or SHA256."""
    layers = TRANSFORMS.get(what) or (_SHA256 if what == "SHA256" else Layer(ALGORITHMS[what]),)
    out, back = Namespace(randbytes=os.urandom), Namespace(randbytes=os.urandom)
    for flow in range(flows):
        for number, layer in enumerate(layers):
            config = tunnel(flow, layer, 0x1000 + number * flows)
            out.add_state(config)
            back.add_state(config)
        out.add_policy(policy(flow, Direction.OUT, layers))
        back.add_policy(policy(flow, Direction.IN, layers))
    return out, back


def ready() -> None:
    """Compile, saying so."""
    if compiled.cold():
        print("compiling the data path, once", file=sys.stderr)
    compiled.ready()


def best(action: Callable[[], object], seconds: float, rounds: int = 3) -> float:
    """Seconds of one call: the best of several rounds, each long enough to time."""
    action()
    start = time.perf_counter()
    action()
    once = max(time.perf_counter() - start, 1e-7)
    calls = max(1, int(seconds / rounds / once))
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(calls):
            action()
        found.append((time.perf_counter() - start) / calls)
    return min(found)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as aligned text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[i]) for line in cells)) for i, name in enumerate(names)]
    padded = (
        [cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in [names, *cells]
    )
    return "\n".join("  ".join(line) for line in padded)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def options(about: str | None, **more: Callable[[str], Any]) -> argparse.Namespace:
    """What the command line says: --json, --quick, and `more` by the type of their values."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--quick", action="store_true", help="less of everything: to see whether it works")
    for name, kind in more.items():
        parser.add_argument(f"--{name}", type=kind)
    return parser.parse_args()


def finish(rows: Sequence[dict[str, Any]], json_file: Path | None) -> None:
    """Print the table, and write it to a file if there is one."""
    print(table(rows))
    save(rows, json_file)


def save(rows: Sequence[dict[str, Any]], json_file: Path | None) -> None:
    """Write the rows to a file if there is one."""
    if json_file is not None:
        json_file.write_text(json.dumps(list(rows), indent=1) + "\n")
