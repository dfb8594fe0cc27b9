"""What becomes of a VFIO device when vfio-pci gets a function or lets go of it: its cdev, and what sysfs shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from ioas.soft.pci import CharDevice, Tree, VfioNode
from ioas.soft.pci.sysfs import add_vfio_device, remove_vfio_device
from ioas.soft.pci.sysfs_driver import VfioPci
from ioas.soft.pci.sysfs_messages import MessageNumbers
from ioas.uapi.vfio import VFIO_PCI_REQ_IRQ_INDEX

if TYPE_CHECKING:
    from ioas.soft.host.files import OpenFiles
    from ioas.soft.vfio import VfioDevice

AddNode = Callable[[str, "VfioDevice"], CharDevice]
RemoveNode = Callable[[str], None]


class Binding:
    """Follows what programs write to the driver's files, and shows the interrupts that devices have enabled."""

    def __init__(
        self,
        tree: Tree,
        devices: Mapping[str, VfioDevice],
        files: OpenFiles,
        add_node: AddNode,
        remove_node: RemoveNode,
    ) -> None:
        """All `devices` (by BDF) are bound. `add_node`, `remove_node` make device nodes known to who opens them."""
        self._tree = tree
        self._devices = devices
        self._files = files
        self._add_node = add_node
        self._remove_node = remove_node
        self._bound = set(devices)
        numbers = MessageNumbers(tree)
        for device in devices.values():
            device.on_messages = partial(numbers.changed, device.function)
        VfioPci(tree, {bdf: device.function for bdf, device in devices.items()}, self._probe, self._remove)

    def _probe(self, bdf: str) -> None:
        """The driver has got a function: its device takes the lowest free index, as any new one does."""
        device = self._devices[bdf]
        taken = {self._devices[other].index for other in self._bound}
        device.index = next(index for index in count() if index not in taken)
        device.number = (device.number[0], device.index)
        self._tree.add(_path(device), self._add_node(_path(device), device))
        add_vfio_device(self._tree, device.function, _shown(device))
        self._bound.add(bdf)

    def _remove(self, bdf: str) -> Callable[[], bool]:
        """The driver is to let go: nobody can open the device any more, and who has it open is asked to close it."""
        device = self._devices[bdf]
        if bdf in self._bound:
            self._remove_node(_path(device))
            self._tree.remove(_path(device))
            remove_vfio_device(self._tree, device.function, _shown(device))
            self._bound.discard(bdf)
        if request := device.irqs.events[VFIO_PCI_REQ_IRQ_INDEX].trigger:
            request.signal()
        return lambda: not self._files.has_open(device)


def _path(device: VfioDevice) -> str:
    return f"/dev/vfio/devices/vfio{device.index}"


def _shown(device: VfioDevice) -> VfioNode:
    return VfioNode(f"vfio{device.index}", *device.number)
