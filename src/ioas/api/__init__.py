"""What Python programs use: hosts, iommufd objects, devices. Everything is a context manager.

The two hosts are loaded on first use: whoever drives real hardware does not wait for the software machine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ioas.api.container import Container, ContainerInfo
from ioas.api.container_space import ContainerSpace
from ioas.api.device import Device, HwInfo
from ioas.api.fault_queue import FaultQueue
from ioas.api.group import Group
from ioas.api.group_device import GroupDevice
from ioas.api.hwpt import Hwpt
from ioas.api.ioas import Ioas
from ioas.api.iommufd import Iommufd
from ioas.api.irq import Irq, Irqs
from ioas.api.mapped_region import MappedRegion
from ioas.api.mapping import DmaBuffer, Mapping
from ioas.api.memory import Memory
from ioas.api.migration import Migration, MigrationFlag, MigrationState, Transfer
from ioas.api.physical_space import PhysicalSpace
from ioas.api.region import Region
from ioas.api.space import IovaRange, Space

if TYPE_CHECKING:
    from ioas.api.kernel_host import KernelHost
    from ioas.api.soft_host import SoftHost

_HOSTS = {"KernelHost": "ioas.api.kernel_host", "SoftHost": "ioas.api.soft_host"}

__all__ = [
    "Container",
    "ContainerInfo",
    "ContainerSpace",
    "Device",
    "DmaBuffer",
    "FaultQueue",
    "Group",
    "GroupDevice",
    "HwInfo",
    "Hwpt",
    "Ioas",
    "Iommufd",
    "IovaRange",
    "Irq",
    "Irqs",
    "KernelHost",
    "MappedRegion",
    "Mapping",
    "Memory",
    "Migration",
    "MigrationFlag",
    "MigrationState",
    "PhysicalSpace",
    "Region",
    "SoftHost",
    "Space",
    "Transfer",
]


def __getattr__(name: str) -> object:
    if name in _HOSTS:
        return getattr(import_module(_HOSTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
