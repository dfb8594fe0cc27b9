"""Rows of page-table entries, written and searched by NumPy: the bulk half of the mapper.

A module of its own so that a program that maps a few pages does not wait for NumPy to be imported.
"""

from __future__ import annotations

import numpy as np

from ioas.soft.iommu.formats.base import ENTRY_ADDRESS_SHIFT, LEVEL_BITS
from ioas.soft.iommu.plan import Strip


def write(words: memoryview, index: int, strip: Strip, x: int, count: int, bits: int) -> None:
    """Write `count` entries of `strip`, from its granule `x`, into a table from entry `index` on."""
    repeat = 1 << strip.size % LEVEL_BITS
    granules = np.arange(x, x + (count << strip.size), 1 << strip.size, dtype=np.uint64)
    granules ^= strip.flip
    granules += strip.base
    granules <<= ENTRY_ADDRESS_SHIFT
    granules |= bits
    row = np.frombuffer(words, np.uint64)
    row[index : index + count * repeat] = granules if repeat == 1 else np.repeat(granules, repeat)


def count_used(words: memoryview, low: int, high: int) -> int:
    """How many of the entries `low` to `high` are not zero."""
    return int(np.count_nonzero(np.frombuffer(words[low : high + 1], np.uint64)))


def used(words: memoryview, low: int, high: int) -> list[int]:
    """The indexes of the entries that are not zero, counted from `low`."""
    found: list[int] = np.flatnonzero(np.frombuffer(words, np.uint64)[low : high + 1]).tolist()
    return found
