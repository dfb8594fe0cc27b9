"""`Filling`: the domains of an IOAS, all of which carry all of its areas (io_pagetable.c and pages.c, 7.3).

Pages are claimed once for an area, while there is any domain. An area is unmapped from every domain before its
pages are released: nothing that a device can still reach is unpinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ioas.errors import KernelError
from ioas.host import PAGE_SHIFT, PAGE_SIZE
from ioas.soft.iommufd.area import Area

if TYPE_CHECKING:
    from ioas.soft.iommu import Domain


class Filling:
    """Domains, and whether large pages may be used in them."""

    __slots__ = ("domains", "large_pages")

    def __init__(self) -> None:
        self.domains: list[Domain] = []
        self.large_pages = True

    def fill(self, areas: Sequence[Area]) -> None:
        """Pin new areas and map them into every domain, all or nothing (iopt_fill_domains_pages).

        Raises KernelError as `Pages.claim` and `Domain.map` do.
        """
        if not self.domains:
            return
        done = 0
        try:
            for area in areas:
                self._fill(area)
                done += 1
        except KernelError:
            for area in areas[:done]:
                self.unfill((area,))
            raise

    def unfill(self, run: Sequence[Area]) -> None:
        """Unmap areas that stand one after the other, with nothing but them between, and unpin them."""
        if not self.domains:
            return
        start = run[0].start
        for domain in self.domains:
            domain.unmap(start, run[-1].last - start + 1)
        _release(run)

    def add(self, domain: Domain, areas: Iterable[Area]) -> None:
        """Map all `areas` (of the IOAS, by address) into a further domain, all or nothing (iopt_fill_domain)."""
        done: list[Area] = []
        try:
            for area in areas:
                self._fill_further(domain, area)
                done.append(area)
        except KernelError:
            self._empty(domain, done)
            raise
        self.domains.append(domain)

    def remove(self, domain: Domain, areas: Iterable[Area]) -> None:
        """Unmap all `areas` from `domain`; with the last domain the pages go too (iopt_unfill_domain). Cannot fail."""
        self.domains.remove(domain)
        self._empty(domain, list(areas))

    def _fill(self, area: Area) -> None:
        byte = area.byte
        length = area.last - area.start + 1
        first, last = byte >> PAGE_SHIFT, byte + length - 1 >> PAGE_SHIFT
        pages = area.pages
        pinned = pages.claim(first, last, charge=False)  # what a domain refuses comes before what it would cost
        done = 0
        try:
            segments = pages.segments(first, last)
            for domain in self.domains if not pages.revoked else ():
                domain.map(area.start, segments, byte % PAGE_SIZE, length, area.prot, large=self.large_pages)
                done += 1
            pages.charge(pinned)
        except KernelError:
            for domain in self.domains[:done]:
                domain.unmap(area.start, length)
            pages.release(first, last, charged=False)
            raise

    def _fill_further(self, domain: Domain, area: Area) -> None:
        pages, first, last = area.pages, area.first_page, area.last_page
        pinned = pages.claim(first, last, charge=False) if not self.domains else 0
        done = False
        try:
            if not pages.revoked:
                segments = pages.segments(first, last)
                domain.map(area.start, segments, area.page_offset, area.length, area.prot, large=self.large_pages)
                done = True
            pages.charge(pinned)
        except KernelError:
            if done:
                domain.unmap(area.start, area.length)
            if not self.domains:
                pages.release(first, last, charged=False)
            raise

    def _empty(self, domain: Domain, areas: list[Area]) -> None:
        """Unmap `areas` from a domain that is not in the list; unpin them if the list is empty."""
        if areas:
            domain.unmap(areas[0].start, areas[-1].last - areas[0].start + 1)
            if not self.domains:
                _release(areas)


def _release(areas: Iterable[Area]) -> None:
    for area in areas:
        byte = area.byte
        area.pages.release(byte >> PAGE_SHIFT, byte + area.last - area.start >> PAGE_SHIFT)
