"""What stands for a unit where there is none: page tables that are kept for lookups and that no device walks.

Follows drivers/iommu/iommufd/hwpt_noiommu.c (7.3): a device without an IOMMU is attached to tables in AMD's format,
for its many page sizes, of all 64 bits of IOVA and physical addresses of 52. They lead its DMA nowhere: an address on
the bus is a physical one.
"""

from __future__ import annotations

from errno import EOPNOTSUPP
from typing import ClassVar

from ioas.errors import refuse
from ioas.soft.iommu.formats import AmdV1, Format
from ioas.soft.iommu.formats.amdv1 import SIZE_512G
from ioas.soft.iommu.system import System
from ioas.soft.iommu.types import Geometry
from ioas.soft.iommu.unit import Unit
from ioas.uapi.iommufd import IOMMU_HW_INFO_TYPE_NONE

_LEVELS = 6
_ADDRESS_BITS = 52


class NoIommu(Unit):
    """Makes the tables of devices without an IOMMU; one for each machine (`of`), none of its hardware."""

    kind = "none"
    info_type = IOMMU_HW_INFO_TYPE_NONE
    hardware: ClassVar[bool] = False

    @classmethod
    def of(cls, system: System) -> Unit:
        """The one of `system`."""
        if system.no_iommu is None:
            system.no_iommu = cls(system, "no-IOMMU mode")
        return system.no_iommu

    def hw_info(self, kind: int) -> tuple[int, bytes]:
        """Raises KernelError(EOPNOTSUPP): there is nothing to be told of (iommufd_get_hw_info)."""
        raise refuse(EOPNOTSUPP, "no IOMMU stands before the device, to be told of", "device", self.name)

    def _format(self, *, nest_parent: bool = False, dirty: bool = False) -> Format:
        form = AmdV1(_LEVELS)
        form.page_sizes = ((1 << _ADDRESS_BITS) - 4096) & ~SIZE_512G
        return form

    def _info(self) -> bytes:
        return b""

    def _aperture(self, form: Format) -> Geometry:
        return Geometry(0, (1 << 64) - 1, True)
