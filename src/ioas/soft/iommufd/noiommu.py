"""Devices without an IOMMU in an iommufd (CONFIG_IOMMUFD_NOIOMMU: device.c, hwpt_noiommu.c, io_pagetable.c, 7.3).

Such a device is bound, attached and detached as any other, and its address space pins memory and keeps a page table;
only that nothing walks it. A program looks up where its memory is, and gives the device physical addresses.
"""

from __future__ import annotations

from errno import EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW, EPERM
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, Capability
from ioas.soft.iommu import AnyDomain, Group, NoIommu, Requester
from ioas.soft.iommufd.device import Device
from ioas.soft.iommufd.group import DeviceGroup, Pasid
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.iommufd.ranges import ULONG_MAX
from ioas.uapi.iommufd import iommu_ioas_noiommu_get_pa

if TYPE_CHECKING:
    from ioas.soft.iommu import Domain
    from ioas.soft.iommufd.area import Area
    from ioas.soft.iommufd.context import Context
    from ioas.soft.iommufd.dispatch import Call
    from ioas.soft.iommufd.userdata import UserData


class _GroupOfOne(DeviceGroup):
    """What stands for the group of a device that is in none (iommufd_bind_noiommu): no other device shares it."""

    __slots__ = ()

    def put(self) -> None:
        """Nobody else knows it."""

    def _switch(self, domain: AnyDomain, old: AnyDomain | None, pasid: Pasid) -> None:
        """Nothing: there is no hardware to be told (iommufd_hwpt_attach_device)."""


class UntranslatedDevice(Device):
    """A device without an IOMMU, bound to a context."""

    __slots__ = ()

    def make_domain(self, flags: int, data: UserData | None) -> Domain:
        """Follows noiommu_alloc_paging_flags. Raises KernelError(EOPNOTSUPP) for any flag, and any data."""
        if flags or data is not None:
            raise refuse(EOPNOTSUPP, f"a table for {self.name}, without an IOMMU, has no flags and takes no data",
                         "device", self.name)  # fmt: skip
        return self.unit.domain()

    def check_nesting(self) -> None:
        """Raises KernelError(EOPNOTSUPP)."""
        raise refuse(EOPNOTSUPP, f"{self.name} has no IOMMU, and so no nested tables", "device", self.name)


def bind_device(context: Context, requester: Requester) -> Device:
    """Bind a device to `context`, with its IOMMU or without (iommufd_device_bind). Raises KernelError as `Device.bind`.

    Without, nobody owns its DMA: whoever opened it has the privileges.
    """
    if requester.unit is not None:
        return Device.bind(context, requester)
    system = context.system
    with system.lock:
        group = _GroupOfOne(context, requester.group or Group(system, -1))
        device = UntranslatedDevice(context, requester, NoIommu.of(system), group)
        device.users += 1  # whoever binds, until unbind
        context.get()
        context.objects.publish(device)
        return device


def ioas_noiommu_get_pa(call: Call[iommu_ioas_noiommu_get_pa]) -> None:
    """IOMMU_IOAS_NOIOMMU_GET_PA (iommufd_ioas_noiommu_get_pa): the physical address under an IOVA."""
    command = call.command
    if not call.caller.capable(Capability.SYS_RAWIO):
        raise refuse(EPERM, "physical addresses are for CAP_SYS_RAWIO only", "capability", "CAP_SYS_RAWIO")
    if command.flags or command.__reserved:
        raise refuse(EOPNOTSUPP, "NOIOMMU_GET_PA knows no flags", "field", "flags")
    if not command.length:
        raise refuse(EINVAL, "length is 0", "field", "length")
    if command.iova >= ULONG_MAX:
        raise refuse(EOVERFLOW, "IOVA must be below 2**64-1", "field", "iova")
    ioas = call.context.objects.get(command.ioas_id, Ioas)
    command.out_phys, command.length = _look_up(ioas, command.iova, command.length)
    call.respond()


def _look_up(ioas: Ioas, iova: int, length: int) -> tuple[int, int]:
    """The physical address under `iova`, and how many of `length` bytes follow it there (iopt_get_phys).

    Raises KernelError: ENOENT where nothing is mapped, EINVAL for a revoked DMA-BUF, EOPNOTSUPP for tables of an IOMMU.
    """
    area = ioas.iopt.areas.first(iova, iova)
    if area is None:
        raise refuse(ENOENT, f"nothing is mapped at IOVA {iova:#x}", "address", iova)
    if area.pages.revoked:
        raise refuse(EINVAL, f"the DMA-BUF behind area {area} has been revoked", "area", area)
    address = _table_of(ioas).phys(iova)
    return address or 0, min(_contiguous(area, iova), length)


def _table_of(ioas: Ioas) -> Domain:
    """The table that the kernel keeps the addresses in: the oldest (area->storage_domain)."""
    domain = ioas.iopt.domains[0] if ioas.iopt.domains else None
    if domain is None or domain.unit.hardware:
        what = "has no page table yet" if domain is None else f"belongs to devices behind {domain.unit.name}"
        raise refuse(EOPNOTSUPP, f"{ioas} {what}: it serves no device without an IOMMU", "object", ioas)
    return domain


def _contiguous(area: Area, iova: int) -> int:
    """How many bytes of an area, from `iova`, stand one after the other in physical memory."""
    first = area.page_at(iova)
    following = -1
    pages = 0
    for run, start, count in area.pages.segments(first, area.last_page):
        end = start + count
        while start < end:
            if following not in (-1, run.pfn(start)):
                return _from(area, iova, pages)
            block = min(run.block(start), end - start)
            pages += block
            start += block
            following = run.pfn(start - 1) + 1
    return _from(area, iova, pages)


def _from(area: Area, iova: int, pages: int) -> int:
    offset = area.byte_at(iova) % PAGE_SIZE
    return min((pages << PAGE_SHIFT) - offset, area.last - iova + 1)
