"""The files that are open on a machine, so that closing the machine closes them and tests can count them."""

from __future__ import annotations

from collections.abc import Sequence

from ioas.host import Caller, File
from ioas.soft.iommu import System
from ioas.soft.iommufd import Context
from ioas.soft.vfio import Cdev, Container, GroupDevice, GroupFile, IommuDriver, VfioDevice, VfioGroup


class OpenFiles:
    """Files of one machine, from open to close."""

    def __init__(self) -> None:
        self._files: set[File] = set()

    def context(self, system: System, number: tuple[int, int], *, test: bool, vfio: bool) -> File:
        """Open an iommufd (`vfio`: as a VFIO container)."""
        return self._add(_OpenContext(self, system, number, test=test, vfio=vfio))

    def container(self, system: System, drivers: Sequence[type[IommuDriver]], number: tuple[int, int]) -> File:
        """Open a container of VFIO's own."""
        return self._add(_OpenContainer(self, system, drivers, number))

    def cdev(self, device: VfioDevice, flags: int) -> File:
        """Open a device's cdev."""
        return self._add(_OpenCdev(self, device, flags))

    def group(self, caller: Caller, group: VfioGroup) -> File:
        """Open a group. Raises KernelError as `GroupFile`."""
        return self._add(_OpenGroup(self, caller, group))

    def group_device(self, device: VfioDevice, group: VfioGroup) -> GroupDevice:
        """The file of a device that an open group gives out."""
        file = _OpenGroupDevice(self, device, group)
        self._files.add(file)
        return file

    def _add(self, file: File) -> File:
        self._files.add(file)
        return file

    def forget(self, file: File) -> None:
        """`file` is closed."""
        self._files.discard(file)

    def close_all(self) -> None:
        """Close whatever is open."""
        for file in list(self._files):
            file.close()

    def __len__(self) -> int:
        return len(self._files)


class _OpenContext(Context):
    """A context that tells when its file is closed."""

    def __init__(self, files: OpenFiles, system: System, number: tuple[int, int], *, test: bool, vfio: bool) -> None:
        super().__init__(system, test=test, number=number, vfio=vfio)
        self._files = files

    def close(self) -> None:
        """Close the file; the context lives on while devices are bound to it."""
        self._files.forget(self)
        super().close()


class _OpenContainer(Container):
    """A container that tells when its file is closed."""

    def __init__(
        self, files: OpenFiles, system: System, drivers: Sequence[type[IommuDriver]], number: tuple[int, int]
    ) -> None:
        super().__init__(system, drivers, number)
        self._files = files

    def close(self) -> None:
        """Close the file; the container lives on while groups are in it."""
        self._files.forget(self)
        super().close()


class _OpenCdev(Cdev):
    """A cdev that tells when its file is closed."""

    def __init__(self, files: OpenFiles, device: VfioDevice, flags: int) -> None:
        super().__init__(device, flags)
        self._files = files

    def close(self) -> None:
        """Close the file, and with it the device."""
        self._files.forget(self)
        super().close()


class _OpenGroup(GroupFile):
    """A group file that tells when it is closed, and whose devices' files do."""

    def __init__(self, files: OpenFiles, caller: Caller, group: VfioGroup) -> None:
        super().__init__(caller, group)
        self._files = files

    def make(self, device: VfioDevice) -> GroupDevice:
        """The file for a device that has been opened."""
        return self._files.group_device(device, self.group)

    def close(self) -> None:
        """Close the file; the group stays in its container while devices are open."""
        self._files.forget(self)
        super().close()


class _OpenGroupDevice(GroupDevice):
    """A device's file that tells when it is closed."""

    def __init__(self, files: OpenFiles, device: VfioDevice, group: VfioGroup) -> None:
        super().__init__(device, group)
        self._files = files

    def close(self) -> None:
        """Close the file, and the device with its last."""
        self._files.forget(self)
        super().close()
