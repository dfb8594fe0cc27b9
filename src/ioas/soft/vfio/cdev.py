"""`Cdev`: an open /dev/vfio/devices/vfioN (follows drivers/vfio/device_cdev.c, 7.3)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from ioas.soft.vfio import bind
from ioas.soft.vfio.commands import CDEV_COMMANDS, Command
from ioas.soft.vfio.device_file import DeviceFile

if TYPE_CHECKING:
    from ioas.soft.vfio.argument import Argument
    from ioas.soft.vfio.device import VfioDevice


class Cdev(DeviceFile):
    """An open cdev: nothing but BIND_IOMMUFD works until that has succeeded.

    A device can be opened any number of times and bound once.
    """

    is_cdev: ClassVar[bool] = True
    commands: ClassVar[Mapping[int, Command]] = CDEV_COMMANDS

    def __init__(self, device: VfioDevice, flags: int = os.O_RDWR) -> None:
        """`flags` are those of open(2)."""
        super().__init__(device, flags & os.O_ACCMODE)

    @property
    def device_number(self) -> tuple[int, int]:
        """The node's major and minor."""
        return self.device.number

    def bind(self, argument: Argument) -> int:
        """VFIO_DEVICE_BIND_IOMMUFD. Raises KernelError as `ioas.soft.vfio.bind.bind`."""
        return bind.bind(self, argument)

    def release(self) -> None:
        """Give up the device, and let its group be opened again."""
        self.device.close()
        self.device.unblock_group()
