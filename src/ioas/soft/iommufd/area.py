"""Areas: ranges of IOVA that map slices of some `Pages` (struct iopt_area, 7.3), and the sorted set of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from sortedcontainers import SortedList

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


class AreaMap:
    """Areas by address. They do not overlap."""

    __slots__ = ("_areas", "_starts")

    def __init__(self) -> None:
        self._areas: dict[int, Area] = {}
        self._starts: SortedList[int] = SortedList()

    def __len__(self) -> int:
        return len(self._areas)

    def __iter__(self) -> Iterator[Area]:
        """By address. Nothing may be added or removed meanwhile."""
        return map(self._areas.__getitem__, self._starts)

    def at(self, start: int) -> Area | None:
        """The area that begins at `start`."""
        return self._areas.get(start)

    def below(self, last: int) -> Area | None:
        """The highest area that begins at or below `last`."""
        starts = self._starts
        index = starts.bisect_right(last)
        return self._areas[starts[index - 1]] if index else None

    def first(self, start: int, last: int) -> Area | None:
        """The lowest area that meets `start` to `last`."""
        starts = self._starts
        index = starts.bisect_right(start)
        if index:
            area = self._areas[starts[index - 1]]
            if area.last >= start:
                return area
        if index < len(starts) and starts[index] <= last:
            return self._areas[starts[index]]
        return None

    def within(self, start: int, last: int) -> Iterator[Area]:
        """The areas that meet `start` to `last`, by address. Nothing may be added or removed meanwhile."""
        first = self.first(start, last)
        if first is not None:
            yield from map(self._areas.__getitem__, self._starts.irange(first.start, last))

    def add(self, area: Area) -> None:
        """Add an area that meets no other."""
        self._areas[area.start] = area
        self._starts.add(area.start)

    def remove(self, area: Area) -> None:
        """Remove an area."""
        del self._areas[area.start]
        self._starts.remove(area.start)

    def clear(self) -> None:
        """Remove all."""
        self._areas.clear()
        self._starts.clear()
