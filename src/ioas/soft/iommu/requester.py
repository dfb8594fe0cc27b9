"""A requester: something that does DMA, known to its unit by its BDF."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ioas.soft.iommu.dma import DmaPort

if TYPE_CHECKING:
    from ioas.soft.iommu.domain import Domain
    from ioas.soft.iommu.system import Group, System
    from ioas.soft.iommu.types import ReservedRegion
    from ioas.soft.iommu.unit import Unit


class Requester:
    """A device as its IOMMU sees it. Adds itself to `group.requesters`.

    `unit` None: no IOMMU stands before it, and DMA addresses are physical.
    """

    def __init__(self, system: System, name: str, unit: Unit | None, group: Group | None) -> None:
        self.system = system
        self.name = name
        self.unit = unit
        self.group = group
        self.dma = DmaPort(self)
        self.direct_regions: list[ReservedRegion] = []
        """Regions that firmware wants mapped one to one for this device (RMRR); empty as a rule."""

    @property
    def domain(self) -> Domain | None:
        """The domain attached for DMA without PASID; None: blocked."""
        raise NotImplementedError

    def attach(self, domain: Domain | None, pasid: int | None = None) -> None:
        """Attach `domain`, in place of any other, for DMA with `pasid`; None blocks.

        When it returns, no transfer through the former domain is under way.

        Raises KernelError, with nothing changed: EINVAL when the domain cannot serve this unit
        (as paging_domain_compatible, 7.3) or, with policy isolation="strict", when the domain does not force
        DMA through its aperture; EINVAL for a pasid that the unit does not have; ENODEV without a unit.
        """
        raise NotImplementedError

    def remove(self) -> None:
        """The device is gone: block it and leave the group."""
        raise NotImplementedError
