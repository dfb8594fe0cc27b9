"""The small values of the IOMMU: permissions, geometry, reserved regions, fault records."""

from __future__ import annotations

import enum
from typing import Literal, NamedTuple

RegionKind = Literal["direct", "direct-relaxable", "reserved", "msi", "sw-msi"]
FaultReason = Literal[
    "blocked", "pasid", "aperture", "not mapped", "permission", "bus", "no memory", "bus master off", "pasid off"
]


class Prot(enum.IntFlag):
    """What a mapping allows a device to do (IOMMU_READ, IOMMU_WRITE, IOMMU_CACHE of include/linux/iommu.h)."""

    READ = 1
    WRITE = 2
    CACHE = 4


class Geometry(NamedTuple):
    """The aperture of a domain: DMA is translated from `start` to `last`.

    With `force_aperture` DMA outside it faults; without, it passes untranslated.
    """

    start: int
    last: int
    force_aperture: bool = True


class ReservedRegion(NamedTuple):
    """IOVAs, `start` to `last`, that a device cannot use for mappings (/sys/kernel/iommu_groups/N/reserved_regions)."""

    start: int
    last: int
    kind: RegionKind


class FaultRecord(NamedTuple):
    """A DMA that the IOMMU stopped, or that reached nothing.

    `iova` is the first byte that could not be reached, `length` the length of the whole request.
    `reason`: "blocked" (no domain attached), "pasid" (no domain for this PASID), "aperture", "not mapped",
    "permission", "bus" (translated, but no memory answers there), "no memory" (without an IOMMU: `iova` is a physical
    address, and no memory answers there); or the request never left the device: "bus master off", "pasid off" (it sends
    no PASIDs, or not this one). `time` is time.monotonic().
    """

    requester: str
    iova: int
    length: int
    write: bool
    pasid: int | None
    reason: FaultReason
    time: float
