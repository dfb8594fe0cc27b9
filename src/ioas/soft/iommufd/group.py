"""`DeviceGroup`: the devices of one IOMMU group that are bound to one context (struct iommufd_group, device.c, 7.3).

A group has one attachment for each PASID (and one without): all its devices use the same page table, since the IOMMU
cannot tell them apart. The first device attaches the group; each further one joins, and adds the
regions that it reserves; the last one to go blocks the group's DMA.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import KernelError, refuse

if TYPE_CHECKING:
    from ioas.soft.iommu import AnyDomain, Group
    from ioas.soft.iommufd.context import Context
    from ioas.soft.iommufd.device import Device
    from ioas.soft.iommufd.hwpt import HardwareTable

Pasid = int | None
"""A PASID; None for DMA without one (IOMMU_NO_PASID)."""


class Handle(NamedTuple):
    """One attaching: page faults that come through it belong to it, and to the device that attached."""

    device: Device
    table: HardwareTable


class Attachment:
    """The table that a group uses for one PASID, and which devices asked for it."""

    __slots__ = ("devices", "handle", "table")

    def __init__(self, table: HardwareTable, device: Device) -> None:
        self.table = table
        self.handle = Handle(device, table)
        self.devices: list[Device] = []

    def drop_faults(self) -> None:
        """Answer the page faults that came this way and that nobody has answered (iommufd_auto_response_faults)."""
        if self.table.fault is not None:
            self.table.fault.drop(self.handle)


class DeviceGroup:
    """One IOMMU group as a context sees it. Lives while a device of the group is bound to the context."""

    __slots__ = ("attachments", "context", "group", "references")

    def __init__(self, context: Context, group: Group) -> None:
        self.context = context
        self.group = group
        self.references = 0
        self.attachments: dict[Pasid, Attachment] = {}

    @classmethod
    def of(cls, context: Context, group: Group) -> DeviceGroup:
        """The one of `context` for `group`, with a reference more."""
        known = context.groups.get(group.id)
        if known is None:
            known = context.groups[group.id] = cls(context, group)
        known.references += 1
        return known

    def put(self) -> None:
        """Give a reference back."""
        self.references -= 1
        if not self.references:
            del self.context.groups[self.group.id]

    def attach(self, table: HardwareTable, device: Device, pasid: Pasid) -> None:
        """Attach `device` to `table` (iommufd_hw_pagetable_attach).

        Raises KernelError, with nothing changed: EBUSY when it is attached, EINVAL when the group uses another table or
        the table does not suit, EADDRINUSE when mappings stand in the device's reserved regions.
        """
        attachment = self.attachments.get(pasid)
        if attachment is not None and device in attachment.devices:
            raise refuse(EBUSY, f"{device.name} is attached to {attachment.table} already", "object", attachment.table)
        if attachment is not None and attachment.table is not table:
            names = ", ".join(other.name for other in attachment.devices)
            raise refuse(
                EINVAL, f"group {self.group.id} uses {attachment.table} already, attached by {names}", "device", names
            )
        if attachment is None:
            self.context.system.failures.point("attachment")
        room = table.paging.ioas.iopt.room
        if pasid is None:
            room.reserve_for(device.requester)
        if attachment is None:
            try:
                self._check_pasid(table, pasid)
                self._switch(table.domain, None, pasid)
            except KernelError:
                if pasid is None:
                    room.unreserve(device.requester)
                raise
            attachment = self.attachments[pasid] = Attachment(table, device)
        attachment.devices.append(device)
        table.users += 1

    def detach(self, device: Device, pasid: Pasid) -> bool:
        """Undo `attach`; whether there was anything to undo. Cannot fail (iommufd_hw_pagetable_detach)."""
        attachment = self.attachments.get(pasid)
        if attachment is None or device not in attachment.devices:
            return False
        table = attachment.table
        attachment.devices.remove(device)
        if not attachment.devices:
            del self.attachments[pasid]
            for requester in self.group.requesters:
                requester.attach(None, pasid)
            attachment.drop_faults()
        if pasid is None:
            table.paging.ioas.iopt.room.unreserve(device.requester)
        table.put()
        return True

    def replace(self, table: HardwareTable, device: Device, pasid: Pasid) -> HardwareTable | None:
        """Move the whole group to `table`; return the former one, which the caller must put.

        Follows iommufd_device_do_replace. None when the group uses `table` already. Raises KernelError, with nothing
        changed: EINVAL when `device` is not attached or the table does not suit, EADDRINUSE.
        """
        attachment = self.attachments.get(pasid)
        if attachment is None or device not in attachment.devices:
            raise refuse(EINVAL, f"{device.name} is not attached to anything", "device", device.name)
        old = attachment.table
        if old is table:
            return None
        self.context.system.failures.point("attachment")
        moves = pasid is None and old.paging.ioas is not table.paging.ioas
        if moves:
            self._reserve(table, attachment)
        try:
            self._check_pasid(table, pasid)
            self._switch(table.domain, old.domain, pasid)
        except KernelError:
            if moves:
                self._unreserve(table, attachment)
            raise
        if moves:
            self._unreserve(old, attachment)
        attachment.drop_faults()
        attachment.table, attachment.handle = table, Handle(device, table)
        table.users += len(attachment.devices)
        old.users -= len(attachment.devices) - 1
        return old

    def _check_pasid(self, table: HardwareTable, pasid: Pasid) -> None:
        """Whether tables with and without PASID support would mix (iommufd_hwpt_pasid_compat)."""
        if pasid is None:
            tables = [table] if any(key is not None for key in self.attachments) else []
        else:
            plain = self.attachments.get(None)
            tables = [table] if plain is None else [table, plain.table]
        for mixed in tables:
            if not mixed.pasid_compatible:
                raise refuse(
                    EINVAL, f"{mixed} and PASIDs do not go together: allocate it with ALLOC_PASID", "object", mixed
                )

    def _switch(self, domain: AnyDomain, old: AnyDomain | None, pasid: Pasid) -> None:
        """Attach every requester of the group, bound or not; on failure all go back to `old`.

        For a PASID only those that can send one: without any in the group it is attached all the same, to no effect
        (iommu_attach_device_pasid, __iommu_set_group_pasid).
        """
        done = []
        try:
            for requester in self.group.requesters:
                if pasid is not None and not requester.pasids:
                    continue
                requester.attach(domain, pasid)
                done.append(requester)
        except KernelError:
            for requester in done:
                requester.attach(old, pasid)
            raise

    def _reserve(self, table: HardwareTable, attachment: Attachment) -> None:
        done = []
        try:
            for device in attachment.devices:
                table.paging.ioas.iopt.room.reserve_for(device.requester)
                done.append(device)
        except KernelError:
            for device in done:
                table.paging.ioas.iopt.room.unreserve(device.requester)
            raise

    def _unreserve(self, table: HardwareTable, attachment: Attachment) -> None:
        for device in attachment.devices:
            table.paging.ioas.iopt.room.unreserve(device.requester)
