"""The VFIO groups of a machine: there while vfio-pci has one of their functions, with a node and a place in sysfs."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from ioas.host import Caller, File
from ioas.soft.pci.sysfs import add_vfio_group, remove_vfio_group
from ioas.soft.pci.sysfs_iommu import add_noiommu_group, remove_noiommu_group
from ioas.soft.vfio import VfioDevice, VfioGroup
from ioas.soft.vfio.noiommu import join_group, leave_group

if TYPE_CHECKING:
    from ioas.soft.host.files import OpenFiles
    from ioas.soft.host.nodes import DeviceNodes
    from ioas.soft.pci import Tree

GROUP_MAJOR = 249
"""/dev/vfio/N: "vfio" has a dynamic major; the minor is the lowest free one, whatever N is."""


class VfioGroups:
    """Groups by the id of their IOMMU group."""

    def __init__(self, tree: Tree, nodes: DeviceNodes, files: OpenFiles) -> None:
        self._tree = tree
        self._nodes = nodes
        self._files = files
        self._groups: dict[int, VfioGroup] = {}

    def join(self, device: VfioDevice) -> None:
        """vfio-pci has got `device` (vfio_device_set_group, vfio_device_group_register)."""
        function = device.function
        if device.noiommu:
            join_group(function.requester.system, function)
            add_noiommu_group(self._tree, function)
        members = function.requester.group
        if members is None:
            return
        group = self._groups.get(members.id)
        if group is None:
            taken = {each.number[1] for each in self._groups.values()}
            number = (GROUP_MAJOR, next(minor for minor in count() if minor not in taken))
            group = self._groups[members.id] = VfioGroup(members, number)
            self._show(group)
        group.devices.insert(0, device)
        group.drivers += 1
        device.group = group

    def unregister(self, device: VfioDevice) -> None:
        """vfio-pci is to let go of `device`: its group does not give it out any more."""
        if device.group is not None:
            device.group.devices.remove(device)

    def leave(self, device: VfioDevice) -> None:
        """vfio-pci has let go of `device`, and with the last one the group goes (vfio_device_remove_group)."""
        group, device.group = device.group, None
        if group is None:
            return
        group.drivers -= 1
        if group.drivers:
            return
        del self._groups[group.group.id]
        self._nodes.remove(f"/dev/vfio/{group.name}")
        remove_vfio_group(self._tree, group.name, group.number)
        group.end()
        if device.noiommu:
            remove_noiommu_group(self._tree, device.function)
            leave_group(group.group.system, device.function)

    def _show(self, group: VfioGroup) -> None:
        def open_group(caller: Caller, flags: int) -> File:
            return self._files.group(caller, group)

        self._nodes.add(f"/dev/vfio/{group.name}", group.number, open_group)
        add_vfio_group(self._tree, group.name, group.number)
