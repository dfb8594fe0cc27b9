"""`IoPagetable`: what is mapped in an IOAS, independent of any hardware (io_pagetable.c, 7.3).

IOVA is divided into areas, each a slice of some pages. While the table has domains every area stands in every domain
and its pages are pinned; without a domain nothing is pinned. The order of checks is the kernel's.

Everything here runs under `System.lock`, so an area is published whole and there is no half-made state to see, where the
kernel has `area->pages == NULL`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from errno import EADDRINUSE, EBUSY, EDEADLOCK, EEXIST, EINVAL, ENOENT, ENOSPC, EOVERFLOW, EPERM
from typing import TYPE_CHECKING, NamedTuple

from sortedcontainers import SortedList

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommu import Prot
from ioas.soft.iommufd.area import Area, Slice
from ioas.soft.iommufd.gaps import Fit, Found, GapIndex
from ioas.soft.iommufd.ranges import ULONG_MAX, AllowedRanges, Reserved, ReservedRanges, Span

if TYPE_CHECKING:
    from ioas.soft.iommu import Domain, Requester
    from ioas.soft.iommufd.access import Access
    from ioas.soft.iommufd.pages import Pages

_HUGE = 2 << 20
"""HPAGE_SIZE: no alignment above this is kept for automatic placement."""
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

    __slots__ = ("_gaps", "_starts", "accesses", "alignment", "allowed", "areas", "domains", "large_pages", "reserved")

    def __init__(self) -> None:
        self.areas: dict[int, Area] = {}
        """By start; `_starts` has the keys in order."""
        self._starts: SortedList[int] = SortedList()
        self.reserved = ReservedRanges()
        self.allowed = AllowedRanges()
        self._gaps: GapIndex | None = None
        self.domains: list[Domain] = []
        self.accesses: list[Access] = []
        self.alignment = 1
        self.large_pages = True

    def __iter__(self) -> Iterator[Area]:
        """The areas by address. Do not map or unmap meanwhile."""
        return map(self.areas.__getitem__, self._starts)

    # -- looking up

    def first_area(self, start: int, last: int) -> Area | None:
        """The lowest area that meets `start` to `last`."""
        starts = self._starts
        index = starts.bisect_right(start)
        if index:
            area = self.areas[starts[index - 1]]
            if area.last >= start:
                return area
        if index < len(starts) and starts[index] <= last:
            return self.areas[starts[index]]
        return None

    def contiguous(self, iova: int, last: int) -> Iterator[tuple[Area, int, int]]:
        """The areas under `iova` to `last` in order, each with the part (first, last) that is meant.

        Raises KernelError(ENOENT) at the first hole, after what stands before it. Follows iopt_for_each_contig_area.
        """
        while True:
            area = self.first_area(iova, iova)
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

    def map(self, slices: Sequence[Slice], length: int, iova: int | None, prot: int, address: int = 0) -> int:
        """Map `slices`, `length` bytes in all, one after the other; return where (iopt_map_pages).

        `iova` None picks the place, which then keeps the alignment of `address` (where the first byte stands).

        Raises KernelError, with nothing changed: EINVAL misaligned or reserved, EOVERFLOW, EEXIST, ENOSPC, EPERM for
        writing to pages mapped for reading; with a domain also what pinning raises.
        """
        if length & self.alignment - 1 or not length:
            raise self._misaligned("length", length)
        found: Found | None = None
        if iova is None:
            found = self._place(address, length)
            iova = found.address
        else:
            self._check_free(iova, length)
        areas = self._make_areas(slices, iova, prot)
        if self.domains:
            self._fill_all(areas)
        starts = self._starts
        gaps = self._gaps
        if gaps is not None:
            if found is not None:
                gaps.take(found.gap, iova, iova + length - 1)
            else:
                before, after = self._free_around(iova, iova + length - 1)
                gaps.take_between(before, after, iova, iova + length - 1)
        for area in areas:
            self.areas[area.start] = area
            starts.add(area.start)
        return iova

    def _check_free(self, iova: int, length: int) -> None:
        """Follows iopt_check_iova."""
        if iova & self.alignment - 1:
            raise self._misaligned("iova", iova)
        last = iova + length - 1
        if last > ULONG_MAX:
            raise refuse(
                EOVERFLOW, f"{length:#x} bytes from IOVA {iova:#x} run past the end of IOVA", "field", "length"
            )
        reserved = self.reserved.first(iova, last)
        if reserved is not None:
            raise refuse(EINVAL, f"IOVA {iova:#x}-{last:#x} meets reserved {reserved}", "region", reserved)
        starts = self._starts
        index = starts.bisect_right(last)
        if index:
            area = self.areas[starts[index - 1]]
            if area.last >= iova:
                raise refuse(EEXIST, f"IOVA {iova:#x}-{last:#x} is mapped already at {area}", "area", area)

    def _make_areas(self, slices: Sequence[Slice], iova: int, prot: int) -> list[Area]:
        """Areas for `slices` from `iova`, not yet in the table. Follows iopt_insert_area."""
        areas = []
        for pages, byte, length in slices:
            if prot & _WRITE and not pages.writable:
                raise refuse(EPERM, f"{pages} were mapped for reading only, and are to be written", "field", "flags")
            if byte % PAGE_SIZE & self.alignment - 1:
                raise self._misaligned("offset in the page", byte % PAGE_SIZE)
            last = iova + length - 1
            if last > ULONG_MAX:
                raise refuse(
                    EOVERFLOW, f"{length:#x} bytes at IOVA {iova:#x} run past the end of IOVA", "address", iova
                )
            areas.append(Area(iova, last, pages, byte, prot))
            iova = last + 1
        return areas

    def _misaligned(self, what: str, value: int) -> KernelError:
        if not value:
            return refuse(EINVAL, f"{what} is 0", "field", what)
        return refuse(EINVAL, f"{what} {value:#x} is not a multiple of {self.alignment}", "field", what)

    # -- automatic placement

    def _place(self, address: int, length: int) -> Found:
        """Where `length` bytes go that stand at `address`. Follows iopt_alloc_iova."""
        if length >= ULONG_MAX // 2:
            raise refuse(EOVERFLOW, f"length {length:#x} is too much for automatic placement", "field", "length")
        alignment = 1 << (length - 1).bit_length()
        if address:
            alignment = min(alignment, address & -address)
        alignment = min(alignment, _HUGE)
        if alignment < self.alignment:
            raise refuse(
                EINVAL,
                f"address {address:#x} is aligned to {alignment} only, and IOVA must be a multiple of {self.alignment}",
                "address",
                address,
            )
        if self._gaps is None:
            self._gaps = self._find_gaps()
        found = self._gaps.first_fit(Fit(length, alignment, address % PAGE_SIZE))
        if found is None:
            where = "the allowed ranges" if self.allowed else "IOVA"
            raise refuse(ENOSPC, f"no gap in {where} takes {length:#x} bytes aligned to {alignment:#x}", "limit", where)
        return found

    def _find_gaps(self) -> GapIndex:
        used = sorted([*self.reserved.spans, *((area.start, area.last) for area in self.areas.values())])
        return GapIndex(self.allowed.windows(PAGE_SIZE, ULONG_MAX - PAGE_SIZE), used)

    def _free_around(self, start: int, last: int) -> Span:
        """The free span around `start` to `last`, which is free."""
        before, after = self.reserved.around(start, last)
        starts = self._starts
        index = starts.bisect_right(last)
        if index:
            before = max(before, self.areas[starts[index - 1]].last + 1)
        if index < len(starts):
            after = min(after, starts[index] - 1)
        return before, after

    # -- unmapping

    def unmap(self, start: int, last: int) -> Unmapped:
        """Remove the areas from `start` to `last`, which must not cut one. Follows iopt_unmap_iova_range.

        When it returns no DMA reaches the pages. Stops at an area that cannot go, and says so beside the bytes removed
        before it: EBUSY locked, ENOENT cut by the range, EDEADLOCK when accesses do not let go.
        """
        area = self.areas.get(start)
        if area is not None and area.last == last and not area.accesses and not area.locks:
            self._unfill(area)
            self._forget(area)
            return Unmapped(last - start + 1, None)
        return self._unmap_range(start, last)

    def _unmap_range(self, start: int, last: int) -> Unmapped:
        removed = 0
        tries = 0
        while True:
            run, blocking = self._removable(start, last)
            if run:
                self._remove_run(run)
                removed += sum(area.length for area in run)
                tries = 0
            if blocking is None:
                return Unmapped(removed, None)
            error = _why_not(blocking, start, last)
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
        first = self.first_area(start, last)
        if first is None:
            return [], None
        run: list[Area] = []
        for key in self._starts.irange(first.start, last):
            area = self.areas[key]
            if area.locks or area.accesses or area.start < start or area.last > last:
                return run, area
            run.append(area)
        return run, None

    def _remove_run(self, run: list[Area]) -> None:
        """Remove areas that stand one after the other, with one pass over each domain."""
        start, last = run[0].start, run[-1].last
        for domain in self.domains:
            domain.unmap(start, last - start + 1)
        if self.domains:
            for area in run:
                area.pages.release(area.first_page, area.last_page)
        if len(run) == len(self.areas):
            self.areas.clear()
            self._starts.clear()
            self._gaps = None
            return
        for area in run:
            self._forget(area)

    def _forget(self, area: Area) -> None:
        """Take an unfilled area out of the table."""
        del self.areas[area.start]
        self._starts.remove(area.start)
        if self._gaps is not None:
            self._gaps.give(area.start, area.last)

    # -- domains

    def add_domain(self, domain: Domain) -> None:
        """Map everything into `domain` too, and reserve what is outside its aperture (iopt_table_add_domain).

        Raises KernelError, with nothing changed: EADDRINUSE when areas are misaligned for it or outside its aperture,
        EINVAL when it cannot map single pages, and what pinning raises.
        """
        alignment = max(_granule(domain), self.alignment)
        if alignment > PAGE_SIZE:
            raise refuse(EINVAL, f"the domain's smallest page is {alignment} bytes, above 4096", "limit", alignment)
        self._check_alignment(alignment)
        try:
            self._reserve_outside(domain)
            self._fill_domain(domain)
        except KernelError:
            self.unreserve(domain)
            raise
        self.alignment = alignment
        self.domains.append(domain)

    def remove_domain(self, domain: Domain) -> None:
        """Undo `add_domain`; the last one gone unpins everything (iopt_table_remove_domain). Cannot fail."""
        self.domains.remove(domain)
        self._empty_domain(domain, list(self))
        self.unreserve(domain)
        self._calculate_alignment()

    def _reserve_outside(self, domain: Domain) -> None:
        start, last = domain.geometry.start, domain.geometry.last
        why = f"outside the aperture {start:#x}-{last:#x} of {domain.unit.name}"
        if start:
            self.reserve(Reserved(0, start - 1, domain, why))
        if last != ULONG_MAX:
            self.reserve(Reserved(last + 1, ULONG_MAX, domain, why))

    def _fill_domain(self, domain: Domain) -> None:
        """Map every area into a domain that is not in the list yet."""
        done: list[Area] = []
        try:
            for area in self:
                self._fill_one(domain, area)
                done.append(area)
        except KernelError:
            self._empty_domain(domain, done)
            raise

    def _fill_one(self, domain: Domain, area: Area) -> None:
        pages, first, last = area.pages, area.first_page, area.last_page
        if not self.domains:
            pages.claim(first, last)
        try:
            self._map_area(domain, area, pages, first, last)
        except KernelError:
            if not self.domains:
                pages.release(first, last)
            raise

    def _empty_domain(self, domain: Domain, areas: list[Area]) -> None:
        """Unmap `areas`, in order of address, from a domain that is not in the list; unpin if it was the only one."""
        if not areas:
            return
        start, last = areas[0].start, areas[-1].last
        domain.unmap(start, last - start + 1)
        if not self.domains:
            for area in areas:
                area.pages.release(area.first_page, area.last_page)

    def _fill_all(self, areas: list[Area]) -> None:
        """Pin new areas and map them into every domain, all or nothing (iopt_fill_domains_pages)."""
        done: list[Area] = []
        try:
            for area in areas:
                self._fill(area)
                done.append(area)
        except KernelError:
            for area in done:
                self._unfill(area)
            raise

    def _fill(self, area: Area) -> None:
        pages = area.pages
        first, last = area.first_page, area.last_page
        pages.claim(first, last)
        done: list[Domain] = []
        try:
            for domain in self.domains:
                self._map_area(domain, area, pages, first, last)
                done.append(domain)
        except KernelError:
            for domain in done:
                domain.unmap(area.start, area.length)
            pages.release(first, last)
            raise

    def _map_area(self, domain: Domain, area: Area, pages: Pages, first: int, last: int) -> None:
        domain.map(
            area.start,
            pages.segments(first, last),
            area.byte % PAGE_SIZE,
            area.last - area.start + 1,
            area.prot,
            large=self.large_pages,
        )

    def _unfill(self, area: Area) -> None:
        """Unmap an area from every domain, and only then unpin it."""
        if self.domains:
            for domain in self.domains:
                domain.unmap(area.start, area.last - area.start + 1)
            area.pages.release(area.first_page, area.last_page)

    # -- what may be mapped

    def reserve(self, entry: Reserved) -> None:
        """Keep a range free of mappings (iopt_reserve_iova). Raises KernelError(EADDRINUSE) when it is in use."""
        area = self.first_area(entry.start, entry.last)
        if area is not None:
            raise refuse(EADDRINUSE, f"area {area} stands where {entry} must be reserved", "area", area)
        allowed = self.allowed.first(entry.start, entry.last)
        if allowed is not None:
            name = f"{allowed[0]:#x}-{allowed[1]:#x}"
            raise refuse(EADDRINUSE, f"{name} was promised by ALLOW_IOVAS; {entry} must be reserved", "region", name)
        self.reserved.add(entry)
        self._gaps = None

    def unreserve(self, owner: object) -> None:
        """Give up everything that `owner` reserved (iopt_remove_reserved_iova)."""
        if self.reserved.remove_owner(owner):
            self._gaps = None

    def reserve_for(self, requester: Requester) -> None:
        """Reserve what `requester` cannot use (iopt_table_enforce_dev_resv_regions).

        Raises KernelError(EADDRINUSE), with nothing changed, when a mapping or an allowed range stands there.
        """
        regions = requester.unit.reserved_regions(requester) if requester.unit is not None else []
        try:
            for region in regions:
                if region.kind != "direct-relaxable":
                    why = f"{region.kind} region of {requester.name}"
                    self.reserve(Reserved(region.start, region.last, requester, why))
        except KernelError:
            self.unreserve(requester)
            raise

    def set_allowed(self, allowed: AllowedRanges) -> None:
        """Replace the allowed ranges (iopt_set_allow_iova). Raises KernelError(EADDRINUSE) when one is reserved."""
        for start, last in allowed:
            reserved = self.reserved.first(start, last)
            if reserved is not None:
                raise refuse(EADDRINUSE, f"range {start:#x}-{last:#x} meets reserved {reserved}", "region", reserved)
        self.allowed = allowed
        self._gaps = None

    # -- alignment and large pages

    def add_access(self, access: Access) -> None:
        """Follows iopt_add_access. Raises KernelError(EADDRINUSE) when areas are misaligned for it."""
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
        self.large_pages = enable
        try:
            self._calculate_alignment()
        except KernelError:
            self.large_pages = not enable
            raise

    def _calculate_alignment(self) -> None:
        alignment = 1 if self.large_pages else PAGE_SIZE
        for domain in self.domains:
            alignment = max(alignment, _granule(domain))
        for access in self.accesses:
            alignment = max(alignment, access.alignment)
        self._check_alignment(alignment)
        self.alignment = alignment

    def _check_alignment(self, alignment: int) -> None:
        """Whether every area conforms to a larger alignment (iopt_check_iova_alignment)."""
        if alignment <= self.alignment:
            return
        mask = alignment - 1
        for area in self.areas.values():
            if (area.start | area.length | area.page_offset) & mask:
                raise refuse(EADDRINUSE, f"area {area} is not aligned to {alignment}", "area", area)

    # -- splitting, for VFIO_TYPE1_IOMMU

    def cut(self, iova: int) -> None:
        """Let `iova` be the last byte of an area, if it lies in one (iopt_cut_iova, iopt_area_split).

        Raises KernelError: EBUSY while the area is being unmapped, EINVAL when the cut is not aligned, accesses pin the
        area, or a domain may have mapped it with large pages.
        """
        area = self.first_area(iova, iova)
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
        left = Area(area.start, middle - 1, area.pages, area.byte, area.prot)
        right = Area(middle, area.last, area.pages, area.byte_at(middle), area.prot)
        if self.domains:
            area.pages.claim(left.first_page, left.last_page)
            area.pages.claim(right.first_page, right.last_page)
            area.pages.release(area.first_page, area.last_page)
        self.areas[left.start] = left
        self.areas[right.start] = right
        self._starts.add(right.start)


def end_of_range(iova: int, length: int) -> int:
    """The last byte of a range. Raises KernelError: EINVAL for no bytes, EOVERFLOW past the end of IOVA."""
    if not length:
        raise refuse(EINVAL, "length is 0", "field", "length")
    last = iova + length - 1
    if last > ULONG_MAX:
        raise refuse(EOVERFLOW, f"{length:#x} bytes from IOVA {iova:#x} run past the end of IOVA", "field", "length")
    return last


def _granule(domain: Domain) -> int:
    return domain.page_sizes & -domain.page_sizes


def _why_not(area: Area, start: int, last: int) -> KernelError | None:
    """Why an area cannot be unmapped with `start` to `last`, in the kernel's order; None: only accesses hold it."""
    if area.locks:
        return refuse(EBUSY, f"area {area} is locked by a hardware queue", "area", area)
    if area.start < start or area.last > last:
        return refuse(ENOENT, f"area {area} reaches beyond {start:#x}-{last:#x}, and areas go whole", "area", area)
    return None
