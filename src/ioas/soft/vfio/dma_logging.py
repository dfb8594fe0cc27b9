"""DMA logging: which pages a device has written, by its own account (vfio_ioctl_device_feature_logging_*, 7.3).

Where the IOMMU does not mark dirty pages, a device that can be migrated may do it itself. What belongs to the device in
a kernel (mlx5vf_start_page_tracker) is done here for every model that declares `Migration`: each DMA write to an IOVA
of one of the ranges marks the granules that it touches. Writes with a PASID go to other address spaces, and are not
logged.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from ctypes import sizeof
from errno import E2BIG, EINVAL, EOVERFLOW
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.vfio.argument import Argument
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from ioas.soft.pci import Function

_ULONG_MAX = (1 << 64) - 1
_SMALLEST, _LARGEST = 12, 30
"""Log 2 of the granules that the device can log by, in bytes."""
_HIGHEST = (1 << 62) - 1
"""No IOMMU translates more."""
_MOST_RANGES = PAGE_SIZE // sizeof(uapi.vfio_device_feature_dma_logging_range)


class Range(NamedTuple):
    """IOVA from `start` to `last`, inclusive."""

    start: int
    last: int


class DmaLog:
    """The log of one device."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._lock = threading.Lock()
        """Taken last of all: DMA comes in with the function's lock held."""
        self._ranges: Sequence[Range] = ()
        self._shift = 0
        self._dirty: set[int] = set()
        self._active = False

    def start(self, ranges: Sequence[Range], page_size: int) -> int:
        """Log writes to `ranges`; the granule in bytes, as near to `page_size` as there is one.

        Raises KernelError(EINVAL) when the device logs already.
        """
        with self._lock:
            if self._active:
                raise refuse(EINVAL, "the device logs its DMA already", "device", str(self._function))
            self._shift = min(max(page_size.bit_length() - 1, _SMALLEST), _LARGEST)
            self._ranges, self._active = tuple(ranges), True
            self._dirty.clear()
        self._function.dma.on_write = self._written
        return 1 << self._shift

    def stop(self) -> None:
        """Log no more. Idempotent."""
        self._function.dma.on_write = None
        with self._lock:
            self._active = False
            self._dirty.clear()

    def _written(self, iova: int, length: int, pasid: int | None) -> None:
        if pasid is not None:
            return
        with self._lock:
            for logged in self._ranges:
                start, last = max(iova, logged.start), min(iova + length - 1, logged.last)
                if start <= last:
                    self._dirty.update(range(start >> self._shift, (last >> self._shift) + 1))

    def take(self, start: int, last: int) -> tuple[list[int], int]:
        """The IOVAs of dirty granules that begin in a range, in order, which are clean then; and the granule's size.

        Raises KernelError(EINVAL) when the device does not log.
        """
        with self._lock:
            if not self._active:
                raise refuse(EINVAL, "the device does not log its DMA", "device", str(self._function))
            last = min(last, _HIGHEST)
            found = {index for index in self._dirty if start >> self._shift <= index <= last >> self._shift}
            self._dirty -= found
            return [index << self._shift for index in sorted(found)], 1 << self._shift


def start(log: DmaLog, argument: Argument, place: int) -> None:
    """DMA_LOGGING_START, with the structure at offset `place` of the argument.

    Raises KernelError: EFAULT; EINVAL for no ranges, ranges that are not aligned or overlap, and a log that runs; E2BIG
    for more ranges than fill a page; EOVERFLOW for one that wraps around.
    """
    kind = uapi.vfio_device_feature_dma_logging_control
    control = kind.from_buffer_copy(argument.read(place, sizeof(kind)))
    if not control.num_ranges:
        raise refuse(EINVAL, "there are no ranges to log", "field", "num_ranges")
    if control.num_ranges > _MOST_RANGES:
        raise refuse(E2BIG, f"at most {_MOST_RANGES} ranges can be logged", "limit", _MOST_RANGES)
    ranges = _read_ranges(argument, control)
    control.page_size = log.start(ranges, control.page_size)
    try:
        argument.write(place, bytes(control))
    except KernelError:
        log.stop()
        raise


def _read_ranges(argument: Argument, control: uapi.vfio_device_feature_dma_logging_control) -> list[Range]:
    kind = uapi.vfio_device_feature_dma_logging_range
    ranges: list[Range] = []
    for index in range(control.num_ranges):
        data = argument.caller.memory.read(control.ranges + index * sizeof(kind), sizeof(kind))
        given = kind.from_buffer_copy(data)
        mask = control.page_size - 1 & _ULONG_MAX
        if given.iova & mask or given.length & mask:
            raise refuse(EINVAL, f"range {index} does not consist of whole pages", "field", "ranges")
        if given.iova + given.length > _ULONG_MAX:
            raise refuse(EOVERFLOW, f"range {index} wraps around", "field", "ranges")
        new = Range(given.iova, given.iova + given.length - 1 & _ULONG_MAX)
        if any(old.start <= new.last and new.start <= old.last for old in ranges):
            raise refuse(EINVAL, f"range {index} overlaps another one", "field", "ranges")
        ranges.append(new)
    return ranges


def report(log: DmaLog, argument: Argument, place: int) -> None:
    """DMA_LOGGING_REPORT: set the bits of written pages, and forget them.

    Raises KernelError: EFAULT; EINVAL for a page size that is none, and when the device does not log; EOVERFLOW.
    """
    kind = uapi.vfio_device_feature_dma_logging_report
    asked = kind.from_buffer_copy(argument.read(place, sizeof(kind)))
    size = asked.page_size
    if size < PAGE_SIZE or size & size - 1:
        raise refuse(EINVAL, f"a page size is a power of two from {PAGE_SIZE}", "field", "page_size")
    if asked.iova + asked.length > _ULONG_MAX:
        raise refuse(EOVERFLOW, "the range wraps around", "field", "length")
    found, granule = log.take(asked.iova, asked.iova + asked.length - 1)
    if found:
        _set_bits(argument, asked, found, granule)


def _set_bits(
    argument: Argument, asked: uapi.vfio_device_feature_dma_logging_report, found: list[int], granule: int
) -> None:
    import numpy as np  # which few programs need

    from ioas.soft.iommu.dirty import DirtyPages
    from ioas.soft.iommufd.bitmap import UserBitmap

    starts = np.maximum(np.array(found, np.int64), asked.iova)
    last = min(asked.iova + asked.length - 1, _HIGHEST)
    sizes = np.minimum(np.array(found, np.int64) + granule - 1, last) - starts + 1
    bitmap = UserBitmap(argument.caller.memory, asked.bitmap, asked.iova, asked.length, asked.page_size)
    bitmap.record(DirtyPages(starts, sizes))
