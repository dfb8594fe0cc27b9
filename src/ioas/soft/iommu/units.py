"""The units that exist: Intel VT-d, AMD-Vi, and the mock of iommufd's selftests."""

from __future__ import annotations

from ioas.errors import UsageError
from ioas.soft.iommu.formats import AmdV1, Format, VtdSecondStage
from ioas.soft.iommu.formats.amdv1 import mock_format
from ioas.soft.iommu.system import System
from ioas.soft.iommu.types import Geometry, ReservedRegion
from ioas.soft.iommu.unit import Unit
from ioas.uapi.iommufd import (
    IOMMU_HW_INFO_TYPE_AMD,
    IOMMU_HW_INFO_TYPE_INTEL_VTD,
    IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,
    iommu_hw_info_amd,
    iommu_hw_info_vtd,
)
from ioas.uapi.iommufd_test import (
    IOMMU_HW_INFO_SELFTEST_REGVAL,
    IOMMU_HW_INFO_TYPE_SELFTEST,
    MOCK_APERTURE_LAST,
    MOCK_APERTURE_START,
    MOCK_HUGE_PAGE_SIZE,
    iommu_test_hw_info,
)

MSI = ReservedRegion(0xFEE0_0000, 0xFEEF_FFFF, "msi")
"""Where x86 devices send their interrupts (Intel SDM volume 3, 11.11.1; 7.3: IOAPIC_RANGE_START, MSI_RANGE_START)."""
HYPERTRANSPORT = ReservedRegion(0xFD_0000_0000, 0xFF_FFFF_FFFF, "reserved")
"""AMD's HyperTransport range (specification 48882, table "Special Address Controls"; 7.3: HT_RANGE_START)."""
MOCK_PASID_WIDTH = 20
_VTD_LEVELS = {39: 3, 48: 4}
"""Levels of the tables by bits of IOVA (VT-d 3.7)."""

# VT-d specification, 11.4.2 Capability Register: field, lowest bit, value.
_CAP = (
    ("ND: 65,536 domains", 0, 6),
    ("ZLR: reads of no bytes", 22, 1),
    ("FRO: fault recording registers at 0x220", 24, 0x220 // 16),
    ("SSLPS: 2 MiB and 1 GiB pages", 34, 0b0011),
    ("PSI: invalidation by page", 39, 1),
    ("MAMV: by 2**18 pages at most", 48, 18),
    ("DWD: drains writes", 54, 1),
    ("DRD: drains reads", 55, 1),
)
PASID_WIDTH = 20
# 11.4.3 Extended Capability Register.
_ECAP = (
    ("C: walks are coherent", 0, 1),
    ("QI: queued invalidation", 1, 1),
    ("IR: interrupt remapping", 3, 1),
    ("EIM: 32-bit APIC ids", 4, 1),
    ("PT: pass-through", 6, 1),
    ("SC: snoop control", 7, 1),
    ("IRO: IOTLB registers at 0xf0", 8, 0xF0 // 16),
    ("MHMV: interrupt mask of 15 bits", 20, 15),
)
_ECAP_SCALABLE = (
    ("NEST: nested translation", 26, 1),
    ("PSS: PASIDs of 20 bits", 35, PASID_WIDTH - 1),
    ("PASID", 40, 1),
    ("SMTS: scalable mode", 43, 1),
    ("SSTS: second stages", 46, 1),
    ("FSTS: first stages", 47, 1),
    ("SMPWC: walks are coherent", 48, 1),
)
# AMD specification 48882, Extended Feature Register (MMIO offset 0x30). HATS, bits 11:10, 0: tables of 4 levels.
_EFR = (
    ("IASup: INVALIDATE_IOMMU_ALL", 6, 1),
    ("HATS: 4 levels", 10, 0),
    ("HDSup: sets D in host tables", 52, 1),
)


def _register(fields: tuple[tuple[str, int, int], ...]) -> int:
    return sum(value << bit for _, bit, value in fields)


class VtdUnit(Unit):
    """Intel VT-d, with second-stage tables of 3 or 4 levels: 39 or 48 bits; nesting and PASIDs in scalable mode."""

    kind = "vtd"
    info_type = IOMMU_HW_INFO_TYPE_INTEL_VTD

    def __init__(
        self, system: System, name: str, geometry: Geometry | None, levels: int, *, scalable: bool = False
    ) -> None:
        self._levels = levels
        self.nested = scalable
        self.first_stage_width = 48 if scalable else 0
        self.max_pasid_log2 = PASID_WIDTH if scalable else 0
        super().__init__(system, name, geometry)

    def _format(self, *, nest_parent: bool) -> Format:
        return VtdSecondStage(self._levels, writable_only=nest_parent)

    def _info(self) -> bytes:
        widths = (("SAGAW: bit 1 for 3 levels, 2 for 4", 8, 1 << self._levels - 2), ("MGAW", 16, self.width - 1))
        return bytes(
            iommu_hw_info_vtd(
                flags=IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,
                cap_reg=_register((*_CAP, *widths)),
                ecap_reg=_register((*_ECAP, *_ECAP_SCALABLE) if self.nested else _ECAP),
            )
        )

    def _reserved(self) -> list[ReservedRegion]:
        return [MSI]


class AmdUnit(Unit):
    """AMD-Vi with host page tables of 4 levels."""

    kind = "amd"
    info_type = IOMMU_HW_INFO_TYPE_AMD
    dirty = True

    def _format(self, *, nest_parent: bool) -> Format:
        return AmdV1(4)

    def _info(self) -> bytes:
        return bytes(iommu_hw_info_amd(efr=_register(_EFR), efr2=0))

    def _reserved(self) -> list[ReservedRegion]:
        return [MSI, HYPERTRANSPORT]


class MockUnit(Unit):
    """The mock of drivers/iommu/iommufd/selftest.c (7.3)."""

    kind = "mock"
    info_type = IOMMU_HW_INFO_TYPE_SELFTEST
    dirty = True
    nested = True
    max_pasid_log2 = MOCK_PASID_WIDTH

    def _format(self, *, nest_parent: bool) -> Format:
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
) -> Unit:
    """A VT-d unit: second-stage tables of 4 levels (`address_width` 48) or 3 (39), 4K, 2M and 1G pages.

    `scalable` mode lets programs nest first-stage tables of their own (IOMMU_HWPT_DATA_VTD_S1) and give devices an
    address space for each PASID. `geometry` overrides the aperture. Raises UsageError for another width.
    """
    if address_width not in _VTD_LEVELS:
        raise UsageError(f"a VT-d unit translates {' or '.join(map(str, _VTD_LEVELS))} bits here, not {address_width}")
    return VtdUnit(system, name, geometry, _VTD_LEVELS[address_width], scalable=scalable)


def amd_unit(system: System, name: str = "ivhd0", *, geometry: Geometry | None = None) -> Unit:
    """An AMD unit: 48 bits, AMDv1 tables with every power of two from 4K as page size except 512G."""
    return AmdUnit(system, name, geometry)


def mock_unit(system: System, name: str = "mock0") -> Unit:
    """The selftests' mock: AMDv1 with a 2 KiB granule, aperture 1 << 24 to (1 << 31) - 1."""
    return MockUnit(system, name)
