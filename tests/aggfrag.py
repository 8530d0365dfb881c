"""Both ends of an IP-TFS tunnel, and ESP with AGGFRAG payloads made and opened without uxfrm.

What seals and opens here is pyca/cryptography's AES-GCM after RFC 4106; payloads are made after RFC 9347 6.1.
"""

from __future__ import annotations

import ipaddress
import random
import struct
from collections.abc import Iterable, Sequence

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Counter, Outcome, Verdict
from uxfrm.namespace import Namespace
from uxfrm.replay.setup import Interfaces, apply_setup

SPI, KEY, SALT, NEXT = 0x1000, bytes(range(16)), b"salt", 144
NOW = 1_700_000_000
BASIC = bytes(2)
ENDS = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
LET_IN = (Verdict.DELIVERED, Verdict.FORWARDED)


def end(
    way: str, options: str = "", version: int = 4, more: Sequence[str] = (), replay: int = 32
) -> Namespace:
    """The sending ("out") or receiving ("in") namespace; all policies of the tunnel are there."""
    source, target = ENDS[version]
    window = f"replay-window {replay}" if way == "in" and replay else ""
    made = Namespace(randbytes=random.Random(1).randbytes, now_s=NOW)
    lines = [
        f"ip xfrm state add src {source} dst {target} proto esp spi {SPI} reqid 1 mode iptfs dir {way} "
        f"{window} flag af-unspec aead rfc4106(gcm(aes)) 0x{(KEY + SALT).hex()} 128 {options}"
    ]
    for selector in ("src 10.0.1.0/24 dst 10.0.2.0/24", "src fd01::/64 dst fd02::/64"):
        lines.append(
            f"ip xfrm policy add {selector} dir {way} priority 9 "
            f"tmpl src {source} dst {target} proto esp reqid 1 mode iptfs"
        )
    problems = list(apply_setup(made, [*lines, *more], "setup", False, Interfaces()))
    assert not problems, problems
    return made


def _checksum(header: bytes) -> int:
    total = sum(struct.unpack(f">{len(header) // 2}H", header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def ipv4(number: int, size: int, tos: int = 0, proto: int = 17, df: bool = False) -> bytes:
    """An inner IPv4 packet of `size` bytes that says its number."""
    flags = 0x4000 if df else 0
    ends = bytes([10, 0, 1, 1]), bytes([10, 0, 2, 1 + number % 9])
    head = struct.pack(">BBHHHBBH4s4s", 0x45, tos, size, number & 0xFFFF, flags, 64, proto, 0, *ends)
    return head[:10] + struct.pack(">H", _checksum(head)) + head[12:] + _body(number, size - 20)


def ipv6(number: int, size: int, tos: int = 0) -> bytes:
    """An inner IPv6 packet of `size` bytes that says its number."""
    ends = (ipaddress.ip_address(text).packed for text in ("fd01::1", "fd02::1"))
    # A packet of 40 bytes has nothing else to say it with than the flow label.
    first = 6 << 28 | tos << 20 | number & 0xFFFFF
    head = struct.pack(">IHBB16s16s", first, size - 40, 17, 64, *ends)
    return head + _body(number, size - 40)


def _body(number: int, size: int) -> bytes:
    return random.Random(number).randbytes(size)


def header(block: int = 0, subtype: int = 0, flags: int = 0, rest: bytes | None = None) -> bytes:
    """The AGGFRAG header: sub-type, flags, block offset; sub-type 1 has 20 bytes more."""
    more = bytes(20) if subtype == 1 else b""
    return struct.pack(">BBH", subtype, flags, block) + (more if rest is None else rest)


def sealed(seq: int, payload: bytes, version: int = 4, tos: int = 0, next_header: int = NEXT) -> bytes:
    """An outer packet of ESP around an AGGFRAG payload."""
    padding = -(len(payload) + 2) % 4
    text = payload + bytes(range(1, padding + 1)) + bytes([padding, next_header])
    head, iv = struct.pack(">II", SPI, seq), struct.pack(">Q", seq)
    esp = head + iv + AESGCM(KEY).encrypt(SALT + iv, text, head)
    source, target = (ipaddress.ip_address(text).packed for text in ENDS[version])
    if version == 6:
        return struct.pack(">IHBB", 6 << 28 | tos << 20, len(esp), 50, 64) + source + target + esp
    outer = struct.pack(">BBHHHBBH", 0x45, tos, 20 + len(esp), 0, 0x4000, 64, 50, 0) + source + target
    return outer[:10] + struct.pack(">H", _checksum(outer)) + outer[12:] + esp


def opened(packet: bytes) -> tuple[int, int, bytes]:
    """Sequence number, next header and payload of an outer packet."""
    esp = packet[20:] if packet[0] >> 4 == 4 else packet[40:]
    text = AESGCM(KEY).decrypt(SALT + esp[8:16], esp[16:], esp[:8])
    return int.from_bytes(esp[4:8]), text[-1], text[: len(text) - 2 - text[-2]]


def outcomes(batch: Batch) -> list[Outcome]:
    return [Outcome.of(int(batch.packets[i]["outcome"])) for i in batch.in_order()]


def chosen(batch: Batch, *verdicts: Verdict) -> list[bytes]:
    """The packets of these verdicts, in the order in which they go on."""
    packets = batch.packets
    return [
        batch.packet(int(i))
        for i in batch.in_order()
        if Outcome.of(int(packets[i]["outcome"])).verdict in verdicts
    ]


def send(out: Namespace, inner: Sequence[bytes]) -> list[bytes]:
    """What goes out for inner packets that come together."""
    batch = Batch.pack(inner, int(out.now))
    out.output(batch)
    return chosen(batch, Verdict.SENT)


def receive(into: Namespace, outer: Sequence[bytes]) -> list[bytes]:
    """What is let in of outer packets that come together."""
    batch = Batch.pack(outer, int(into.now))
    into.input(batch)
    return chosen(batch, *LET_IN)


def arrived(into: Namespace, at: float) -> list[bytes]:
    """What is let in because time has passed up to `at`."""
    into.advance(at)
    return [packet for batch in into.arrived() for packet in chosen(batch, *LET_IN)]


def counted(namespace: Namespace) -> dict[str, int]:
    """The counters that are not 0."""
    return {counter.name: n for counter, n in zip(Counter, namespace.counters(), strict=True) if n}


def in_pieces(packets: Iterable[bytes], size: int) -> list[bytes]:
    """Payloads of `size` bytes that carry packets back to back, cut wherever a payload ends (RFC 9347 2.2).

    The last one is filled with padding.
    """
    packets = list(packets)
    stream, ends = b"".join(packets), []
    at = 0
    for packet in packets:
        at += len(packet)
        ends.append(at)
    room, payloads = size - 4, []
    for start in range(0, len(stream), room):
        rest = next(
            (end - start for end, p in zip(ends, packets, strict=True) if end - len(p) < start < end), 0
        )
        payloads.append((header(rest) + stream[start : start + room]).ljust(size, b"\0"))
    return payloads
