"""A chained hash index over table rows, as the kernel's hlists: no object per entry.

`heads[bucket]` is the first row, `links[row]` the next one, newest first; `hashes[row]` spares recomputing
them when the index doubles. The SPI index is walked by compiled code, all of them by Python.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np
import numpy.typing as npt

from uxfrm.compiled import compiled

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]

I32 = numba.int32[::1]
I64 = numba.int64[::1]
_START = 8


@compiled(numba.void(I32, I32, I64, I32), allocates=True)
def _double(heads: Int32s, links: Int32s, hashes: Int64s, bigger: Int32s) -> None:
    """Move every chain into `bigger`, keeping the order within chains."""
    tails = np.full(bigger.shape[0], -1, np.int32)
    for bucket in range(heads.shape[0]):
        row = heads[bucket]
        while row >= 0:
            following = links[row]
            target = hashes[row] & (bigger.shape[0] - 1)
            links[row] = -1
            if tails[target] < 0:
                bigger[target] = row
            else:
                links[tails[target]] = row
            tails[target] = row
            row = following


@compiled(numba.void(I32, I32, I64, numba.int64))
def _unlink(heads: Int32s, links: Int32s, hashes: Int64s, row: int) -> None:
    """Take `row` out of its chain, which may be long."""
    bucket = hashes[row] & (heads.shape[0] - 1)
    current = heads[bucket]
    if current == row:
        heads[bucket] = links[row]
    else:
        while links[current] != row:
            current = links[current]
        links[current] = links[row]
    links[row] = -1


class HashIndex:
    """Rows by a 32-bit hash; what equal hashes mean is for the caller to check."""

    __slots__ = ("count", "hashes", "heads", "links")

    def __init__(self, capacity: int) -> None:
        self.heads: Int32s = np.full(_START, -1, np.int32)
        self.links: Int32s = np.full(capacity, -1, np.int32)
        self.hashes: Int64s = np.zeros(capacity, np.int64)
        self.count = 0

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        return self.heads.nbytes + self.links.nbytes + self.hashes.nbytes

    @property
    def arrays(self) -> tuple[Int32s, Int32s, Int64s]:
        """Heads, links and hashes, as compiled walks take them."""
        return self.heads, self.links, self.hashes

    def grow(self, capacity: int) -> None:
        """Make room for rows up to `capacity`."""
        old = self.links.shape[0]
        links = np.full(capacity, -1, np.int32)
        hashes = np.zeros(capacity, np.int64)
        links[:old] = self.links
        hashes[:old] = self.hashes
        self.links, self.hashes = links, hashes

    def insert(self, row: int, value: int) -> None:
        """Put `row` in front of its chain."""
        if self.count >= self.heads.shape[0]:
            bigger = np.full(self.heads.shape[0] * 2, -1, np.int32)
            _double(self.heads, self.links, self.hashes, bigger)
            self.heads = bigger
        bucket = value & (self.heads.shape[0] - 1)
        self.hashes[row] = value
        self.links[row] = self.heads[bucket]
        self.heads[bucket] = row
        self.count += 1

    def remove(self, row: int) -> None:
        """Take `row` out of its chain; it must be in it."""
        _unlink(self.heads, self.links, self.hashes, row)
        self.count -= 1

    def find(self, value: int) -> Iterator[int]:
        """Rows whose hash is `value`, newest first."""
        row = int(self.heads[value & (self.heads.shape[0] - 1)])
        while row >= 0:
            if self.hashes[row] == value:
                yield row
            row = int(self.links[row])
