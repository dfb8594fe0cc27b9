"""BARs as memory that other devices reach: what stands behind the frames of a BAR (peer-to-peer DMA).

A transfer of device A that its unit translates to a frame of B's BAR becomes reads or writes of B's registers, in
aligned pieces of at most 64 bytes. A's model has A's lock then, and B's is taken besides; two devices that reach each
other at the same moment would wait for ever. PCI Express ends such a wait with a completion timeout, and so do we: the
transfer fails on the bus (PCI Express Base 6.0, 2.8; 4 s is one of the limits that Device Control 2 offers).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from errno import EFAULT
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import PAGE_SHIFT, Extent

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.pci import Bar, Function

COMPLETION_TIMEOUT = 4.0
"""Seconds that a transfer waits for the device that it goes to."""
_WIDTHS = (64, 32, 16, 8, 4, 2, 1)


class BarMemory:
    """`bar` of `function`, pinned from byte `offset` on (a PinSource, and the Backing of what is pinned)."""

    how = "device memory"

    def __init__(self, function: Function, bar: Bar, offset: int = 0, patience: float = COMPLETION_TIMEOUT) -> None:
        """`offset`: a multiple of 4096. `patience`: seconds that a transfer waits for the function."""
        self._function = function
        self._bar = bar
        self._offset = offset
        self._patience = patience

    @property
    def key(self) -> Hashable:
        """The identity: one BAR has one set of frames, however often it is exported."""
        return "bar", id(self._function), self._bar.index

    def pin(self, start: int, count: int, write: bool) -> _Pin:
        """`count` pages from byte `start`; a BAR is contiguous, stands where it is and takes writes."""
        order = max(0, (self._bar.size >> PAGE_SHIFT).bit_length() - 1)
        return _Pin(Extent(self, self._offset + start >> PAGE_SHIFT, count, order))

    def read(self, offset: int, length: int) -> bytes:
        """Read the BAR's registers from byte `offset`. Raises KernelError(EFAULT) after the completion timeout."""
        with self._reached():
            pieces = [self._function.bar_read(self._bar.index, at, width) for at, width in _pieces(offset, length)]
        return b"".join(pieces)

    def write(self, offset: int, data: Buffer) -> None:
        """Write the BAR's registers; raises as `read`."""
        view = memoryview(data).cast("B")
        with self._reached():
            for at, width in _pieces(offset, len(view)):
                start = at - offset
                self._function.bar_write(self._bar.index, at, bytes(view[start : start + width]))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        lock = self._function.lock
        if not lock.acquire(timeout=self._patience):
            raise refuse(EFAULT, "the device did not complete a transfer in time", "device", str(self._function))
        try:
            yield
        finally:
            lock.release()


class _Pin:
    how = "device memory"

    def __init__(self, extent: Extent) -> None:
        self.extents = (extent,)

    def release(self) -> None:
        """The BAR stays where it is."""


def _pieces(position: int, length: int) -> Iterator[tuple[int, int]]:
    """(offset, width) of the aligned accesses that make up a transfer."""
    end = position + length
    while position < end:
        width = next(w for w in _WIDTHS if w <= end - position and position % w == 0)
        yield position, width
        position += width
