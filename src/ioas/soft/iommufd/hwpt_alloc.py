"""IOMMU_HWPT_ALLOC (iommufd_hwpt_alloc, hw_pagetable.c, 7.3)."""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP

from ioas.errors import KernelError, refuse
from ioas.soft.iommufd.device import Device
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.fault import FaultQueue
from ioas.soft.iommufd.hwpt import HardwareTable, PagingTable, make_table
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.iommufd.nested import make_nested
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.userdata import UserData
from ioas.soft.iommufd.viommu import Viommu
from ioas.uapi.iommufd import IOMMU_HWPT_DATA_NONE, IOMMU_HWPT_FAULT_ID_VALID, iommu_hwpt_alloc


def hwpt_alloc(call: Call[iommu_hwpt_alloc]) -> None:
    """IOMMU_HWPT_ALLOC. Without a device there is no page table: its IOMMU decides the format."""
    command, objects = call.command, call.context.objects
    if command.__reserved:
        raise refuse(EOPNOTSUPP, "a reserved field is not 0", "field", "__reserved")
    if (command.data_type == IOMMU_HWPT_DATA_NONE) != (not command.data_len):
        raise refuse(
            EINVAL,
            f"data_type {command.data_type:#x} does not go with data_len {command.data_len}",
            "field",
            "data_len",
        )
    device = objects.get(command.dev_id, Device)
    table = _make(_target(call), device, command.flags, _user_data(call))
    try:
        if command.flags & IOMMU_HWPT_FAULT_ID_VALID:
            table.report_to(objects.get(command.fault_id, FaultQueue))
        command.out_hwpt_id = table.id
        call.respond()
    except KernelError:
        table.abandon()
        raise
    objects.publish(table)


def _make(target: Object, device: Device, flags: int, data: UserData | None) -> HardwareTable:
    if isinstance(target, Ioas):
        return make_table(target, device, flags, data)
    if isinstance(target, PagingTable | Viommu):
        return make_nested(target, device, flags, data)
    raise refuse(EINVAL, f"{target} is neither an IOAS nor a page table nor a vIOMMU", "object", target)


def _target(call: Call[iommu_hwpt_alloc]) -> Object:
    """What `pt_id` names. An unknown id is EINVAL here, unlike anywhere else."""
    try:
        return call.context.objects.get(call.command.pt_id, Object)
    except KernelError as error:
        raise refuse(EINVAL, error.refusal.reason, "object", call.command.pt_id) from error


def _user_data(call: Call[iommu_hwpt_alloc]) -> UserData | None:
    command = call.command
    if not command.data_len:
        return None
    return UserData(command.data_type, command.data_uptr, command.data_len, call.caller.memory)
