"""VFIO's device files over PCI functions (`/dev/vfio/devices/vfioN`)."""

from ioas.soft.vfio.cdev import Cdev
from ioas.soft.vfio.device import VfioDevice
from ioas.soft.vfio.virqfd import Watcher

__all__ = ["Cdev", "VfioDevice", "Watcher"]
