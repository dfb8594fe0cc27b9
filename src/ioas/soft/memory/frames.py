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
LOW_FRAMES = 1 << 16
"""Frames below 256 MiB, which a device with 28 address lines reaches (edu has no more)."""
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


class LowFrames:
    """Blocks of frame numbers below `LOW_FRAMES`: for machines whose devices put physical addresses on the bus.

    Numbers come in chunks of 2 MiB. A chunk is divided into blocks of one size for good; larger blocks take several.
    """

    _CHUNK = 9

    def __init__(self) -> None:
        self._orders = [0] * (LOW_FRAMES >> self._CHUNK)
        """By chunk, the order of its blocks; 0: it is free."""
        self._orders[0] = self._CHUNK  # where a PC has its firmware's tables, and address 0
        self._free: list[list[int]] = [[] for _ in range(self._CHUNK)]

    def take(self, order: int) -> int:
        """The first number of a block of 2**order (order 1 or more); 0 when there is none."""
        if order >= self._CHUNK:
            return self._take_chunks(order)
        free = self._free[order]
        if not free:
            chunk = self._take_chunks(self._CHUNK)
            if not chunk:
                return 0
            self._orders[chunk >> self._CHUNK] = order
            free += range(chunk + (1 << self._CHUNK) - (1 << order), chunk - 1, -(1 << order))
        return free.pop()

    def give(self, base: int) -> None:
        """Return the block that begins at `base`."""
        chunk = base >> self._CHUNK
        order = self._orders[chunk]
        if order < self._CHUNK:
            self._free[order].append(base)
        else:
            count = 1 << order - self._CHUNK
            self._orders[chunk : chunk + count] = [0] * count

    def base(self, pfn: int) -> int:
        """The first frame number of the block that `pfn` belongs to."""
        return pfn & -(1 << self._orders[pfn >> self._CHUNK])

    def _take_chunks(self, order: int) -> int:
        count = 1 << order - self._CHUNK
        for chunk in range(0, len(self._orders) - count + 1, count):
            if not any(self._orders[chunk : chunk + count]):
                self._orders[chunk : chunk + count] = [order] * count
                return chunk << self._CHUNK
        return 0


class FrameNumbers:
    """Gives out blocks of 2**order frame numbers, aligned to their size; recycles them. Not locked.

    The latest returned are given out first, so that a translation that outlives its unmapping soon hits
    somebody else's page, as on hardware, and tests notice.
    """

    def __init__(self, low: LowFrames | None = None) -> None:
        """`low`: what is given out first, but for page tables (order 0)."""
        self._fresh = [order << ORDER_SHIFT for order in range(32)]
        self._fresh[0] = LOW_FRAMES if low else 1  # frame 0 stays unused: an address of 0 is a mistake
        self._free: list[list[int]] = [[] for _ in range(32)]
        self._low = low

    def take(self, order: int) -> int:
        """The first number of a block."""
        if self._low and order:
            base = self._low.take(order)
            if base:
                return base
        free = self._free[order]
        if free:
            return free.pop()
        base = self._fresh[order]
        self._fresh[order] = base + (1 << order)
        return base

    def give(self, base: int) -> None:
        """Return the block that begins at `base`."""
        if self._low and base < LOW_FRAMES:
            self._low.give(base)
        else:
            self._free[base >> ORDER_SHIFT].append(base)

    def base(self, pfn: int) -> int:
        """The first frame number of the block that `pfn` belongs to."""
        if pfn < LOW_FRAMES and self._low:
            return self._low.base(pfn)
        return pfn & -(1 << (pfn >> ORDER_SHIFT))


def block_order(count: int, flip: int) -> int:
    """The order of the block that a run of `count` pages needs: room for every ``index ^ flip``."""
    return max((count - 1).bit_length(), flip.bit_length())
