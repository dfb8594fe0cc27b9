"""A unit: one IOMMU instance, what it can do, and the domains it makes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from errno import EINVAL, EOPNOTSUPP
from typing import ClassVar, NamedTuple

from ioas.errors import refuse
from ioas.soft.iommu.domain import Domain
from ioas.soft.iommu.formats import Format
from ioas.soft.iommu.nested import NestedDomain
from ioas.soft.iommu.requester import Requester
from ioas.soft.iommu.system import System
from ioas.soft.iommu.types import Geometry, ReservedRegion

AnyDomain = Domain | NestedDomain
"""What a requester can be attached to."""


class Traits(NamedTuple):
    """In what units of one kind differ, as firmware and hardware make them."""

    page_sizes: int | None = None
    """A bitmap of sizes in bytes, with 4 KiB; None: all that the tables can have."""
    interrupt_remapping: bool = True
    """It can keep devices from sending interrupts that are not theirs."""
    force_aperture: bool = True
    """False: DMA beyond the aperture passes untranslated."""
    reserved: tuple[ReservedRegion, ...] = ()
    """What nobody behind it can map, besides what is so in its architecture."""
    dirty_tracking: bool = False
    """It sets D in its tables when devices write (VT-d: second stages in scalable mode)."""


NO_TRAITS = Traits()


class Unit(ABC):
    """One IOMMU. Made by `vtd_unit`, `amd_unit` and `mock_unit`. Adds itself to `system.units`.

    `geometry` overrides the aperture that follows from the page tables.
    """

    hardware: ClassVar[bool] = True
    """Whether it is a piece of the machine: all are, but what stands for the lack of one (`NoIommu`)."""

    kind: ClassVar[str]
    """"vtd", "amd" or "mock"."""
    info_type: ClassVar[int]
    """What IOMMU_GET_HW_INFO answers with."""
    coherent: bool = True
    """IOMMU_CAP_CACHE_COHERENCY."""
    enforces_coherency: bool = False
    """IOMMU_CAP_ENFORCE_CACHE_COHERENCY: it can override a device's wish for DMA that is not coherent."""
    dirty: bool = False
    """IOMMU_CAP_DIRTY_TRACKING: `domain(dirty=True)` is possible."""
    nested: bool = False
    """`domain(nest_parent=True)` is possible."""
    first_stage_width: int = 0
    """Bits of IOVA that a first stage of the user's translates at most; 0: there is none."""
    max_pasid_log2: int = 0
    """Width of PASIDs; 0: none."""
    pasid_tables: bool = True
    """`domain(pasid=True)` is possible, whether or not there are PASIDs."""
    width: int
    """Bits of IOVA."""

    def __init__(
        self,
        system: System,
        name: str,
        width: int | None = None,
        traits: Traits = NO_TRAITS,
        geometry: Geometry | None = None,
    ) -> None:
        """`width`: bits of IOVA; those of the page tables, if not given."""
        self.system = system
        self.name = name
        """As in /sys/class/iommu: "dmar0", "ivhd0"; "mock0"."""
        self.traits = traits
        if width is not None:
            self.width = width
        form = self._format()
        if width is None:
            self.width = form.width
        self.page_sizes = self._sizes(form)
        """A bitmap of the page sizes, in bytes, of a domain made without special wishes."""
        self.geometry = geometry or self._aperture(form)
        """The aperture of such a domain."""
        if self.hardware:
            system.units.append(self)

    @property
    def remaps_interrupts(self) -> bool:
        """Whether the kernel uses interrupt remapping: it does for all units of a kind, or for none.

        Follows intel_prepare_irq_remapping, which gives up where one unit cannot (7.3).
        """
        return all(unit.traits.interrupt_remapping for unit in self.alike)

    @property
    def alike(self) -> list[Unit]:
        """The machine's units of the same kind, this one among them: one driver has them all."""
        return [unit for unit in self.system.units if unit.kind == self.kind]

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
            ("tables for PASIDs", pasid, self.pasid_tables),
            ("this table type", huge, self.kind == "mock"),
        ):
            if wanted and not able:
                raise refuse(EOPNOTSUPP, f"{self.name} does not support {wish}", "device", self.name)
        form = self._format(nest_parent=nest_parent, dirty=dirty)
        geometry, sizes = self._shape(form, huge)
        return Domain(self, form, geometry, sizes, dirty=dirty, nest_parent=nest_parent, pasid=pasid)

    def check(self, domain: AnyDomain, requester: Requester) -> None:
        """Refuse (KernelError(EINVAL)) a domain that this unit, before `requester`, cannot walk.

        Follows __iommu_attach_group's check of the owner, and what each kind's driver checks.
        """
        if isinstance(domain, NestedDomain):
            domain = domain.parent
        if domain.unit.kind != self.kind:
            objection: str | None = f"the domain is of a unit of another kind ({domain.unit.name}, {domain.unit.kind})"
        elif domain.geometry.force_aperture != self.geometry.force_aperture:
            objection = f"one of it and {domain.unit.name}, whose domain it is, can be bypassed and the other cannot"
        else:
            objection = next(self._objections(domain), None)
        if objection is not None:
            raise refuse(EINVAL, f"{requester.name} stands behind {self.name}: {objection}", "device", self.name)

    def hw_info(self, kind: int) -> tuple[int, bytes]:
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
        return sorted([*requester.direct_regions, *self._reserved(), *self.traits.reserved])

    @abstractmethod
    def _format(self, *, nest_parent: bool = False, dirty: bool = False) -> Format: ...

    @abstractmethod
    def _info(self) -> bytes: ...

    def _objections(self, domain: Domain) -> Iterator[str]:
        """Why this unit cannot walk a domain of its own kind."""
        if domain.dirty and not self.dirty:
            yield "the domain tracks dirty pages and this unit cannot"
        if domain.nest_parent and not self.nested:
            yield "the domain is a nesting parent and this unit cannot nest"

    def _reserved(self) -> list[ReservedRegion]:
        return []

    def _shape(self, form: Format, huge: bool) -> tuple[Geometry, int]:
        """Aperture and page sizes of a new domain."""
        return self.geometry, self.page_sizes

    def _aperture(self, form: Format) -> Geometry:
        bits = min(self.width, form.width) - form.sign_extended
        return Geometry(0, (1 << bits) - 1, self.traits.force_aperture)

    def _sizes(self, form: Format) -> int:
        """The format's page sizes that are offered, all smaller than half of what is translated (7.3, get_info)."""
        offered = form.page_sizes if self.traits.page_sizes is None else self.traits.page_sizes
        return form.page_sizes & offered & (1 << self.width - 1) - 1
