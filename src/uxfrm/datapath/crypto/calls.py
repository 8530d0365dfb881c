"""Calling C by address, and words of memory by address, from compiled and from interpreted code alike.

The addresses are data (an int64 array that the keyring fills), not symbols: an absent library is address 0,
and cached machine code stays valid when libraries move.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import int64, void
from numba.core import cgutils
from numba.extending import intrinsic, overload


@cache
def _prototype(count: int) -> Callable[[int], Callable[..., int]]:
    return ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * count)


def call(address: int, arguments: tuple[int, ...]) -> int:
    """Call the C function at `address` with 64-bit integer arguments (pointers are integers).

    Returns the raw 64-bit register: use `as_int` where the function returns an int.
    """
    return _prototype(len(arguments))(int(address))(*(int(a) for a in arguments))


@intrinsic
def _call(typing_context: Any, address: Any, arguments: Any) -> Any:
    """The compiled form: an indirect call in the C calling convention."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        unpacked = cgutils.unpack_tuple(builder, values[1])
        function = ir.FunctionType(word, [word] * len(unpacked)).as_pointer()
        return builder.call(builder.inttoptr(values[0], function), unpacked)

    return int64(int64, arguments), generate


@overload(call)
def _compiled_call(address: Any, arguments: Any) -> Any:
    def implementation(address: Any, arguments: Any) -> Any:
        return _call(address, arguments)  # type: ignore[call-arg]

    return implementation


# -- words and bytes by address: the caller has checked that they are inside a buffer


def load(address: int) -> int:
    """The 64-bit word at an address."""
    return ctypes.c_int64.from_address(int(address)).value


def store(address: int, word: int) -> None:
    """Write a 64-bit word to an address."""
    ctypes.c_int64.from_address(int(address)).value = int(word)


def load_byte(address: int) -> int:
    """The byte at an address."""
    return ctypes.c_uint8.from_address(int(address)).value


def store_byte(address: int, byte: int) -> None:
    """Write a byte to an address."""
    ctypes.c_uint8.from_address(int(address)).value = int(byte)


def _loader(bits: int) -> Any:
    @intrinsic
    def read(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pointer = builder.inttoptr(values[0], ir.IntType(bits).as_pointer())
            found = builder.load(pointer, align=1)
            return found if bits == 64 else builder.zext(found, ir.IntType(64))

        return int64(int64), generate

    return read


def _storer(bits: int) -> Any:
    @intrinsic
    def write(typing_context: Any, address: Any, word: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pointer = builder.inttoptr(values[0], ir.IntType(bits).as_pointer())
            value = values[1] if bits == 64 else builder.trunc(values[1], ir.IntType(bits))
            builder.store(value, pointer, align=1)
            return context.get_dummy_value()

        return void(int64, int64), generate

    return write


_load, _load_byte, _store, _store_byte = _loader(64), _loader(8), _storer(64), _storer(8)


@overload(load)
def _compiled_load(address: Any) -> Any:
    def implementation(address: Any) -> Any:
        return _load(address)

    return implementation


@overload(load_byte)
def _compiled_load_byte(address: Any) -> Any:
    def implementation(address: Any) -> Any:
        return _load_byte(address)

    return implementation


@overload(store)
def _compiled_store(address: Any, word: Any) -> Any:
    def implementation(address: Any, word: Any) -> Any:
        return _store(address, word)

    return implementation


@overload(store_byte)
def _compiled_store_byte(address: Any, byte: Any) -> Any:
    def implementation(address: Any, byte: Any) -> Any:
        return _store_byte(address, byte)

    return implementation
