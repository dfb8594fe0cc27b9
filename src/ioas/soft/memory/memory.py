"""Physical memory: which page stands in which frame, who pins it, and access by physical address.

The bytes stay where they are - in a caller's buffer, a shared file, another process - and a frame is a number
that leads to them. What leads there is a *grip*: one pin's hold on pages of a run. Every grip on a page gives the
same bytes, but each only until its own pin is released, so an access counts itself in and out of the grip that
it uses, and a release waits for the accesses that are under way through it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable, Iterator, Mapping
from errno import EFAULT
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, Backing, PinSource
from ioas.soft.memory.failures import Failures
from ioas.soft.memory.frames import LOW_FRAMES, ORDER_SHIFT, FrameNumbers, LowFrames, Run
from ioas.soft.memory.held import Held
from ioas.soft.memory.pages import Grip, Pages
from ioas.soft.memory.spans import Span, count_out, grip_on

if TYPE_CHECKING:
    from typing_extensions import Buffer

OFFSET_MASK = PAGE_SIZE - 1


class Memory:
    """The physical memory of one machine. Safe to use from any thread.

    A page, known by (backing.key, page index), has one frame as long as anything holds it, whoever holds it.
    Frames are numbers: the bytes stay in the backing. Only page tables have bytes of their own.
    """

    def __init__(self, failures: Failures | None = None, *, low: bool = False) -> None:
        """`failures`: what makes allocations fail on request. `low`: give pages the lowest frames that are free."""
        self._failures = failures or Failures()
        self._lock = threading.Lock()
        self._numbers = FrameNumbers(LowFrames() if low else None)
        self._tables_from = LOW_FRAMES if low else 0
        self._backings: dict[Hashable, Pages] = {}
        self._runs: dict[int, Run] = {}
        self._tables: dict[int, memoryview] = {}
        self._held = 0

    def hold(self, source: PinSource, start: int, count: int, write: bool) -> Held:
        """Pin `count` pages of `source` from byte `start` and give each its frame.

        Raises KernelError as `source.pin` does; nothing is held then.
        """
        self._failures.point("pins")
        pin = source.pin(start, count, write)
        extents = pin.extents
        if count == 1:
            backing, page, _, order = extents[0]
            if not order:
                return Held(self, pin, [self._grip_single(backing, page)], 1)
        grips: list[Grip] = []
        with self._lock:
            for backing, page, length, order in extents:
                grips += self._grip_extent(backing, page, length, order)
            self._held += count
        return Held(self, pin, grips, count)

    def table(self) -> tuple[int, memoryview]:
        """A zeroed frame for a page table: its number and its bytes as 512 unsigned 64-bit words."""
        self._failures.point("page table")
        words = memoryview(bytearray(PAGE_SIZE)).cast("Q")
        with self._lock:
            pfn = self._numbers.take(0)
            self._tables[pfn] = words
        return pfn, words

    def free_table(self, pfn: int) -> None:
        """Give back a frame of `table`. Raises KeyError when it is none."""
        with self._lock:
            del self._tables[pfn]
            self._numbers.give(pfn)

    @property
    def tables(self) -> Mapping[int, memoryview]:
        """The words of each frame that holds a page table: what a walker reads."""
        return self._tables

    def read(self, address: int, length: int) -> bytes:
        """Read `length` bytes at physical `address`, across frames and across page tables.

        Raises KernelError(EFAULT) where no frame is held, or when the backing is gone.
        """
        return self.gather(((address, length),))

    def write(self, address: int, data: Buffer) -> None:
        """Write `data` at physical `address`; raises as `read`, with what stands before the bad frame written."""
        view = memoryview(data).cast("B")
        self.scatter(((address, len(view)),), view)

    def gather(self, pieces: Iterable[tuple[int, int]], *, tables: bool = True) -> bytes:
        """Read pieces (address, length) one after the other, joining neighbours of one backing. Raises as `read`.

        Without `tables` no memory answers where page tables stand.
        """
        spans = self._spans(pieces, tables)
        try:
            parts = [span.read() for span in spans]
        finally:
            self._leave(spans)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def scatter(self, pieces: Iterable[tuple[int, int]], data: memoryview, *, tables: bool = True) -> None:
        """Write `data` to pieces (address, length) one after the other; raises as `gather`, with nothing written
        when a piece has no frame.
        """
        spans = self._spans(pieces, tables)
        done = 0
        try:
            for span in spans:
                span.write(data[done : done + span.length])
                done += span.length
        finally:
            self._leave(spans)

    def references(self, key: Hashable, page: int) -> int:
        """How many times page `page` of the backing `key` is pinned: one for each `Held` and time that it is in it."""
        with self._lock:
            pages = self._backings.get(key)
            run = pages.find(page) if pages else None
            if run is None:
                return 0
            index = page - run.page
            return sum(grip.first <= index < grip.first + grip.count for grip in run.grips)

    @property
    def held_frames(self) -> int:
        """Pages that are pinned now, each counted once for every `Held` it is in (for leak checks)."""
        return self._held

    @property
    def table_frames(self) -> int:
        """Frames that hold page tables now (for leak checks)."""
        return len(self._tables)

    def _grip_single(self, backing: Backing, page: int) -> Grip:
        key = backing.key
        with self._lock:
            pages = self._backings.get(key)
            if pages is None:
                pages = self._backings[key] = Pages(key, self._numbers)
            run = pages.find(page)
            if run is None:
                run = pages.add_single(page)
                self._runs[run.base] = run
            grip = Grip(run, page - run.page, 1, backing)
            run.grips[grip] = None
            if run.grip is None:
                run.grip = grip
            self._held += 1
        return grip

    def _grip_extent(self, backing: Backing, page: int, count: int, order: int) -> Iterator[Grip]:
        key = backing.key
        pages = self._backings.get(key)
        if pages is None:
            pages = self._backings[key] = Pages(key, self._numbers)
        end = page + count
        for run in pages.cover(page, end, order):
            first = max(page - run.page, 0)
            grip = Grip(run, first, min(end - run.page, run.count) - first, backing)
            self._runs[run.base] = run
            run.grips[grip] = None
            if run.grip is None:
                run.grip = grip
            yield grip

    def let_go(self, grips: list[Grip], count: int) -> None:
        """For `Held.release` alone: drop `grips`, of `count` pages, and wait for accesses through them."""
        busy = []
        with self._lock:
            for grip in grips:
                run = grip.run
                del run.grips[grip]
                if not run.grips:
                    self._drop(run)
                elif run.grip is grip:
                    # popitem, because looking for a first item gets slower with every one removed before it
                    run.grip, _ = run.grips.popitem()
                    run.grips[run.grip] = None
                if grip.users:
                    grip.idle = threading.Event()
                    busy.append(grip.idle)
            self._held -= count
        for idle in busy:
            idle.wait()

    def cut(self, grip: Grip, count: int) -> tuple[Grip, Grip]:
        """For `Held.split` alone: two grips in place of one, its first `count` pages and the rest."""
        run = grip.run
        head = Grip(run, grip.first, count, grip.backing)
        tail = Grip(run, grip.first + count, grip.count - count, grip.backing)
        with self._lock:
            run.grips[head] = run.grips[tail] = None
            del run.grips[grip]
            if run.grip is grip:
                run.grip = head
            idle = grip.idle = threading.Event() if grip.users else None
        if idle is not None:
            idle.wait()
        return head, tail

    def _drop(self, run: Run) -> None:
        del self._runs[run.base]
        pages = run.owner
        pages.remove(run)
        if not pages:
            del self._backings[pages.key]

    def _spans(self, pieces: Iterable[tuple[int, int]], tables: bool) -> list[Span]:
        """Where the bytes of `pieces` stand; `_leave` must be called with the result."""
        spans: list[Span] = []
        with self._lock:
            try:
                for address, length in pieces:
                    while length > 0:
                        taken = self._span(spans, address, length, tables)
                        address += taken
                        length -= taken
            except KernelError:
                count_out(spans)
                raise
        return spans

    def _span(self, spans: list[Span], address: int, length: int, tables: bool) -> int:
        """Append, or add to the last span, what stands contiguously at `address`; return its length."""
        pfn = address >> PAGE_SHIFT
        offset = address & OFFSET_MASK
        if pfn >> ORDER_SHIFT == 0 and pfn >= self._tables_from:
            length = min(length, PAGE_SIZE - offset)
            if not tables:
                raise _no_memory(address)
            spans.append(Span(None, offset, length, self._table_bytes(pfn)))
            return length
        run = self._runs.get(self._numbers.base(pfn))
        if run is None:
            raise _no_memory(address)
        index = (pfn - run.base) ^ run.flip
        grip = grip_on(run, index)
        if grip is None:
            raise _no_memory(address)
        contiguous = min(run.block(index), grip.first + grip.count - index)
        length = min(length, (contiguous << PAGE_SHIFT) - offset)
        start = ((run.page + index) << PAGE_SHIFT) + offset
        last = spans[-1] if spans else None
        if last is not None and last.grip is grip and last.start + last.length == start:
            last.length += length
        else:
            grip.users += 1
            spans.append(Span(grip, start, length, None))
        return length

    def _table_bytes(self, pfn: int) -> memoryview:
        words = self._tables.get(pfn)
        if words is None:
            raise _no_memory(pfn << PAGE_SHIFT)
        return words.cast("B")

    def _leave(self, spans: list[Span]) -> None:
        with self._lock:
            count_out(spans)


def _no_memory(address: int) -> KernelError:
    return refuse(EFAULT, "no memory answers at this physical address", "address", address)
