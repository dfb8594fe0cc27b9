"""`Device`: a device under the control of a context (follows drivers/iommu/iommufd/device.c, 7.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EINVAL, ENODEV, EOPNOTSUPP
from typing import TYPE_CHECKING, ClassVar

from ioas.errors import Culprit, KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommufd.fault import report
from ioas.soft.iommufd.group import DeviceGroup, Pasid
from ioas.soft.iommufd.hwpt import HardwareTable, make_table
from ioas.soft.iommufd.ioas import Ioas
from ioas.soft.iommufd.objects import Object
from ioas.uapi.iommufd import (
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_PGFAULT_FLAGS_LAST_PAGE,
    IOMMU_PGFAULT_FLAGS_PASID_VALID,
    IOMMU_PGFAULT_PERM_READ,
    IOMMU_PGFAULT_PERM_WRITE,
    IOMMUFD_PAGE_RESP_SUCCESS,
    iommu_hwpt_pgfault,
)

if TYPE_CHECKING:
    from typing import Self

    from ioas.soft.iommu import Domain, Requester, Unit
    from ioas.soft.iommufd.context import Context
    from ioas.soft.iommufd.nested import UserDomain
    from ioas.soft.iommufd.userdata import UserData
    from ioas.soft.iommufd.viommu import ViommuModel, VirtualDevice

_Change = Callable[[HardwareTable], HardwareTable | None]
"""Attaches or replaces; returns a table to put."""

_REQUEST_MASK = (1 << 9) - 1


class Device(Object):
    """A requester bound to a context: the object that `out_devid` of VFIO_DEVICE_BIND_IOMMUFD names.

    Its methods take the machine's lock and may be called from anywhere.
    """

    __slots__ = ("_requests", "group", "requester", "unit", "vdevice")

    kind = "device"
    creator = Culprit("file", "the device file that bound it")
    holds_context: ClassVar[bool] = True
    """Whether the context lives as long as the device is bound, even if its file is closed."""
    needs_isolated_interrupts: ClassVar[bool] = True
    """Whether its interrupts must be remapped."""

    def __init__(self, context: Context, requester: Requester, unit: Unit, group: DeviceGroup) -> None:
        """Use `bind`."""
        super().__init__(context)
        self.requester = requester
        self.unit = unit
        self.group = group
        self._requests = 0
        """A number for each page request, of 9 bits as on the bus."""
        self.vdevice: VirtualDevice | None = None
        """As which a virtual machine sees it."""

    @classmethod
    def bind(cls, context: Context, requester: Requester) -> Self:
        """Claim `requester`'s group for `context` and make the device object (iommufd_device_bind).

        Raises KernelError: EINVAL without an IOMMU that is cache coherent, ENODEV without a group, EPERM when its
        interrupts are not remapped (iommufd's parameter allow_unsafe_interrupts), and as `Group.claim`.
        """
        with context.system.lock:
            unit, group = requester.unit, requester.group
            if unit is None or not unit.coherent:
                raise refuse(EINVAL, f"{requester.name} has no IOMMU that is cache coherent", "device", requester.name)
            if group is None:
                raise refuse(ENODEV, f"{requester.name} is in no IOMMU group", "device", requester.name)
            if cls.needs_isolated_interrupts:
                group.check_interrupts("iommufd")
            group.claim(context)
            members = DeviceGroup.of(context, group)
            try:
                device = cls(context, requester, unit, members)
            except KernelError:
                members.put()
                group.release(context)
                raise
            requester.pager = device.request_page
            device.users += 1  # whoever binds, until unbind
            if cls.holds_context:
                context.get()
            context.objects.publish(device)
            return device

    @property
    def name(self) -> str:
        """The requester's: a BDF, or the name of a mock device."""
        return self.requester.name

    def attach(self, pt_id: int, pasid: Pasid = None) -> int:
        """Attach to an IOAS (an automatic page table is found or made) or a page table; return the page table's id.

        Raises KernelError: ENOENT for an unknown id, EINVAL for an object of another kind or when the group is attached
        to another page table, EBUSY when this device is attached already, EADDRINUSE when mappings stand where the
        device or its IOMMU reserves, EFAULT/ENOMEM when existing mappings cannot be pinned.
        """
        with self.context.lock:
            table = self._change(pt_id, lambda table: self.group.attach(table, self, pasid), pasid, attach=True)
            self.users += 1
            return table.id

    def replace(self, pt_id: int, pasid: Pasid = None) -> int:
        """As `attach`, for a device that is attached: on failure nothing changes. Raises EINVAL when it is not."""
        with self.context.lock:
            table = self._change(pt_id, lambda table: self.group.replace(table, self, pasid), pasid, attach=False)
            return table.id

    def detach(self, pasid: Pasid = None) -> None:
        """DMA is blocked when this returns. Detaching what is not attached does nothing."""
        with self.context.lock:
            if self.group.detach(self, pasid):
                self.users -= 1

    def unbind(self) -> None:
        """Destroy the device object and give the group back. Detaches first what is still attached."""
        with self.context.lock:
            for pasid in list(self.group.attachments):
                self.detach(pasid)
            self.context.objects.put_and_destroy(self)

    def request_page(self, iova: int, write: bool, pasid: Pasid, answered: Callable[[bool], None]) -> bool:
        """The device asks for a page (`ioas.soft.iommu.requester.Pager`)."""
        flags = IOMMU_PGFAULT_FLAGS_LAST_PAGE | (IOMMU_PGFAULT_FLAGS_PASID_VALID if pasid is not None else 0)
        with self.context.lock:
            self._requests = self._requests + 1 & _REQUEST_MASK
            fault = iommu_hwpt_pgfault(
                flags=flags,
                pasid=pasid or 0,
                grpid=self._requests,
                perm=IOMMU_PGFAULT_PERM_WRITE if write else IOMMU_PGFAULT_PERM_READ,
                addr=iova & -PAGE_SIZE,
            )
            return report(self, [fault], lambda code: answered(code == IOMMUFD_PAGE_RESP_SUCCESS))

    def uses(self) -> Sequence[Object]:
        """The page tables that it is attached to."""
        return [one.table for one in self.group.attachments.values() if self in one.devices]

    def destroy(self) -> None:
        """Give the group back (iommufd_device_destroy, and iommufd_device_pre_destroy before it)."""
        if self.vdevice is not None:
            self.context.objects.bury(self.vdevice)
        self.requester.pager = None
        self.group.group.release(self.context)
        self.group.put()
        if self.holds_context:
            self.context.put()

    # -- what the device and its IOMMU can do; the mock device differs

    @property
    def dirty_capable(self) -> bool:
        """IOMMU_CAP_DIRTY_TRACKING."""
        return self.unit.dirty and self.requester.dirty_tracking

    @property
    def enforces_coherency(self) -> bool:
        """IOMMU_CAP_ENFORCE_CACHE_COHERENCY."""
        return self.unit.enforces_coherency

    @property
    def max_pasid_log2(self) -> int:
        """How wide this device's PASIDs are; 0: it has none."""
        return self.requester.pasid_width

    def make_domain(self, flags: int, data: UserData | None) -> Domain:
        """A domain as IOMMU_HWPT_ALLOC `flags` want it. Raises KernelError(EOPNOTSUPP)."""
        if data is not None:
            raise refuse(EOPNOTSUPP, f"{self.unit.name} takes no data for a paging table", "field", "data_type")
        return self.unit.domain(
            dirty=bool(flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING),
            nest_parent=bool(flags & IOMMU_HWPT_ALLOC_NEST_PARENT),
            pasid=bool(flags & IOMMU_HWPT_ALLOC_PASID),
        )

    def check_nesting(self) -> None:
        """Refuse (KernelError(EOPNOTSUPP)) nested tables whose driver has no operation for them at all."""
        if self.unit.kind == "amd":
            raise refuse(EOPNOTSUPP, f"{self.unit.name} has no nested tables", "device", self.unit.name)

    def make_nested(self, parent: Domain, flags: int, data: UserData) -> UserDomain:
        """A nested domain on top of `parent`, as `data` describe it. Raises KernelError."""
        from ioas.soft.iommufd.vtd_nested import make_first_stage  # which imports this module

        return make_first_stage(parent, flags, data)

    def viommu_model(self, kind: int) -> ViommuModel | None:
        """What a vIOMMU of type `kind` of this device's IOMMU does; None when there is none."""
        return None

    # -- finding the page table

    def _change(self, pt_id: int, change: _Change, pasid: Pasid, *, attach: bool) -> HardwareTable:
        """Follows iommufd_device_change_pt."""
        table: HardwareTable
        target = self.context.objects.get(pt_id, Object)
        if isinstance(target, HardwareTable):
            former = change(target)
            table = target
        elif isinstance(target, Ioas):
            table, former = self._automatic(target, change, pasid, attach=attach)
        else:
            raise refuse(EINVAL, f"{target} is neither an IOAS nor a page table", "object", target)
        if former is not None:
            former.put()
        return table

    def _automatic(
        self, ioas: Ioas, change: _Change, pasid: Pasid, *, attach: bool
    ) -> tuple[HardwareTable, HardwareTable | None]:
        """A table of `ioas` that suits, or a new one (iommufd_device_auto_get_domain): never one made by hand."""
        for table in ioas.tables:
            if table.auto:
                try:
                    return table, change(table)
                except KernelError as error:
                    if error.errno != EINVAL:  # which means that the table does not suit the device
                        raise
        table = make_table(ioas, self, 0, attach=attach, pasid=pasid)
        former = None
        if not attach:
            try:
                former = change(table)
            except KernelError:
                table.abandon()
                raise
        table.auto = True
        self.context.objects.publish(table)
        return table, former
