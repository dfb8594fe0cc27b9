"""VFIO_DEVICE_FEATURE_DMA_BUF: slices of a BAR as a dma-buf, for other devices to reach (vfio_pci_dmabuf.c, 7.3).

An iommufd maps it by IOMMU_IOAS_MAP_FILE. It is taken back, and DMA to it has ended, while the device cannot answer:
with memory decoding off, in D3hot, from entering low power on, during resets; and for good when the device is closed.
A mapping that was taken back stays so when the dma-buf is given again; it can be mapped anew then.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from errno import EINVAL, ENODEV, ENOMEM, EOVERFLOW
from os import O_CLOEXEC
from typing import TYPE_CHECKING
from weakref import WeakSet

from ioas.errors import refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommufd import DmaBuf, DmaBufFile
from ioas.soft.vfio.argument import Argument
from ioas.soft.vfio.bar_memory import BarMemory
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from ioas.soft.pci import Bar
    from ioas.soft.vfio.device import VfioDevice

_U64_MAX = (1 << 64) - 1
_TOO_LONG = 1 << 63
"""A length that DMA has another use for (DMA_IOVA_USE_SWIOTLB)."""
_KMALLOC_MAX = 4 << 20
"""Bytes of the longest list of ranges that a kernel copies (KMALLOC_MAX_SIZE on x86-64)."""
_HEAD = ctypes.sizeof(uapi.vfio_device_feature_dma_buf)
_RANGE = ctypes.sizeof(uapi.vfio_region_dma_range)


class Exports:
    """The dma-bufs of one device. `System.lock` and `VfioDevice.lock` are held for everything here."""

    def __init__(self, device: VfioDevice) -> None:
        self._device = device
        self._buffers: WeakSet[DmaBuf] = WeakSet()
        """Those that somebody holds: a file of theirs, or a mapping."""

    def add(self, buffer: DmaBuf) -> None:
        """A new dma-buf: nobody can map it while memory decoding is off."""
        buffer.revoked = not self._device.memory_enabled
        self._buffers.add(buffer)

    def revoke(self) -> None:
        """Take all of them back; no DMA to them goes on when this returns (vfio_pci_dma_buf_move)."""
        self._move(True)

    def restore(self) -> None:
        """Give them again, if the device answers."""
        if self._device.memory_enabled:
            self._move(False)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Around a reset of the device."""
        self.revoke()
        try:
            yield
        finally:
            self.restore()

    def close(self) -> None:
        """The device is closed: take them back for good (vfio_pci_dma_buf_cleanup)."""
        self.revoke()
        self._buffers = WeakSet()

    def _move(self, revoked: bool) -> None:
        for buffer in list(self._buffers):
            if buffer.revoked is not revoked:
                buffer.set_revoked(revoked)


def export(device: VfioDevice, argument: Argument, offset: int) -> int:
    """GET: a descriptor of a dma-buf of the ranges that the structure at byte `offset` names.

    `System.lock` and the device's are held. Follows vfio_pci_core_feature_dma_buf, from the copy on. Raises
    KernelError: EFAULT; ENODEV for what is not a BAR of the device; ENOMEM for a list of more than 4 MiB; EINVAL for
    flags, no ranges, ranges that are empty, not of whole pages or beyond the BAR, and for I/O ports; EOVERFLOW; EMFILE.
    """
    request = uapi.vfio_device_feature_dma_buf.from_buffer_copy(argument.read(offset, _HEAD))
    if not request.nr_ranges or request.flags:
        raise refuse(EINVAL, "a dma-buf has at least one range, and flags are 0", "field", "nr_ranges")
    bar = _bar(device, request.region_index)
    ranges = _ranges(argument, offset + _HEAD, request.nr_ranges)
    size = _size(ranges)
    _check_inside(device, bar, ranges)
    first = ranges[0][0]
    buffer = DmaBuf(BarMemory(device.function, bar, first), size, ranges=len(ranges))
    descriptor = argument.caller.install(DmaBufFile(buffer), bool(request.open_flags & O_CLOEXEC))
    device.exports.add(buffer)
    return descriptor


def _bar(device: VfioDevice, index: int) -> Bar:
    bar = device.function.bars[index] if index <= uapi.VFIO_PCI_BAR5_REGION_INDEX else None
    if bar is None:
        raise refuse(ENODEV, "only a BAR that the device has can be exported", "region", index)
    return bar


def _ranges(argument: Argument, offset: int, count: int) -> Sequence[tuple[int, int]]:
    if count * _RANGE > _KMALLOC_MAX:
        raise refuse(ENOMEM, f"a list of {count} ranges is too long to copy", "limit", _KMALLOC_MAX // _RANGE)
    data = argument.read(offset, count * _RANGE)
    entries = (uapi.vfio_region_dma_range * count).from_buffer_copy(data)
    return [(entry.offset, entry.length) for entry in entries]


def _size(ranges: Sequence[tuple[int, int]]) -> int:
    """The bytes of all ranges, after the checks of validate_dmabuf_input."""
    size = 0
    for start, length in ranges:
        if not length or start % PAGE_SIZE or length % PAGE_SIZE:
            raise refuse(EINVAL, f"{length:#x} bytes at {start:#x} are not some whole pages", "field", "dma_ranges")
        size += length
        if size > _U64_MAX:
            raise refuse(EINVAL, "the ranges are longer than can be counted", "field", "dma_ranges")
    if size & _TOO_LONG:
        raise refuse(EINVAL, f"{size:#x} bytes are too many", "field", "dma_ranges")
    return size


def _check_inside(device: VfioDevice, bar: Bar, ranges: Sequence[tuple[int, int]]) -> None:
    """As vfio_pci_core_get_dmabuf_phys: the sums are of bus addresses, and overflow as those do."""
    if bar.is_io:
        raise refuse(EINVAL, "I/O ports are not memory that devices reach", "region", bar.index)
    base = device.function.bar_address(bar.index)
    for start, length in ranges:
        if base + start + length > _U64_MAX:
            raise refuse(EOVERFLOW, f"{length:#x} bytes at {start:#x} wrap around", "field", "dma_ranges")
        if start + length > bar.size:
            raise refuse(
                EINVAL, f"{length:#x} bytes at {start:#x} go beyond the BAR ({bar.size:#x})", "region", bar.index
            )
