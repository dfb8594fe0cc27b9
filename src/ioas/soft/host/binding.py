"""What becomes of a VFIO device when vfio-pci gets a function or lets go of it: its cdev, and what sysfs shows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from errno import EINVAL
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from ioas.host import Caller, File
from ioas.soft.pci import Tree, VfioNode
from ioas.soft.pci.sysfs import add_vfio_device, remove_vfio_device
from ioas.soft.pci.sysfs_driver import VfioPci
from ioas.soft.pci.sysfs_host_drivers import HostDrivers
from ioas.soft.pci.sysfs_messages import MessageNumbers
from ioas.soft.vfio import DeviceSet
from ioas.soft.vfio.noiommu import can_probe, check_privilege
from ioas.uapi.vfio import VFIO_PCI_REQ_IRQ_INDEX

if TYPE_CHECKING:
    from ioas.soft.host.files import OpenFiles
    from ioas.soft.host.groups import VfioGroups
    from ioas.soft.host.nodes import DeviceNodes
    from ioas.soft.vfio import VfioDevice


class Binding:
    """Follows what programs write to the driver's files, and shows the interrupts that devices have enabled."""

    def __init__(
        self,
        tree: Tree,
        devices: Mapping[str, VfioDevice],
        files: OpenFiles,
        nodes: DeviceNodes,
        groups: VfioGroups,
        others: Mapping[str, str],
    ) -> None:
        """Those of `devices` (by BDF) that vfio-pci takes are bound, and sysfs shows them already.

        `others`: the drivers of those that it does not want.
        """
        self._tree = tree
        self._devices = devices
        self._files = files
        self._nodes = nodes
        self._groups = groups
        self._sets: dict[int, DeviceSet] = {}
        self._bound = {
            bdf for bdf, device in devices.items() if bdf not in others and can_probe(device.system, device.function)
        }
        numbers = MessageNumbers(tree)
        for bdf, device in devices.items():
            device.on_messages = partial(numbers.changed, device.function)
            if bdf in self._bound:
                self._join(device)
                self._add_node(device)
        functions = {bdf: device.function for bdf, device in devices.items()}
        drivers = HostDrivers(tree, functions, others)
        VfioPci(tree, functions, set(self._bound), self._probe, self._remove, drivers)

    def _probe(self, bdf: str) -> None:
        """The driver has got a function: its device takes the lowest free index, as any new one does.

        Raises OSError(EINVAL) for one that no IOMMU stands before, unless VFIO is in its unsafe mode.
        """
        device = self._devices[bdf]
        if not can_probe(device.system, device.function):
            raise OSError(EINVAL, os.strerror(EINVAL), bdf)
        taken = {self._devices[other].index for other in self._bound}
        device.index = next(index for index in count() if index not in taken)
        device.number = (device.number[0], device.index)
        self._join(device)
        self._add_node(device)
        add_vfio_device(self._tree, device.function, _shown(device))
        self._bound.add(bdf)

    def _remove(self, bdf: str) -> Callable[[], bool]:
        """The driver is to let go: nobody can open the device any more, and who has it open is asked to close it."""
        device = self._devices[bdf]
        if bdf in self._bound:
            self._groups.unregister(device)
            self._nodes.remove(_path(device))
            remove_vfio_device(self._tree, device.function, _shown(device))
            self._bound.discard(bdf)
        if request := device.irqs.events[VFIO_PCI_REQ_IRQ_INDEX].trigger:
            request.signal()
        return lambda: self._gone(device)

    def _gone(self, device: VfioDevice) -> bool:
        """Whether nobody has it open any more; its group has let go of it then."""
        if device.files:
            return False
        self._groups.leave(device)
        device.set.leave(device)
        return True

    def _join(self, device: VfioDevice) -> None:
        """Into its group, and to those that a reset of its bus resets: none on the root bus, which cannot be reset."""
        self._groups.join(device)
        bus = device.function.place.bus
        device_set = self._sets.setdefault(bus.number, DeviceSet()) if bus.port is not None else DeviceSet()
        device_set.join(device)

    def _add_node(self, device: VfioDevice) -> None:
        def open_cdev(caller: Caller, flags: int) -> File:
            if device.noiommu:
                check_privilege(caller, device.name)
            return self._files.cdev(device, flags)

        self._nodes.add(_path(device), device.number, open_cdev)


def _path(device: VfioDevice) -> str:
    return f"/dev/vfio/devices/{device.node}"


def _shown(device: VfioDevice) -> VfioNode:
    return VfioNode(device.node, *device.number)
