"""Dirty tracking: IOMMU_HWPT_SET_DIRTY_TRACKING and GET_DIRTY_BITMAP (hw_pagetable.c and io_pagetable.c, 7.3)."""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP, EOVERFLOW
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.hwpt import PagingTable
from ioas.soft.iommufd.ranges import ULONG_MAX
from ioas.uapi.iommufd import (
    IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
    iommu_hwpt_get_dirty_bitmap,
    iommu_hwpt_set_dirty_tracking,
)

if TYPE_CHECKING:
    from ioas.soft.iommufd.iopt import IoPagetable


def hwpt_set_dirty_tracking(call: Call[iommu_hwpt_set_dirty_tracking]) -> None:
    """IOMMU_HWPT_SET_DIRTY_TRACKING: turning it on makes every page clean. Follows iopt_set_dirty_tracking."""
    command = call.command
    if command.flags & ~IOMMU_HWPT_DIRTY_TRACKING_ENABLE:
        raise refuse(EOPNOTSUPP, f"flags {command.flags:#x} are not all known", "field", "flags")
    table = call.context.objects.get(command.hwpt_id, PagingTable)
    _check_capable(table)
    enable = bool(command.flags & IOMMU_HWPT_DIRTY_TRACKING_ENABLE)
    table.domain.tracking = enable
    if enable:
        for area in table.ioas.iopt.areas:
            table.domain.dirty_pages(area.start, area.length, clean=True)
        table.domain.drain()  # whoever began to write untracked has written when this returns


def hwpt_get_dirty_bitmap(call: Call[iommu_hwpt_get_dirty_bitmap]) -> None:
    """IOMMU_HWPT_GET_DIRTY_BITMAP: set the bits of dirty pages in the caller's bitmap, and make the pages clean.

    Follows iopt_read_and_clear_dirty_data: looks no further than the first hole, and bits for which the caller has no
    memory are lost; neither is refused.
    """
    command = call.command
    if command.flags & ~IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR or command.__reserved:
        field = "__reserved" if command.__reserved else "flags"
        raise refuse(EOPNOTSUPP, f"flags {command.flags:#x} are not all known, or __reserved is not 0", "field", field)
    table = call.context.objects.get(command.hwpt_id, PagingTable)
    iopt = table.ioas.iopt
    _check_range(iopt, command)
    _check_capable(table)
    from ioas.soft.iommufd.bitmap import UserBitmap  # NumPy, which few programs need

    bitmap = UserBitmap(call.caller.memory, command.data, command.iova, command.length, command.page_size)
    clean = not command.flags & IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR
    for start, last in _mapped(iopt, command.iova, command.iova + command.length - 1):
        bitmap.record(table.domain.dirty_pages(start, last - start + 1, clean=clean))


def _check_capable(table: PagingTable) -> None:
    if not table.domain.dirty:
        raise refuse(EOPNOTSUPP, f"{table} was not allocated with DIRTY_TRACKING", "object", table)


def _check_range(iopt: IoPagetable, command: iommu_hwpt_get_dirty_bitmap) -> None:
    """Follows iommufd_check_iova_range."""
    if not command.length:
        raise refuse(EINVAL, "length is 0", "field", "length")
    last = command.iova + command.length - 1
    if last > ULONG_MAX:
        raise refuse(EOVERFLOW, "the range runs past the end of IOVA", "field", "length")
    for unit in (iopt.alignment, command.page_size):
        if not unit or (command.iova | last + 1) & unit - 1:
            raise refuse(EINVAL, f"the range is not made of whole units of {unit} bytes", "field", "page_size")


def _mapped(iopt: IoPagetable, iova: int, last: int) -> list[tuple[int, int]]:
    """What is mapped from `iova` on without a hole, areas that touch joined."""
    found: list[tuple[int, int]] = []
    try:
        for _, start, end in iopt.contiguous(iova, last):
            if found:
                start, _ = found.pop()
            found.append((start, end))
    except KernelError:
        pass
    return found
