"""The iommufd object model of Linux 7.3: IOASes, page tables, devices and accesses behind /dev/iommu."""

from ioas.soft.iommufd.access import Access
from ioas.soft.iommufd.context import Context
from ioas.soft.iommufd.device import Device

__all__ = ["Access", "Context", "Device"]
