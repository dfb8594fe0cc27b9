"""`Area`: a range of IOVA that maps a slice of some `Pages` (struct iopt_area, 7.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ioas.host import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from ioas.soft.iommufd.pages import Pages


class Area:
    """`start` to `last`, backed by `pages` from its byte `byte`. The bytes need not begin or end at a page.

    There may be a million of these: keep them small.
    """

    __slots__ = ("accesses", "byte", "last", "locks", "pages", "prevent_access", "prot", "start")

    def __init__(self, start: int, last: int, pages: Pages, byte: int, prot: int) -> None:
        self.start = start
        self.last = last
        self.pages = pages
        self.byte = byte
        self.prot = prot
        """A set of `ioas.soft.iommu.Prot`, as a plain integer."""
        self.accesses = 0
        """Pins by accesses: unmapping asks them to let go."""
        self.locks = 0
        """Pins that do not let go: unmapping is refused."""
        self.prevent_access = False
        """An unmap is waiting: no new access."""

    def __str__(self) -> str:
        return f"{self.start:#x}-{self.last:#x}"

    @property
    def length(self) -> int:
        """In bytes."""
        return self.last - self.start + 1

    @property
    def first_page(self) -> int:
        """Index in `pages` of the first page."""
        return self.byte >> PAGE_SHIFT

    @property
    def last_page(self) -> int:
        """Index in `pages` of the last page."""
        return self.byte + self.last - self.start >> PAGE_SHIFT

    @property
    def page_offset(self) -> int:
        """Where the area begins in its first page."""
        return self.byte % PAGE_SIZE

    def byte_at(self, iova: int) -> int:
        """The byte of `pages` under `iova`, which lies in the area."""
        return self.byte + iova - self.start

    def page_at(self, iova: int) -> int:
        """The index in `pages` of the page under `iova`, which lies in the area."""
        return self.byte + iova - self.start >> PAGE_SHIFT


class Slice(NamedTuple):
    """A part of some pages, on its way to becoming an area: `length` bytes from byte `byte`."""

    pages: Pages
    byte: int
    length: int
