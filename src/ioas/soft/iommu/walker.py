"""The walk of a page table, by its bytes alone, as hardware does it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ioas.soft.iommu.formats import Format
from ioas.soft.iommu.formats.base import ENTRIES


class Translation(NamedTuple):
    """What a walk found: the physical address of the very byte asked for, its page's size, and what is allowed."""

    address: int
    size_lg2: int
    permissions: int


def walk(form: Format, tables: Mapping[int, memoryview], root: int, iova: int) -> Translation | None:
    """Translate `iova` by the table of `form` whose top is in frame `root`; None when nothing is mapped.

    `tables` are the frames that hold tables. Malformed entries - a pointer to a level that is not below, or
    to a frame that holds no table - translate nothing.
    """
    level = form.levels - 1
    if iova >> form.width:
        return None
    pfn = root
    permissions = 3
    while True:
        words = tables.get(pfn)
        if words is None:
            return None
        shift = form.item_lg2(level)
        entry = words[iova >> shift & ENTRIES - 1]
        if not form.present(entry):
            return None
        permissions &= form.permissions(entry)
        following = form.next_table(entry, level)
        if following is None:
            address, size_lg2 = form.leaf(entry, level)
            return Translation(address | iova & (1 << size_lg2) - 1, size_lg2, permissions)
        below, pfn = following
        # AMDv1 may skip levels, whose IOVA bits must then be zero.
        if below >= level or iova & (1 << shift) - (1 << form.item_lg2(below + 1)):
            return None
        level = below
