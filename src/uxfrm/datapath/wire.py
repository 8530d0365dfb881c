"""Big-endian words in a byte buffer: one bounds check and one load or store each.

Byte by byte, with a check for every byte, reading a header costs more than encrypting a small packet. Each
function checks first and raises IndexError, compiled or interpreted, and only then touches memory.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy.typing as npt
from llvmlite import ir
from numba import int64, types, uint8
from numba.core import cgutils
from numba.extending import intrinsic, overload

from uxfrm.compiled import compiled

Bytes = npt.NDArray[Any]
DATA: Any = uint8[::1]


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any, bits: int) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), ir.IntType(bits).as_pointer())


def _loader(bits: int) -> Any:
    """An intrinsic that loads a big-endian word of `bits` bits, unaligned."""

    @intrinsic
    def load(typing_context: Any, data: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            where = _pointer(context, builder, signature.args[0], values[0], values[1], bits)
            word = builder.bswap(builder.load(where, align=1))
            return builder.zext(word, ir.IntType(64))

        return int64(data, int64), generate

    return load


def _storer(bits: int) -> Any:
    """An intrinsic that stores a big-endian word of `bits` bits, unaligned."""

    @intrinsic
    def store(typing_context: Any, data: Any, at: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            where = _pointer(context, builder, signature.args[0], values[0], values[1], bits)
            word = builder.trunc(values[2], ir.IntType(bits))
            builder.store(builder.bswap(word), where, align=1)
            return context.get_dummy_value()

        return types.none(data, int64, int64), generate

    return store


_load16, _load32, _load64 = _loader(16), _loader(32), _loader(64)
_store16, _store32 = _storer(16), _storer(32)


@intrinsic
def _move(typing_context: Any, data: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    """memmove between two buffers."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        target = _pointer(context, builder, signature.args[0], values[0], values[1], 8)
        origin = _pointer(context, builder, signature.args[2], values[2], values[3], 8)
        cgutils.raw_memmove(builder, target, origin, values[4], 1)
        return context.get_dummy_value()

    return types.none(data, int64, source, int64, int64), generate


def _get(data: Bytes, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size].tobytes())


def _put(data: Bytes, at: int, size: int, value: int) -> None:
    for n in range(size):
        data[at + n] = int(value) >> (8 * (size - 1 - n)) & 0xFF


def _get16(data: Bytes, at: int) -> int:
    return _get(data, at, 2)


def _get32(data: Bytes, at: int) -> int:
    return _get(data, at, 4)


def _halves(data: Bytes, at: int) -> int:
    return _get(data, at, 4) + _get(data, at + 4, 4)


def _put16(data: Bytes, at: int, value: int) -> None:
    _put(data, at, 2, value)


def _put32(data: Bytes, at: int, value: int) -> None:
    _put(data, at, 4, value)


def _copy(data: Bytes, to: int, source: Bytes, at: int, count: int) -> None:
    data[to : to + count] = source[at : at + count].copy()


@overload(_get16)
def _compiled_get16(data: Any, at: Any) -> Any:
    def implementation(data: Any, at: Any) -> Any:
        return _load16(data, at)

    return implementation


@overload(_get32)
def _compiled_get32(data: Any, at: Any) -> Any:
    def implementation(data: Any, at: Any) -> Any:
        return _load32(data, at)

    return implementation


@overload(_halves)
def _compiled_halves(data: Any, at: Any) -> Any:
    def implementation(data: Any, at: Any) -> Any:
        word = _load64(data, at)
        return (word & 0xFFFFFFFF) + ((word >> 32) & 0xFFFFFFFF)

    return implementation


@overload(_put16)
def _compiled_put16(data: Any, at: Any, value: Any) -> Any:
    def implementation(data: Any, at: Any, value: Any) -> Any:
        return _store16(data, at, value)

    return implementation


@overload(_put32)
def _compiled_put32(data: Any, at: Any, value: Any) -> Any:
    def implementation(data: Any, at: Any, value: Any) -> Any:
        return _store32(data, at, value)

    return implementation


@overload(_copy)
def _compiled_copy(data: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
    def implementation(data: Any, to: Any, source: Any, at: Any, count: Any) -> Any:
        return _move(data, to, source, at, count)  # type: ignore[call-arg]

    return implementation


@compiled(int64(DATA, int64))
def read16(data: Bytes, at: int) -> int:
    """The 16-bit word at `at`."""
    if at < 0 or at + 2 > data.shape[0]:
        raise IndexError
    return _get16(data, at)


@compiled(int64(DATA, int64))
def read32(data: Bytes, at: int) -> int:
    """The 32-bit word at `at`."""
    if at < 0 or at + 4 > data.shape[0]:
        raise IndexError
    return _get32(data, at)


@compiled(int64(DATA, int64, int64))
def sum16(data: Bytes, at: int, length: int) -> int:
    """The ones' complement sum of `length` bytes at `at`; an odd byte counts as the high one (RFC 1071)."""
    end = at + length
    if at < 0 or length < 0 or end > data.shape[0]:
        raise IndexError
    total = 0
    for k in range(length >> 3):
        total += _halves(data, at + 8 * k)
    at += length & ~7
    if at + 4 <= end:
        total += _get32(data, at)
        at += 4
    if at + 2 <= end:
        total += _get16(data, at)
        at += 2
    if at < end:
        total += int(data[at]) << 8
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@compiled(numba.void(DATA, int64, int64))
def write16(data: Bytes, at: int, value: int) -> None:
    """Store the low 16 bits of `value` at `at`."""
    if at < 0 or at + 2 > data.shape[0]:
        raise IndexError
    _put16(data, at, value)


@compiled(numba.void(DATA, int64, int64))
def write32(data: Bytes, at: int, value: int) -> None:
    """Store the low 32 bits of `value` at `at`."""
    if at < 0 or at + 4 > data.shape[0]:
        raise IndexError
    _put32(data, at, value)


@compiled(numba.void(DATA, int64, DATA, int64, int64))
def copy(data: Bytes, to: int, source: Bytes, at: int, count: int) -> None:
    """Copy `count` bytes; the two places may overlap."""
    if to < 0 or at < 0 or count < 0 or to + count > data.shape[0] or at + count > source.shape[0]:
        raise IndexError
    _copy(data, to, source, at, count)
