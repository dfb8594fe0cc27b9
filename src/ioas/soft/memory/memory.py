"""Physical memory: which page stands in which frame, who pins it, and access by physical address."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from ioas.host import PinSource
from ioas.soft.memory.frames import Segment

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Held:
    """Pages pinned and given frames, until `release`."""

    @property
    def segments(self) -> Sequence[Segment]:
        """What is held, in the order of the addresses."""
        raise NotImplementedError

    @property
    def how(self) -> str:
        """How the pages are pinned (`Pin.how`)."""
        raise NotImplementedError

    @property
    def pages(self) -> int:
        """How many pages are held."""
        raise NotImplementedError

    def part(self, first: int, count: int) -> list[Segment]:
        """The segments of `count` pages from page `first` (counted from the start of what is held).

        Raises UsageError beyond what is held.
        """
        raise NotImplementedError

    def pfn(self, index: int) -> int:
        """Frame number of page `index` (counted from the start of what is held). Raises UsageError beyond it."""
        raise NotImplementedError

    def release(self) -> None:
        """Unpin, and give up the frames that nothing else holds. Idempotent; cannot fail."""
        raise NotImplementedError


class Memory:
    """The physical memory of one machine. Safe to use from any thread.

    A page, known by (backing.key, page index), has one frame as long as anything holds it, whoever holds it.
    Frames are numbers: the bytes stay in the backing. Only page tables have bytes of their own.
    """

    def hold(self, source: PinSource, start: int, count: int, write: bool) -> Held:
        """Pin `count` pages of `source` from byte `start` and give each its frame.

        Raises KernelError as `source.pin` does; nothing is held then.
        """
        raise NotImplementedError

    def table(self) -> tuple[int, memoryview]:
        """A zeroed frame for a page table: its number and its bytes as 512 unsigned 64-bit words."""
        raise NotImplementedError

    def free_table(self, pfn: int) -> None:
        """Give back a frame of `table`. Raises KeyError when it is none."""
        raise NotImplementedError

    def read(self, address: int, length: int) -> bytes:
        """Read `length` bytes at physical `address`, across frames and across page tables.

        Raises KernelError(EFAULT) where no frame is held, or when the backing is gone.
        """
        raise NotImplementedError

    def write(self, address: int, data: Buffer) -> None:
        """Write `data` at physical `address`; raises as `read`. What stands before the bad frame has then been written."""
        raise NotImplementedError

    def references(self, key: Hashable, page: int) -> int:
        """How many times page `page` of the backing `key` is pinned: one for each `Held` and time that it is in it."""
        raise NotImplementedError

    @property
    def held_frames(self) -> int:
        """Pages that are pinned now, each counted once for every `Held` it is in (for leak checks)."""
        raise NotImplementedError

    @property
    def table_frames(self) -> int:
        """Frames that hold page tables now (for leak checks)."""
        raise NotImplementedError
