"""What every host offers to Python programs, whichever machine answers."""

from __future__ import annotations

from typing import Self

from ioas.api.device import Device
from ioas.api.files import Session
from ioas.api.iommufd import Iommufd
from ioas.errors import UsageError
from ioas.sysfs import Sysfs


class BaseHost:
    """/dev/iommu and VFIO devices of one machine; `SoftHost` and `KernelHost` are the two. A context manager."""

    def __init__(self, session: Session, sysfs: Sysfs) -> None:
        self._session = session
        self.sysfs = sysfs

    def __repr__(self) -> str:
        with_ = ", ".join(self.devices()) or "no devices"
        return f"<{type(self).__name__} with {with_}{' (closed)' if self.closed else ''}>"

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

    def close(self) -> None:
        """Close every file. Idempotent."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
