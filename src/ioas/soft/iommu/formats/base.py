"""What the walker and the mapper need to know about a page-table format.

All formats here have tables of 512 entries of 64 bits in frames of 4 KiB, and put an address into an entry as
``(address >> granule_lg2) << 12``. Level 0 is the lowest. Sizes are given as powers of two (`lg2`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LEVEL_BITS = 9
ENTRIES = 1 << LEVEL_BITS
ENTRY_ADDRESS_SHIFT = 12
PFN_MASK = (1 << 40) - 1
"""The address field of an entry, bits 51:12, once shifted down."""


class Leaf(NamedTuple):
    """What an entry that translates says: the physical `address` of its page, and the page's size."""

    address: int
    size_lg2: int


class Format(ABC):
    """One page-table format with a number of levels."""

    name: ClassVar[str]
    dirty_bit: ClassVar[int]
    """What hardware sets in a leaf that was written through, when dirty tracking is on."""
    sign_extended: ClassVar[bool] = False
    """Only the lower half of what the levels translate is used."""
    enforces_coherency: bool
    """DMA through these tables is cache coherent, whatever the device asks for."""
    granule_lg2: int
    """The smallest page."""
    page_sizes: int
    """A bitmap of sizes in bytes."""

    def __init__(self, levels: int, granule_lg2: int = 12) -> None:
        self.levels = levels
        self.granule_lg2 = granule_lg2
        self.attributes: tuple[int | None, ...] = tuple(self._attributes(prot) for prot in range(8))
        """For each set of `Prot`, the bits of a leaf that allow just that; None where the format cannot say it."""

    @property
    def width(self) -> int:
        """Bits of IOVA that a table translates."""
        return self.granule_lg2 + LEVEL_BITS * self.levels

    def item_lg2(self, level: int) -> int:
        """What one entry at `level` spans."""
        return self.granule_lg2 + LEVEL_BITS * level

    @abstractmethod
    def _attributes(self, prot: int) -> int | None: ...

    @abstractmethod
    def leaf_bits(self, level: int, size_lg2: int) -> int:
        """What an entry at `level` for a page of `size_lg2` has besides address and attributes."""

    @abstractmethod
    def table_entry(self, pfn: int, level: int) -> int:
        """The entry that points to the table of `level` in frame `pfn`."""

    @abstractmethod
    def present(self, entry: int) -> bool:
        """Whether hardware takes the entry for one."""

    @abstractmethod
    def permissions(self, entry: int) -> int:
        """What the entry allows, as a set of `Prot`; the walk allows what all entries on its way allow."""

    @abstractmethod
    def next_table(self, entry: int, level: int) -> tuple[int, int] | None:
        """The level and frame of the table that an entry at `level` points to; None when it is a leaf."""

    @abstractmethod
    def leaf(self, entry: int, level: int) -> Leaf:
        """What a leaf at `level` translates to."""

    def sizes(self, entries: npt.NDArray[np.uint64], level: int) -> npt.NDArray[np.uint64]:
        """The sizes of the pages, in granules, that leaves at `level` translate."""
        return entries * 0 + (1 << LEVEL_BITS * level)
