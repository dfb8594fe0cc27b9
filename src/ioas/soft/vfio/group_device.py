"""`GroupDevice`: a device that an open group has given out (VFIO_GROUP_GET_DEVICE_FD; vfio_df_group_open, 7.3).

It answers at once, for the group's container or iommufd has been chosen before. A device may be given out several
times; all its files are the same device, which is enabled with the first and reset with the last.
"""

from __future__ import annotations

from errno import EINVAL
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.soft.vfio.bind import copy_in_bind
from ioas.soft.vfio.device_file import DeviceFile

if TYPE_CHECKING:
    from ioas.soft.vfio.argument import Argument
    from ioas.soft.vfio.device import VfioDevice
    from ioas.soft.vfio.group import VfioGroup


class GroupDevice(DeviceFile):
    """A device file from a group. It has no node, and does not know the requests of cdevs: ENOTTY."""

    def __init__(self, device: VfioDevice, group: VfioGroup) -> None:
        """`group` has claimed the device for this file (`VfioGroup.use`), and gets it back from it."""
        super().__init__(device)
        self.group = group
        self.bound = True

    @property
    def device_number(self) -> tuple[int, int]:
        """(0, 0): an anonymous file."""
        return 0, 0

    def bind(self, argument: Argument) -> int:
        """Always refused, after the argument has been looked at. Raises KernelError(EINVAL)."""
        copy_in_bind(argument)
        raise refuse(EINVAL, "the device was opened through its group, which has a container", "group", self.group.name)

    def release(self) -> None:
        """Give the device back to the group."""
        self.group.unuse(self.device)
