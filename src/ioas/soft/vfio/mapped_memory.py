"""Memory of a device that programs have mapped without a trap: out of their reach while the device does not answer.

The kernel takes mappings away when memory decoding goes off or the device goes to sleep, and puts them back page by
page (vfio_pci_zap_and_down_write_memory_lock, vfio_pci_mmap_huge_fault, 7.3): in between an access is SIGBUS. Here the
file that they show becomes empty, which comes to the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ioas.soft.pci import RamPages
    from ioas.soft.vfio.device import VfioDevice


class MemoryPart(NamedTuple):
    """`length` bytes of a mapping, from its byte `start` on, that are those at `offset` of the file of `pages`."""

    start: int
    length: int
    pages: RamPages
    offset: int


class MappedMemory:
    """That of one device."""

    def __init__(self, device: VfioDevice) -> None:
        self._device = device
        self._mapped: list[RamPages] = []

    def parts(self, offset: int, length: int) -> list[MemoryPart]:
        """See `DeviceFile.memory`; in rising order. Raises OSError when there is no room for the memory."""
        found = []
        for ram in self._device.function.rams:
            pages = ram.of(self._device.function)
            start, end = max(offset, pages.place), min(offset + length, pages.place + pages.size)
            if start < end:
                self.add(pages)
                found.append(MemoryPart(start - offset, end - start, pages, start))
        return sorted(found)

    def add(self, pages: RamPages) -> None:
        """Programs are about to map it."""
        if pages not in self._mapped:
            self._mapped.append(pages)
            self._settle()

    def remove(self, pages: RamPages) -> None:
        """Nobody maps it any more."""
        self._mapped.remove(pages)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """While something is done that can change whether the device answers."""
        try:
            yield
        finally:
            if self._mapped:
                self._settle()

    def _settle(self) -> None:
        device = self._device
        with device.lock, device.function.lock:
            answers = device.answers_mappings
            for pages in self._mapped:
                if answers:
                    pages.show()
                else:
                    pages.hide()
