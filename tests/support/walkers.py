"""Page-table walks written a second time, from the specifications and from the bytes in memory.

They share nothing with `ioas.soft.iommu`: no constants, no tables, no lookups. `read(address, length)` is the
machine's physical memory; entries are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

Read = Callable[[int, int], bytes]


class Found(NamedTuple):
    """Physical address, page size in bytes, may read, may write."""

    address: int
    size: int
    read: bool
    write: bool


def _bits(value: int, high: int, low: int) -> int:
    """Bits high:low, as specifications write them."""
    return (value >> low) & ((1 << (high - low + 1)) - 1)


def walk_amd(read: Read, root: int, mode: int, iova: int, granule: int = 4096) -> Found | None:
    """AMD 48882, 2.2.3: `mode` is DTE[Mode], the number of levels; `root` is the address of the top table."""
    table, level, may_read, may_write = root, mode, True, True
    while True:
        shift = (granule.bit_length() - 1) + 9 * (level - 1)
        entry = int.from_bytes(read(table + 8 * ((iova >> shift) % 512), 8), "little")
        if not _bits(entry, 0, 0):  # PR
            return None
        may_read, may_write = may_read and bool(_bits(entry, 61, 61)), may_write and bool(_bits(entry, 62, 62))
        next_level, field = _bits(entry, 11, 9), _bits(entry, 51, 12)
        if next_level in (0, 7):
            size = granule << (9 * (level - 1))
            if next_level == 7:
                # "Example Page Size Encodings": xxx0 is 2 granules, xx01 is 4, x011 is 8, ...
                size = 2 * granule
                while field & 1 << ((size // granule).bit_length() - 2):
                    size *= 2
            address = field * granule // size * size
            return Found(address + iova % size, size, may_read, may_write)
        assert next_level == level - 1, "the mapper skips no levels"
        table, level = field * granule, next_level


def walk_vtd(read: Read, root: int, levels: int, iova: int) -> Found | None:
    """VT-d 3.7 and 9.8: SS-PML4E, SS-PDPTE, SS-PDE, SS-PTE."""
    table, may_read, may_write = root, True, True
    for level in range(levels, 0, -1):
        shift = 12 + 9 * (level - 1)
        entry = int.from_bytes(read(table + 8 * ((iova >> shift) % 512), 8), "little")
        if not _bits(entry, 1, 0):
            return None
        may_read, may_write = may_read and bool(_bits(entry, 0, 0)), may_write and bool(_bits(entry, 1, 1))
        if level == 1 or (level in (2, 3) and _bits(entry, 7, 7)):  # PS
            size = 1 << shift
            address = _bits(entry, 51, 12) << 12
            assert address % size == 0, "reserved address bits of a large page must be zero"
            return Found(address + iova % size, size, may_read, may_write)
        table = _bits(entry, 51, 12) << 12
    raise AssertionError("not reached: level 1 always translates")


def walk_first_stage(read: Read, root: int, levels: int, iova: int) -> Found | None:
    """VT-d 3.6 and 9.9 (Intel SDM volume 3, 4.5): FS-PML5E to FS-PTE, for a user-level request."""
    table, may_write = root, True
    for level in range(levels, 0, -1):
        shift = 12 + 9 * (level - 1)
        entry = int.from_bytes(read(table + 8 * ((iova >> shift) % 512), 8), "little")
        if not _bits(entry, 0, 0):  # P
            return None
        assert _bits(entry, 2, 2), "U/S: a device asks as user"
        may_write = may_write and bool(_bits(entry, 1, 1))
        if level == 1 or (level in (2, 3) and _bits(entry, 7, 7)):  # PS
            size = 1 << shift
            address = _bits(entry, 51, 12) << 12
            assert address % size == 0, "reserved address bits of a large page must be zero"
            return Found(address + iova % size, size, True, may_write)
        table = _bits(entry, 51, 12) << 12
    raise AssertionError("not reached: level 1 always translates")
