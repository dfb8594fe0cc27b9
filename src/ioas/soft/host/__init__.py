"""`SoftHost`: a software machine put together - devices, units, sysfs, device nodes - behind the seam."""

from ioas.soft.host.description import DeviceDescription, MachineDescription, parse_device
from ioas.soft.host.machine_file import load_machine
from ioas.soft.host.models import load_model, model_names
from ioas.soft.host.nodes import Node
from ioas.soft.host.softhost import SoftHost

__all__ = [
    "DeviceDescription",
    "MachineDescription",
    "Node",
    "SoftHost",
    "load_machine",
    "load_model",
    "model_names",
    "parse_device",
]
