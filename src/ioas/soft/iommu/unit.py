"""A unit: one IOMMU instance, what it can do, and the domains it makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from errno import EINVAL, EOPNOTSUPP
from typing import ClassVar

from ioas.errors import refuse
from ioas.soft.iommu.domain import Domain
from ioas.soft.iommu.formats import Format
from ioas.soft.iommu.nested import NestedDomain
from ioas.soft.iommu.requester import Requester
from ioas.soft.iommu.system import System
from ioas.soft.iommu.types import Geometry, ReservedRegion

AnyDomain = Domain | NestedDomain
"""What a requester can be attached to."""


class Unit(ABC):
    """One IOMMU. Made by `vtd_unit`, `amd_unit` and `mock_unit`. Adds itself to `system.units`.

    `geometry` overrides the aperture that follows from the page tables.
    """

    kind: ClassVar[str]
    """"vtd", "amd" or "mock"."""
    info_type: ClassVar[int]
    """What IOMMU_GET_HW_INFO answers with."""
    coherent: bool = True
    """IOMMU_CAP_CACHE_COHERENCY."""
    dirty: bool = False
    """IOMMU_CAP_DIRTY_TRACKING: `domain(dirty=True)` is possible."""
    nested: bool = False
    """`domain(nest_parent=True)` is possible."""
    first_stage_width: int = 0
    """Bits of IOVA that a first stage of the user's translates at most; 0: there is none."""
    max_pasid_log2: int = 0
    """Width of PASIDs; 0: none."""

    def __init__(self, system: System, name: str, geometry: Geometry | None = None) -> None:
        self.system = system
        self.name = name
        """As in /sys/class/iommu: "dmar0", "ivhd0"; "mock0"."""
        form = self._format(nest_parent=False)
        self.width = form.width
        """Bits of IOVA."""
        self.page_sizes = form.page_sizes
        """A bitmap of the page sizes, in bytes, of a domain made without special wishes."""
        self.geometry = geometry or self._aperture(form)
        """The aperture of such a domain."""
        system.units.append(self)

    def domain(
        self, *, dirty: bool = False, nest_parent: bool = False, pasid: bool = False, huge: bool = False
    ) -> Domain:
        """A new, empty paging domain.

        `huge` is the mock unit's MOCK_IOMMUPT_HUGE: 1 MiB and 4 KiB pages and the whole aperture of the format.
        Raises KernelError(EOPNOTSUPP) for what the unit cannot do.
        """
        self.system.failures.point("domain")
        for wish, wanted, able in (
            ("dirty tracking", dirty, self.dirty),
            ("nesting", nest_parent, self.nested),
            ("this table type", huge, self.kind == "mock"),
        ):
            if wanted and not able:
                raise refuse(EOPNOTSUPP, f"{self.name} does not support {wish}", "device", self.name)
        form = self._format(nest_parent=nest_parent)
        geometry, sizes = self._shape(form, huge)
        return Domain(self, form, geometry, sizes, dirty=dirty, nest_parent=nest_parent, pasid=pasid)

    def check(self, domain: AnyDomain) -> None:
        """Refuse (KernelError(EINVAL)) a domain that this unit cannot walk.

        Follows __iommu_attach_group's check of the owner and paging_domain_compatible_second_stage (7.3).
        """
        if isinstance(domain, NestedDomain):
            domain = domain.parent
        for wrong, reason in (
            (domain.unit.kind != self.kind, f"the domain is of a {domain.unit.kind} unit"),
            (domain.dirty and not self.dirty, "the domain tracks dirty pages and this unit cannot"),
            (domain.nest_parent and not self.nested, "the domain is a nesting parent and this unit cannot nest"),
            (domain.format.width > self.width, f"the domain has {domain.format.width} bits, this unit {self.width}"),
            (bool(domain.page_sizes & ~self.page_sizes), "the domain has page sizes that this unit does not know"),
        ):
            if wrong:
                raise refuse(EINVAL, reason, "device", self.name)

    def hw_info(self, requester: Requester, kind: int) -> tuple[int, bytes]:
        """The answer to IOMMU_GET_HW_INFO: the type and the structure. `kind` 0 asks for the unit's own.

        Raises KernelError(EOPNOTSUPP) for a type that is not the unit's.
        """
        if kind not in (0, self.info_type):
            raise refuse(
                EOPNOTSUPP, f"{self.name} answers with type {self.info_type:#x}, not {kind:#x}", "field", "in_data_type"
            )
        return self.info_type, self._info()

    def reserved_regions(self, requester: Requester) -> list[ReservedRegion]:
        """The regions that `requester` cannot use behind this unit, by address: firmware's and the unit's own."""
        return sorted([*requester.direct_regions, *self._reserved()])

    @abstractmethod
    def _format(self, *, nest_parent: bool) -> Format: ...

    @abstractmethod
    def _info(self) -> bytes: ...

    def _reserved(self) -> list[ReservedRegion]:
        return []

    def _shape(self, form: Format, huge: bool) -> tuple[Geometry, int]:
        """Aperture and page sizes of a new domain."""
        return self.geometry, self.page_sizes

    def _aperture(self, form: Format) -> Geometry:
        return Geometry(0, (1 << form.width) - 1, True)
