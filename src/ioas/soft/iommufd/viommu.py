"""Virtual IOMMUs and the devices behind them (viommu.c, 7.3).

A vIOMMU is a slice of a physical IOMMU that a virtual machine may use by itself. What a slice can do depends on the
physical IOMMU's kind, whose `ViommuModel` says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EEXIST, EINVAL, ENOENT, EOPNOTSUPP
from typing import TYPE_CHECKING, Protocol

from ioas.errors import Culprit, KernelError, refuse
from ioas.soft.iommufd.device import Device
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.hwpt import PagingTable
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.userdata import UserArray, UserData
from ioas.uapi.iommufd import IOMMU_VIOMMU_TYPE_DEFAULT, iommu_vdevice_alloc, iommu_viommu_alloc

if TYPE_CHECKING:
    from ioas.soft.iommu import Requester
    from ioas.soft.iommufd.nested import UserDomain
    from ioas.soft.iommufd.veventq import EventQueue


class ViommuModel:
    """What a vIOMMU of one type does; `viommu` is set before anything is asked of it (struct iommufd_viommu_ops)."""

    viommu: Viommu

    @property
    def mapped_at(self) -> int | None:
        """The offset in the iommufd file of memory of this vIOMMU that a program maps; None while it maps none."""
        return None

    def start(self, data: UserData | None) -> None:
        """Take the user's data, and answer into it. Raises KernelError, with nothing left behind."""

    def stop(self) -> None:
        """The vIOMMU goes. Cannot fail."""

    def make_nested(self, flags: int, data: UserData) -> UserDomain:
        """A nested domain of this vIOMMU. Raises KernelError."""
        raise refuse(EOPNOTSUPP, f"{self.viommu} has no nested tables", "object", self.viommu)

    def invalidate(self, array: UserArray) -> None:
        """Carry out the user's invalidations, as `UserDomain.invalidate`."""
        raise refuse(EOPNOTSUPP, f"{self.viommu} has no invalidations", "object", self.viommu)

    def queue_slots(self, kind: int) -> QueueSlots | None:
        """Where hardware queues of a type are kept; None when there are none of it."""
        return None


class QueueSlots(Protocol):
    """The hardware queues of one vIOMMU, by index, with its IOMMU's rules about them."""

    def take(self, index: int, queue: Object) -> Object | None:
        """Let `queue` stand at `index`; the queue that it depends on. Raises KernelError for a wrong index."""
        ...

    def give(self, index: int, below: Object | None) -> None:
        """Undo `take`, which had answered `below`."""
        ...


class Viommu(Object):
    """A virtual IOMMU on top of a nesting parent. Made by IOMMU_VIOMMU_ALLOC."""

    __slots__ = ("model", "queues", "table", "unit", "vdevices")

    kind = "vIOMMU"

    def __init__(self, device: Device, table: PagingTable, model: ViommuModel) -> None:
        super().__init__(device.context)
        self.unit = device.unit
        self.table = table
        self.model = model
        self.vdevices: dict[int, VirtualDevice] = {}
        """By the id that the virtual machine knows."""
        self.queues: dict[int, EventQueue] = {}
        """By type."""
        model.viommu = self
        table.users += 1

    @property
    def paging(self) -> PagingTable:
        """The nesting parent."""
        return self.table

    def virtual_id(self, requester: Requester) -> int | None:
        """The id that the virtual machine knows a device by; None when it is not behind this vIOMMU."""
        for number, vdevice in self.vdevices.items():
            if vdevice.device is not None and vdevice.device.requester is requester:
                return number
        return None

    def held_by(self) -> Culprit | None:
        """A mapping of its memory."""
        offset = self.model.mapped_at
        return None if offset is None else Culprit("file", f"a mapping of /dev/iommu at offset {offset:#x}")

    def uses(self) -> Sequence[Object]:
        """The nesting parent."""
        return (self.table,)

    def destroy(self) -> None:
        """Nothing uses it any more."""
        self.model.stop()
        self.table.users -= 1


class VirtualDevice(Object):
    """A device as a virtual machine sees it behind a vIOMMU. Goes with the device if it was not destroyed before."""

    __slots__ = ("device", "number", "viommu")

    kind = "vDEVICE"

    def __init__(self, viommu: Viommu, device: Device, number: int) -> None:
        super().__init__(viommu.context)
        self.viommu = viommu
        self.device: Device | None = device
        self.number = number
        viommu.users += 1
        device.vdevice = self
        viommu.vdevices[number] = self

    def uses(self) -> Sequence[Object]:
        """The vIOMMU. Not the device, which can go first."""
        return (self.viommu,)

    def destroy(self) -> None:
        """Let the device go."""
        if self.device is not None:
            self.device.vdevice = None
        del self.viommu.vdevices[self.number]
        self.viommu.users -= 1
        self.device = None


def viommu_alloc(call: Call[iommu_viommu_alloc]) -> None:
    """IOMMU_VIOMMU_ALLOC. Follows iommufd_viommu_alloc_ioctl."""
    command, objects = call.command, call.context.objects
    if command.flags:
        raise refuse(EOPNOTSUPP, f"flags {command.flags:#x} are not known", "field", "flags")
    if command.type == IOMMU_VIOMMU_TYPE_DEFAULT:
        raise refuse(EOPNOTSUPP, f"type {command.type} is that of no vIOMMU", "field", "type")
    device = objects.get(command.dev_id, Device)
    model = device.viommu_model(command.type)
    if model is None:
        raise refuse(EOPNOTSUPP, f"{device.unit.name} has no vIOMMUs of type {command.type:#x}", "field", "type")
    table = objects.get(command.hwpt_id, PagingTable)
    if not table.nest_parent:
        raise refuse(EINVAL, f"{table} was not allocated with NEST_PARENT", "object", table)
    viommu = Viommu(device, table, model)
    try:
        model.start(_data_of(call))
        command.out_viommu_id = viommu.id
        try:
            call.respond()
        except KernelError:
            model.stop()
            raise
    except KernelError:
        table.users -= 1
        objects.abandon(viommu)
        raise
    objects.publish(viommu)


def vdevice_alloc(call: Call[iommu_vdevice_alloc]) -> None:
    """IOMMU_VDEVICE_ALLOC. Follows iommufd_vdevice_alloc_ioctl."""
    command, objects = call.command, call.context.objects
    viommu = objects.get(command.viommu_id, Viommu)
    device = objects.get(command.dev_id, Device)
    if viommu.unit is not device.unit:
        raise refuse(EINVAL, f"{viommu} is one of {viommu.unit.name}, not of {device.unit.name}", "object", viommu)
    if device.vdevice is not None:
        raise refuse(EEXIST, f"{device} is {device.vdevice} already", "object", device.vdevice)
    if command.virt_id in viommu.vdevices:
        taken = viommu.vdevices[command.virt_id]
        raise refuse(EEXIST, f"virtual id {command.virt_id:#x} is that of {taken}", "object", taken)
    vdevice = VirtualDevice(viommu, device, command.virt_id)
    try:
        command.out_vdevice_id = vdevice.id
        call.respond()
    except KernelError:
        vdevice.destroy()
        objects.abandon(vdevice)
        raise
    objects.publish(vdevice)


def get_virtual_id(viommu: Viommu, requester: Requester) -> int:
    """As `Viommu.virtual_id`. Raises KernelError(ENOENT) (iommufd_viommu_get_vdev_id)."""
    number = viommu.virtual_id(requester)
    if number is None:
        raise refuse(ENOENT, f"{requester.name} has no vDEVICE behind {viommu}", "device", requester.name)
    return number


def _data_of(call: Call[iommu_viommu_alloc]) -> UserData | None:
    command = call.command
    if not command.data_len:
        return None
    return UserData(command.type, command.data_uptr, command.data_len, call.caller.memory)
