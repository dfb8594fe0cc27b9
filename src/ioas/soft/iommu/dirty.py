"""Dirty tracking by the page table: the D bit that hardware sets in a leaf that was written through.

NumPy throughout, and imported when a program first tracks dirty pages. Callers hold the domain's `walking` lock, under
which D bits are set too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ioas.soft.iommu.formats.base import LEVEL_BITS
from ioas.soft.iommu.mapper import INDEX_MASK, PageTable, Table

Bits = npt.NDArray[np.int64]


class DirtyPages(NamedTuple):
    """Pages that were written, by address: where each starts, and its size, in bytes."""

    starts: Bits
    sizes: Bits


NOTHING = DirtyPages(np.empty(0, np.int64), np.empty(0, np.int64))


def collect(table: PageTable, iova: int, length: int, *, clean: bool) -> DirtyPages:
    """The dirty pages that meet a range, whole; `clean` makes them clean.

    Follows read_and_clear_dirty of generic_pt (7.3): a page whose entry is repeated is dirty when one of the copies is.
    """
    granule = table.form.granule_lg2
    first, last = iova >> granule, iova + length - 1 >> granule
    found = [_of_table(table, one, first, last, clean) for one in table.over(first, last)]
    found = [pages for pages in found if len(pages.starts)]
    if not found:
        return NOTHING
    starts = np.concatenate([pages.starts for pages in found])
    order = np.argsort(starts, kind="stable")
    sizes = np.concatenate([pages.sizes for pages in found])
    return DirtyPages(starts[order] << granule, sizes[order] << granule)


def mark(table: PageTable, addresses: Bits) -> None:
    """Set D in the entry under each address; where nothing is mapped nothing happens."""
    granules = addresses >> table.form.granule_lg2
    for key in np.unique(granules >> LEVEL_BITS).tolist():
        here = granules[granules >> LEVEL_BITS == key]
        leaf = table.leaf(int(here[0]), any_entry=True)
        if leaf is None:
            continue
        one, index = leaf
        if one.level:
            one.words[index] |= table.form.dirty_bit
            continue
        row = np.frombuffer(one.words, np.uint64)
        indexes = here & INDEX_MASK
        row[indexes] |= np.where(row[indexes] != 0, np.uint64(table.form.dirty_bit), np.uint64(0))


def _of_table(table: PageTable, one: Table, first: int, last: int, clean: bool) -> DirtyPages:
    """The dirty pages of one table, in granules."""
    form, level = table.form, one.level
    shift = LEVEL_BITS * level
    base = one.key << LEVEL_BITS
    low, high = max(first >> shift, base) - base, min(last >> shift, base | INDEX_MASK) - base
    row = np.frombuffer(one.words, np.uint64)
    low, high = _page_at(table, row, low, level)[0], _page_at(table, row, high, level)[1]
    dirty = np.uint64(form.dirty_bit)
    indexes = low + np.flatnonzero(row[low : high + 1] & dirty)
    if not len(indexes):
        return NOTHING
    sizes = form.sizes(row[indexes], level).astype(np.int64)
    starts = (base + indexes << shift) & -sizes
    starts, which = np.unique(starts, return_index=True)
    if clean:
        row[low : high + 1] &= ~dirty
    return DirtyPages(starts, sizes[which])


def _page_at(table: PageTable, row: npt.NDArray[np.uint64], index: int, level: int) -> tuple[int, int]:
    """The first and last index of the page that the entry at `index` is a copy of."""
    if not row[index]:
        return index, index
    count = max(1, int(table.form.sizes(row[index : index + 1], level)[0]) >> LEVEL_BITS * level)
    return index & -count, index | count - 1
