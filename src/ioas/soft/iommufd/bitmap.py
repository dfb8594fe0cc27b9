"""A bitmap in the caller's memory, one bit for each page of a range (iova_bitmap.c, 7.3)."""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from ioas.errors import KernelError
from ioas.host import PAGE_SIZE, AddressSpace
from ioas.soft.iommu.dirty import Bits, DirtyPages

_PAGE_BITS = PAGE_SIZE * 8


class UserBitmap:
    """Bits are only ever set. Bit 0 of the byte at `address`, which needs no alignment, is the page at `iova`."""

    def __init__(self, memory: AddressSpace, address: int, iova: int, length: int, page_size: int) -> None:
        """The bitmap's pages are of the largest power of two that divides `page_size`, as in the kernel."""
        self._memory = memory
        self._address = address
        self._iova = iova
        self._shift = (page_size & -page_size).bit_length() - 1
        self._bits = (((length - 1 >> self._shift) >> 3) + 1) << 3

    def record(self, pages: DirtyPages) -> None:
        """Set the bits under `pages`, by address. One that begins before the range is passed over, as in the kernel.

        What has no memory behind it is lost, and bits beyond the bitmap are not set.
        """
        inside = pages.starts >= self._iova
        starts, sizes = pages.starts[inside] - self._iova, pages.sizes[inside]
        first = starts >> self._shift
        last = np.minimum(starts + sizes - 1 >> self._shift, self._bits - 1)
        lead = self._address % PAGE_SIZE * 8  # bits of the first page of memory before the bitmap
        at = 0
        while at < len(first):
            chunk = (int(first[at]) + lead) // _PAGE_BITS
            high = (chunk + 1) * _PAGE_BITS - lead - 1
            end = int(np.searchsorted(first, high, side="right"))
            self._set(first[at:end], np.minimum(last[at:end], high))
            reaches = at + int(np.searchsorted(last[at:end], high, side="right"))
            if reaches < end:  # goes on in the next page of memory
                first[reaches] = high + 1
            at = reaches

    def _set(self, first: Bits, last: Bits) -> None:
        """Set the bits of ranges that stand in one page of memory.

        No byte before the first bit or behind the last is touched: the bitmap may be shorter than its length promises,
        as long as nothing behind its end is dirty.
        """
        low, high = int(first[0]) & ~7, int(last.max()) | 7
        bits = np.zeros(high - low + 1, np.bool_)
        bits[first - low] = True
        for start, end in zip(*((ends[first != last] - low).tolist() for ends in (first, last)), strict=True):
            bits[start : end + 1] = True
        packed = np.packbits(bits, bitorder="little")
        with suppress(KernelError):
            there = self._memory.read(self._address + (low >> 3), len(packed))
            self._memory.write(
                self._address + (low >> 3), np.bitwise_or(packed, np.frombuffer(there, np.uint8)).tobytes()
            )
