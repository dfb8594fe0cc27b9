"""The sysfs of a machine: what /sys would show of its PCI functions, groups, IOMMU, drivers and VFIO devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ioas.soft.pci.nodes import Tree
from ioas.soft.pci.topology import Topology


class VfioDevice(NamedTuple):
    """A function's VFIO device as sysfs shows it: name "vfio0" and the cdev's device number."""

    name: str
    major: int
    minor: int


def build_sysfs(
    topology: Topology,
    vfio: Mapping[str, VfioDevice],
    groups: Mapping[int, tuple[int, int]],
) -> Tree:
    """A tree with /sys of the settled `topology`.

    `vfio`: BDF text -> its VFIO device (those functions are bound to vfio-pci). `groups`: group id -> device number of
    /dev/vfio/<id>. Nodes of /dev are the caller's to add to the same tree.
    """
    raise NotImplementedError
