"""What the fuzzer feeds: steps, each a datagram of one of the ports, and how they are changed.

An input is steps of four bytes and a datagram: port, seconds that pass, length of the datagram. Changes know
messages and attributes, so that they get past the headers; some know nothing, so that headers are wrong too.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

CORPUS = Path(__file__).with_name("corpus.txt")
STEPS_MAX = 24
DATAGRAM_MAX = 4096

_STEP = struct.Struct("=BBH")
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")

BODIES = {
    0x10: 224, 0x11: 24, 0x12: 24, 0x13: 168, 0x14: 64, 0x15: 64, 0x16: 232, 0x17: 280, 0x18: 232, 0x19: 168,
    0x1A: 224, 0x1B: 176, 0x1C: 4, 0x1D: 0, 0x1E: 48, 0x1F: 48, 0x20: 60, 0x21: 64, 0x22: 4, 0x23: 4,
    0x24: 4, 0x25: 4, 0x26: 64, 0x27: 4, 0x28: 4,
}  # fmt: skip
"""Length of each request's struct, padded."""

SIZES = {
    1: 88, 2: 84, 3: 68, 4: 24, 5: 64, 6: 224, 7: 168, 8: 12, 9: 32, 10: 12, 11: 4, 12: 4, 13: 16, 14: 16,
    15: 8, 16: 6, 17: 76, 18: 92, 19: 40, 20: 92, 21: 8, 22: 4, 23: 28, 24: 4, 25: 1, 26: 36, 28: 8, 29: 4,
    30: 4, 31: 4, 32: 4, 33: 1, 34: 4, 35: 4, 36: 4, 37: 2, 38: 0, 39: 4, 40: 4, 41: 4,
}  # fmt: skip
"""An attribute's length, where its kind is one that has one."""

NAMES = (
    b"hmac(sha1)", b"hmac(sha256)", b"cbc(aes)", b"rfc4106(gcm(aes))", b"digest_null", b"ecb(cipher_null)",
    b"rfc3686(ctr(aes))", b"rfc7539esp(chacha20,poly1305)", b"deflate", b"\xff\xfe", b"cmac(aes)",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 4, 8, 16, 32, 50, 51, 64, 96, 108, 127, 128, 129, 160, 255, 256, 4095, 4096, 65535,
           1 << 31, (1 << 32) - 1, (1 << 64) - 1, (1 << 64) - 2, 1 << 40)  # fmt: skip
FLAGS = (0, 1, 4, 5, 0x301, 0x305, 0x105, 0x405, 0x701)


class Step(NamedTuple):
    """One datagram, sent on port `port` after `seconds`."""

    port: int
    seconds: int
    datagram: bytes


def parse(data: bytes) -> list[Step]:
    """The steps of an input, any bytes."""
    steps, at = [], 0
    while len(data) - at >= _STEP.size and len(steps) < STEPS_MAX:
        port, seconds, size = _STEP.unpack_from(data, at)
        at += _STEP.size
        steps.append(Step(port, seconds, data[at : at + size]))
        at += size
    return steps


def pack(steps: Iterable[Step]) -> bytes:
    """The steps as an input."""
    return b"".join(_STEP.pack(x.port, x.seconds, len(x.datagram)) + x.datagram for x in steps)


def corpus() -> list[bytes]:
    """The inputs that are kept: what real programs sent, and what once went wrong."""
    lines = CORPUS.read_text().splitlines()
    return [bytes.fromhex(line.split()[-1]) for line in lines if line and not line.startswith("#")]


def split(datagram: bytes) -> list[bytes]:
    """A datagram's messages, padded; the last one may be anything."""
    found = []
    while len(datagram) >= _HEADER.size:
        size = _HEADER.unpack_from(datagram)[0]
        if not _HEADER.size <= size <= len(datagram):
            break
        found.append(datagram[: (size + 3) & ~3])
        datagram = datagram[(size + 3) & ~3 :]
    return [*found, datagram] if datagram else found


def _attributes(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= _ATTRIBUTE.size:
        size = _ATTRIBUTE.unpack_from(data)[0]
        if not _ATTRIBUTE.size <= size <= len(data):
            break
        found.append(data[: (size + 3) & ~3])
        data = data[(size + 3) & ~3 :]
    return [*found, data] if data else found


class Mutator:
    """Changes inputs; the same seed makes the same changes. `pool` gives parts to put in."""

    def __init__(self, pool: list[bytes]) -> None:
        self._pool = [step for data in pool for step in parse(data)]
        self._random = random.Random()

    def mutate(self, data: bytes, seed: int) -> bytes:
        """The input changed in one to four places."""
        self._random.seed(seed)
        steps = parse(data)
        for _ in range(self._random.randint(1, 4)):
            steps = self._steps(steps)
        return pack(steps[:STEPS_MAX])

    def _steps(self, steps: list[Step]) -> list[Step]:
        choose = self._random
        at = choose.randrange(len(steps) + 1)
        change = choose.randrange(10)
        if change < 2 or at == len(steps):
            return [*steps[:at], choose.choice(self._pool), *steps[at:]]
        if change == 2:
            return steps[:at] + steps[at + 1 :]
        if change == 3:
            again = steps[at]._replace(port=choose.randrange(4), seconds=choose.choice((0, 1, 255)))
            return [*steps[: at + 1], again, *steps[at + 1 :]]
        changed = self._datagram(steps[at].datagram)[:DATAGRAM_MAX]
        return [*steps[:at], steps[at]._replace(datagram=changed), *steps[at + 1 :]]

    def _datagram(self, datagram: bytes) -> bytes:
        choose = self._random
        change = choose.randrange(8)
        if change == 0:
            return self._bytes(datagram)
        if change == 1:
            return datagram + choose.choice(self._pool).datagram
        found = split(datagram)
        if not found:
            return self._message(0x10 + choose.randrange(0x1A))
        at = choose.randrange(len(found))
        found[at] = self._changed(found[at])
        return b"".join(found)

    def _message(self, kind: int) -> bytes:
        body = bytes(BODIES.get(kind, 0))
        return _HEADER.pack(_HEADER.size + len(body), kind, 5, 1, 0) + body

    def _changed(self, message: bytes) -> bytes:
        if len(message) < _HEADER.size:
            return self._bytes(message)
        _, kind, flags, seq, pid = _HEADER.unpack_from(message)
        body = BODIES.get(kind, 0)
        fixed = message[_HEADER.size : _HEADER.size + body]
        rest = _attributes(message[_HEADER.size + body :])
        change = self._random.randrange(8)
        if change == 0:
            kind = 0x10 + self._random.randrange(0x1A)
        elif change == 1:
            flags = self._random.choice(FLAGS)
        elif change < 4:
            fixed = self._numbers(fixed)
        else:
            rest = self._list(rest)
        data = fixed + b"".join(rest)
        lie = self._random.choice((0,) * 20 + (1, -1, 4, -4))
        return _HEADER.pack(max(_HEADER.size + len(data) + lie, 0), kind, flags, seq, pid) + data

    def _list(self, rest: list[bytes]) -> list[bytes]:
        """Attributes with one more, one less, one twice or one changed."""
        choose = self._random
        if not rest or choose.randrange(3) == 0:
            return [*rest, self._attribute()]
        at = choose.randrange(len(rest))
        change = choose.randrange(6)
        if change == 0:
            return rest[:at] + rest[at + 1 :]
        if change == 1:
            return [*rest, rest[at]]
        inside = rest[at][_ATTRIBUTE.size :]
        inside = self._name(inside) if change == 2 else self._numbers(inside) if change < 5 else inside[:-4]
        kind = _ATTRIBUTE.unpack(rest[at][:4])[1] if len(rest[at]) >= 4 else 0
        if change == 5 and choose.randrange(2):
            inside += bytes(choose.choice((1, 4, 64, 512)))
        rest[at] = self._framed(kind, inside)
        return rest

    def _attribute(self) -> bytes:
        kind = self._random.choice(list(SIZES))
        size = SIZES[kind] * self._random.choice((1, 1, 1, 1, 2, 6, 7))
        data = self._random.randbytes(size) if self._random.randrange(2) else bytes(size)
        if kind in (1, 2, 3, 18, 20):
            data = self._name(data)
        return self._framed(kind | self._random.choice((0, 0, 0, 0, 0x8000, 0x4000)), data)

    def _framed(self, kind: int, data: bytes) -> bytes:
        return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)

    def _name(self, data: bytes) -> bytes:
        """An algorithm's name, and lengths of key and ICV that may hold."""
        choose = self._random
        key = choose.choice((0, 16, 20, 24, 32, 36, 64))
        bits = choose.choice((key * 8, key * 8, choose.choice(NUMBERS) & 0xFFFFFFFF))
        icv = struct.pack("=I", choose.choice((64, 96, 128, 160, 0, 129))) if choose.randrange(2) else b""
        return choose.choice(NAMES).ljust(64, b"\0") + struct.pack("=I", bits) + icv + choose.randbytes(key)

    def _numbers(self, data: bytes) -> bytes:
        """One aligned number replaced."""
        if not data:
            return data
        size = self._random.choice((1, 1, 2, 4, 8))
        at = self._random.randrange(len(data)) // size * size
        number = self._random.choice((*NUMBERS, self._random.getrandbits(8), self._random.getrandbits(64)))
        little = (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        value = self._random.choice((little, little[::-1]))
        return (data[:at] + value + data[at + size :])[: len(data)]

    def _bytes(self, data: bytes) -> bytes:
        """Bytes changed, cut, or added, knowing nothing."""
        changed = bytearray(data)
        for _ in range(self._random.randint(1, 8)):
            if changed:
                changed[self._random.randrange(len(changed))] = self._random.randrange(256)
        if self._random.randrange(3) == 0:
            del changed[self._random.randrange(len(changed) + 1) :]
        return bytes(changed) + self._random.randbytes(self._random.choice((0, 0, 0, 1, 5)))
