"""The iommufd object model of Linux 7.3: IOASes, page tables, devices and accesses behind /dev/iommu."""

from ioas.soft.iommufd.access import Access
from ioas.soft.iommufd.context import Context
from ioas.soft.iommufd.device import Device
from ioas.soft.iommufd.dmabuf import DmaBuf, DmaBufFile
from ioas.soft.iommufd.noiommu import bind_device

__all__ = ["Access", "Context", "Device", "DmaBuf", "DmaBufFile", "bind_device"]
