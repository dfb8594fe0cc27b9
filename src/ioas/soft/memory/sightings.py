"""Pages whose place a program has been told although nothing pins them: what /proc/PID/pagemap shows.

Without an IOMMU a program gives its device physical addresses, and the kernel has no part in it. It never learns which
pages a device will reach, and does not keep them. Here each page whose frame a program has asked for is *sighted*: it
keeps the frame as long as it is where it was seen. Whether it is, is found out before a device reaches it; a page
that is gone has no frame any more, so that what would be a wild access on real hardware is a fault.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ioas.host import PAGE_SHIFT, PinSource
from ioas.soft.memory.held import Held

if TYPE_CHECKING:
    from ioas.soft.memory.memory import Memory

_FEW = 256
"""As many sightings are not looked through for pages that are gone."""


class Sighting:
    """2**`order` pages that belong together, seen at one place of one address space; the first has frame `pfn`."""

    __slots__ = ("contiguous", "gone", "held", "order", "pfn", "same")

    def __init__(self, held: Held, order: int, same: Callable[[], bool]) -> None:
        self.held = held
        self.pfn = held.pfn(0)
        self.order = order
        self.contiguous = held.pfn((1 << order) - 1) - self.pfn == (1 << order) - 1
        """Whether their frames are: not where parts of them had frames before."""
        self.same = same
        """Whether the pages are still there."""
        self.gone = False
        """They were not, and have no frames any more."""


class Sightings:
    """What has been sighted on one machine, and DMA by physical address. Safe to use from any thread."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._orders: dict[int, dict[int, list[Sighting]]] = {}
        """By order, then by frame number without its lowest `order` bits: pages may be sighted in several places."""
        self._count = 0
        self._sweep_at = _FEW

    def __len__(self) -> int:
        return self._count

    def see(self, source: PinSource, start: int, order: int, write: bool, same: Callable[[], bool]) -> Sighting:
        """Give 2**`order` pages of `source` from byte `start` frames, until `same` says that they are gone.

        `write`: devices may write there. Raises KernelError as `Memory.hold` does.
        """
        if self._count >= self._sweep_at:
            self.sweep()
        sighting = Sighting(self._memory.hold(source, start, 1 << order, write), order, same)
        with self._lock:
            block = self._orders.setdefault(order, {})
            block.setdefault(sighting.pfn >> order, []).append(sighting)
            self._count += 1
        return sighting

    def forget(self, sighting: Sighting) -> None:
        """The pages are gone. Idempotent."""
        with self._lock:
            block = self._orders.get(sighting.order, {})
            there = block.get(sighting.pfn >> sighting.order, [])
            if sighting not in there:
                return
            there.remove(sighting)
            if not there:
                del block[sighting.pfn >> sighting.order]
            self._count -= 1
            sighting.gone = True
        sighting.held.release()

    def sweep(self) -> None:
        """Forget every page that is gone."""
        with self._lock:
            every = [one for block in self._orders.values() for there in block.values() for one in there]
        for one in every:
            if not one.same():
                self.forget(one)
        self._sweep_at = max(_FEW, 2 * self._count)

    def gather(self, address: int, length: int) -> bytes:
        """DMA: read `length` bytes at physical `address`. Raises KernelError(EFAULT) where there is no memory."""
        self._check(address, length)
        return self._memory.gather(((address, length),), tables=False)

    def scatter(self, address: int, data: memoryview) -> None:
        """DMA: write `data` at physical `address`; raises as `gather`, with nothing written."""
        self._check(address, len(data))
        self._memory.scatter(((address, len(data)),), data, tables=False)

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            every = [one for block in self._orders.values() for there in block.values() for one in there]
        for one in every:
            self.forget(one)

    def _check(self, address: int, length: int) -> None:
        """Forget the pages under a range that are gone."""
        if not self._count or length <= 0:
            return
        first, last = address >> PAGE_SHIFT, address + length - 1 >> PAGE_SHIFT
        with self._lock:
            under = [
                one
                for order, block in self._orders.items()
                for number in range(first >> order, (last >> order) + 1)
                for one in block.get(number, ())
            ]
        for one in under:
            if not one.same():
                self.forget(one)
