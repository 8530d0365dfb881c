"""C functions, words and bytes by address, compiled and interpreted."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.crypto.calls import call, load, load_byte, store, store_byte
from uxfrm.datapath.crypto.single import as_int, big_endian

LIBC = ctypes.CDLL(None)


def address_of(name: str) -> int:
    return ctypes.cast(getattr(LIBC, name), ctypes.c_void_p).value or 0


@compiled(int64(int64, int64))
def _compiled_abs(function: int, value: int) -> int:
    return as_int(call(function, (value,)))


@compiled(int64(int64, int64, int64, int64))
def _compiled_memcmp(function: int, a: int, b: int, length: int) -> int:
    return as_int(call(function, (a, b, length)))


@compiled(int64(int64, int64, int64))
def _move(source: int, to: int, word: int) -> int:
    store(to, load(source))
    store_byte(to + 8, load_byte(source + 8))
    store(to + 16, word)
    return load(to) ^ load_byte(to + 8)


@pytest.mark.parametrize("value", [0, 5, -5, -(2**31) + 1])
def test_ints_have_their_sign(value: int) -> None:
    assert _compiled_abs(address_of("abs"), value) == abs(value)


def test_several_arguments() -> None:
    a, b = np.frombuffer(b"abcd", np.uint8), np.frombuffer(b"abce", np.uint8)
    function = address_of("memcmp")
    assert _compiled_memcmp(function, a.ctypes.data, b.ctypes.data, 3) == 0
    assert _compiled_memcmp(function, a.ctypes.data, b.ctypes.data, 4) < 0
    assert _compiled_memcmp(function, b.ctypes.data, a.ctypes.data, 4) > 0


def test_words_and_bytes() -> None:
    source, to = np.arange(0xF0, 0x100, dtype=np.uint8), np.zeros(32, np.uint8)
    word = int(source[:8].view(np.int64)[0])
    assert _move(source.ctypes.data, to.ctypes.data + 1, -2) == word ^ 0xF8
    assert to[:10].tolist() == [0, *range(0xF0, 0xF9)]
    assert to[10:17].tolist() == [0] * 7
    assert to[17:26].tolist() == [0xFE] + [0xFF] * 7 + [0]


@pytest.mark.parametrize("high", [0, 1, 0x01020304, 0xFFFFFFFF, 0x80000000])
def test_big_endian(high: int) -> None:
    assert (big_endian(high) & 0xFFFFFFFF).to_bytes(4, "little") == high.to_bytes(4, "big")
