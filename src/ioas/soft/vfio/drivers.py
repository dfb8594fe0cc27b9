"""The IOMMU drivers of containers that this kernel has, in the order in which they are asked: the latest first."""

from __future__ import annotations

from ioas.soft.vfio.container import IommuDriver
from ioas.soft.vfio.noiommu_driver import NoIommuDriver
from ioas.soft.vfio.type1 import Type1

IOMMU_DRIVERS: tuple[type[IommuDriver], ...] = (Type1, NoIommuDriver)
