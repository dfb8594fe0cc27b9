"""Frame numbers, and runs of frames in closed form.

Physical addresses are synthetic: nothing stands behind a frame number but the run that it belongs to. So
numbers are chosen to make two things cheap. A run of 262,144 scattered frames is one object with a formula
instead of a list, and a frame number tells, by its upper bits, the size of the block that it was taken
from, hence where that block begins: finding the run of an address is one look into a dict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ioas.soft.memory.pages import Grip, Pages

ORDER_SHIFT = 34
"""Blocks of 2**order frames have numbers from ``order << ORDER_SHIFT``: room for 64 TiB in each order."""
RUN_LIMIT = 1 << 26
"""The most pages in one run: 256 GiB. Numbers stay below 2**39, addresses below 2**51 (the mock unit's width)."""


class Run:
    """Frames given to consecutive pages of one backing.

    Page `index` of the run has frame number (physical address >> 12) ``base + (index ^ flip)``. `flip` is a
    power of two: blocks of `flip` pages are physically contiguous and aligned, and no two neighbouring
    blocks are (4 KiB frames: 1; 2 MiB: 512; 1 GiB: 1 << 18). 0: the whole run is contiguous.
    """

    __slots__ = ("base", "count", "flip", "grip", "grips", "owner", "page")

    def __init__(self, owner: Pages, page: int, count: int, base: int, flip: int) -> None:
        self.owner = owner
        self.page = page
        """Index, in the backing, of the run's first page."""
        self.count = count
        self.base = base
        self.flip = flip
        self.grips: dict[Grip, None] = {}
        """Who holds pages of the run; guarded by the lock of `Memory`, like `grip`."""
        self.grip: Grip | None = None
        """The one of `grips` that access goes through until another is needed."""

    def pfn(self, index: int) -> int:
        """Frame number of the run's page `index` (0 <= index < count)."""
        return self.base + (index ^ self.flip)

    def block(self, index: int) -> int:
        """How many pages from `index` on are physically contiguous."""
        flip = self.flip
        rest = self.count - index
        return min(flip - index % flip, rest) if flip else rest


class Segment(NamedTuple):
    """`count` consecutive pages of a run, from its page `first`."""

    run: Run
    first: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here


class FrameNumbers:
    """Gives out blocks of 2**order frame numbers, aligned to their size; recycles them. Not locked.

    The latest returned are given out first, so that a translation that outlives its unmapping soon hits
    somebody else's page, as on hardware, and tests notice.
    """

    def __init__(self) -> None:
        self._fresh = [order << ORDER_SHIFT for order in range(32)]
        self._fresh[0] = 1  # frame 0 stays unused: an address of 0 is a mistake
        self._free: list[list[int]] = [[] for _ in range(32)]

    def take(self, order: int) -> int:
        """The first number of a block."""
        free = self._free[order]
        if free:
            return free.pop()
        base = self._fresh[order]
        self._fresh[order] = base + (1 << order)
        return base

    def give(self, base: int) -> None:
        """Return the block that begins at `base`."""
        self._free[base >> ORDER_SHIFT].append(base)


def block_base(pfn: int) -> int:
    """The first frame number of the block that `pfn` belongs to."""
    return pfn & -(1 << (pfn >> ORDER_SHIFT))


def block_order(count: int, flip: int) -> int:
    """The order of the block that a run of `count` pages needs: room for every ``index ^ flip``."""
    return max((count - 1).bit_length(), flip.bit_length())
