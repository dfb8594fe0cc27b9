"""`IoPagetable`: what is mapped in an IOAS, independent of any hardware (io_pagetable.c, 7.3).

IOVA is divided into areas, each a slice of some pages. While the table has domains every area stands in every domain
and its pages are pinned; without a domain nothing is pinned. The order of checks is the kernel's.

Everything here runs under `System.lock`. So an area is published whole, and there is no half-made state to see,
where the kernel has `area->pages == NULL`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from errno import EADDRINUSE, EBUSY, EDEADLOCK, EEXIST, EINVAL, ENOENT, EPERM
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommu import Prot
from ioas.soft.iommufd.area import Area, AreaMap, Slice
from ioas.soft.iommufd.filling import Filling
from ioas.soft.iommufd.ranges import ULONG_MAX, Reserved
from ioas.soft.iommufd.refusals import (
    NAMES,
    Names,
    end_of_range,
    misaligned,
    past_the_end,
    why_aligned,
    why_not_unmapped,
)
from ioas.soft.iommufd.room import Room
from ioas.soft.memory import Failures

if TYPE_CHECKING:
    from ioas.soft.iommu import Domain
    from ioas.soft.iommufd.access import Access

_WRITE = int(Prot.WRITE)
_TRIES = 101
"""How often accesses are asked to let go of an area before the unmap gives up."""


class Unmapped(NamedTuple):
    """How far an unmap came: bytes removed, and what stopped it."""

    length: int
    error: KernelError | None


class IoPagetable:
    """The mappings of one IOAS.

    `alignment` is what start, length and page offset of every area must be a multiple of: 1 without a domain, else the
    largest granule, and 4096 while large pages are disabled or an access pins pages.
    """

    __slots__ = ("_failures", "_filling", "accesses", "alignment", "areas", "room")

    def __init__(self, failures: Failures | None = None) -> None:
        """`failures`: what makes allocations fail on request."""
        self._failures = failures or Failures()
        self.areas = AreaMap()
        self.room = Room(self.areas, self._failures)
        self.accesses: list[Access] = []
        self.alignment = 1
        self._filling = Filling()

    @property
    def domains(self) -> Sequence[Domain]:
        """The domains that carry the mappings, oldest first."""
        return self._filling.domains

    @property
    def large_pages(self) -> bool:
        """Whether domains may join contiguous pages into larger ones (IOMMU_OPTION_HUGE_PAGES)."""
        return self._filling.large_pages

    # -- looking up

    def contiguous(self, iova: int, last: int) -> Iterator[tuple[Area, int, int]]:
        """The areas under `iova` to `last` in order, each with the part (first, last) that is meant.

        Raises KernelError(ENOENT) at the first hole, after what stands before it. Follows iopt_for_each_contig_area.
        """
        while True:
            area = self.areas.first(iova, iova)
            if area is None:
                raise refuse(ENOENT, f"nothing is mapped at IOVA {iova:#x}", "address", iova)
            end = min(last, area.last)
            yield area, iova, end
            if end == last:
                return
            iova = end + 1

    def slices(self, iova: int, length: int) -> list[Slice]:
        """The pages under a range, for IOAS_COPY (iopt_get_pages).

        Raises KernelError: EINVAL for no bytes, EOVERFLOW beyond the end of IOVA, ENOENT for a hole.
        """
        last = end_of_range(iova, length)
        return [
            Slice(area.pages, area.byte_at(first), end - first + 1) for area, first, end in self.contiguous(iova, last)
        ]

    # -- mapping

    def map(
        self,
        slices: Sequence[Slice],
        length: int,
        iova: int | None,
        prot: int,
        address: int = 0,
        names: Names = NAMES,
    ) -> int:
        """Map `slices`, `length` bytes in all, one after the other; return where (iopt_map_pages).

        `iova` None picks the place, which then keeps the alignment of `address` (where the first byte stands). `names`
        are the fields that refusals name.

        Raises KernelError, with nothing changed: EINVAL misaligned or reserved, EOVERFLOW, EEXIST, ENOSPC, EPERM for
        writing to pages mapped for reading; with a domain also what pinning raises.
        """
        if length & self.alignment - 1 or not length:
            raise self._misaligned(names.length, length)
        found = None
        if iova is None:
            found = self.room.place(address, length, self.alignment)
            iova = found.address
        else:
            self._check_free(iova, length, names)
        areas = self._make_areas(slices, iova, prot, names)
        self._filling.fill(areas)
        for area in areas:
            self.areas.add(area)
        if found is not None:
            self.room.take(iova, iova + length - 1, found)
        else:
            for area in areas:
                self.room.take(area.start, area.last, None)
        return iova

    def _check_free(self, iova: int, length: int, names: Names) -> None:
        """Follows iopt_check_iova."""
        if iova & self.alignment - 1:
            raise self._misaligned(names.iova, iova)
        last = iova + length - 1
        if last > ULONG_MAX:
            raise past_the_end(iova, length)
        reserved = self.room.reserved.first(iova, last)
        if reserved is not None:
            raise refuse(EINVAL, f"IOVA {iova:#x}-{last:#x} meets reserved {reserved}", "region", reserved)
        area = self.areas.below(last)
        if area is not None and area.last >= iova:
            raise refuse(EEXIST, f"IOVA {iova:#x}-{last:#x} is mapped already at {area}", "area", area)

    def _make_areas(self, slices: Sequence[Slice], iova: int, prot: int, names: Names) -> list[Area]:
        """Areas for `slices` from `iova`, not yet in the table. Follows iopt_insert_area."""
        areas = []
        for pages, byte, length in slices:
            self._failures.point("area")
            if prot & _WRITE and not pages.writable:
                raise refuse(EPERM, f"{pages} were mapped for reading only, and are to be written", "field", "flags")
            if byte % PAGE_SIZE & self.alignment - 1:
                raise self._misaligned(names.source, byte % PAGE_SIZE, " bytes into its page")
            last = iova + length - 1
            if last > ULONG_MAX:
                raise past_the_end(iova, length)
            areas.append(Area(iova, last, pages, byte, prot))
            iova = last + 1
        return areas

    def _misaligned(self, what: str, value: int, unit: str = "") -> KernelError:
        return misaligned(what, value, unit, self.alignment, why_aligned(self.alignment, self.domains, self.accesses))

    # -- unmapping

    def unmap(self, start: int, last: int) -> Unmapped:
        """Remove the areas from `start` to `last`, which must not cut one. Follows iopt_unmap_iova_range.

        When it returns no DMA reaches the pages. Stops at an area that cannot go, and says so beside the bytes removed
        before it: EBUSY locked, ENOENT cut by the range, EDEADLOCK when accesses do not let go.
        """
        area = self.areas.at(start)
        if area is not None and area.last == last and not area.accesses and not area.locks:
            self._filling.unfill((area,))
            self._forget(area)
            return Unmapped(last - start + 1, None)
        return self._unmap_range(start, last)

    def _unmap_range(self, start: int, last: int) -> Unmapped:
        removed = 0
        tries = 0
        while True:
            run, blocking = self._removable(start, last)
            if run:
                self._remove(run)
                removed += sum(area.length for area in run)
                tries = 0
            if blocking is None:
                return Unmapped(removed, None)
            error = why_not_unmapped(blocking, start, last)
            if error is None and tries == _TRIES:
                error = refuse(EDEADLOCK, f"an access does not let go of area {blocking}", "area", blocking)
            if error is not None:
                return Unmapped(removed, error)
            start = blocking.start
            blocking.prevent_access = True
            for access in list(self.accesses):
                access.notify_unmap(blocking.start, blocking.length)
            tries += 1

    def _removable(self, start: int, last: int) -> tuple[list[Area], Area | None]:
        """The areas of a range up to the first one that cannot simply go, and that one."""
        run: list[Area] = []
        for area in self.areas.within(start, last):
            if area.locks or area.accesses or area.start < start or area.last > last:
                return run, area
            run.append(area)
        return run, None

    def _remove(self, run: list[Area]) -> None:
        """Remove areas that stand one after the other, with one pass over each domain."""
        self._filling.unfill(run)
        if len(run) == len(self.areas):
            self.areas.clear()
            self.room.forget_gaps()
            return
        for area in run:
            self._forget(area)

    def _forget(self, area: Area) -> None:
        """Take an unfilled area out of the table."""
        self.areas.remove(area)
        self.room.give(area.start, area.last)

    # -- domains

    def add_domain(self, domain: Domain, device: str | None = None) -> None:
        """Map everything into `domain` too, and reserve what is outside its aperture (iopt_table_add_domain).

        `device`: the name of the one that it is for, for refusals.

        Raises KernelError, with nothing changed: EADDRINUSE when areas are misaligned for it or outside its aperture,
        EINVAL when it cannot map single pages, and what pinning raises.
        """
        alignment = max(domain.granule, self.alignment)
        self._failures.point("place for a domain")
        if alignment > PAGE_SIZE:
            raise refuse(EINVAL, f"the domain's smallest page is {alignment} bytes, above 4096", "limit", alignment)
        self._check_alignment(alignment)
        try:
            self._reserve_outside(domain, device)
            self._filling.add(domain, self.areas)
        except KernelError:
            self.room.unreserve(domain)
            raise
        self.alignment = alignment

    def remove_domain(self, domain: Domain) -> None:
        """Undo `add_domain`; the last one gone unpins everything (iopt_table_remove_domain). Cannot fail."""
        self._filling.remove(domain, self.areas)
        self.room.unreserve(domain)
        self._calculate_alignment()

    def _reserve_outside(self, domain: Domain, device: str | None) -> None:
        start, last = domain.geometry.start, domain.geometry.last
        before = f" before {device}" if device is not None else ""
        why = f"outside the aperture {start:#x}-{last:#x} of {domain.unit.name}{before}"
        if start:
            self.room.reserve(Reserved(0, start - 1, domain, why))
        if last != ULONG_MAX:
            self.room.reserve(Reserved(last + 1, ULONG_MAX, domain, why))

    # -- alignment and large pages

    def add_access(self, access: Access) -> None:
        """Follows iopt_add_access. Raises KernelError(EADDRINUSE) when areas are misaligned for it."""
        self._failures.point("place for an access")
        self.accesses.append(access)
        try:
            self._calculate_alignment()
        except KernelError:
            self.accesses.remove(access)
            raise

    def remove_access(self, access: Access) -> None:
        """Follows iopt_remove_access. Cannot fail."""
        self.accesses.remove(access)
        self._calculate_alignment()

    def set_large_pages(self, enable: bool) -> None:
        """IOMMU_OPTION_HUGE_PAGES (iopt_disable_large_pages, iopt_enable_large_pages).

        Raises KernelError: EINVAL when domains are filled already, EADDRINUSE when areas are not aligned to pages.
        """
        if enable == self.large_pages:
            return
        if not enable and self.domains and self.areas:
            raise refuse(EINVAL, "large pages cannot be turned off once a domain has mappings", "field", "val64")
        self._filling.large_pages = enable
        try:
            self._calculate_alignment()
        except KernelError:
            self._filling.large_pages = not enable
            raise

    def _calculate_alignment(self) -> None:
        """Follows iopt_calculate_iova_alignment."""
        alignment = 1 if self.large_pages else PAGE_SIZE
        for domain in self.domains:
            alignment = max(alignment, domain.granule)
        for access in self.accesses:
            alignment = max(alignment, access.alignment)
        self._check_alignment(alignment)
        self.alignment = alignment

    def _check_alignment(self, alignment: int) -> None:
        """Whether every area conforms to a larger alignment (iopt_check_iova_alignment)."""
        if alignment <= self.alignment:
            return
        mask = alignment - 1
        for area in self.areas:
            if (area.start | area.length | area.page_offset) & mask:
                raise refuse(EADDRINUSE, f"area {area} is not aligned to {alignment}", "area", area)

    # -- splitting, for VFIO_TYPE1_IOMMU

    def cut(self, iova: int) -> None:
        """Let `iova` be the last byte of an area, if it lies in one (iopt_cut_iova, iopt_area_split).

        Raises KernelError: EBUSY while the area is being unmapped, EINVAL when the cut is not aligned, accesses pin the
        area, or a domain may have mapped it with large pages.
        """
        area = self.areas.first(iova, iova)
        if area is None or iova in (area.start, area.last):
            return
        if area.prevent_access:
            raise refuse(EBUSY, f"area {area} is being unmapped", "area", area)
        middle = iova + 1
        if (middle | area.byte_at(middle)) & self.alignment - 1:
            raise refuse(EINVAL, f"{middle:#x} is no multiple of {self.alignment} in area {area}", "area", area)
        if area.accesses:
            raise refuse(EINVAL, f"area {area} is pinned by an access and cannot be split", "area", area)
        if self.domains and self.large_pages:
            raise refuse(EINVAL, f"area {area} may be mapped with large pages and cannot be split", "area", area)
        self._split(area, middle)

    def _split(self, area: Area, middle: int) -> None:
        self._failures.point("area")
        left = Area(area.start, middle - 1, area.pages, area.byte, area.prot)
        right = Area(middle, area.last, area.pages, area.byte_at(middle), area.prot)
        if self.domains:
            area.pages.claim(left.first_page, left.last_page)
            area.pages.claim(right.first_page, right.last_page)  # cannot fail: its borders are there, and it is pinned
            area.pages.release(area.first_page, area.last_page)
        self.areas.remove(area)
        self.areas.add(left)
        self.areas.add(right)
        self.room.forget_gaps()  # it may have heard of the whole area, and not yet looked at it
