"""Calling C by address, from compiled and from interpreted code alike.

The addresses are data (an int64 array that the keyring fills), not symbols: an absent library is address 0,
and cached machine code stays valid when libraries move.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import int64
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
