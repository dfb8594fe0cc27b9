"""What every host offers to Python programs, whichever machine answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self

from ioas.api.container import Container, IommuKind
from ioas.api.device import Device
from ioas.api.files import Session
from ioas.api.group_device import GroupDevice
from ioas.api.iommufd import Iommufd
from ioas.errors import KernelError, UsageError
from ioas.sysfs import PciDevice, Sysfs

Way = Literal["cdev", "group"]


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

    def container(self, kind: IommuKind | None = None) -> Container:
        """Open /dev/vfio/vfio. `kind` is "type1v2", "type1" or "noiommu"; None takes what the groups' IOMMU can."""
        return Container(self._session, kind)

    def device(self, bdf: str, via: Way | None = None) -> Device:
        """Open the VFIO device of a PCI function such as "0000:01:00.0".

        `via` "cdev" opens its own node, to be bound to an `Iommufd`; "group" its group's, to be bound to a `Container`.
        None tries the first, with /dev/iommu, and then the second. Raises UsageError when there is no such function or
        VFIO does not have it; KernelError when it cannot be opened.
        """
        if via not in (None, *_WAYS):
            raise UsageError(f"{via!r} is no way to a device; ways are {' and '.join(_WAYS)}")
        found = self.sysfs.device(bdf)
        self._check_driver(found)
        if via is not None:
            return _WAYS[via](self._session, found)
        try:
            device = _by_cdev(self._session, found)
        except (KernelError, UsageError) as error:
            return self._by_group_after(error, found)
        try:
            self.iommufd().close()
        except KernelError as error:
            device.close()
            return self._by_group_after(error, found)
        return device

    def _by_group_after(self, error: Exception, found: PciDevice) -> Device:
        """By its group, or the exception that says why not by the newer way."""
        try:
            return _by_group(self._session, found)
        except (KernelError, UsageError) as second:
            error.add_note(f"nor by its group: {second}")
            raise error from None

    def _check_driver(self, found: PciDevice) -> None:
        if not _is_vfios(found):
            held = f"is held by driver {found.driver}" if found.driver is not None else "has no driver"
            raise UsageError(f"{found.bdf} {held}: it has to be bound to vfio-pci")

    def devices(self) -> list[str]:
        """The BDFs that `device` opens, in order."""
        return [one.bdf for one in self.sysfs.devices() if _is_vfios(one)]

    def close(self) -> None:
        """Close every file. Idempotent."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _is_vfios(found: PciDevice) -> bool:
    """Whether a VFIO driver has it; before Linux 6.1 only the driver's name tells (vfio-pci, mlx5-vfio-pci)."""
    return found.vfio_device is not None or "vfio" in (found.driver or "")


def _by_cdev(session: Session, found: PciDevice) -> Device:
    name = found.vfio_device
    if name is None:
        raise UsageError(f"{found.bdf} has no VFIO device node in sysfs (CONFIG_VFIO_DEVICE_CDEV)")
    return Device(session, found.bdf, f"/dev/vfio/devices/{name}")


def _by_group(session: Session, found: PciDevice) -> Device:
    number = found.iommu_group
    if number is None:
        raise UsageError(f"{found.bdf} is in no IOMMU group: no IOMMU stands in front of it, or it is turned off")
    return GroupDevice(session, found.bdf, number)


_WAYS: dict[Way, Callable[[Session, PciDevice], Device]] = {"cdev": _by_cdev, "group": _by_group}
