"""Pages that somebody holds."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from ioas.errors import UsageError
from ioas.host import PAGE_SHIFT, Extent, Pin
from ioas.soft.memory.frames import Segment
from ioas.soft.memory.pages import Grip
from ioas.soft.memory.spans import Span

if TYPE_CHECKING:
    from ioas.soft.memory.memory import Memory


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
    def extents(self) -> Sequence[Extent]:
        """What is pinned."""
        return self._pin.extents

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

    def spans(self, byte: int, length: int) -> Iterator[Span]:
        """Where `length` bytes from byte `byte` (of what is held) stand; good until `release` or `split`.

        Raises UsageError beyond what is held.
        """
        grips = self._inside(byte >> PAGE_SHIFT, (byte + length - 1 >> PAGE_SHIFT) - (byte >> PAGE_SHIFT) + 1)
        for grip in grips:
            size = grip.count << PAGE_SHIFT
            if byte < size:
                taken = min(size - byte, length)
                yield Span(grip, (grip.run.page + grip.first << PAGE_SHIFT) + byte, taken, None)
                length -= taken
                byte = 0
                if not length:
                    return
            else:
                byte -= size

    def release(self) -> None:
        """Unpin, and give up the frames that nothing else holds. Idempotent; cannot fail.

        Waits for accesses (`Memory.read`, DMA) that are under way through this very pin.
        """
        grips, self._grips = self._grips, None
        if grips is not None:
            self._memory.let_go(grips, self.pages)
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
            head, right[0] = self._memory.cut(right[0], inside)
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
