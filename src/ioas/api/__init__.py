"""What Python programs use: hosts, iommufd objects, devices. Everything is a context manager."""

from ioas.api.device import Device, HwInfo
from ioas.api.host import SoftHost
from ioas.api.hwpt import Hwpt
from ioas.api.ioas import Ioas, IovaRange
from ioas.api.iommufd import Iommufd
from ioas.api.irq import Irq, Irqs
from ioas.api.mapping import DmaBuffer, Mapping
from ioas.api.region import Region

__all__ = [
    "Device",
    "DmaBuffer",
    "HwInfo",
    "Hwpt",
    "Ioas",
    "Iommufd",
    "IovaRange",
    "Irq",
    "Irqs",
    "Mapping",
    "Region",
    "SoftHost",
]
