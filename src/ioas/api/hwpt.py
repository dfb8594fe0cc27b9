"""`Hwpt`: a hardware page table."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Self

from ioas.api.checks import whole
from ioas.errors import UsageError
from ioas.uapi.iommufd import (
    IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
    IOMMU_HWPT_GET_DIRTY_BITMAP,
    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
    IOMMU_HWPT_SET_DIRTY_TRACKING,
    iommu_hwpt_get_dirty_bitmap,
    iommu_hwpt_set_dirty_tracking,
)

if TYPE_CHECKING:
    from ioas.api.iommufd import Iommufd


class Hwpt:
    """A page table, made by `Iommufd.hwpt`, that devices can be attached to. Use it as a context manager."""

    def __init__(self, iommufd: Iommufd, object_id: int) -> None:
        self.iommufd = iommufd
        self.id = object_id
        self._open = True

    def __repr__(self) -> str:
        return f"<Hwpt {self.id}{'' if self._open else ' (closed)'}>"

    def track_dirty(self, on: bool) -> None:
        """Begin or end to remember which pages devices write. Raises NotSupported: it was made without `dirty`."""
        self.check_open()
        flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE if on else 0
        size = ctypes.sizeof(iommu_hwpt_set_dirty_tracking)
        self.iommufd.ioctl(IOMMU_HWPT_SET_DIRTY_TRACKING, iommu_hwpt_set_dirty_tracking(size, flags, self.id))

    def dirty(self, iova: int, length: int, page_size: int = 4096, *, clear: bool = True) -> bytes:
        """Which units of `page_size` bytes in a range devices have written: a bit each, the first one lowest.

        `clear` forgets them, so that the next look shows what is new. Raises NotSupported, InvalidArgument: not
        aligned; NotFound: something in the range is not mapped.
        """
        self.check_open()
        length, page_size = whole("length", length), whole("page_size", page_size)
        if not page_size or not length:
            raise UsageError(f"length is {length:#x} and page_size {page_size:#x}; both have to be positive")
        units = -(-length // page_size)
        bitmap = (ctypes.c_uint64 * -(-units // 64))()
        command = iommu_hwpt_get_dirty_bitmap(
            ctypes.sizeof(iommu_hwpt_get_dirty_bitmap),
            self.id,
            0 if clear else IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
            0,
            whole("iova", iova),
            length,
            page_size,
            ctypes.addressof(bitmap),
        )
        self.iommufd.ioctl(IOMMU_HWPT_GET_DIRTY_BITMAP, command)
        return bytes(bitmap)[: -(-units // 8)]

    def check_open(self) -> None:
        """Raises UsageError when it, or its iommufd, is closed."""
        self.iommufd.check_open()
        if not self._open:
            raise UsageError(f"page table {self.id} is closed")

    def close(self) -> None:
        """Destroy it. Raises Busy while a device is attached. Idempotent."""
        if self._open and not self.iommufd.closed:
            self.iommufd.destroy(self.id)
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
