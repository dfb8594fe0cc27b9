"""Devices that are reset together (struct vfio_device_set and vfio_pci_core_register_device, 7.3).

Those of one bus behind a port are one set, as far as vfio-pci has them. A function on the root bus, which cannot be
reset, and a virtual function are sets of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ioas.soft.pci import Function
    from ioas.soft.vfio.device import VfioDevice


class DeviceSet:
    """Some devices, in the order in which vfio-pci got them. `System.lock` is held for everything."""

    def __init__(self) -> None:
        self.members: list[VfioDevice] = []

    def join(self, device: VfioDevice) -> None:
        """vfio-pci has got `device`."""
        self.members.append(device)
        device.set = self

    def leave(self, device: VfioDevice) -> None:
        """vfio-pci has let go of `device`."""
        self.members.remove(device)

    def find(self, function: Function) -> VfioDevice | None:
        """The member whose function this is."""
        return next((member for member in self.members if member.function is function), None)

    def missing(self, device: VfioDevice) -> Function | None:
        """A function that a reset of the bus of `device` would reset and that is no member: then there is none."""
        functions = device.function.place.bus.functions.values()
        return next((function for function in functions if self.find(function) is None), None)
