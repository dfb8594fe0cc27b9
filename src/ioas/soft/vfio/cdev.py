"""`Cdev`: an open /dev/vfio/devices/vfioN (follows drivers/vfio/device_cdev.c, 7.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ioas.host import Caller

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.vfio.device import VfioDevice


class Cdev:
    """An open cdev (implements `ioas.host.File`): nothing but BIND_IOMMUFD works until that has succeeded."""

    def __init__(self, device: VfioDevice) -> None:
        raise NotImplementedError

    @property
    def device_number(self) -> tuple[int, int]:
        """The node's major and minor."""
        raise NotImplementedError

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """VFIO_DEVICE_*; see `ioas.soft.vfio.commands`."""
        raise NotImplementedError

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """Read from a region: the offset is region index << 40 plus the byte in the region."""
        raise NotImplementedError

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """Write to a region."""
        raise NotImplementedError

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """EINVAL: no region has the MMAP flag yet."""
        raise NotImplementedError

    def poll(self, caller: Caller) -> int:
        """A device file has no poll operation: always readable and writable."""
        raise NotImplementedError

    def close(self) -> None:
        """Interrupts off, device reset and disabled, detached, unbound."""
        raise NotImplementedError
