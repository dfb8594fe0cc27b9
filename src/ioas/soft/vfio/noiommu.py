"""VFIO's no-IOMMU mode: devices that no IOMMU stands before (vfio_main.c, group.c, device_cdev.c; 7.3).

vfio-pci takes such a device only in its unsafe mode. It then makes a group for it, which taints the kernel, and every
node of the device and of the group says "noiommu" in its name. Whoever opens one needs CAP_SYS_RAWIO: the device
reaches all physical memory.
"""

from __future__ import annotations

from errno import EPERM
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import Caller, Capability
from ioas.soft.iommu import Taint

if TYPE_CHECKING:
    from ioas.soft.iommu import System
    from ioas.soft.pci import Function

GROUP_NAME = "vfio-noiommu"
PREFIX = "noiommu-"
"""Of the nodes' names."""


def is_noiommu(function: Function) -> bool:
    """Whether no IOMMU stands before a function."""
    return function.requester.unit is None


def can_probe(system: System, function: Function) -> bool:
    """Whether vfio-pci takes a function; without an IOMMU only in VFIO's unsafe mode (vfio_group_find_or_alloc)."""
    return system.unsafe_noiommu or not is_noiommu(function)


def join_group(system: System, function: Function) -> None:
    """Put a function without an IOMMU into a group of its own, which taints the machine (vfio_noiommu_group_alloc)."""
    requester = function.requester
    if requester.group is None:
        requester.group = system.add_group(GROUP_NAME)
        requester.group.requesters.append(requester)
    system.taints.add(Taint(requester.name, "VFIO gives it to programs without an IOMMU (no-IOMMU mode)"))


def leave_group(system: System, function: Function) -> None:
    """The driver lets go of a function: its group goes (vfio_device_remove_group)."""
    group, function.requester.group = function.requester.group, None
    if group is not None:
        group.requesters.remove(function.requester)
        system.groups.pop(group.id, None)


def check_privilege(caller: Caller, what: str) -> None:
    """Whether `caller` may use `what`, which has no IOMMU. Raises KernelError(EPERM) without CAP_SYS_RAWIO."""
    if not caller.capable(Capability.SYS_RAWIO):
        raise refuse(
            EPERM,
            f"no IOMMU stands before {what}, and its devices reach all memory: that is for CAP_SYS_RAWIO only",
            "capability",
            "CAP_SYS_RAWIO",
        )
