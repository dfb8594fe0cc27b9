"""A requester: something that does DMA, known to its unit by its BDF."""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENODEV, EPERM
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.soft.iommu.dma import DmaPort

if TYPE_CHECKING:
    from ioas.soft.iommu.system import Group, System
    from ioas.soft.iommu.types import ReservedRegion
    from ioas.soft.iommu.unit import AnyDomain, Unit

Pager = Callable[[int, bool, "int | None", Callable[[bool], None]], bool]
"""Takes a page request: IOVA, whether it is to be written, the PASID, and what to do with the answer (True: the page is
there now). Returns whether somebody will answer."""


class Requester:
    """A device as its IOMMU sees it. Adds itself to `group.requesters`.

    `unit` None: no IOMMU stands before it, and DMA addresses are physical.
    """

    def __init__(self, system: System, name: str, unit: Unit | None, group: Group | None) -> None:
        self.system = system
        self.name = name
        self.unit = unit
        self.group = group
        self.direct_regions: list[ReservedRegion] = []
        """Regions that firmware wants mapped one to one for this device (RMRR); empty as a rule."""
        self.dirty_tracking = True
        """Whether the device leaves dirty tracking to its unit (the selftests' MOCK_FLAGS_DEVICE_NO_DIRTY does not)."""
        self.page_requests = False
        """Whether the device asks for pages that are not there (PCI: PRI) where somebody answers."""
        self.pager: Pager | None = None
        """Who takes its requests to somebody who answers; there while it is bound."""
        self.max_pasid_log2 = 0
        """Width of the PASIDs that the device itself can send; 0: none."""
        self.pasid_execute = False
        """Whether its requests with a PASID may ask for code (PCI: Execute Permission Enable)."""
        self.pasid_privileged = False
        """Whether they may be privileged (PCI: Privileged Mode Enable)."""
        self.domains: dict[int | None, AnyDomain] = {}
        """What is attached, by PASID; None is DMA without one. Change it by `attach` alone."""
        self.dma = DmaPort(self)
        if group is not None:
            group.requesters.append(self)

    @property
    def domain(self) -> AnyDomain | None:
        """The domain attached for DMA without PASID; None: blocked."""
        return self.domains.get(None)

    @property
    def pasid_width(self) -> int:
        """How wide PASIDs are that it can send and its unit takes; 0: it has none (dev_iommu_get_max_pasids)."""
        return min(self.unit.max_pasid_log2, self.max_pasid_log2) if self.unit is not None else 0

    @property
    def pasids(self) -> int:
        """How many PASIDs it has (max_pasids of struct dev_iommu, 7.3); 0: it cannot send any."""
        return 1 << self.pasid_width if self.pasid_width else 0

    def attach(self, domain: AnyDomain | None, pasid: int | None = None) -> None:
        """Attach `domain`, in place of any other, for DMA with `pasid`; None blocks.

        When it returns, no transfer through the former domain is under way; until then the former or the new one
        translates, and nothing else. So it must not be called from within a transfer.

        Raises KernelError, with nothing changed: ENODEV without a unit; EINVAL when the domain cannot serve this unit
        (`Unit.check`), or for a pasid that unit or device do not have; EPERM when policy isolation="strict" refuses a
        domain that does not force DMA through its aperture.
        """
        if domain is not None:
            self._check(domain, pasid)
        with self.system.attaching:
            former = self.domains.get(pasid)
            if former is domain:
                return
            if domain is not None:
                domain.attached += 1
                self.domains[pasid] = domain
            else:
                del self.domains[pasid]
        if former is not None:
            former.drain()
            with self.system.attaching:
                former.attached -= 1

    def remove(self) -> None:
        """The device is gone: block it and leave the group, which goes with its last requester. Idempotent."""
        for pasid in list(self.domains):
            self.attach(None, pasid)
        group, self.group = self.group, None
        if group is not None:
            group.requesters.remove(self)
            if not group.requesters:
                self.system.groups.pop(group.id, None)

    def _check(self, domain: AnyDomain, pasid: int | None) -> None:
        unit = self.unit
        if unit is None:
            raise refuse(ENODEV, "no IOMMU stands before this device", "device", self.name)
        unit.check(domain, self)
        if domain.dirty and not self.dirty_tracking:
            raise refuse(EINVAL, "the domain tracks dirty pages and the device cannot", "device", self.name)
        width = self.pasid_width
        if pasid is not None and not 0 <= pasid < (1 << width if width else 0):
            raise refuse(EINVAL, f"PASID {pasid} does not fit into {width} bits", "device", self.name)
        if not domain.geometry.force_aperture and self.system.isolation == "strict":
            raise refuse(
                EPERM,
                f"{unit.name} lets DMA outside the aperture pass untranslated (isolation=strict refuses that)",
                "device",
                self.name,
            )
        if domain.reports_faults and not self.page_requests:
            raise refuse(ENODEV, "the domain has a fault queue and the device asks for no pages", "device", self.name)
        domain.admit(self)
