"""Physical memory: which page stands in which frame, who pins it, and access by physical address.

The bytes stay where they are - in a caller's buffer, a shared file, another process - and a frame is a number
that leads to them. What leads there is a *grip*: one pin's hold on pages of a run. Every grip on a page gives the
same bytes, but each only until its own pin is released, so an access counts itself in and out of the grip that
it uses, and a release waits for the accesses that are under way through it.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from errno import EFAULT
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import KernelError, UsageError, refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, Backing, Extent, Pin, PinSource
from ioas.soft.memory.frames import ORDER_SHIFT, FrameNumbers, Run, Segment, block_base
from ioas.soft.memory.pages import Grip, Pages

if TYPE_CHECKING:
    from typing_extensions import Buffer

OFFSET_MASK = PAGE_SIZE - 1
WORDS = PAGE_SIZE // 8
_ZEROS = memoryview(bytes(PAGE_SIZE)).cast("Q")


class Piece(NamedTuple):
    """`length` bytes at physical `address`."""

    address: int
    length: int


class Held:
    """Pages pinned and given frames, until `release`."""

    __slots__ = ("_grips", "_memory", "_pin", "_starts", "how", "pages")

    def __init__(self, memory: Memory, pin: Pin, grips: list[Grip], pages: int) -> None:
        self._memory = memory
        self._pin = pin
        self._grips: list[Grip] | None = grips
        self._starts: list[int] | None = None
        self.how = pin.how
        """How the pages are pinned (`Pin.how`)."""
        self.pages = pages
        """How many pages are held."""

    @property
    def segments(self) -> Sequence[Segment]:
        """What is held, in the order of the addresses. Empty once released."""
        return [Segment(grip.run, grip.first, grip.count) for grip in self._grips or ()]

    def part(self, first: int, count: int) -> list[Segment]:
        """The segments of `count` pages from page `first` (counted from the start of what is held).

        Raises UsageError beyond what is held.
        """
        grips = self._inside(first, count)
        if len(grips) == 1:
            grip = grips[0]
            return [Segment(grip.run, grip.first + first, count)]
        at = self._at(first)
        first -= self._starts[at]  # type: ignore[index]  # set by _at
        parts = []
        while count > 0:
            grip = grips[at]
            taken = min(count, grip.count - first)
            parts.append(Segment(grip.run, grip.first + first, taken))
            count -= taken
            at += 1
            first = 0
        return parts

    def pfn(self, index: int) -> int:
        """Frame number of page `index` (counted from the start of what is held). Raises UsageError beyond it."""
        run, first, _ = self.part(index, 1)[0]
        return run.pfn(first)

    def release(self) -> None:
        """Unpin, and give up the frames that nothing else holds. Idempotent; cannot fail.

        Waits for accesses (`Memory.read`, DMA) that are under way through this very pin.
        """
        grips, self._grips = self._grips, None
        if grips is not None:
            self._memory._let_go(grips, self.pages)
            self._pin.release()

    def split(self, index: int) -> tuple[Held, Held]:
        """Hand the hold over to two: the first `index` pages, and the rest. This one holds nothing from then on.

        Pages and frames go with the part that they are in; the pin itself ends with the later of the two. Waits
        for accesses as `release` does. Raises UsageError unless both parts have pages.
        """
        grips = self._inside(index, self.pages - index)
        self._inside(0, index)
        at = self._at(index)
        left, right = grips[:at], grips[at:]
        inside = index - sum(grip.count for grip in left)
        if inside:
            head, right[0] = self._memory._cut(right[0], inside)
            left.append(head)
        self._grips = None
        pin = _SharedPin(self._pin, 2)
        return Held(self._memory, pin, left, index), Held(self._memory, pin, right, self.pages - index)

    def _inside(self, first: int, count: int) -> list[Grip]:
        if self._grips is None or first < 0 or count < 1 or first + count > self.pages:
            raise UsageError(f"pages {first} to {first + count} are not in a hold of {self.pages} pages")
        return self._grips

    def _at(self, page: int) -> int:
        """Index of the grip that `page` is in."""
        if self._starts is None:
            self._starts = [0, *accumulate(grip.count for grip in self._grips or ())]
        return bisect_right(self._starts, page) - 1


class _SharedPin:
    """A pin that several holds share the pages of: the last of `owners` to let go releases it."""

    def __init__(self, pin: Pin, owners: int) -> None:
        self._pin = pin
        self._owners = owners
        self._lock = threading.Lock()

    @property
    def extents(self) -> Sequence[Extent]:
        return self._pin.extents

    @property
    def how(self) -> str:
        return self._pin.how

    def release(self) -> None:
        with self._lock:
            self._owners -= 1
            last = not self._owners
        if last:
            self._pin.release()


class Memory:
    """The physical memory of one machine. Safe to use from any thread.

    A page, known by (backing.key, page index), has one frame as long as anything holds it, whoever holds it.
    Frames are numbers: the bytes stay in the backing. Only page tables have bytes of their own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = FrameNumbers()
        self._backings: dict[Hashable, Pages] = {}
        self._runs: dict[int, Run] = {}
        self._tables: dict[int, memoryview] = {}
        self._held = 0

    def hold(self, source: PinSource, start: int, count: int, write: bool) -> Held:
        """Pin `count` pages of `source` from byte `start` and give each its frame.

        Raises KernelError as `source.pin` does; nothing is held then.
        """
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
        return self.gather((Piece(address, length),))

    def write(self, address: int, data: Buffer) -> None:
        """Write `data` at physical `address`; raises as `read`, with what stands before the bad frame written."""
        view = memoryview(data).cast("B")
        self.scatter((Piece(address, len(view)),), view)

    def gather(self, pieces: Iterable[tuple[int, int]]) -> bytes:
        """Read pieces (address, length) one after the other, joining neighbours of one backing. Raises as `read`."""
        spans = self._spans(pieces)
        try:
            parts = [span.read() for span in spans]
        finally:
            self._leave(spans)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def scatter(self, pieces: Iterable[tuple[int, int]], data: memoryview) -> None:
        """Write `data` to pieces (address, length) one after the other; raises as `read`, with nothing written
        when a piece has no frame.
        """
        spans = self._spans(pieces)
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

    def _let_go(self, grips: list[Grip], count: int) -> None:
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

    def _cut(self, grip: Grip, count: int) -> tuple[Grip, Grip]:
        """Two grips in place of one: its first `count` pages, and the rest."""
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

    def _spans(self, pieces: Iterable[tuple[int, int]]) -> list[_Span]:
        """Where the bytes of `pieces` stand; `_leave` must be called with the result."""
        spans: list[_Span] = []
        with self._lock:
            try:
                for address, length in pieces:
                    while length > 0:
                        taken = self._span(spans, address, length)
                        address += taken
                        length -= taken
            except KernelError:
                _count_out(spans)
                raise
        return spans

    def _span(self, spans: list[_Span], address: int, length: int) -> int:
        """Append, or add to the last span, what stands contiguously at `address`; return its length."""
        pfn = address >> PAGE_SHIFT
        offset = address & OFFSET_MASK
        if pfn >> ORDER_SHIFT == 0:
            length = min(length, PAGE_SIZE - offset)
            spans.append(_Span(None, offset, length, self._table_bytes(pfn)))
            return length
        run = self._runs.get(block_base(pfn))
        if run is None:
            raise _no_memory(address)
        index = (pfn - run.base) ^ run.flip
        grip = _grip_on(run, index)
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
            spans.append(_Span(grip, start, length, None))
        return length

    def _table_bytes(self, pfn: int) -> memoryview:
        words = self._tables.get(pfn)
        if words is None:
            raise _no_memory(pfn << PAGE_SHIFT)
        return words.cast("B")

    def _leave(self, spans: list[_Span]) -> None:
        with self._lock:
            _count_out(spans)


class _Span:
    """Bytes that one read or write of a backing, or of a table, reaches."""

    __slots__ = ("grip", "length", "start", "table")

    def __init__(self, grip: Grip | None, start: int, length: int, table: memoryview | None) -> None:
        self.grip = grip
        self.start = start
        self.length = length
        self.table = table

    def read(self) -> bytes:
        if self.grip is not None:
            return self.grip.backing.read(self.start, self.length)
        return bytes(self.table[self.start : self.start + self.length]) if self.table is not None else b""

    def write(self, data: memoryview) -> None:
        if self.grip is not None:
            self.grip.backing.write(self.start, data)
        elif self.table is not None:
            self.table[self.start : self.start + self.length] = data


def _grip_on(run: Run, index: int) -> Grip | None:
    """A grip that holds page `index` of `run`; remembered, for the next access is likely to be near."""
    grip = run.grip
    if grip is None or not grip.first <= index < grip.first + grip.count:
        grip = next((one for one in run.grips if one.first <= index < one.first + one.count), None)
        if grip is not None:
            run.grip = grip
    return grip


def _count_out(spans: list[_Span]) -> None:
    for span in spans:
        grip = span.grip
        if grip is not None:
            grip.users -= 1
            if not grip.users and grip.idle is not None:
                grip.idle.set()


def _no_memory(address: int) -> KernelError:
    return refuse(EFAULT, "no memory answers at this physical address", "address", address)
