"""x86-64 page tables of iommufd's own, as VT-d's first stage walks them: the default of a unit in scalable mode.

Intel Virtualization Technology for Directed I/O, Architecture Specification, sections 3.6 and 9.7; x86fs.py has the
bits. There is no page that can be written and not read. Addresses are sign-extended: the upper half of the table
belongs to the upper half of all addresses, which iommufd leaves alone (7.3, PT_FEAT_SIGN_EXTEND), so that one bit less
is translated than the levels have. A and D are set beforehand.
"""

from __future__ import annotations

from ioas.soft.iommu.formats.base import ENTRY_ADDRESS_SHIFT, LEVEL_BITS, PFN_MASK, Format, Leaf
from ioas.soft.iommu.formats.x86fs import LAST_LEAF_LEVEL, PS, RW, US, A, D, P
from ioas.soft.iommu.types import Prot

_READ, _WRITE = int(Prot.READ), int(Prot.WRITE)


class X86First(Format):
    """First-stage tables of 4 or 5 levels. `snoop`: the unit is told to keep DMA coherent, outside of the table."""

    name = "x86_64"
    dirty_bit = D
    sign_extended = True
    page_sizes = 1 << 12 | 1 << 21 | 1 << 30

    def __init__(self, levels: int = 4, *, snoop: bool = True) -> None:
        self.enforces_coherency = snoop
        super().__init__(levels)

    def _attributes(self, prot: int) -> int:
        return P | US | A | (RW | D if prot & _WRITE else 0)

    def leaf_bits(self, level: int, size_lg2: int) -> int:
        """PS above the lowest level."""
        return PS if level else 0

    def table_entry(self, pfn: int, level: int) -> int:
        """A pointer with all permissions, so that the leaf decides."""
        return pfn << ENTRY_ADDRESS_SHIFT | P | RW | US | A

    def present(self, entry: int) -> bool:
        """P."""
        return bool(entry & P)

    def permissions(self, entry: int) -> int:
        """Reading always; writing by R/W; nothing where U/S keeps devices out."""
        if not entry & US:
            return 0
        return _READ | _WRITE if entry & RW else _READ

    def next_table(self, entry: int, level: int) -> tuple[int, int] | None:
        """All but level 0 and entries with PS."""
        if level == 0 or (entry & PS and level <= LAST_LEAF_LEVEL):
            return None
        return level - 1, entry >> ENTRY_ADDRESS_SHIFT & PFN_MASK

    def leaf(self, entry: int, level: int) -> Leaf:
        """The level's own page size."""
        field = entry >> ENTRY_ADDRESS_SHIFT & PFN_MASK
        unused = LEVEL_BITS * level
        return Leaf(field >> unused << unused << self.granule_lg2, self.item_lg2(level))
