"""Where a type 1 container may map: the aperture that all its domains share, without what its groups reserve.

Follows the iova_list of drivers/vfio/vfio_iommu_type1.c (7.3). The list is made anew from a copy, which replaces it
when all has gone well. All bounds are inclusive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from errno import EINVAL

from ioas.errors import KernelError, refuse
from ioas.soft.iommu import Geometry, Group, ReservedRegion

Range = tuple[int, int]
"""Start and last."""
_LAST = (1 << 64) - 1


def regions_of(group: Group) -> list[ReservedRegion]:
    """What no device of `group` can map (iommu_get_group_resv_regions); not what may be used all the same."""
    return sorted(
        {
            region
            for requester in group.requesters
            if requester.unit is not None
            for region in requester.unit.reserved_regions(requester)
            if region.kind != "direct-relaxable"
        }
    )


def narrow(ranges: Sequence[Range], geometry: Geometry) -> list[Range]:
    """`ranges` within an aperture; the aperture itself when there are none (vfio_iommu_aper_resize)."""
    if not ranges:
        return [(geometry.start, geometry.last)]
    return [
        (max(start, geometry.start), min(last, geometry.last))
        for start, last in ranges
        if last >= geometry.start and start <= geometry.last
    ]


def exclude(ranges: Iterable[Range], regions: Iterable[ReservedRegion]) -> list[Range]:
    """`ranges` without `regions` (vfio_iommu_resv_exclude). Raises KernelError(EINVAL) when nothing is left."""
    left = list(ranges)
    for region in regions:
        left = [piece for one in left for piece in _without(one, region)]
    if not left:
        raise refuse(EINVAL, "reserved regions leave no IOVA to map at", "region", "all")
    return left


def widen(ranges: Sequence[Range], apertures: Iterable[Geometry]) -> list[Range]:
    """`ranges` with the outer bounds that the remaining apertures allow (vfio_iommu_aper_expand)."""
    if not ranges:
        return []
    start, last = 0, _LAST
    for geometry in apertures:
        start, last = max(start, geometry.start), min(last, geometry.last)
    wide = list(ranges)
    wide[0] = (start, wide[0][1])
    wide[-1] = (wide[-1][0], last)
    return wide


def refresh(ranges: Sequence[Range], regions: Iterable[ReservedRegion]) -> list[Range]:
    """The list between its outer bounds anew, with `regions` cut out; as it was when that leaves nothing.

    Follows vfio_iommu_resv_refresh.
    """
    if not ranges:
        return []
    try:
        return exclude([(ranges[0][0], ranges[-1][1])], regions)
    except KernelError:
        return list(ranges)


def _without(one: Range, region: ReservedRegion) -> list[Range]:
    start, last = one
    if region.start > last or region.last < start:
        return [one]
    pieces = []
    if region.start > start:
        pieces.append((start, region.start - 1))
    if region.last < last:
        pieces.append((region.last + 1, last))
    return pieces
