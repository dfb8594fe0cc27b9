"""AMD IOMMU v1 page tables.

AMD I/O Virtualization Technology (IOMMU) Specification (48882), section 2.2.3 "I/O Page Tables for Host
Translations": an entry has PR at bit 0, D at bit 6, Next Level at bits 11:9, the address at bits 51:12, FC at bit
60, IR at 61 and IW at 62. Next Level 0 makes it a translation of the level's own page size, 7 one of a size that
the address field encodes (table "Example Page Size Encodings": the lowest zero bit at position n gives pages of
2**(n + 1) granules; the entry is repeated for each item that the page spans), 1 to 6 a pointer to a table of that
level - the spec's level 1 is level 0 here. IR and IW of all entries on the way are ANDed.

The selftest mock of iommufd is the same with granules of 2 KiB (7.3, generic_pt/fmt/amdv1.h under
AMDV1_IOMMUFD_SELFTEST): addresses then stand in units of 2 KiB in the same field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ioas.soft.iommu.formats.base import ENTRY_ADDRESS_SHIFT, PFN_MASK, Format, Leaf
from ioas.soft.iommu.types import Prot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PR = 1 << 0
D = 1 << 6
FC = 1 << 60
IR = 1 << 61
IW = 1 << 62
NEXT_LEVEL_SHIFT = 9
NEXT_LEVEL_DEFAULT = 0
NEXT_LEVEL_SIZE = 7
NEXT_LEVEL_MASK = 7
PERMISSION_SHIFT = 61
SIZE_512G = 1 << 39

_READ_WRITE = int(Prot.READ | Prot.WRITE)


class AmdV1(Format):
    """AMDv1 tables. `coherent` sets FC, which makes DMA snoop caches whatever the device asks for."""

    name = "amdv1"
    dirty_bit = D

    def __init__(self, levels: int = 4, granule_lg2: int = 12, *, coherent: bool = True) -> None:
        self.enforces_coherency = coherent
        super().__init__(levels, granule_lg2)
        # Every power of two below the whole width, but 512G, which hardware gets wrong (7.3, amdv1pt_possible_sizes).
        largest = self.width - 2
        self.page_sizes = ((2 << largest) - (1 << granule_lg2)) & ~SIZE_512G

    def _attributes(self, prot: int) -> int:
        return PR | (FC if self.enforces_coherency else 0) | (prot & _READ_WRITE) << PERMISSION_SHIFT

    def leaf_bits(self, level: int, size_lg2: int) -> int:
        """Next Level, and for other sizes than the level's own the ones in the address field that encode the size."""
        if size_lg2 == self.item_lg2(level):
            return NEXT_LEVEL_DEFAULT << NEXT_LEVEL_SHIFT
        ones = (1 << (size_lg2 - self.granule_lg2 - 1)) - 1
        return NEXT_LEVEL_SIZE << NEXT_LEVEL_SHIFT | ones << ENTRY_ADDRESS_SHIFT

    def table_entry(self, pfn: int, level: int) -> int:
        """A pointer with all permissions, so that the leaf decides."""
        field = pfn << (12 - self.granule_lg2)
        return PR | (level + 1) << NEXT_LEVEL_SHIFT | field << ENTRY_ADDRESS_SHIFT | IR | IW

    def present(self, entry: int) -> bool:
        """PR."""
        return bool(entry & PR)

    def permissions(self, entry: int) -> int:
        """IR and IW are in the order of Prot.READ and Prot.WRITE."""
        return entry >> PERMISSION_SHIFT & _READ_WRITE

    def next_table(self, entry: int, level: int) -> tuple[int, int] | None:
        """By Next Level; the lowest level has translations only."""
        following = entry >> NEXT_LEVEL_SHIFT & NEXT_LEVEL_MASK
        if level == 0 or following in (NEXT_LEVEL_DEFAULT, NEXT_LEVEL_SIZE):
            return None
        return following - 1, (entry >> ENTRY_ADDRESS_SHIFT & PFN_MASK) >> (12 - self.granule_lg2)

    def leaf(self, entry: int, level: int) -> Leaf:
        """By Next Level and, for 7, the lowest zero bit of the address field."""
        field = entry >> ENTRY_ADDRESS_SHIFT & PFN_MASK
        if entry >> NEXT_LEVEL_SHIFT & NEXT_LEVEL_MASK != NEXT_LEVEL_SIZE:
            return Leaf(field << self.granule_lg2, self.item_lg2(level))
        ones = (~field & (field + 1)).bit_length() - 1
        address = field >> ones << ones
        return Leaf(address << self.granule_lg2, self.granule_lg2 + ones + 1)

    def sizes(self, entries: npt.NDArray[np.uint64], level: int) -> npt.NDArray[np.uint64]:
        """As `leaf`, for many."""
        field = entries >> ENTRY_ADDRESS_SHIFT & PFN_MASK
        sizes = super().sizes(entries, level)
        encoded = entries >> NEXT_LEVEL_SHIFT & NEXT_LEVEL_MASK == NEXT_LEVEL_SIZE
        sizes[encoded] = (~field[encoded] & field[encoded] + 1) << 1
        return sizes


def mock_format() -> AmdV1:
    """The selftests' variant: three levels of 2 KiB granules, 38 bits (7.3, mock_domain_alloc_pgtable)."""
    return AmdV1(levels=3, granule_lg2=11, coherent=False)
