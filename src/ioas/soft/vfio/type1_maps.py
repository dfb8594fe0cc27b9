"""The mappings of a type 1 container: `Dma` is one, as a MAP_DMA made it; `DmaMap` is all of them by IOVA.

Follows struct vfio_dma of drivers/vfio/vfio_iommu_type1.c (7.3). A mapping is removed as a whole or not at all; which
of them an unmap takes is the business of the container's version.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

if TYPE_CHECKING:
    from ioas.host import AddressSpace
    from ioas.soft.memory import Held


class Dma:
    """User memory mapped at an IOVA. `size` in bytes; `prot` is a set of `ioas.soft.iommu.Prot`."""

    __slots__ = ("bypass", "held", "iova", "locked", "lost", "memory", "prot", "size", "vaddr")

    def __init__(self, iova: int, vaddr: int, size: int, prot: int, memory: AddressSpace, bypass: bool) -> None:
        """`memory`: whose locked memory it is; `bypass`: whatever that may lock (CAP_IPC_LOCK)."""
        self.iova = iova
        self.vaddr = vaddr
        self.size = size
        self.prot = prot
        self.memory = memory
        self.bypass = bypass
        self.held: list[Held] = []
        """The pinned pages, in order: more than one where device memory is among them."""
        self.locked = 0
        """How many of them are counted as locked: none of a device's own memory."""
        self.lost = False
        """Its user address was given up, and waits for a new one (VFIO_DMA_UNMAP_FLAG_VADDR)."""

    def __str__(self) -> str:
        return f"{self.iova:#x}-{self.last:#x}"

    @property
    def last(self) -> int:
        """The last IOVA."""
        return self.iova + self.size - 1


class DmaMap:
    """Mappings by IOVA. They do not overlap."""

    def __init__(self) -> None:
        self._maps: SortedDict[int, Dma] = SortedDict()

    def __len__(self) -> int:
        return len(self._maps)

    def __iter__(self) -> Iterator[Dma]:
        """By IOVA, as they are now."""
        return iter(list(self._maps.values()))

    def first(self, start: int, last: int) -> Dma | None:
        """The lowest mapping that meets `start` to `last`."""
        maps = self._maps
        index = maps.bisect_right(start)
        if index:
            below: Dma = maps.peekitem(index - 1)[1]
            if below.last >= start:
                return below
        if index < len(maps):
            above: Dma = maps.peekitem(index)[1]
            if above.iova <= last:
                return above
        return None

    def within(self, start: int, last: int) -> list[Dma]:
        """The mappings that meet `start` to `last`, by IOVA."""
        first = self.first(start, last)
        return [] if first is None else [self._maps[iova] for iova in self._maps.irange(first.iova, last)]

    def cut_by(self, start: int, last: int) -> Dma | None:
        """A mapping that has the border before `start` or behind `last` in it, and would be cut in two."""
        for border in (start, last):
            dma = self.first(border, border)
            if dma is not None and (dma.iova < start or dma.last > last):
                return dma
        return None

    def add(self, dma: Dma) -> None:
        """Add a mapping that meets no other."""
        self._maps[dma.iova] = dma

    def remove(self, dma: Dma) -> None:
        """Remove a mapping."""
        del self._maps[dma.iova]
