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
        devices: dict[str, VfioDevice],
        files: OpenFiles,
        nodes: DeviceNodes,
        groups: VfioGroups,
        others: Mapping[str, str],
    ) -> None:
        """Those of `devices` (by BDF) that vfio-pci takes are bound, and sysfs shows them already.

        `others`: the drivers of those that it does not want.
        """
        self._tree = tree
        self.devices = devices
        """Those of all functions, bound or not, by BDF."""
        self.before_removal: dict[str, Callable[[], Callable[[], bool]]] = {}
        """What begins before the driver lets go of a function, and returns what tells whether that is over."""
        self._files = files
        self._nodes = nodes
        self._groups = groups
        self._sets: dict[int, DeviceSet] = {}
        self._bound = {
            bdf for bdf, device in devices.items() if bdf not in others and can_probe(device.system, device.function)
        }
        self._numbers = MessageNumbers(tree)
        for bdf, device in devices.items():
            self._follow(device)
            if bdf in self._bound:
                self._join(device)
                self._add_node(device)
        functions = {bdf: device.function for bdf, device in devices.items()}
        drivers = HostDrivers(tree, functions, others)
        self._driver = VfioPci(tree, functions, set(self._bound), self._probe, self._remove, drivers)

    def _follow(self, device: VfioDevice) -> None:
        device.on_messages = partial(self._numbers.changed, device.function)

    def bound(self, bdf: str) -> VfioDevice | None:
        """The device of a function that vfio-pci has."""
        return self.devices[bdf] if bdf in self._bound else None

    def add(self, device: VfioDevice) -> None:
        """A virtual function has appeared, which vfio-pci gets."""
        self.devices[device.name] = device
        self._follow(device)
        self._driver.add(device.name, device.function)

    def begin_removal(self, bdf: str) -> Callable[[], bool]:
        """A virtual function is to disappear: what tells whether nobody uses it any more."""
        return self._driver.begin_to_unbind(bdf)

    def forget(self, bdf: str) -> None:
        """A virtual function that nobody uses any more disappears."""
        self._driver.forget(bdf)
        del self.devices[bdf]

    def _probe(self, bdf: str) -> None:
        """The driver has got a function: its device takes the lowest free index, as any new one does.

        Raises OSError(EINVAL) for one that no IOMMU stands before, unless VFIO is in its unsafe mode.
        """
        device = self.devices[bdf]
        if not can_probe(device.system, device.function):
            raise OSError(EINVAL, os.strerror(EINVAL), bdf)
        taken = {self.devices[other].index for other in self._bound}
        device.index = next(index for index in count() if index not in taken)
        device.number = (device.number[0], device.index)
        self._join(device)
        self._add_node(device)
        add_vfio_device(self._tree, device.function, _shown(device))
        self._bound.add(bdf)

    def _remove(self, bdf: str) -> Callable[[], bool]:
        """The driver is to let go, after its VFs have gone: who has the device open is asked to close it."""
        device = self.devices[bdf]
        waits = [self.before_removal[bdf]()] if bdf in self.before_removal else []
        if not waits:
            self._unregister(device)

        def gone() -> bool:
            if waits and waits[0]():
                waits.clear()
                self._unregister(device)
            return not waits and self._gone(device)

        return gone

    def _unregister(self, device: VfioDevice) -> None:
        """Nobody can open the device any more."""
        if device.name in self._bound:
            with device.system.lock:
                self._groups.unregister(device)
            self._nodes.remove(_path(device))
            remove_vfio_device(self._tree, device.function, _shown(device))
            self._bound.discard(device.name)
        device.irqs.events[VFIO_PCI_REQ_IRQ_INDEX].fire()

    def _gone(self, device: VfioDevice) -> bool:
        """Whether nobody has it open any more; its group has let go of it then."""
        with device.system.lock:
            if device.files:
                return False
            self._groups.leave(device)
            device.set.leave(device)
        return True

    def _join(self, device: VfioDevice) -> None:
        """Into its group, and to those that a reset of its bus resets."""
        bus = device.function.place.bus
        shared = bus.port is not None and not device.is_virtual
        with device.system.lock:
            self._groups.join(device)
            device_set = self._sets.setdefault(bus.number, DeviceSet()) if shared else DeviceSet()
            device_set.join(device)
            device.renew_token()

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
