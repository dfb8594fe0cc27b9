"""Commands whose objects are not built yet: dirty tracking, page faults, virtual IOMMUs.

Each checks its arguments as 7.3 does, in that order, and then refuses as the kernel does for a machine without
the feature. Nothing pretends to succeed.
"""

from __future__ import annotations

from errno import EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommufd.device import Device
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.hwpt import PagingTable
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.ranges import ULONG_MAX
from ioas.uapi.iommufd import (
    IOMMU_HW_QUEUE_TYPE_DEFAULT,
    IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
    IOMMU_VEVENTQ_TYPE_DEFAULT,
    IOMMU_VIOMMU_TYPE_DEFAULT,
    iommu_fault_alloc,
    iommu_hw_queue_alloc,
    iommu_hwpt_get_dirty_bitmap,
    iommu_hwpt_invalidate,
    iommu_hwpt_set_dirty_tracking,
    iommu_vdevice_alloc,
    iommu_veventq_alloc,
    iommu_viommu_alloc,
)

_ENTRIES_MAX = 1 << 19
_DEPTH_MAX = 1 << 19


def hwpt_set_dirty_tracking(call: Call[iommu_hwpt_set_dirty_tracking]) -> None:
    """IOMMU_HWPT_SET_DIRTY_TRACKING. Follows iommufd_hwpt_set_dirty_tracking."""
    command = call.command
    if command.flags & ~IOMMU_HWPT_DIRTY_TRACKING_ENABLE:
        raise _unknown_flags(command.flags)
    table = call.context.objects.get(command.hwpt_id, PagingTable)
    raise _no_dirty_tracking(table)


def hwpt_get_dirty_bitmap(call: Call[iommu_hwpt_get_dirty_bitmap]) -> None:
    """IOMMU_HWPT_GET_DIRTY_BITMAP. Follows iommufd_hwpt_get_dirty_bitmap and iommufd_check_iova_range."""
    command = call.command
    if command.flags & ~IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR or command.__reserved:
        raise _unknown_flags(command.flags)
    table = call.context.objects.get(command.hwpt_id, PagingTable)
    if not command.length:
        raise refuse(EINVAL, "length is 0", "field", "length")
    last = command.iova + command.length - 1
    if last > ULONG_MAX:
        raise refuse(EOVERFLOW, "the range runs past the end of IOVA", "field", "length")
    for unit in (table.ioas.iopt.alignment, command.page_size):
        if not unit or (command.iova | last + 1) & unit - 1:
            raise refuse(EINVAL, f"the range is not made of whole units of {unit} bytes", "field", "page_size")
    raise _no_dirty_tracking(table)


def hwpt_invalidate(call: Call[iommu_hwpt_invalidate]) -> None:
    """IOMMU_HWPT_INVALIDATE. Follows iommufd_hwpt_invalidate: the number of entries done comes back in any case."""
    try:
        _check_invalidate(call)
    finally:
        call.command.entry_num = 0
        call.respond()


def _check_invalidate(call: Call[iommu_hwpt_invalidate]) -> None:
    command = call.command
    if command.__reserved:
        raise _unknown_flags(command.__reserved)
    if command.entry_num and (
        not command.data_uptr or not 0 < command.entry_len <= PAGE_SIZE or command.entry_num > _ENTRIES_MAX
    ):
        raise refuse(
            EINVAL, f"{command.entry_num} entries of {command.entry_len} bytes cannot be taken", "field", "entry_num"
        )
    target = call.context.objects.get(command.hwpt_id, Object)
    raise refuse(EINVAL, f"{target} is neither a nested page table nor a vIOMMU", "object", target)


def fault_queue_alloc(call: Call[iommu_fault_alloc]) -> None:
    """IOMMU_FAULT_QUEUE_ALLOC. Follows iommufd_fault_alloc's check of arguments; no device raises page faults yet."""
    if call.command.flags:
        raise _unknown_flags(call.command.flags)
    raise refuse(EOPNOTSUPP, "fault queues are not built yet", "request", "IOMMU_FAULT_QUEUE_ALLOC")


def viommu_alloc(call: Call[iommu_viommu_alloc]) -> None:
    """IOMMU_VIOMMU_ALLOC. Follows iommufd_viommu_alloc_ioctl, for an IOMMU whose driver has no virtual IOMMUs."""
    command = call.command
    if command.flags or command.type == IOMMU_VIOMMU_TYPE_DEFAULT:
        raise _unknown_flags(command.flags)
    device = call.context.objects.get(command.dev_id, Device)
    raise refuse(EOPNOTSUPP, f"{device.unit.name} has no virtual IOMMUs of type {command.type:#x}", "field", "type")


def vdevice_alloc(call: Call[iommu_vdevice_alloc]) -> None:
    """IOMMU_VDEVICE_ALLOC. Follows iommufd_vdevice_alloc_ioctl."""
    raise _no_viommu(call.command.viommu_id)


def veventq_alloc(call: Call[iommu_veventq_alloc]) -> None:
    """IOMMU_VEVENTQ_ALLOC. Follows iommufd_veventq_alloc."""
    command = call.command
    if command.flags or command.__reserved or command.type == IOMMU_VEVENTQ_TYPE_DEFAULT:
        raise _unknown_flags(command.flags)
    if not 0 < command.veventq_depth <= _DEPTH_MAX:
        raise refuse(EINVAL, f"depth {command.veventq_depth} is not in 1 to {_DEPTH_MAX}", "field", "veventq_depth")
    raise _no_viommu(command.viommu_id)


def hw_queue_alloc(call: Call[iommu_hw_queue_alloc]) -> None:
    """IOMMU_HW_QUEUE_ALLOC. Follows iommufd_hw_queue_alloc_ioctl."""
    command = call.command
    if command.flags or command.type == IOMMU_HW_QUEUE_TYPE_DEFAULT:
        raise _unknown_flags(command.flags)
    if not command.length:
        raise refuse(EINVAL, "length is 0", "field", "length")
    if command.nesting_parent_iova + command.length - 1 > ULONG_MAX:
        raise refuse(EOVERFLOW, "the queue runs past the end of IOVA", "field", "length")
    raise _no_viommu(command.viommu_id)


def _unknown_flags(flags: int) -> KernelError:
    return refuse(EOPNOTSUPP, f"flags {flags:#x}, the type or a reserved field are not known", "field", "flags")


def _no_dirty_tracking(table: PagingTable) -> KernelError:
    return refuse(EOPNOTSUPP, f"{table} does not track dirty pages", "object", table)


def _no_viommu(number: int) -> KernelError:
    return refuse(ENOENT, f"no vIOMMU has id {number}", "object", number)
