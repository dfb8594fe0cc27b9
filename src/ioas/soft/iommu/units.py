"""The units that exist: Intel VT-d, AMD-Vi, and the mock of iommufd's selftests."""

from __future__ import annotations

from ioas.soft.iommu.system import System
from ioas.soft.iommu.types import Geometry
from ioas.soft.iommu.unit import Unit


def vtd_unit(system: System, name: str = "dmar0", *, geometry: Geometry | None = None) -> Unit:
    """A VT-d unit: 48 bits, 4-level second-stage tables, 4K, 2M and 1G pages. `geometry` overrides the aperture."""
    raise NotImplementedError


def amd_unit(system: System, name: str = "ivhd0", *, geometry: Geometry | None = None) -> Unit:
    """An AMD unit: 48 bits, AMDv1 tables with every power of two from 4K as page size except 512G."""
    raise NotImplementedError


def mock_unit(system: System, name: str = "mock0") -> Unit:
    """The selftests' mock: AMDv1 with a 2 KiB granule, aperture 1 << 24 to (1 << 31) - 1."""
    raise NotImplementedError
