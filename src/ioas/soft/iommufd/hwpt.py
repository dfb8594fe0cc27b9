"""`PagingTable`: a page table that iommufd fills from an IOAS (struct iommufd_hwpt_paging, hw_pagetable.c, 7.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EOPNOTSUPP
from typing import TYPE_CHECKING, NamedTuple

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
    from ioas.soft.iommu import Domain
    from ioas.soft.iommufd.device import Device
    from ioas.soft.iommufd.ioas import Ioas

_PAGING_FLAGS = (
    IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID
)


class UserData(NamedTuple):
    """What the user says about a table, in a structure of the IOMMU's own (struct iommu_user_data)."""

    type: int
    address: int
    length: int
    read: Callable[[int, int], bytes]
    """Reads the caller's memory: address, length."""


class PagingTable(Object):
    """A page table that carries everything that is mapped in its IOAS.

    Making one reserves an id and nothing else; `fill` does what can fail.
    """

    __slots__ = ("auto", "domain", "enforces_coherency", "ioas", "nest_parent", "pasid_compatible")

    kind = "page table"

    def __init__(self, ioas: Ioas, domain: Domain, device: Device, flags: int) -> None:
        super().__init__(ioas.context)
        self.ioas = ioas
        self.domain = domain
        ioas.users += 1
        self.auto = False
        """Made by an attach to the IOAS: goes with its last user."""
        self.nest_parent = bool(flags & IOMMU_HWPT_ALLOC_NEST_PARENT)
        self.pasid_compatible = bool(flags & IOMMU_HWPT_ALLOC_PASID)
        self.enforces_coherency = device.enforces_coherency

    def fill(self) -> None:
        """Map everything into the domain and join the IOAS. Raises what `IoPagetable.add_domain` raises."""
        self.ioas.iopt.add_domain(self.domain)
        self.ioas.tables.append(self)

    def uses(self) -> Sequence[Object]:
        """The IOAS."""
        return (self.ioas,)

    def destroy(self) -> None:
        """Unmap everything and free the domain: no device uses it any more."""
        if self in self.ioas.tables:
            self.ioas.tables.remove(self)
            self.ioas.iopt.remove_domain(self.domain)
        self.domain.free()
        self.ioas.users -= 1

    def abandon(self) -> None:
        """Undo the making of a table that was not published."""
        self.destroy()
        self.context.objects.abandon(self)

    def put(self) -> None:
        """A device lets go of the table (iommufd_hw_pagetable_put)."""
        if self.auto:
            self.context.objects.put_and_destroy(self)
        else:
            self.users -= 1


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
    table = PagingTable(ioas, domain, device, flags)
    try:
        if attach:
            device.group.attach(table, device, pasid)
        try:
            table.fill()
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
