"""VFIO over PCI functions: device files (`/dev/vfio/devices/vfioN`), groups (`/dev/vfio/N`) and containers."""

from ioas.soft.vfio.cdev import Cdev
from ioas.soft.vfio.container import Container, IommuDriver
from ioas.soft.vfio.device import VfioDevice
from ioas.soft.vfio.device_file import DeviceFile
from ioas.soft.vfio.device_set import DeviceSet
from ioas.soft.vfio.drivers import IOMMU_DRIVERS
from ioas.soft.vfio.group import GroupFile, VfioGroup
from ioas.soft.vfio.group_device import GroupDevice
from ioas.soft.vfio.virqfd import Watcher

__all__ = [
    "IOMMU_DRIVERS",
    "Cdev",
    "Container",
    "DeviceFile",
    "DeviceSet",
    "GroupDevice",
    "GroupFile",
    "IommuDriver",
    "VfioDevice",
    "VfioGroup",
    "Watcher",
]
