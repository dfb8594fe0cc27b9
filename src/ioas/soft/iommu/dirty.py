"""Dirty tracking by the page table: the D bit that hardware sets in a leaf that was written through.

NumPy throughout, and imported when a program first tracks dirty pages. Callers hold the domain's `walking` lock, under
which D bits are set too.
"""

from __future__ import annotations

from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ioas.soft.iommu.formats.base import LEVEL_BITS
from ioas.soft.iommu.mapper import INDEX_MASK, PageTable, Table

Bits = npt.NDArray[np.int64]
_AT_ONCE = 24
"""Tables that are looked at together: larger arrays are fresh memory each time, which costs more than it saves."""


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
    by_level: dict[int, list[_Part]] = {}
    for one in table.over(first, last):
        by_level.setdefault(one.level, []).append(_part(table, one, first, last))
    found = []
    for level, parts in by_level.items():
        parts.sort(key=attrgetter("start"))
        found += [_of_level(table, level, parts[at : at + _AT_ONCE], clean) for at in range(0, len(parts), _AT_ONCE)]
    found = [pages for pages in found if len(pages.starts)]
    starts = np.concatenate([NOTHING.starts, *(pages.starts for pages in found)])
    sizes = np.concatenate([NOTHING.sizes, *(pages.sizes for pages in found)])
    if np.any(starts[1:] < starts[:-1]):  # pages of different levels
        order = np.argsort(starts, kind="stable")
        starts, sizes = starts[order], sizes[order]
    return DirtyPages(starts << granule, sizes << granule)


def mark(table: PageTable, addresses: Bits) -> None:
    """Set D in the entry under each address, which ascend; where nothing is mapped nothing happens."""
    granules = addresses >> table.form.granule_lg2
    _, firsts = np.unique(granules >> LEVEL_BITS, return_index=True)
    for here in np.split(granules, firsts[1:]):
        if not len(here):
            continue
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


class _Part(NamedTuple):
    """Entries of one table, and the number of the first among all of its level."""

    start: int
    entries: npt.NDArray[np.uint64]


def _part(table: PageTable, one: Table, first: int, last: int) -> _Part:
    """The entries of a table that meet granules `first` to `last`, with all copies of those at the ends."""
    level = one.level
    shift = LEVEL_BITS * level
    base = one.key << LEVEL_BITS
    low, high = max(first >> shift, base) - base, min(last >> shift, base | INDEX_MASK) - base
    row = np.frombuffer(one.words, np.uint64)
    if low:
        low = _page_at(table, row, low, level)[0]
    if high < INDEX_MASK:
        high = _page_at(table, row, high, level)[1]
    return _Part(base + low, row[low : high + 1])


def _of_level(table: PageTable, level: int, parts: list[_Part], clean: bool) -> DirtyPages:
    """The dirty pages of parts of tables of one level, which ascend, in granules."""
    form = table.form
    dirty = np.uint64(form.dirty_bit)
    entries = np.concatenate([part.entries for part in parts])
    indexes = np.flatnonzero(entries & dirty)
    ends = np.cumsum([len(part.entries) for part in parts])
    offsets = np.array([part.start for part in parts]) - ends + [len(part.entries) for part in parts]
    places = indexes + offsets[np.searchsorted(ends, indexes, side="right")]
    sizes = form.sizes(entries[indexes], level).astype(np.int64)
    starts = (places << LEVEL_BITS * level) & -sizes
    once = np.ones(len(starts), np.bool_)  # of the copies of an entry
    once[1:] = starts[1:] != starts[:-1]
    if clean and len(indexes):
        for part in parts:
            part.entries[:] &= ~dirty
    return DirtyPages(starts[once], sizes[once])


def _page_at(table: PageTable, row: npt.NDArray[np.uint64], index: int, level: int) -> tuple[int, int]:
    """The first and last index of the page that the entry at `index` is a copy of."""
    if not row[index]:
        return index, index
    count = max(1, int(table.form.sizes(row[index : index + 1], level)[0]) >> LEVEL_BITS * level)
    return index & -count, index | count - 1
