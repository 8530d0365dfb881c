"""Memory for key material: aligned, never moved, wiped when given back."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt

_ALIGN = 64
_BLOCK = 1 << 18


def aligned(size: int) -> npt.NDArray[np.uint8]:
    """`size` zero bytes at an address that is a multiple of 64."""
    raw = np.zeros(size + _ALIGN, np.uint8)
    skip = -raw.ctypes.data % _ALIGN
    return raw[skip : skip + size]


class Arena:
    """Pieces of fixed sizes out of large blocks."""

    def __init__(self) -> None:
        self._blocks: list[npt.NDArray[np.uint8]] = []
        self._next = 0
        self._end = 0
        self._free: dict[int, list[int]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return sum(block.nbytes for block in self._blocks)

    def take(self, size: int) -> int:
        """Return the address of `size` zero bytes, aligned to 64."""
        size = -(-size // _ALIGN) * _ALIGN
        free = self._free.get(size)
        if free:
            return free.pop()
        if self._next + size > self._end:
            block = aligned(max(_BLOCK, size))
            self._blocks.append(block)
            self._next = block.ctypes.data
            self._end = self._next + block.shape[0]
        address = self._next
        self._next += size
        return address

    def give_back(self, address: int, size: int) -> None:
        """Wipe a piece and keep it for the next taker of this size."""
        size = -(-size // _ALIGN) * _ALIGN
        ctypes.memset(address, 0, size)
        self._free.setdefault(size, []).append(address)

    def wipe(self) -> None:
        """Zero everything."""
        for block in self._blocks:
            block[:] = 0
