"""What host and guest say to each other: JSON messages, cut into Ethernet frames on a link of their own.

A console would do, but a tty loses what is written faster than it is read. A vector device over a socketpair
keeps frame boundaries, holds the sender back, and takes 0.1 ms there and back.

Used by guest.py on the host and by agent.py inside: so only the standard library, and little of that.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

CONTROL = 0x88B5  # the two EtherTypes of IEEE 802 for local experiments
MARKER = 0x88B6
BROADCAST = b"\xff" * 6
# vec0's default address, and the one for whoever is at the host's end of it.
GUEST_MAC, HOST_MAC = "02:00:00:00:00:02", "02:00:00:00:00:01"

MTU = 9000
HEADER = struct.Struct("!6s6sHH?")
SIZE = MTU - 64


def ethernet(kind: int, payload: bytes) -> bytes:
    """Return a broadcast frame."""
    return BROADCAST + bytes.fromhex(HOST_MAC.replace(":", "")) + kind.to_bytes(2, "big") + payload


def encode(message: dict[str, Any]) -> Iterator[bytes]:
    """Cut a message into frames. Bytes anywhere in it arrive as bytes."""
    text = json.dumps(message, default=_tagged).encode()
    for start in range(0, len(text), SIZE):
        piece = text[start : start + SIZE]
        last = start + SIZE >= len(text)
        yield HEADER.pack(BROADCAST, BROADCAST, CONTROL, len(piece), last) + piece


def _tagged(value: object) -> dict[str, str]:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": bytes(value).hex()}
    raise TypeError(f"{type(value).__name__} does not go through JSON")


def _untagged(value: dict[str, Any]) -> Any:
    return bytes.fromhex(value["$bytes"]) if value.keys() == {"$bytes"} else value


class Assembler:
    """Frames in, messages out; other traffic on the link (IPv6 greets everyone) is passed over."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, frame: bytes) -> dict[str, Any] | None:
        """Return the message that this frame completes."""
        if len(frame) < HEADER.size:
            return None
        _, _, kind, length, last = HEADER.unpack_from(frame)
        if kind != CONTROL:
            return None
        self._pieces.append(frame[HEADER.size : HEADER.size + length])
        if not last:
            return None
        text, self._pieces = b"".join(self._pieces), []
        message: dict[str, Any] = json.loads(text, object_hook=_untagged)
        return message
