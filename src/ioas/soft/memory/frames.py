"""Runs of frames, in closed form."""

from __future__ import annotations

from typing import NamedTuple


class Run:
    """Frames given to consecutive pages of one backing.

    Page `index` of the run has frame number (physical address >> 12) ``base + (index ^ flip)``. `flip` is a
    power of two: blocks of `flip` pages are physically contiguous and aligned, and no two neighbouring
    blocks are (4 KiB frames: 1; 2 MiB: 512; 1 GiB: 1 << 18). 0: the whole run is contiguous.
    """

    __slots__ = ("base", "count", "flip", "page")

    def __init__(self, page: int, count: int, base: int, flip: int) -> None:
        self.page = page
        """Index, in the backing, of the run's first page."""
        self.count = count
        self.base = base
        self.flip = flip

    def pfn(self, index: int) -> int:
        """Frame number of the run's page `index` (0 <= index < count)."""
        return self.base + (index ^ self.flip)


class Segment(NamedTuple):
    """`count` consecutive pages of a run, from its page `first`."""

    run: Run
    first: int
    count: int
