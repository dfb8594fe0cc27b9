"""A domain: an address space of devices, as a page table that a unit walks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from errno import EBUSY, EINVAL, EOVERFLOW, ERANGE
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE
from ioas.soft.iommu.epoch import Epoch
from ioas.soft.iommu.formats import Format
from ioas.soft.iommu.iotlb import Iotlb
from ioas.soft.iommu.mapper import PageTable
from ioas.soft.iommu.types import Geometry, Prot
from ioas.soft.iommu.walker import walk
from ioas.soft.memory import Segment

if TYPE_CHECKING:
    from ioas.soft.iommu.dirty import DirtyPages
    from ioas.soft.iommu.nested import NestedDomain
    from ioas.soft.iommu.requester import Requester
    from ioas.soft.iommu.unit import Unit

PAGE_MASK = PAGE_SIZE - 1
SMALL_PAGES = 2 * PAGE_SIZE - 1
READ_WRITE = int(Prot.READ | Prot.WRITE)


class Domain:
    """A paging domain. Made by `Unit.domain`. Safe to use from any thread."""

    def __init__(
        self,
        unit: Unit,
        form: Format,
        geometry: Geometry,
        page_sizes: int,
        *,
        dirty: bool = False,
        nest_parent: bool = False,
        pasid: bool = False,
    ) -> None:
        self.unit = unit
        self.geometry = geometry
        self.page_sizes = page_sizes
        """A bitmap of page sizes in bytes."""
        self.granule = page_sizes & -page_sizes
        """The smallest of them."""
        self.format = form
        self.dirty = dirty
        """It can track dirty pages."""
        self.tracking = False
        """It does (IOMMU_HWPT_SET_DIRTY_TRACKING)."""
        self.nest_parent = nest_parent
        self.pasid = pasid
        self.reports_faults = False
        """Page requests of its devices go to somebody who answers."""
        self.attached = 0
        """How many times a requester, or a PASID of one, is attached; kept by `Requester.attach`."""
        self.epoch = Epoch()
        self.iotlb = Iotlb(unit.system.memory, self.granule.bit_length() - 1)
        self.table = PageTable(form, unit.system.memory, self.iotlb.lock)
        self.iotlb.table = self.table
        self.nested: list[NestedDomain] = []
        """The domains whose second stage this is."""
        self._editing = threading.Lock()
        self._freed = False

    def map(
        self,
        iova: int,
        segments: Sequence[Segment],
        offset: int,
        length: int,
        prot: int,
        *,
        large: bool = True,
    ) -> None:
        """Map `length` bytes of `segments`, from byte `offset` of their first page, at `iova`. All or nothing.

        `prot` is a set of `Prot`. `large=False` allows no page above 4 KiB (IOMMU_OPTION_HUGE_PAGES 0).

        Raises KernelError: EINVAL for an address or length that is no multiple of `granule` or goes beyond the
        segments, or for permissions that the format cannot express; EOVERFLOW or ERANGE beyond the table's width;
        EADDRINUSE where something is mapped.
        """
        attributes = self.format.attributes[prot & 7]
        if attributes is None or not prot & READ_WRITE:  # no permission at all: refused for every format (map_range)
            raise refuse(EINVAL, f"{self.format.name} has no page with these permissions", "field", f"prot={prot:#x}")
        if length == PAGE_SIZE and not (iova & PAGE_MASK or offset) and not iova >> self.format.width:
            run, first, _ = segments[0]
            with self._editing:
                self.table.map_page(iova, run.base + (first ^ run.flip), attributes)
            return
        self._check(iova | offset, iova, length)
        if offset + length > sum(segment.count for segment in segments) << PAGE_SHIFT:
            raise refuse(EINVAL, "the length goes beyond the pages", "field", f"length={length:#x}")
        sizes = self.page_sizes if large else self.page_sizes & SMALL_PAGES
        with self._editing:
            self.table.map(iova, segments, offset, length, attributes, sizes)

    def unmap(self, iova: int, length: int) -> int:
        """Unmap; return the number of bytes that were mapped. Holes are passed over.

        When it returns, no DMA to the old pages can land: entries are cleared, the IOTLB is flushed, and
        transfers that may have used them are over. So it must not be called from within a transfer.

        Raises KernelError: EINVAL when misaligned, or when the range would cut a page; EOVERFLOW or ERANGE
        as `map`. Nothing is unmapped then.
        """
        with self._editing:
            if length == PAGE_SIZE and not iova & PAGE_MASK and self.table.unmap_page(iova):
                done = PAGE_SIZE
            else:
                self._check(iova, iova, length)
                done = self.table.unmap(iova, length)
        self.flush(iova, iova + length - 1)
        self.drain()
        return done

    def phys(self, iova: int) -> int | None:
        """The physical address under `iova` by the page table, not the IOTLB; None when not mapped."""
        if self._freed:
            return None
        with self.iotlb.lock:
            found = walk(self.format, self.unit.system.memory.tables, self.table.root, iova)
        return None if found is None else found.address

    def dirty_pages(self, iova: int, length: int, *, clean: bool) -> DirtyPages:
        """The pages in a range that devices wrote to while tracking was on, by the page table.

        With `clean` they are clean afterwards, and what a device writes from now on makes them dirty again.
        """
        from ioas.soft.iommu.dirty import collect  # NumPy, which few programs need

        with self._editing, self.iotlb.lock:
            pages = collect(self.table, iova, length, clean=clean)
        if clean and len(pages.starts):
            self.flush(int(pages.starts[0]), int(pages.starts[-1] + pages.sizes[-1]) - 1)
            self.drain()
        return pages

    def flush(self, start: int, last: int) -> None:
        """Drop the cached translations of `start` to `last`, and all those that end here after a first stage."""
        self.iotlb.flush(start, last)
        for nested in self.nested:
            nested.flush(0, (1 << 64) - 1)

    def drain(self) -> None:
        """Wait until the transfers that have begun so far are over."""
        self.epoch.drain()
        for nested in self.nested:
            nested.drain()

    def admit(self, requester: Requester) -> None:
        """Any requester that its unit can serve."""

    def free(self) -> None:
        """Give back all tables. Idempotent. Raises KernelError(EBUSY) while a requester is attached."""
        with self._editing:
            if self.attached:
                raise refuse(EBUSY, f"the domain is attached {self.attached} times", "object", self.unit.name)
            if not self._freed:
                self._freed = True
                self.table.free()
                self.flush(0, (1 << 64) - 1)

    def _check(self, alignment: int, iova: int, length: int) -> None:
        """The checks of iommu_map_nosync, make_range_ul and pt_check_range (7.3)."""
        if (alignment | length) & self.granule - 1 or length <= 0:
            raise refuse(EINVAL, f"not a whole number of pages of {self.granule:#x} bytes", "address", iova)
        if (iova + length - 1) >> 64:
            raise refuse(EOVERFLOW, "the range wraps around", "address", iova)
        if (iova + length - 1) >> self.format.width:
            raise refuse(ERANGE, f"the range goes beyond {self.format.width} bits", "address", iova)
