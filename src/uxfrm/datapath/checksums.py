"""The Internet checksum of bytes, for packets that are made one by one (RFC 1071)."""

from __future__ import annotations

import struct


def summed(data: bytes | bytearray) -> int:
    """The checksum to put into `data`, whose checksum field is 0."""
    padded = bytes(data) + bytes(len(data) & 1)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total
