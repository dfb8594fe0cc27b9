"""The registered buffers of a process, by address."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import UsageError
from ioas.host.local_windows import Window

if TYPE_CHECKING:
    from typing_extensions import Buffer


class RegisteredBuffer:
    """A registered buffer."""

    __slots__ = ("end", "order", "start", "users", "window", "writable")

    def __init__(self, start: int, end: int, writable: bool, window: Window, order: int = 0) -> None:
        """Addresses `start` to `end` (exclusive), kept within reach by `window`; `order` as in `Extent`."""
        self.start = start
        self.end = end
        self.writable = writable
        self.window = window
        self.order = order
        self.users = 0


class BufferTable(NamedTuple):
    """The registered buffers, by address; they do not overlap. Replaced as a whole, so that readers need no lock."""

    starts: list[int]
    entries: list[RegisteredBuffer]

    def find(self, address: int, end: int) -> RegisteredBuffer | None:
        """The buffer that holds `address` to `end` (exclusive)."""
        index = bisect_right(self.starts, address) - 1
        if index >= 0:
            entry = self.entries[index]
            if end <= entry.end:
                return entry
        return None

    def overlapping(self, start: int, end: int) -> RegisteredBuffer | None:
        """A buffer that has bytes in `start` to `end` (exclusive)."""
        index = bisect_right(self.starts, end - 1) - 1
        return self.entries[index] if index >= 0 and start < self.entries[index].end else None

    def with_entry(self, entry: RegisteredBuffer) -> BufferTable:
        """A table that has `entry` as well."""
        index = bisect_right(self.starts, entry.start)
        return BufferTable(
            [*self.starts[:index], entry.start, *self.starts[index:]],
            [*self.entries[:index], entry, *self.entries[index:]],
        )

    def without(self, entry: RegisteredBuffer) -> BufferTable:
        """A table that lacks `entry`."""
        index = self.entries.index(entry, bisect_right(self.starts, entry.start) - 1)
        return BufferTable(
            self.starts[:index] + self.starts[index + 1 :], self.entries[:index] + self.entries[index + 1 :]
        )


def contiguous(buffer: Buffer) -> tuple[memoryview, int]:
    """The bytes of a buffer and its address. Raises UsageError when it is empty or has gaps."""
    view = memoryview(buffer)
    if not view.c_contiguous or not view.nbytes:
        raise UsageError("a buffer for DMA is contiguous and not empty")
    import numpy  # takes longer to import than all of ioas, and `ioas run` never comes here

    flat = view.cast("B")
    return flat, int(numpy.frombuffer(flat, numpy.uint8).__array_interface__["data"][0])
