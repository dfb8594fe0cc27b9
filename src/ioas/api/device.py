"""`Device`: a PCI device opened through VFIO."""

from __future__ import annotations

import ctypes
import sys
from posixpath import basename
from typing import TYPE_CHECKING, Literal, NamedTuple

from ioas.api.checks import U32_LAST, whole
from ioas.api.container import Container
from ioas.api.files import OpenFile, Session
from ioas.api.hwpt import Hwpt
from ioas.api.ioas import Ioas
from ioas.api.iommufd import Iommufd
from ioas.api.irq import Irq, IrqKind, Irqs, irq_index
from ioas.api.mapped_region import MappedRegion
from ioas.api.migration import Migration
from ioas.api.region import ConfigRegion, Region
from ioas.api.space import Space
from ioas.errors import UsageError
from ioas.uapi.iommufd import IOMMU_GET_HW_INFO, iommu_hw_info
from ioas.uapi.vfio import (
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    VFIO_DEVICE_ATTACH_PASID,
    VFIO_DEVICE_BIND_IOMMUFD,
    VFIO_DEVICE_DETACH_IOMMUFD_PT,
    VFIO_DEVICE_DETACH_PASID,
    VFIO_DEVICE_FEATURE,
    VFIO_DEVICE_GET_INFO,
    VFIO_DEVICE_GET_IRQ_INFO,
    VFIO_DEVICE_GET_REGION_INFO,
    VFIO_DEVICE_PCI_HOT_RESET,
    VFIO_DEVICE_RESET,
    VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_PCI_ROM_REGION_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP,
    vfio_device_attach_iommufd_pt,
    vfio_device_bind_iommufd,
    vfio_device_detach_iommufd_pt,
    vfio_device_info,
    vfio_irq_info,
    vfio_region_info,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Of configuration space, as include/uapi/linux/pci_regs.h has it.
_PCI_COMMAND, _PCI_COMMAND_MEMORY, _PCI_COMMAND_MASTER = 0x04, 1 << 1, 1 << 2
_PCI_STATUS, _PCI_STATUS_CAP_LIST = 0x06, 1 << 4
_PCI_CAPABILITY_LIST = 0x34
_PCI_CAP_ID_PM, _PCI_PM_CTRL, _PCI_PM_CTRL_STATE_MASK = 0x01, 4, 3
_CAPABILITIES = 48
"""So many fit into 256 bytes; a longer list is a ring."""
_MAY_TURN_OFF = (VFIO_DEVICE_RESET, VFIO_DEVICE_PCI_HOT_RESET, VFIO_DEVICE_FEATURE)
"""After these a BAR may not answer as before (VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY puts the device to sleep)."""

_HW_INFO_ROOM = 4096

BarIndex = Literal[0, 1, 2, 3, 4, 5]


class HwInfo(NamedTuple):
    """What the IOMMU in front of a device is: `type` (IOMMU_HW_INFO_TYPE_*) and its own `data`, capabilities."""

    type: int
    data: bytes
    capabilities: int
    max_pasid_log2: int


class Device(OpenFile):
    """A PCI device: /dev/vfio/devices/vfioN. Nothing but `bind` works before `bind`."""

    def __init__(self, session: Session, bdf: str, path: str) -> None:
        """Raises KernelError as open(2) does."""
        self.bdf = bdf
        self._bound: tuple[Iommufd, int] | None = None
        self._own_context: Iommufd | Container | None = None
        self._regions: dict[int, Region] = {}
        super().__init__(session, path)

    def __repr__(self) -> str:
        return f"<Device {self.bdf}{' (closed)' if self.closed else ''}>"

    @property
    def id(self) -> int:
        """The object id in the iommufd that it is bound to. Raises UsageError before `bind` and when closed."""
        return self._binding()[1]

    @property
    def no_iommu(self) -> bool:
        """Whether nothing translates or stops its DMA: the kernel says so in the name of its node."""
        return basename(self.path).startswith("noiommu-")

    @property
    def iommufd(self) -> Iommufd | None:
        """The iommufd that it is bound to."""
        return self._bound[0] if self._bound is not None else None

    def bind(self, context: Iommufd | Container) -> None:
        """Give the device to an iommufd until it is closed.

        Raises Busy: in use; InvalidArgument: bound before; UsageError for a container, which takes devices of groups.
        """
        if isinstance(context, Container):
            raise UsageError(f"{self.bdf} was opened as {self.path}: bind it to an Iommufd, not to {context!r}")
        iommufd = context
        size = ctypes.sizeof(vfio_device_bind_iommufd)
        command = vfio_device_bind_iommufd(argsz=size, iommufd=iommufd.fileno())
        self.ioctl(VFIO_DEVICE_BIND_IOMMUFD, command)
        self._bound = iommufd, command.out_devid

    def space(self) -> Space:
        """An address space of its own, however the device was opened: an IOAS, or that of a container.

        For drivers of one device: it opens what takes the device, binds and attaches; closing the device closes it.
        Raises as `bind` and `attach`, and as opening /dev/iommu or /dev/vfio/vfio.
        """
        self._own_context = self._new_context()
        self.bind(self._own_context)
        space = self._own_context.ioas()
        self.attach(space)
        return space

    def _new_context(self) -> Iommufd | Container:
        """What a device that was opened as this one can be bound to."""
        return Iommufd(self.session)

    def close(self) -> None:
        """Close it, and what `space` has opened. Idempotent."""
        self.unmap_regions()
        self._regions.clear()
        try:
            super().close()
        finally:
            context, self._own_context = self._own_context, None
            if context is not None:
                context.close()

    def attach(self, target: Space | Hwpt, pasid: int | None = None) -> int:
        """Let the device (or one of its PASIDs) use an IOAS or page table; attached already, it is moved over.

        Returns the id of the page table now in use. Raises InvalidArgument: the devices of its group would differ,
        or `Iommufd.hwpt` made the table for another IOMMU; AddressInUse: mapped IOVA is reserved for this device;
        UsageError: the target is closed, or belongs to another iommufd than the device.
        """
        target.check_open()
        if not isinstance(target, (Ioas, Hwpt)):
            raise UsageError(f"{target!r} is none of an iommufd, which {self.bdf} is bound to")
        if self._bound is not None:
            self._bound[0].check_own(target.iommufd, target)
        command = vfio_device_attach_iommufd_pt(argsz=ctypes.sizeof(vfio_device_attach_iommufd_pt), pt_id=target.id)
        if pasid is not None:
            command.flags, command.pasid = VFIO_DEVICE_ATTACH_PASID, whole("pasid", pasid, U32_LAST)
        self.ioctl(VFIO_DEVICE_ATTACH_IOMMUFD_PT, command)
        if self.no_iommu and isinstance(target, Ioas):
            target.become_physical()
        return command.pt_id

    def detach(self, pasid: int | None = None) -> None:
        """Block all DMA of the device (or of one of its PASIDs)."""
        command = vfio_device_detach_iommufd_pt(argsz=ctypes.sizeof(vfio_device_detach_iommufd_pt))
        if pasid is not None:
            command.flags, command.pasid = VFIO_DEVICE_DETACH_PASID, whole("pasid", pasid, U32_LAST)
        self.ioctl(VFIO_DEVICE_DETACH_IOMMUFD_PT, command)

    def info(self) -> vfio_device_info:
        """VFIO_DEVICE_GET_INFO: flags, number of regions and interrupt indexes."""
        command = vfio_device_info(argsz=ctypes.sizeof(vfio_device_info))
        self.ioctl(VFIO_DEVICE_GET_INFO, command)
        return command

    def hw_info(self) -> HwInfo:
        """What the IOMMU in front of it is. Raises UsageError before `bind`."""
        iommufd, device_id = self._binding()
        room = ctypes.create_string_buffer(_HW_INFO_ROOM)
        size = ctypes.sizeof(iommu_hw_info)
        command = iommu_hw_info(size=size, dev_id=device_id, data_len=_HW_INFO_ROOM, data_uptr=ctypes.addressof(room))
        iommufd.ioctl(IOMMU_GET_HW_INFO, command)
        data = room.raw[: min(command.data_len, _HW_INFO_ROOM)]
        return HwInfo(command.out_data_type, data, command.out_capabilities, command.out_max_pasid_log2)

    def region(self, index: int) -> Region:
        """A region by VFIO_PCI_*_REGION_INDEX; one that is not there has size 0. Raises InvalidArgument."""
        number = whole("index", index, U32_LAST)
        if (known := self._regions.get(number)) is not None and not self.closed:
            return known
        command = vfio_region_info(argsz=ctypes.sizeof(vfio_region_info), index=number)
        self.ioctl(VFIO_DEVICE_GET_REGION_INFO, command)
        kind = _region_class(number, command.flags)
        found = self._regions[number] = kind(self, number, command.size, command.offset, command.flags)
        return found

    def bar(self, number: BarIndex) -> Region:
        """BAR 0 to 5. Raises UsageError when the device does not have it."""
        region = self.region(number) if 0 <= number < VFIO_PCI_ROM_REGION_INDEX else None
        if region is None or not region.size:
            raise UsageError(f"{self.bdf} has no BAR {number}")
        return region

    def regions(self) -> list[Region]:
        """All regions that are there: BARs, expansion ROM, configuration space."""
        found = [self.region(index) for index in range(VFIO_PCI_CONFIG_REGION_INDEX + 1)]
        return [region for region in found if region.size]

    @property
    def config(self) -> Region:
        """The configuration space."""
        return self.region(VFIO_PCI_CONFIG_REGION_INDEX)

    @property
    def bus_master(self) -> bool:
        """Whether the device may send requests: off when it is opened, and to be turned on before DMA and MSI."""
        return bool(self.config.read16(_PCI_COMMAND) & _PCI_COMMAND_MASTER)

    @bus_master.setter
    def bus_master(self, on: bool) -> None:
        config = self.config
        command = config.read16(_PCI_COMMAND) & ~_PCI_COMMAND_MASTER
        config.write16(_PCI_COMMAND, command | (_PCI_COMMAND_MASTER if on else 0))

    def capability(self, number: int) -> int | None:
        """Where a capability (PCI_CAP_ID_*) begins in configuration space; None when the device does not have it."""
        config, seen = self.config, 0
        at = config.read8(_PCI_CAPABILITY_LIST) & ~3 if config.read16(_PCI_STATUS) & _PCI_STATUS_CAP_LIST else 0
        while at and seen < _CAPABILITIES:
            if config.read8(at) == number:
                return at
            at, seen = config.read8(at + 1) & ~3, seen + 1
        return None

    def memory_answers(self) -> bool:
        """Whether the device answers accesses to its BARs: memory space is on, and it is awake (D0)."""
        if not self.config.read16(_PCI_COMMAND) & _PCI_COMMAND_MEMORY:
            return False
        power = self.capability(_PCI_CAP_ID_PM)
        return power is None or not self.config.read16(power + _PCI_PM_CTRL) & _PCI_PM_CTRL_STATE_MASK

    def unmap_regions(self) -> None:
        """Take its BARs out of the program's memory, until they are used again."""
        for region in list(self._regions.values()):
            region.unmap()

    def ioctl(self, request: int, argument: int | Buffer = 0) -> int:
        """See `OpenFile.ioctl`."""
        result = super().ioctl(request, argument)
        if request in _MAY_TURN_OFF:
            self.unmap_regions()
        return result

    def irq_info(self, kind: IrqKind) -> vfio_irq_info:
        """VFIO_DEVICE_GET_IRQ_INFO: how many interrupts of a kind there are, and how they behave."""
        command = vfio_irq_info(argsz=ctypes.sizeof(vfio_irq_info), index=irq_index(kind))
        self.ioctl(VFIO_DEVICE_GET_IRQ_INFO, command)
        return command

    def irqs(self, kind: IrqKind, count: int) -> Irqs:
        """Enable interrupts 0 to `count` - 1 of a kind, each with an eventfd. Raises InvalidArgument."""
        return Irqs(self, kind, count)

    def irq(self, kind: IrqKind) -> Irq:
        """Enable interrupt 0 of a kind alone; closing it disables the kind."""
        return Irqs(self, kind, 1).only()

    @property
    def migration(self) -> Migration:
        """Taking it elsewhere, for a device that can be."""
        return Migration(self)

    def reset(self) -> None:
        """Reset the device. Raises InvalidArgument when it has no way to be reset."""
        self.ioctl(VFIO_DEVICE_RESET)

    def _binding(self) -> tuple[Iommufd, int]:
        self.check_open()
        if self._bound is None:
            raise UsageError(f"{self.bdf} is not bound to an iommufd")
        return self._bound


def _region_class(index: int, flags: int) -> type[Region]:
    if index == VFIO_PCI_CONFIG_REGION_INDEX:
        return ConfigRegion
    # A load gives the bytes in the order of the machine, and the registers are little-endian.
    mappable = flags & VFIO_REGION_INFO_FLAG_MMAP and sys.byteorder == "little"
    return MappedRegion if mappable else Region
