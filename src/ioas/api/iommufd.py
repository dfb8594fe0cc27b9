"""`Iommufd`: an open /dev/iommu, in which everything else is an object with an id."""

from __future__ import annotations

import ctypes
from typing import Protocol

from ioas.api.checks import U32_LAST, whole
from ioas.api.fault_queue import FaultQueue
from ioas.api.files import OpenFile, Session
from ioas.api.hwpt import Hwpt
from ioas.api.ioas import Ioas
from ioas.errors import UsageError
from ioas.uapi.iommufd import (
    IOMMU_DESTROY,
    IOMMU_FAULT_QUEUE_ALLOC,
    IOMMU_HWPT_ALLOC,
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_HWPT_FAULT_ID_VALID,
    IOMMU_IOAS_ALLOC,
    IOMMU_IOAS_CHANGE_PROCESS,
    IOMMU_OPTION,
    IOMMU_OPTION_OP_GET,
    IOMMU_OPTION_OP_SET,
    IOMMU_OPTION_RLIMIT_MODE,
    IOMMU_VFIO_IOAS,
    IOMMU_VFIO_IOAS_CLEAR,
    IOMMU_VFIO_IOAS_GET,
    IOMMU_VFIO_IOAS_SET,
    iommu_destroy,
    iommu_fault_alloc,
    iommu_hwpt_alloc,
    iommu_ioas_alloc,
    iommu_ioas_change_process,
    iommu_option,
    iommu_vfio_ioas,
)


class BoundDevice(Protocol):
    """A device that an iommufd knows: a `Device`, or one of the kernel's mock devices."""

    @property
    def id(self) -> int:
        """Its object id. Raises UsageError before it is bound."""
        ...

    @property
    def iommufd(self) -> Iommufd | None:
        """The iommufd that it is bound to."""
        ...


class Iommufd(OpenFile):
    """An open /dev/iommu. Closing it destroys all its objects, unless bound devices still hold it."""

    def __init__(self, session: Session, path: str = "/dev/iommu") -> None:
        """Raises KernelError as open(2) does."""
        self.spaces: set[Ioas] = set()
        super().__init__(session, path)

    def ioas(self) -> Ioas:
        """A new, empty I/O address space."""
        command = iommu_ioas_alloc(ctypes.sizeof(iommu_ioas_alloc))
        self.ioctl(IOMMU_IOAS_ALLOC, command)
        return Ioas(self, command.out_ioas_id)

    def fault_queue(self) -> FaultQueue:
        """A queue for page requests of devices, to be given to `hwpt`."""
        command = iommu_fault_alloc(ctypes.sizeof(iommu_fault_alloc))
        self.ioctl(IOMMU_FAULT_QUEUE_ALLOC, command)
        return FaultQueue(self, command.out_fault_id, command.out_fault_fd)

    def hwpt(
        self,
        device: BoundDevice,
        space: Ioas,
        *,
        dirty: bool = False,
        nest_parent: bool = False,
        pasid: bool = False,
        faults: FaultQueue | None = None,
    ) -> Hwpt:
        """A page table for `device`, kept in step with the mappings of `space`.

        `dirty`: it tracks written pages; `nest_parent`: nested tables can stand on it; `pasid`: it can be attached
        to PASIDs; `faults`: where page requests go. Raises NotSupported when the device's IOMMU cannot; UsageError
        when `device`, `space` or `faults` belong to another iommufd.
        """
        self.check_own(device.iommufd, device)
        self.check_own(space.iommufd, space)
        space.check_open()
        flags = (
            (IOMMU_HWPT_ALLOC_DIRTY_TRACKING if dirty else 0)
            | (IOMMU_HWPT_ALLOC_NEST_PARENT if nest_parent else 0)
            | (IOMMU_HWPT_ALLOC_PASID if pasid else 0)
        )
        command = iommu_hwpt_alloc(size=ctypes.sizeof(iommu_hwpt_alloc), flags=flags, dev_id=device.id, pt_id=space.id)
        if faults is not None:
            self.check_own(faults.iommufd, faults)
            faults.check_open()
            command.flags, command.fault_id = flags | IOMMU_HWPT_FAULT_ID_VALID, faults.id
        self.ioctl(IOMMU_HWPT_ALLOC, command)
        return Hwpt(self, command.out_hwpt_id)

    def destroy(self, object_id: int) -> None:
        """Destroy an object by id. Raises Busy while it is used, NotFound."""
        number = whole("object_id", object_id, U32_LAST)
        self.ioctl(IOMMU_DESTROY, iommu_destroy(ctypes.sizeof(iommu_destroy), number))

    def change_process(self) -> None:
        """Charge all pinned memory to this process. Raises InvalidArgument unless all is from `map_file`."""
        self.ioctl(IOMMU_IOAS_CHANGE_PROCESS, iommu_ioas_change_process(ctypes.sizeof(iommu_ioas_change_process)))

    @property
    def rlimit_mode(self) -> int:
        """What counts locked memory: 0 the user, 1 the process. Setting needs CAP_SYS_RESOURCE and no objects."""
        return self.option(IOMMU_OPTION_RLIMIT_MODE)

    @rlimit_mode.setter
    def rlimit_mode(self, mode: int) -> None:
        self.set_option(IOMMU_OPTION_RLIMIT_MODE, mode)

    def option(self, option: int, object_id: int = 0) -> int:
        """The value of an IOMMU_OPTION_*."""
        command = self._option(option, IOMMU_OPTION_OP_GET, object_id)
        self.ioctl(IOMMU_OPTION, command)
        return command.val64

    def set_option(self, option: int, value: int, object_id: int = 0) -> None:
        """Set an IOMMU_OPTION_*. Raises KernelError."""
        command = self._option(option, IOMMU_OPTION_OP_SET, object_id)
        command.val64 = whole("value", value)
        self.ioctl(IOMMU_OPTION, command)

    @property
    def vfio_ioas(self) -> int:
        """Id of the IOAS that stands for a VFIO container; NoDevice when there is none. 0 clears it."""
        command = iommu_vfio_ioas(size=ctypes.sizeof(iommu_vfio_ioas), op=IOMMU_VFIO_IOAS_GET)
        self.ioctl(IOMMU_VFIO_IOAS, command)
        return command.ioas_id

    @vfio_ioas.setter
    def vfio_ioas(self, ioas_id: int) -> None:
        operation = IOMMU_VFIO_IOAS_SET if ioas_id else IOMMU_VFIO_IOAS_CLEAR
        number = whole("ioas_id", ioas_id, U32_LAST)
        command = iommu_vfio_ioas(size=ctypes.sizeof(iommu_vfio_ioas), ioas_id=number, op=operation)
        self.ioctl(IOMMU_VFIO_IOAS, command)

    def close(self) -> None:
        """Close it, and let go of the buffers that were mapped through it. Idempotent."""
        try:
            super().close()
        finally:
            for space in list(self.spaces):
                space.forget()

    def check_own(self, owner: Iommufd | None, thing: object) -> None:
        """Raises UsageError unless `owner`, the iommufd of `thing`, is this one: ids of another name other objects."""
        if owner is not self:
            raise UsageError(f"{thing!r} does not belong to this iommufd")

    @staticmethod
    def _option(option: int, operation: int, object_id: int) -> iommu_option:
        return iommu_option(
            size=ctypes.sizeof(iommu_option),
            option_id=whole("option", option, U32_LAST),
            op=operation,
            object_id=whole("object_id", object_id, U32_LAST),
        )
