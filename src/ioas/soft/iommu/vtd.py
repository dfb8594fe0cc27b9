"""Intel VT-d units: page tables, capability registers, and whose domains they can walk (drivers/iommu/intel, 7.3).

In legacy mode there is the second stage only. In scalable mode 7.3 takes the first stage for everything that needs no
second (`intel_iommu_domain_alloc_paging_flags`): one bit of IOVA less, and tables that look like a processor's. (7.3.4
behind QEMU's intel-iommu with x-scalable-mode and x-flts offers IOVA up to 2**47 - 1; behind one with aw-bits=39 it is
asked in tests/kernel.)
"""

from __future__ import annotations

from collections.abc import Iterator

from ioas.soft.iommu.domain import Domain
from ioas.soft.iommu.formats import Format, VtdSecondStage, X86First
from ioas.soft.iommu.system import System
from ioas.soft.iommu.types import Geometry, ReservedRegion
from ioas.soft.iommu.unit import NO_TRAITS, Traits, Unit
from ioas.uapi.iommufd import (
    IOMMU_HW_INFO_TYPE_INTEL_VTD,
    IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,
    iommu_hw_info_vtd,
)

MSI = ReservedRegion(0xFEE0_0000, 0xFEEF_FFFF, "msi")
"""Where x86 devices send their interrupts (Intel SDM volume 3, 11.11.1; 7.3: IOAPIC_RANGE_START, MSI_RANGE_START)."""
PASID_WIDTH = 20
LEVELS = {39: (3,), 48: (4,), 57: (5, 4)}
"""The levels of second-stage tables that a unit walks, by bits of IOVA: those of its own domains first."""
_2M, _1G = 1 << 21, 1 << 30

# VT-d specification, 11.4.2 Capability Register: field, lowest bit, value.
_CAP = (
    ("ND: 65,536 domains", 0, 6),
    ("ZLR: reads of no bytes", 22, 1),
    ("FRO: fault recording registers at 0x220", 24, 0x220 // 16),
    ("PSI: invalidation by page", 39, 1),
    ("MAMV: by 2**18 pages at most", 48, 18),
    ("DWD: drains writes", 54, 1),
    ("DRD: drains reads", 55, 1),
)
# 11.4.3 Extended Capability Register.
_ECAP = (
    ("C: walks are coherent", 0, 1),
    ("QI: queued invalidation", 1, 1),
    ("PT: pass-through", 6, 1),
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


def register(*fields: tuple[str, int, int]) -> int:
    """A register made of fields: what each is, its lowest bit, its value."""
    return sum(value << bit for _, bit, value in fields)


class VtdUnit(Unit):
    """Intel VT-d, of 39, 48 or 57 bits; nesting and PASIDs in scalable mode."""

    kind = "vtd"
    info_type = IOMMU_HW_INFO_TYPE_INTEL_VTD

    def __init__(
        self,
        system: System,
        name: str,
        width: int,
        traits: Traits = NO_TRAITS,
        geometry: Geometry | None = None,
        *,
        scalable: bool = False,
        snoop_control: bool = True,
    ) -> None:
        self.levels = LEVELS[width]
        self.nested = scalable
        self.dirty = scalable and traits.dirty_tracking
        self.enforces_coherency = snoop_control
        self.first_stage_width = (57 if width > 48 else 48) if scalable else 0
        self.max_pasid_log2 = PASID_WIDTH if scalable else 0
        super().__init__(system, name, width, traits, geometry)

    def _format(self, *, nest_parent: bool = False, dirty: bool = False) -> Format:
        if self.nested and not nest_parent and not dirty:
            return X86First(5 if self.first_stage_width > 48 else 4, snoop=self.enforces_coherency)
        return VtdSecondStage(self.levels[0], snoop=self.enforces_coherency, writable_only=nest_parent)

    def _shape(self, form: Format, huge: bool) -> tuple[Geometry, int]:
        """In scalable mode nesting parents and what tracks dirty pages have the second stage's aperture."""
        first = self.nested and not form.sign_extended
        return self._aperture(form) if first else self.geometry, self.page_sizes

    def _objections(self, domain: Domain) -> Iterator[str]:
        """Follows paging_domain_compatible_first_stage and paging_domain_compatible_second_stage."""
        form = domain.format
        if form.sign_extended:
            if not self.nested:
                yield "the domain is a first stage, which a unit in legacy mode does not walk"
            if form.width > self.first_stage_width:
                yield f"the domain has {form.width} bits in its first stage, this unit {self.first_stage_width}"
        else:
            yield from super()._objections(domain)
            if form.width > self.width:
                yield f"the domain has {form.width} bits, this unit {self.width}"
            if form.levels not in self.levels:
                walks = " or ".join(map(str, self.levels))
                yield f"the domain's tables have {form.levels} levels, and this unit walks {walks}"
            if form.enforces_coherency and not self.enforces_coherency:
                yield "the domain is made cache coherent by SNP, which this unit does not know (no snoop control)"
        if too_large := domain.page_sizes & ~self.page_sizes:
            yield f"the domain has pages of {too_large & -too_large:#x} bytes, and this unit has not"

    def _info(self) -> bytes:
        return bytes(
            iommu_hw_info_vtd(
                flags=IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17, cap_reg=self._capability(), ecap_reg=self._extended()
            )
        )

    def _capability(self) -> int:
        large = bool(self.page_sizes & _2M) | bool(self.page_sizes & _1G) << 1
        return register(
            *_CAP,
            ("SAGAW: bit 1 for 3 levels, 2 for 4, 3 for 5", 8, sum(1 << level - 2 for level in self.levels)),
            ("MGAW", 16, self.width - 1),
            ("SSLPS: bit 0 for 2 MiB, 1 for 1 GiB", 34, large),
            ("FS1GP: 1 GiB in first stages", 56, int(self.nested and bool(self.page_sizes & _1G))),
            ("FS5LP: first stages of 5 levels", 60, int(self.first_stage_width > 48)),
        )

    def _extended(self) -> int:
        remaps = int(self.traits.interrupt_remapping)
        return register(
            *_ECAP,
            *(_ECAP_SCALABLE if self.nested else ()),
            ("IR: interrupt remapping", 3, remaps),
            ("EIM: 32-bit APIC ids", 4, remaps),
            ("SC: snoop control", 7, int(self.enforces_coherency)),
            ("SSADS: A and D in second stages", 45, int(self.dirty)),
        )

    def _reserved(self) -> list[ReservedRegion]:
        return [MSI]
