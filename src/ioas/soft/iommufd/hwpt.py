"""Page tables as objects (struct iommufd_hw_pagetable, hw_pagetable.c, 7.3): what devices are attached to.

A `PagingTable` is filled by iommufd from an IOAS; a nested one (nested.py) by the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EOPNOTSUPP
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.soft.iommufd.group import Pasid
from ioas.soft.iommufd.objects import Object
from ioas.uapi.iommufd import (
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_HWPT_FAULT_ID_VALID,
)

if TYPE_CHECKING:
    from ioas.soft.iommu import AnyDomain, Domain
    from ioas.soft.iommufd.context import Context
    from ioas.soft.iommufd.device import Device
    from ioas.soft.iommufd.fault import FaultQueue
    from ioas.soft.iommufd.ioas import Ioas
    from ioas.soft.iommufd.userdata import UserData

_PAGING_FLAGS = (
    IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID
)


class HardwareTable(Object):
    """Something that a device can be attached to."""

    __slots__ = ("domain", "fault", "pasid_compatible")

    kind = "page table"
    domain: AnyDomain

    def __init__(self, context: Context, flags: int) -> None:
        super().__init__(context)
        self.pasid_compatible = bool(flags & IOMMU_HWPT_ALLOC_PASID)
        self.fault: FaultQueue | None = None
        """Who is told about page faults, if anybody."""

    @property
    def paging(self) -> PagingTable:
        """The table that is filled from an IOAS: this one, or the parent of a nested one (find_hwpt_paging)."""
        raise NotImplementedError

    def uses(self) -> Sequence[Object]:
        """Who is told about faults."""
        return () if self.fault is None else (self.fault,)

    def report_to(self, queue: FaultQueue) -> None:
        """Let page faults of attached devices go to `queue`, for good."""
        self.fault = queue
        self.domain.reports_faults = True
        queue.users += 1

    def put(self) -> None:
        """A device lets go of the table (iommufd_hw_pagetable_put)."""
        self.users -= 1

    def abandon(self) -> None:
        """Undo the making of a table that was not published."""
        self.destroy()
        self.context.objects.abandon(self)

    def destroy(self) -> None:
        """No device uses it any more."""
        self.domain.free()
        if self.fault is not None:
            self.fault.users -= 1


class PagingTable(HardwareTable):
    """A page table that carries everything that is mapped in its IOAS.

    Making one reserves an id and nothing else; `fill` does what can fail.
    """

    __slots__ = ("auto", "enforces_coherency", "ioas", "nest_parent")

    domain: Domain

    def __init__(self, ioas: Ioas, domain: Domain, device: Device, flags: int) -> None:
        super().__init__(ioas.context, flags)
        self.ioas = ioas
        self.domain = domain
        ioas.users += 1
        self.auto = False
        """Made by an attach to the IOAS: goes with its last user."""
        self.nest_parent = bool(flags & IOMMU_HWPT_ALLOC_NEST_PARENT)
        self.enforces_coherency = device.enforces_coherency

    @property
    def paging(self) -> PagingTable:
        """Itself."""
        return self

    def fill(self, device: Device) -> None:
        """Map everything into the domain, made for `device`, and join the IOAS.

        Raises what `IoPagetable.add_domain` raises.
        """
        self.ioas.iopt.add_domain(self.domain, device.name)
        self.ioas.tables.append(self)

    def uses(self) -> Sequence[Object]:
        """The IOAS, and who is told about faults."""
        return (self.ioas, *super().uses())

    def destroy(self) -> None:
        """Unmap everything and free the domain: no device uses it any more."""
        if self in self.ioas.tables:
            self.ioas.tables.remove(self)
            self.ioas.iopt.remove_domain(self.domain)
        super().destroy()
        self.ioas.users -= 1

    def put(self) -> None:
        """As for every table; an automatic one goes with its last device."""
        if self.auto:
            self.context.objects.put_and_destroy(self)
        else:
            super().put()


def make_table(
    ioas: Ioas, device: Device, flags: int, data: UserData | None = None, *, attach: bool = False, pasid: Pasid = None
) -> PagingTable:
    """A new table for `device`, filled from `ioas`, not yet published (iommufd_hwpt_paging_alloc).

    With `attach` the device is attached (for `pasid`) before the table is filled, as by an attach to an IOAS.

    Raises KernelError, with nothing changed: EOPNOTSUPP for flags that the device's IOMMU cannot serve, and what
    attaching and filling raise.
    """
    _check_flags(device, flags)
    domain = device.make_domain(flags & ~IOMMU_HWPT_FAULT_ID_VALID, data)
    try:
        table = PagingTable(ioas, domain, device, flags)
    except KernelError:
        domain.free()
        raise
    try:
        if attach:
            device.group.attach(table, device, pasid)
        try:
            table.fill(device)
        except KernelError:
            if attach:
                device.group.detach(device, pasid)
            raise
    except KernelError:
        table.abandon()
        raise
    return table


def _check_flags(device: Device, flags: int) -> None:
    if flags & ~_PAGING_FLAGS:
        raise refuse(EOPNOTSUPP, f"flags {flags:#x} are not all known", "field", "flags")
    if flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING and not device.dirty_capable:
        raise refuse(EOPNOTSUPP, f"the IOMMU of {device.name} does not track dirty pages", "device", device.name)
    if flags & IOMMU_HWPT_FAULT_ID_VALID and flags & IOMMU_HWPT_ALLOC_NEST_PARENT:
        raise refuse(EOPNOTSUPP, "a nesting parent cannot have a fault queue", "field", "flags")
