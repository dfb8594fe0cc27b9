"""`Placement`: which IOVA are taken, for containers, whose user chooses them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from errno import ENOSPC
from typing import TYPE_CHECKING

from ioas.errors import refuse

if TYPE_CHECKING:
    from ioas.api.space import IovaRange

_HUGE = 2 << 20
_PAGE = 4096


class Placement:
    """Takes the first free place after the last one taken, and begins again at the end. Not for two threads at once."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._lengths: dict[int, int] = {}
        self._next = _PAGE  # drivers take 0 for "nothing"

    def choose(self, length: int, ranges: Sequence[IovaRange]) -> int:
        """A free place for `length` bytes, aligned for large table entries. Raises NoSpace."""
        align = _HUGE if length >= _HUGE else _PAGE
        for begin in (self._next, _PAGE):
            for start, last in ranges:
                at = self._fit(max(start, begin), last, length, align)
                if at is not None:
                    self._next = at + length
                    return at
        raise refuse(ENOSPC, f"no {length:#x} bytes of IOVA are free", "field", "length")

    def take(self, start: int, length: int) -> None:
        """A place is used from now on."""
        if start not in self._lengths:
            insort(self._starts, start)
        self._lengths[start] = length

    def taken(self) -> list[tuple[int, int]]:
        """The places in use, by address: first and last IOVA."""
        return [(start, start + self._lengths[start] - 1) for start in self._starts]

    def give_back(self, first: int, last: int) -> None:
        """Whatever begins from `first` to `last` is free again."""
        begin, end = bisect_left(self._starts, first), bisect_right(self._starts, last)
        for start in self._starts[begin:end]:
            del self._lengths[start]
        del self._starts[begin:end]

    def _fit(self, at: int, last: int, length: int, align: int) -> int | None:
        """The first free place from `at` that ends at `last` or before."""
        index = max(bisect_right(self._starts, at) - 1, 0)
        while True:
            at = -(-at // align) * align
            if at + length - 1 > last:
                return None
            while index < len(self._starts) and self._end(index) <= at:
                index += 1
            if index == len(self._starts) or at + length <= self._starts[index]:
                return at
            at = self._end(index)

    def _end(self, index: int) -> int:
        start = self._starts[index]
        return start + self._lengths[start]
