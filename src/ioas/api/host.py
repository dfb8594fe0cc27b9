"""`SoftHost`: a software machine for Python programs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Self

from ioas.api.device import Device
from ioas.api.files import Session
from ioas.api.iommufd import Iommufd
from ioas.errors import UsageError
from ioas.host.local import LocalCaller
from ioas.soft.host import SoftHost as Machine
from ioas.soft.iommu import FaultRecord
from ioas.soft.pci import Function
from ioas.sysfs import Sysfs


class SoftHost:
    """A software machine: an IOMMU, PCI devices behind it, /dev/iommu and VFIO. Use it as a context manager.

    >>> with SoftHost(devices=["edu"]) as host, host.iommufd() as iommufd, host.device("0000:01:00.0") as device:
    ...     device.bind(iommufd)
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
    ) -> None:
        """`devices`, as `ioas run --device` takes them, or device models made by the caller (`ioas.soft.pci.Function`),
        and those of a `machine` file; one "edu" by default.

        `capabilities`: names that the program has on this machine besides its own ("sys_rawio"). `iommufd_test`: the
        kernel selftests' mock devices. `strict`: refuse memory that could not be held through munmap and fork.
        `isolation`: "strict" or "kernel". Raises UsageError, MachineError.
        """
        self.machine = Machine(
            devices,
            machine=machine,
            capabilities=capabilities,
            iommufd_test=iommufd_test,
            strict=strict,
            isolation=isolation,
        )
        try:
            self.caller = LocalCaller(self.machine.grants, strict=strict)
        except BaseException:
            self.machine.close()
            raise
        self.sysfs = Sysfs(self.machine.tree)
        self._session = Session(self.machine, self.caller, self.machine.close)

    def __repr__(self) -> str:
        return f"<SoftHost with {', '.join(self.devices()) or 'no devices'}{' (closed)' if self.closed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._session.closed

    def iommufd(self) -> Iommufd:
        """Open /dev/iommu."""
        return Iommufd(self._session)

    def device(self, bdf: str) -> Device:
        """Open the VFIO device of a PCI function such as "0000:01:00.0". Raises UsageError when there is none."""
        name = self.sysfs.device(bdf).vfio_device
        if name is None:
            raise UsageError(f"{bdf} is not bound to vfio-pci")
        return Device(self._session, bdf, f"/dev/vfio/devices/{name}")

    def devices(self) -> list[str]:
        """The BDFs that `device` opens, in order."""
        return [device.bdf for device in self.sysfs.devices() if device.vfio_device is not None]

    def faults(self) -> list[FaultRecord]:
        """The DMA that the IOMMU stopped, oldest first (the machine remembers a bounded number)."""
        return list(self.machine.system.faults)

    def close(self) -> None:
        """Close every file and stop the machine. Idempotent. Nothing else ends it: files keep it running."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
