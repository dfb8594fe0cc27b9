"""IOMMU_GET_HW_INFO (iommufd_get_hw_info, device.c, 7.3)."""

from __future__ import annotations

from errno import EOPNOTSUPP

from ioas.errors import refuse
from ioas.host import AddressSpace
from ioas.soft.iommufd.device import Device
from ioas.soft.iommufd.dispatch import Call
from ioas.uapi.iommufd import (
    IOMMU_HW_CAP_DIRTY_TRACKING,
    IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED,
    IOMMU_HW_CAP_PCI_PASID_EXEC,
    IOMMU_HW_CAP_PCI_PASID_PRIV,
    IOMMU_HW_INFO_FLAG_INPUT_TYPE,
    IOMMU_HW_INFO_TYPE_DEFAULT,
    iommu_hw_info,
)

_CLEAR_AT_ONCE = 1 << 20


def get_hw_info(call: Call[iommu_hw_info]) -> None:
    """IOMMU_GET_HW_INFO: what stands before a device. The user's buffer is filled, and its rest zeroed."""
    command, memory = call.command, call.caller.memory
    if command.flags & ~IOMMU_HW_INFO_FLAG_INPUT_TYPE:
        raise refuse(EOPNOTSUPP, f"flags {command.flags:#x} are not all known", "field", "flags")
    if any(command.__reserved):
        raise refuse(EOPNOTSUPP, "a reserved field is not 0", "field", "__reserved")
    asked = command.in_data_type if command.flags & IOMMU_HW_INFO_FLAG_INPUT_TYPE else IOMMU_HW_INFO_TYPE_DEFAULT
    device = call.context.objects.get(command.dev_id, Device)
    call.context.system.failures.point("information")
    kind, data = device.unit.hw_info(asked)
    room = command.data_len
    if room:
        memory.write(command.data_uptr, data[:room])
        _clear(memory, command.data_uptr + len(data), room - len(data))
    command.out_data_type = kind
    command.data_len = len(data)
    command.out_max_pasid_log2 = device.max_pasid_log2
    command.out_capabilities = _capabilities(device)
    call.respond()


def _capabilities(device: Device) -> int:
    found = IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED
    if device.dirty_capable:
        found |= IOMMU_HW_CAP_DIRTY_TRACKING
    if device.max_pasid_log2 and device.requester.pasid_execute:
        found |= IOMMU_HW_CAP_PCI_PASID_EXEC
    if device.max_pasid_log2 and device.requester.pasid_privileged:
        found |= IOMMU_HW_CAP_PCI_PASID_PRIV
    return found


def _clear(memory: AddressSpace, address: int, length: int) -> None:
    """Zero user memory, piece by piece: a user may claim 4 GiB that are not there."""
    while length > 0:
        size = min(length, _CLEAR_AT_ONCE)
        memory.write(address, bytes(size))
        address += size
        length -= size
