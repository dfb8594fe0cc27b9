"""The files that are open on a machine, so that closing the machine closes them and tests can count them."""

from __future__ import annotations

from ioas.host import File
from ioas.soft.iommu import System
from ioas.soft.iommufd import Context
from ioas.soft.vfio import Cdev, VfioDevice


class OpenFiles:
    """Files of one machine, from open to close."""

    def __init__(self) -> None:
        self._files: set[File] = set()

    def context(self, system: System, number: tuple[int, int], *, test: bool, vfio: bool) -> File:
        """Open an iommufd (`vfio`: as a VFIO container)."""
        return self._add(_OpenContext(self, system, number, test=test, vfio=vfio))

    def cdev(self, device: VfioDevice, flags: int) -> File:
        """Open a device's cdev."""
        return self._add(_OpenCdev(self, device, flags))

    def _add(self, file: File) -> File:
        self._files.add(file)
        return file

    def has_open(self, device: VfioDevice) -> bool:
        """Whether some file of `device` is open."""
        return any(isinstance(file, Cdev) and file.device is device for file in self._files)

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


class _OpenCdev(Cdev):
    """A cdev that tells when its file is closed."""

    def __init__(self, files: OpenFiles, device: VfioDevice, flags: int) -> None:
        super().__init__(device, flags)
        self._files = files

    def close(self) -> None:
        """Close the file, and with it the device."""
        self._files.forget(self)
        super().close()
