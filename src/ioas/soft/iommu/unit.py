"""A unit: one IOMMU instance, what it can do, and the domains it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ioas.soft.iommu.types import Geometry, ReservedRegion

if TYPE_CHECKING:
    from ioas.soft.iommu.domain import Domain
    from ioas.soft.iommu.requester import Requester
    from ioas.soft.iommu.system import System


class Unit:
    """One IOMMU. Made by `vtd_unit`, `amd_unit` and `mock_unit`, which also add it to `system.units`."""

    system: System
    name: str
    """As in /sys/class/iommu: "dmar0", "ivhd0"; "mock0"."""
    kind: str
    """"vtd", "amd" or "mock"."""
    geometry: Geometry
    """That of a domain made without special wishes."""
    page_sizes: int
    """A bitmap of the page sizes in bytes, likewise."""
    coherent: bool
    """IOMMU_CAP_CACHE_COHERENCY."""
    dirty: bool
    """IOMMU_CAP_DIRTY_TRACKING: `domain(dirty=True)` is possible."""
    nested: bool
    """`domain(nest_parent=True)` is possible."""
    max_pasid_log2: int
    """Width of PASIDs; 0: none."""

    def domain(
        self, *, dirty: bool = False, nest_parent: bool = False, pasid: bool = False, huge: bool = False
    ) -> Domain:
        """A new, empty paging domain.

        `huge` is the mock unit's MOCK_IOMMUPT_HUGE: 1 MiB and 4 KiB pages and the whole aperture of the format.
        Raises KernelError(EOPNOTSUPP) for what the unit cannot do.
        """
        raise NotImplementedError

    def hw_info(self, requester: Requester, kind: int) -> tuple[int, bytes]:
        """The answer to IOMMU_GET_HW_INFO: the type and the structure. `kind` 0 asks for the unit's own.

        Raises KernelError(EOPNOTSUPP) for a type that is not the unit's.
        """
        raise NotImplementedError

    def reserved_regions(self, requester: Requester) -> list[ReservedRegion]:
        """The regions that `requester` cannot use behind this unit, by address (interrupts and the like)."""
        raise NotImplementedError
