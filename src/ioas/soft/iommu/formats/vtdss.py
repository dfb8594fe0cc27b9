"""Intel VT-d second-stage page tables.

Intel Virtualization Technology for Directed I/O, Architecture Specification: section 3.7 "Second-Stage
Translation" (4 KiB pages; 2 MiB and 1 GiB where a directory or directory-pointer entry has PS set) and section 9.8
"Second-Stage Paging Entries": R at bit 0, W at bit 1, PS at bit 7, A at bit 8, D at bit 9, SNP at bit 11, the address
from bit 12. There is no present bit: an entry without R and W is none, and permissions of all entries on
the way are ANDed.
"""

from __future__ import annotations

from ioas.soft.iommu.formats.base import ENTRY_ADDRESS_SHIFT, LEVEL_BITS, PFN_MASK, Format, Leaf
from ioas.soft.iommu.types import Prot

R = 1 << 0
W = 1 << 1
PS = 1 << 7
A = 1 << 8
D = 1 << 9
SNP = 1 << 11

_READ_WRITE = int(Prot.READ | Prot.WRITE)
LAST_LEAF_LEVEL = 2


class VtdSecondStage(Format):
    """Second-stage tables of 3 to 5 levels.

    `snoop` sets SNP in leaves (7.3 does wherever ECAP.SC is set and the domain is user space's); `writable_only`
    refuses read-only pages, as 7.3 does in a parent of nested domains (ERRATA_772415_SPR17).
    """

    name = "vtdss"
    dirty_bit = D
    page_sizes = 1 << 12 | 1 << 21 | 1 << 30

    def __init__(self, levels: int = 4, *, snoop: bool = True, writable_only: bool = False) -> None:
        self.enforces_coherency = snoop
        self.writable_only = writable_only
        super().__init__(levels)

    def _attributes(self, prot: int) -> int | None:
        allowed = prot & _READ_WRITE
        if not allowed or (self.writable_only and not prot & Prot.WRITE):
            return None
        return allowed | (SNP if self.enforces_coherency else 0)

    def leaf_bits(self, level: int, size_lg2: int) -> int:
        """PS above the lowest level."""
        return PS if level else 0

    def table_entry(self, pfn: int, level: int) -> int:
        """A pointer with all permissions, so that the leaf decides."""
        return pfn << ENTRY_ADDRESS_SHIFT | R | W

    def present(self, entry: int) -> bool:
        """R or W."""
        return bool(entry & _READ_WRITE)

    def permissions(self, entry: int) -> int:
        """R and W are Prot.READ and Prot.WRITE."""
        return entry & _READ_WRITE

    def next_table(self, entry: int, level: int) -> tuple[int, int] | None:
        """All but level 0 and entries with PS."""
        if level == 0 or (entry & PS and level <= LAST_LEAF_LEVEL):
            return None
        return level - 1, entry >> ENTRY_ADDRESS_SHIFT & PFN_MASK

    def leaf(self, entry: int, level: int) -> Leaf:
        """The level's own page size; hardware ignores the address bits below it, or takes them for reserved."""
        field = entry >> ENTRY_ADDRESS_SHIFT & PFN_MASK
        unused = LEVEL_BITS * level
        return Leaf(field >> unused << unused << self.granule_lg2, self.item_lg2(level))
