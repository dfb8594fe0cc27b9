"""Where bytes at physical addresses stand, and who keeps them there during an access.

`Memory` makes spans and counts them out under its lock; the bytes move without it.
"""

from __future__ import annotations

from collections.abc import Iterable

from ioas.soft.memory.frames import Run
from ioas.soft.memory.pages import Grip


class Span:
    """Bytes that one read or write of a backing, or of a table, reaches."""

    __slots__ = ("grip", "length", "start", "table")

    def __init__(self, grip: Grip | None, start: int, length: int, table: memoryview | None) -> None:
        self.grip = grip
        self.start = start
        self.length = length
        self.table = table

    def read(self) -> bytes:
        """Read all of it. Raises as `Backing.read`."""
        if self.grip is not None:
            return self.grip.backing.read(self.start, self.length)
        return bytes(self.table[self.start : self.start + self.length]) if self.table is not None else b""

    def write(self, data: memoryview) -> None:
        """Write all of it. Raises as `Backing.write`."""
        if self.grip is not None:
            self.grip.backing.write(self.start, data)
        elif self.table is not None:
            self.table[self.start : self.start + self.length] = data


def grip_on(run: Run, index: int) -> Grip | None:
    """A grip that holds page `index` of `run`; remembered, for the next access is likely to be near."""
    grip = run.grip
    if grip is None or not grip.first <= index < grip.first + grip.count:
        grip = next((one for one in run.grips if one.first <= index < one.first + one.count), None)
        if grip is not None:
            run.grip = grip
    return grip


def count_out(spans: Iterable[Span]) -> None:
    """End the accesses, and wake the releases that wait for them."""
    for span in spans:
        grip = span.grip
        if grip is not None:
            grip.users -= 1
            if not grip.users and grip.idle is not None:
                grip.idle.set()
