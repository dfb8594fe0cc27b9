"""`SoftHost`: a software machine for Python programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ioas.api.files import Session
from ioas.api.host import BaseHost
from ioas.api.soft_memory import MachineMemory
from ioas.host.local import LocalCaller
from ioas.soft.host import SoftHost as Machine
from ioas.soft.iommu import FaultRecord
from ioas.soft.pci import Failure, Function
from ioas.sysfs import Sysfs


class SoftHost(BaseHost):
    """A software machine: an IOMMU, PCI devices behind it, /dev/iommu and VFIO. Use it as a context manager.

    >>> with SoftHost(devices=["edu"]) as host, host.iommufd() as iommufd, host.device("0000:01:00.0") as device:
    ...     device.bind(iommufd)

    Closing it stops the machine. Nothing else ends it: open files keep it running.
    """

    def __init__(
        self,
        devices: Sequence[str | Function] | None = None,
        *,
        machine: str | os.PathLike[str] | None = None,
        capabilities: Iterable[str] = (),
        iommufd_test: bool = False,
        strict: bool = False,
        isolation: str | None = None,
        no_iommu: bool = False,
    ) -> None:
        """`devices`, as `ioas run --device` takes them, or device models made by the caller (`ioas.soft.pci.Function`),
        and those of a `machine` file; one "edu" by default.

        `capabilities`: names that the program has on this machine besides its own ("sys_rawio"). `iommufd_test`: the
        kernel selftests' mock devices. `strict`: refuse memory that could not be held through munmap and fork.
        `isolation`: "strict" or "kernel". `no_iommu`: no IOMMU stands before the devices, which VFIO gives out in its
        unsafe mode; their DMA is physical, and the program needs "sys_rawio". Raises UsageError, MachineError.
        """
        self.machine = Machine(
            devices,
            machine=machine,
            capabilities=capabilities,
            iommufd_test=iommufd_test,
            strict=strict,
            isolation=isolation,
            no_iommu=no_iommu,
        )
        try:
            self.caller = LocalCaller(self.machine.grants, strict=strict)
        except BaseException:
            self.machine.close()
            raise
        physical = MachineMemory(self.machine.system.memory, self.caller.memory)
        super().__init__(Session(self.machine, self.caller, self.machine.close, physical), Sysfs(self.machine.tree))

    @property
    def tainted(self) -> int:
        """The taint flags, as /proc/sys/kernel/tainted has them: 64 where VFIO has a device without an IOMMU."""
        return self.machine.system.taints.flags

    def faults(self) -> list[FaultRecord]:
        """The DMA that the IOMMU stopped, oldest first (the machine remembers a bounded number)."""
        return list(self.machine.system.faults)

    def failures(self) -> list[Failure]:
        """The device models that raised in their own code, oldest first (the machine remembers a bounded number)."""
        return list(self.machine.failures)
