"""Where free IOVA is: an index of gaps for automatic placement.

The kernel walks its interval trees hole by hole (iopt_alloc_iova, drivers/iommu/iommufd/io_pagetable.c, 7.3),
which is linear in the number of mappings. A walk in Python would be a hundred times slower still, so the gaps
are kept in size classes, each sorted by address: eight classes to a power of two, which is exact for
lengths up to sixteen pages. The answer is the kernel's, bit for bit: the lowest gap that fits.

The index is built when an IOAS first needs it and then follows every change. It holds only gaps inside the
windows that automatic placement may use (the allowed ranges, or nearly everything).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sortedcontainers import SortedList

from ioas.host import PAGE_SIZE

_SUB_BITS = 3


class Fit(NamedTuple):
    """What is to be placed: `length` bytes, at a multiple of `alignment` with `offset` or'ed in.

    `alignment` is a power of two; `offset` is below 4096 and, when it is not 0, a multiple of `alignment`.
    """

    length: int
    alignment: int
    offset: int

    def place(self, start: int, last: int) -> int | None:
        """The address in the gap `start` to `last`, or None when it does not fit.

        Follows __alloc_iova_check_range (7.3), with its two peculiarities: or-ing the offset into an aligned
        address can lift it by more than the offset, and a gap of a single byte is never used.
        """
        address = (start + self.alignment - 1) & -self.alignment | self.offset
        if address >= last or last - address < self.length - 1:
            return None
        return address

    @property
    def certain(self) -> int:
        """A gap of this many bytes fits wherever it starts."""
        return self.length + self.alignment + self.offset


class Found(NamedTuple):
    """A place, and the gap that it lies in (to be handed to `GapIndex.take`)."""

    address: int
    gap: int


class GapIndex:
    """The gaps between used ranges, inside `windows`.

    `windows` are disjoint (start, last) pairs in order of address; `used` likewise, merged where they touch.

    A class lists its gaps by their last byte: taking from the front of a gap, and giving back to it, moves only
    its start, and leaves the lists alone unless the gap changes its class.
    """

    __slots__ = ("_classes", "_filled", "_last_of", "_start_of", "_window_lasts", "_window_starts", "_windows")

    def __init__(self, windows: Sequence[tuple[int, int]], used: Iterable[tuple[int, int]]) -> None:
        self._windows = list(windows)
        self._window_starts = [start for start, _ in windows]
        self._window_lasts = [last for _, last in windows]
        self._last_of: dict[int, int] = {}
        self._start_of: dict[int, int] = {}
        lasts_of_class: dict[int, list[int]] = {}
        for start, last in _gaps(self._windows, used):
            self._last_of[start] = last
            self._start_of[last] = start
            lasts_of_class.setdefault(_size_class(last - start + 1), []).append(last)
        self._classes = {number: SortedList(lasts) for number, lasts in lasts_of_class.items()}
        self._filled = sorted(self._classes)
        """The classes that are not empty."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The gaps, by address (for tests and reports)."""
        return iter(sorted(self._last_of.items()))

    def widest(self) -> str:
        """A gap of the widest size class, in words (for refusals)."""
        if not self._filled:
            return "no gap"
        last = self._classes[self._filled[-1]][0]
        return f"gap {self._start_of[last]:#x}-{last:#x}"

    def first_fit(self, fit: Fit) -> Found | None:
        """The lowest place for `fit`, or None."""
        certain, least = _size_class(fit.certain) + 1, _size_class(fit.length)
        best: int | None = None
        for number in reversed(self._filled):
            if number >= certain and not fit.offset:
                lowest = self._classes[number][0]
                if best is None or lowest < best:
                    best = lowest
            elif number >= least:
                best = self._lowest_that_fits(number, fit, best)
            else:
                break
        if best is None:
            return None
        address = self._place(fit, best)
        return None if address is None else Found(address, self._start_of[best])

    def _lowest_that_fits(self, number: int, fit: Fit, best: int | None) -> int | None:
        """The last byte of the lowest gap of a class that fits; `best` if that is lower."""
        for last in self._classes[number]:
            if best is not None and last >= best:
                break
            if self._place(fit, last) is not None:
                return int(last)
        return best

    def _place(self, fit: Fit, last: int) -> int | None:
        """Where `fit` goes in the gap that ends at `last`, or None.

        The kernel places in the window first, as if it were empty, and looks only at gaps from that address on. It
        makes a difference when an offset is or'ed in, and to the first gaps of a window.
        """
        start = self._start_of[last]
        if fit.offset:
            index = bisect_right(self._window_starts, start) - 1
            window = self._window_starts[index]
            if start - window < 2 * PAGE_SIZE:  # an alignment below a page and an offset lift by less
                lifted = fit.place(window, self._window_lasts[index])
                if lifted is None:
                    return None
                start = max(start, lifted)
        return fit.place(start, last)

    def take(self, gap: int, start: int, last: int) -> None:
        """`start` to `last`, which lie inside the gap that begins at `gap`, are used from now on."""
        end = self._last_of[gap]
        if last == end:
            self._remove(gap, end)
        else:
            self._move(gap, last + 1, end)
        if start > gap:
            self._add(gap, start - 1)

    def take_above(self, before: int, start: int, last: int) -> None:
        """`start` to `last` are used from now on; the index knows of nothing used from `before` to there.

        The range may lie inside a window, across its border or outside all of them.
        """
        for window_start, window_last in self._windows_over(start, last):
            self.take(max(window_start, before), max(window_start, start), min(window_last, last))

    def give(self, start: int, last: int) -> None:
        """`start` to `last` are free from now on."""
        for window_start, window_last in self._windows_over(start, last):
            self._give(max(window_start, start), min(window_last, last), window_start, window_last)

    def _give(self, start: int, last: int, window_start: int, window_last: int) -> None:
        if start > window_start:
            left = self._start_of.get(start - 1)
            if left is not None:
                self._remove(left, start - 1)
                start = left
        if last < window_last:
            right = self._last_of.get(last + 1)
            if right is not None:
                self._move(last + 1, start, right)
                return
        self._add(start, last)

    def _windows_over(self, start: int, last: int) -> Sequence[tuple[int, int]]:
        return self._windows[bisect_left(self._window_lasts, start) : bisect_right(self._window_starts, last)]

    def _move(self, old: int, new: int, last: int) -> None:
        """Let the gap from `old` to `last` begin at `new`."""
        del self._last_of[old]
        self._last_of[new] = last
        self._start_of[last] = new
        before, after = _size_class(last - old + 1), _size_class(last - new + 1)
        if before != after:
            self._unlist(before, last)
            self._list(after, last)

    def _add(self, start: int, last: int) -> None:
        self._last_of[start] = last
        self._start_of[last] = start
        self._list(_size_class(last - start + 1), last)

    def _remove(self, start: int, last: int) -> None:
        del self._last_of[start]
        del self._start_of[last]
        self._unlist(_size_class(last - start + 1), last)

    def _list(self, number: int, last: int) -> None:
        lasts = self._classes.get(number)
        if lasts is None:
            lasts = self._classes[number] = SortedList()
        if not lasts:
            insort(self._filled, number)
        lasts.add(last)

    def _unlist(self, number: int, last: int) -> None:
        lasts = self._classes[number]
        lasts.remove(last)
        if not lasts:
            del self._filled[bisect_left(self._filled, number)]


def _size_class(size: int) -> int:
    """The class of a size in bytes (at least 1): ascending with the size, eight to a power of two."""
    shift = size.bit_length() - 1 - _SUB_BITS
    if shift <= 0:
        return size
    return (shift << _SUB_BITS) + (size >> shift)


def _gaps(windows: Sequence[tuple[int, int]], used: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of `windows` that no range of `used` covers, in order."""
    ranges = iter(used)
    current = next(ranges, None)
    for start, last in windows:
        while current is not None and current[1] < start:
            current = next(ranges, None)
        while current is not None and current[0] <= last:
            if current[0] > start:
                yield start, current[0] - 1
            start = current[1] + 1
            if start > last:
                break
            current = next(ranges, None)
        if start <= last:
            yield start, last
