"""The units that exist: Intel VT-d, AMD-Vi, and the mock of iommufd's selftests."""

from __future__ import annotations

from ioas.errors import UsageError
from ioas.soft.iommu.formats import AmdV1, Format
from ioas.soft.iommu.formats.amdv1 import mock_format
from ioas.soft.iommu.system import System
from ioas.soft.iommu.types import Geometry, ReservedRegion
from ioas.soft.iommu.unit import NO_TRAITS, Traits, Unit
from ioas.soft.iommu.vtd import LEVELS, MSI, VtdUnit, register
from ioas.uapi.iommufd import IOMMU_HW_INFO_TYPE_AMD, iommu_hw_info_amd
from ioas.uapi.iommufd_test import (
    IOMMU_HW_INFO_SELFTEST_REGVAL,
    IOMMU_HW_INFO_TYPE_SELFTEST,
    MOCK_APERTURE_LAST,
    MOCK_APERTURE_START,
    MOCK_HUGE_PAGE_SIZE,
    iommu_test_hw_info,
)

HYPERTRANSPORT = ReservedRegion(0xFD_0000_0000, 0xFF_FFFF_FFFF, "reserved")
"""AMD's HyperTransport range (specification 48882, table "Special Address Controls"; 7.3: HT_RANGE_START)."""
MOCK_PASID_WIDTH = 20
WIDTHS = tuple(LEVELS)
"""The bits of IOVA that units have."""
_AMD = Traits(dirty_tracking=True)
# AMD specification 48882, Extended Feature Register (MMIO offset 0x30).
_EFR = (("IASup: INVALIDATE_IOMMU_ALL", 6, 1),)


class AmdUnit(Unit):
    """AMD-Vi with host page tables of 4 or 5 levels.

    The kernel takes what all AMD units of a machine can, for each of them (amd_iommu_efr, amd_iommu_hpt_vasize; 7.3).
    """

    kind = "amd"
    info_type = IOMMU_HW_INFO_TYPE_AMD
    enforces_coherency = True
    pasid_tables = False
    """They would be AMDv2's, which the unit does not have."""

    @property
    def dirty(self) -> bool:  # type: ignore[override]  # decided when all units are there
        """HDSup, of all AMD units."""
        return all(unit.traits.dirty_tracking for unit in self.alike)

    def _format(self, *, nest_parent: bool = False, dirty: bool = False) -> Format:
        return AmdV1(5 if self._least().width > 48 else 4)

    def _shape(self, form: Format, huge: bool) -> tuple[Geometry, int]:
        least = self._least()
        return self.geometry._replace(last=min(self.geometry.last, least.geometry.last)), least.page_sizes

    def _least(self) -> Unit:
        return min(self.alike, key=lambda one: one.width, default=self)

    def _info(self) -> bytes:
        features = register(
            *_EFR,
            ("HATS: 0 for 4 levels of host tables, 1 for 5", 10, int(self._least().width > 48)),
            ("HDSup: sets D in host tables", 52, int(self.dirty)),
        )
        return bytes(iommu_hw_info_amd(efr=features, efr2=0))

    def _reserved(self) -> list[ReservedRegion]:
        return [MSI, HYPERTRANSPORT]


class MockUnit(Unit):
    """The mock of drivers/iommu/iommufd/selftest.c (7.3)."""

    kind = "mock"
    info_type = IOMMU_HW_INFO_TYPE_SELFTEST
    dirty = True
    nested = True
    max_pasid_log2 = MOCK_PASID_WIDTH

    def _format(self, *, nest_parent: bool = False, dirty: bool = False) -> Format:
        return mock_format()

    def _info(self) -> bytes:
        return bytes(iommu_test_hw_info(test_reg=IOMMU_HW_INFO_SELFTEST_REGVAL))

    def _aperture(self, form: Format) -> Geometry:
        return Geometry(MOCK_APERTURE_START, MOCK_APERTURE_LAST, True)

    def _shape(self, form: Format, huge: bool) -> tuple[Geometry, int]:
        """As mock_domain_alloc_pgtable: a huge domain keeps the aperture of its format."""
        if huge:
            return super()._aperture(form), MOCK_HUGE_PAGE_SIZE | 4096
        return self.geometry, self.page_sizes


def vtd_unit(
    system: System,
    name: str = "dmar0",
    *,
    geometry: Geometry | None = None,
    address_width: int = 48,
    scalable: bool = False,
    snoop_control: bool = True,
    traits: Traits = NO_TRAITS,
) -> Unit:
    """A VT-d unit of `address_width` 39, 48 or 57 bits: second-stage tables of 3, 4 or 5 levels, 4K, 2M and 1G pages.

    In `scalable` mode there are PASIDs, programs nest first-stage tables of their own (IOMMU_HWPT_DATA_VTD_S1), and
    ordinary domains are first stages of one bit less. Without `snoop_control` it cannot make DMA coherent against a
    device's wish. `geometry` overrides the aperture. Raises UsageError for another width.
    """
    _check_width("VT-d", address_width)
    return VtdUnit(system, name, address_width, traits, geometry, scalable=scalable, snoop_control=snoop_control)


def amd_unit(
    system: System,
    name: str = "ivhd0",
    *,
    geometry: Geometry | None = None,
    address_width: int = 48,
    traits: Traits = _AMD,
) -> Unit:
    """An AMD unit of `address_width` 39, 48 or 57 bits: AMDv1 tables with every power of two from 4K but 512G as page.

    `geometry` overrides the aperture. Raises UsageError for another width.
    """
    _check_width("AMD", address_width)
    return AmdUnit(system, name, address_width, traits, geometry)


def mock_unit(system: System, name: str = "mock0") -> Unit:
    """The selftests' mock: AMDv1 with a 2 KiB granule, aperture 1 << 24 to (1 << 31) - 1."""
    return MockUnit(system, name)


def _check_width(kind: str, width: int) -> None:
    if width not in LEVELS:
        raise UsageError(f"a {kind} unit translates {', '.join(map(str, WIDTHS))} bits here, not {width}")
