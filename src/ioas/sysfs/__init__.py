"""A reader of any sysfs tree: the running kernel's, a captured one, a software machine's."""

from ioas.sysfs.reader import Driver, IommuGroup, IommuUnit, PciDevice, Region, Resource, Sysfs
from ioas.sysfs.source import DirectorySource, Source

__all__ = [
    "DirectorySource",
    "Driver",
    "IommuGroup",
    "IommuUnit",
    "PciDevice",
    "Region",
    "Resource",
    "Source",
    "Sysfs",
]
