"""`ContainerSpace`: the address space of a type 1 container."""

from __future__ import annotations

import ctypes
import struct
import threading
from typing import TYPE_CHECKING

from ioas.api.checks import U64_LAST, whole
from ioas.api.placement import Placement
from ioas.api.space import IovaRange, Space, nothing_there
from ioas.errors import UsageError
from ioas.uapi.vfio import (
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_IOMMU_DIRTY_PAGES,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
    VFIO_IOMMU_MAP_DMA,
    VFIO_IOMMU_UNMAP_DMA,
    vfio_bitmap,
    vfio_iommu_type1_dirty_bitmap,
    vfio_iommu_type1_dirty_bitmap_get,
    vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap,
)

if TYPE_CHECKING:
    from ioas.api.container import Container

_MAP_SIZE = ctypes.sizeof(vfio_iommu_type1_dma_map)
_map_command = struct.Struct("=2I3Q").pack  # argsz, flags, vaddr, iova, size
_UNMAP_SIZE = ctypes.sizeof(vfio_iommu_type1_dma_unmap)
_unmap_command = struct.Struct("=2I2Q").pack  # argsz, flags, iova, size
_unmapped = struct.Struct("=16xQ").unpack_from


class ContainerSpace(Space):
    """What a type 1 container maps, made by `Container.ioas`.

    It is an `Ioas` to drivers, but for what containers do not have: copies, reserved choices, page tables. The kernel
    leaves it to programs where mappings go; without `iova` they go where there is room.
    """

    def __init__(self, container: Container) -> None:
        super().__init__(container.session)
        self.container = container
        self._placement = Placement()
        self._ranges: tuple[IovaRange, ...] | None = None
        self._lock = threading.Lock()  # for the placement

    def __repr__(self) -> str:
        return f"<ContainerSpace of {self.container.path}{'' if self._open else ' (closed)'}>"

    def map_address(
        self, address: int, length: int, iova: int | None = None, writable: bool = True, readable: bool = True
    ) -> int:
        """Map memory by its address in this process; the IOVA. See `Space.map_address`."""
        self.check_open()
        flags = (VFIO_DMA_MAP_FLAG_READ if readable else 0) | (VFIO_DMA_MAP_FLAG_WRITE if writable else 0)
        address, length = whole("address", address), whole("length", length)
        with self._lock:
            at = self._choose(length) if iova is None else whole("iova", iova)
            command = _map_command(_MAP_SIZE, flags, address, at, length)
            self.container.ioctl(VFIO_IOMMU_MAP_DMA, bytearray(command))
            self._placement.take(at, length)
        return at

    def ranges(self) -> tuple[IovaRange, ...]:
        """The IOVAs that can be mapped now; groups narrow them."""
        self.check_open()
        return self.container.info().ranges

    @property
    def alignment(self) -> int:
        """What IOVA and length of every mapping have to be multiples of, in bytes."""
        self.check_open()
        sizes = self.container.info().page_sizes
        return sizes & -sizes

    @property
    def mappings_left(self) -> int | None:
        """How many more mappings there can be (the module's dma_entry_limit); None when the kernel does not tell."""
        return self.container.info().mappings_left

    def track_dirty(self, on: bool) -> None:
        """Begin or end to remember which pages devices write. Raises NotSupported, InvalidArgument.

        A type 1 IOMMU takes every page for written that it has pinned since.
        """
        self.check_open()
        flag = VFIO_IOMMU_DIRTY_PAGES_FLAG_START if on else VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
        command = vfio_iommu_type1_dirty_bitmap(ctypes.sizeof(vfio_iommu_type1_dirty_bitmap), flag)
        self.container.ioctl(VFIO_IOMMU_DIRTY_PAGES, command)

    def dirty(self, iova: int, length: int, page_size: int = 4096) -> bytes:
        """Which units of `page_size` bytes of a mapping were written since the last look: a bit each, the first lowest.

        Raises InvalidArgument: not tracked, or the range cuts a mapping in two.
        """
        self.check_open()
        units = -(-length // page_size)
        bitmap = (ctypes.c_uint64 * -(-units // 64))()
        ask = vfio_iommu_type1_dirty_bitmap_get(
            whole("iova", iova),
            whole("length", length),
            vfio_bitmap(page_size, ctypes.sizeof(bitmap), ctypes.addressof(bitmap)),
        )
        size = ctypes.sizeof(vfio_iommu_type1_dirty_bitmap) + ctypes.sizeof(ask)
        header = vfio_iommu_type1_dirty_bitmap(size, VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP)
        self.container.ioctl(VFIO_IOMMU_DIRTY_PAGES, bytearray(bytes(header) + bytes(ask)))
        return bytes(bitmap)[: -(-units // 8)]

    def close(self) -> None:
        """Unmap everything; the container goes on. Idempotent."""
        if self._open and not self.container.closed:
            for mapping in list(self._mappings.values()):
                mapping.close()

    def check_open(self) -> None:
        """Raises UsageError when the container is closed, or its last group has left it."""
        self.container.check_open()
        if not self._open:
            raise UsageError("the container has lost its last group, and this address space with it")

    def _choose(self, length: int) -> int:
        if self._ranges is None:
            self._ranges = self.container.info().ranges
        return self._placement.choose(max(length, 1), self._ranges)

    def unmap(self, iova: int, length: int) -> int:
        """Remove every mapping inside a range; the bytes removed. Raises NotFound: there is none; InvalidArgument: one
        would be cut.
        """
        self.check_open()
        iova, length = whole("iova", iova), whole("length", length)
        with self._lock:
            # Everything goes range by range: not every kernel has VFIO_DMA_UNMAP_FLAG_ALL.
            whole_space = (iova, length) == (0, U64_LAST)
            removed = sum(map(self._unmap, self._placement.taken() if whole_space else [(iova, iova + length - 1)]))
        if not removed and not whole_space:
            raise nothing_there(iova, length)
        self._forget_unmapped(iova, length, removed)
        return removed

    def _unmap(self, interval: tuple[int, int]) -> int:
        """Unmap an interval; the bytes that were mapped there. The lock is held."""
        first, last = interval
        command = bytearray(_unmap_command(_UNMAP_SIZE, 0, first, last - first + 1))
        self.container.ioctl(VFIO_IOMMU_UNMAP_DMA, command)
        self._placement.give_back(first, last)
        removed: int = _unmapped(command)[0]
        return removed
