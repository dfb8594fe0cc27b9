"""Nested page tables: the user's own, on top of a parent that iommufd fills (iommufd_hwpt_nested_alloc, 7.3)."""

from __future__ import annotations

from collections.abc import Sequence
from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommu import NestedDomain
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.hwpt import HardwareTable, PagingTable
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.userdata import UserArray, UserData
from ioas.soft.iommufd.viommu import Viommu
from ioas.uapi.iommufd import IOMMU_HWPT_ALLOC_PASID, IOMMU_HWPT_FAULT_ID_VALID, iommu_hwpt_invalidate

if TYPE_CHECKING:
    from ioas.soft.iommufd.device import Device

_NESTED_FLAGS = IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID
_ENTRIES_MAX = 1 << 19


class UserDomain(NestedDomain):
    """What a unit makes of a nested table; each kind of unit has its own."""

    def invalidate(self, array: UserArray) -> None:
        """Carry out the user's invalidations; `array.done` tells how many, also after an error. Raises KernelError."""
        raise refuse(EOPNOTSUPP, f"{self.unit.name} has no invalidations of nested tables", "device", self.unit.name)


class NestedTable(HardwareTable):
    """A page table of the user's, on top of `parent`: a page table, or a vIOMMU that has one."""

    __slots__ = ("parent",)

    kind = "nested page table"
    domain: UserDomain

    def __init__(self, parent: PagingTable | Viommu, domain: UserDomain, flags: int) -> None:
        super().__init__(parent.context, flags)
        self.parent = parent
        self.domain = domain
        parent.users += 1

    @property
    def paging(self) -> PagingTable:
        """The parent's."""
        return self.parent.paging

    def uses(self) -> Sequence[Object]:
        """The parent, and who is told about faults."""
        return (self.parent, *super().uses())

    def destroy(self) -> None:
        """No device uses it any more."""
        super().destroy()
        self.parent.users -= 1


def make_nested(parent: PagingTable | Viommu, device: Device, flags: int, data: UserData | None) -> NestedTable:
    """A new table for `device`, not yet published.

    Follows iommufd_hwpt_nested_alloc and iommufd_viommu_alloc_hwpt_nested. Raises KernelError: EOPNOTSUPP for flags,
    data or an IOMMU with which there is no nesting; EINVAL for a parent that cannot be one, or data without sense.
    """
    if isinstance(parent, Viommu) and parent.unit is not device.unit:
        raise refuse(EINVAL, f"{parent} is one of {parent.unit.name}, not of {device.unit.name}", "object", parent)
    if flags & ~_NESTED_FLAGS:
        raise refuse(EOPNOTSUPP, f"flags {flags:#x} do not go with a nested table", "field", "flags")
    if data is None:
        raise refuse(EOPNOTSUPP, f"a table on {parent} is nested, and wants data", "field", "data_type")
    if isinstance(parent, Viommu):
        return _on_top(parent, parent.model.make_nested(flags & ~IOMMU_HWPT_FAULT_ID_VALID, data), flags)
    device.check_nesting()
    if parent.auto or not parent.nest_parent or parent.domain.unit.kind != device.unit.kind:
        raise refuse(EINVAL, f"{parent} was not allocated with NEST_PARENT for an IOMMU like this", "object", parent)
    return _on_top(parent, device.make_nested(parent.domain, flags & ~IOMMU_HWPT_FAULT_ID_VALID, data), flags)


def _on_top(parent: PagingTable | Viommu, domain: UserDomain, flags: int) -> NestedTable:
    try:
        return NestedTable(parent, domain, flags)
    except KernelError:
        domain.free()
        raise


def hwpt_invalidate(call: Call[iommu_hwpt_invalidate]) -> None:
    """IOMMU_HWPT_INVALIDATE. Follows iommufd_hwpt_invalidate: the number of entries done comes back in any case."""
    command = call.command
    memory = call.caller.memory
    array = UserArray(command.data_type, command.data_uptr, command.entry_len, command.entry_num, memory)
    try:
        _invalidate(call, array)
    finally:
        command.entry_num = array.done
        call.respond()


def _invalidate(call: Call[iommu_hwpt_invalidate], array: UserArray) -> None:
    command = call.command
    if command.__reserved:
        raise refuse(EOPNOTSUPP, "a reserved field is not 0", "field", "__reserved")
    if array.count:
        _check_shape(array)
    target = call.context.objects.get(command.hwpt_id, Object)
    if isinstance(target, NestedTable):
        target.domain.invalidate(array)
    elif isinstance(target, Viommu):
        target.model.invalidate(array)
    else:
        raise refuse(EINVAL, f"{target} is neither a nested page table nor a vIOMMU", "object", target)


def _check_shape(array: UserArray) -> None:
    if not array.address:
        raise refuse(EINVAL, "the entries have no address", "field", "data_uptr")
    if not 0 < array.length <= PAGE_SIZE:
        raise refuse(EINVAL, f"an entry has 1 to {PAGE_SIZE} bytes, not {array.length}", "field", "entry_len")
    if array.count > _ENTRIES_MAX:
        raise refuse(EINVAL, f"{array.count} entries are more than {_ENTRIES_MAX}", "field", "entry_num")
