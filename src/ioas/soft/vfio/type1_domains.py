"""The domains of a type 1 container, and which groups are attached to which.

Follows vfio_iommu_type1_attach_group and detach_group (drivers/vfio/vfio_iommu_type1.c, 7.3). Each group comes with a
new domain of its own unit; where a domain of the container serves it too, it is attached to that, and the new one goes.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.vfio import type1_ranges
from ioas.soft.vfio.type1_ranges import Range

if TYPE_CHECKING:
    from ioas.soft.iommu import Domain, Group, ReservedRegion
    from ioas.soft.vfio.type1_maps import DmaMap

_ULONG_MAX = (1 << 64) - 1
_PAGE_MASK = _ULONG_MAX & -PAGE_SIZE
ALL_SIZES = _PAGE_MASK
"""The page sizes of a container that has had no group."""


class Member:
    """A domain and its groups."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.groups: list[Group] = []

    def suits(self, other: Member) -> bool:
        """Whether groups of `other` may be tried with this domain: the same kind, and as coherent."""
        mine, theirs = self.domain, other.domain
        return (
            mine.unit.kind == theirs.unit.kind
            and type(mine.format) is type(theirs.format)
            and mine.format.enforces_coherency == theirs.format.enforces_coherency
        )

    def attach(self, group: Group) -> None:
        """Attach every requester of `group`. Raises KernelError, with none attached."""
        done = []
        try:
            for requester in group.requesters:
                requester.attach(self.domain)
                done.append(requester)
        except KernelError:
            for requester in done:
                requester.attach(None)
            raise

    @staticmethod
    def detach(group: Group) -> None:
        """Block every requester of `group`."""
        for requester in group.requesters:
            requester.attach(None)


class Domains:
    """The members, the latest first, and where they all can map."""

    def __init__(self, maps: DmaMap) -> None:
        """`maps`: what is mapped, and must stay possible."""
        self._maps = maps
        self._members: list[Member] = []
        self.ranges: list[Range] = []
        """Where may be mapped, by IOVA."""
        self.page_sizes = ALL_SIZES
        """What every domain can do; sizes below a page are shown as a page."""

    @property
    def granule(self) -> int:
        """The smallest page size, in bytes."""
        return self.page_sizes & -self.page_sizes

    @property
    def all(self) -> list[Domain]:
        """Every domain, the latest first."""
        return [member.domain for member in self._members]

    @property
    def groups(self) -> list[Group]:
        """Every group."""
        return [group for member in self._members for group in member.groups]

    @property
    def enforce_coherency(self) -> bool:
        """Whether DMA of every group is coherent, whatever the devices ask for."""
        return all(domain.format.enforces_coherency for domain in self.all)

    def attach(self, group: Group, replay: Callable[[Domain], None]) -> None:
        """Serve `group` too; `replay` maps what is mapped into a further domain, all or nothing.

        Raises KernelError, with nothing changed: EINVAL when the group is in already, or cannot reach something that is
        mapped; ENODEV without a unit; EPERM when the unit lets DMA pass around the aperture (isolation="strict"), or
        when interrupts are not remapped and the module's parameter allow_unsafe_interrupts is off.
        """
        if group in self.groups:
            raise refuse(EINVAL, "the group is in the container already", "group", group.id)
        unit = group.requesters[0].unit
        if unit is None:
            raise refuse(EINVAL, "no IOMMU stands before the group", "group", group.id)
        member = Member(unit.domain())
        try:
            member.attach(group)
            try:
                self._join(member, group, replay)
            except KernelError:
                member.detach(group)
                raise
        except KernelError:
            member.domain.free()
            raise

    def _join(self, member: Member, group: Group, replay: Callable[[Domain], None]) -> None:
        regions = type1_ranges.regions_of(group)
        self._check_reach(member.domain, group)
        self._check_reserved(regions, group)
        ranges = type1_ranges.exclude(type1_ranges.narrow(self.ranges, member.domain.geometry), regions)
        group.check_interrupts("vfio_iommu_type1")
        if not self._join_existing(member, group):
            replay(member.domain)
            self._members.insert(0, member)
            member.groups.append(group)
            self._update_page_sizes()
        self.ranges = ranges

    def _join_existing(self, new: Member, group: Group) -> bool:
        """Attach `group` to a domain that is there, in place of `new`'s; whether one took it."""
        for member in self._members:
            if not member.suits(new):
                continue
            new.detach(group)
            try:
                member.attach(group)
            except KernelError:
                new.attach(group)
                continue
            member.groups.append(group)
            new.domain.free()
            return True
        return False

    def detach(self, group: Group, emptied: Callable[[], None]) -> None:
        """Serve `group` no more; `emptied` is called before the last domain goes. Cannot fail."""
        member = next((member for member in self._members if group in member.groups), None)
        if member is None:
            return
        member.detach(group)
        member.groups.remove(group)
        ranges = self.ranges
        if not member.groups:
            if len(self._members) == 1:
                emptied()
            self._members.remove(member)
            member.domain.free()
            ranges = type1_ranges.widen(ranges, [domain.geometry for domain in self.all])
            self._update_page_sizes()
        regions = [region for one in self.groups for region in type1_ranges.regions_of(one)]
        self.ranges = type1_ranges.refresh(ranges, regions)

    def _update_page_sizes(self) -> None:
        """Follows vfio_update_pgsize_bitmap."""
        sizes = _ULONG_MAX
        for domain in self.all:
            sizes &= domain.page_sizes
        self.page_sizes = sizes & _PAGE_MASK | PAGE_SIZE if sizes & ~_PAGE_MASK else sizes

    def _check_reach(self, domain: Domain, group: Group) -> None:
        """Whether the aperture takes in all that is mapped (vfio_iommu_aper_conflict)."""
        if not self.ranges:
            return
        geometry = domain.geometry
        first, last = self.ranges[0][0], self.ranges[-1][1]
        beyond: object = None
        if geometry.start > last or geometry.last < first:
            beyond = f"all of {first:#x}-{last:#x}"
        elif geometry.start > first:
            beyond = self._maps.first(first, geometry.start - 1)
        if beyond is None and geometry.last < last:
            beyond = self._maps.first(geometry.last + 1, last)
        if beyond is not None:
            aperture = f"{geometry.start:#x}-{geometry.last:#x}"
            raise refuse(
                EINVAL,
                f"{domain.unit.name} before {_members(group)} translates {aperture}, which leaves {beyond} out",
                "group",
                group.id,
            )

    def _check_reserved(self, regions: list[ReservedRegion], group: Group) -> None:
        """Whether something is mapped where the group reserves (vfio_iommu_resv_conflict)."""
        for region in regions:
            dma = self._maps.first(region.start, region.last)
            if dma is not None:
                where = f"{region.start:#x}-{region.last:#x}"
                raise refuse(
                    EINVAL,
                    f"the mapping {dma} stands in {where}, a {region.kind} region of {_members(group)}",
                    "region",
                    where,
                )


def _members(group: Group) -> str:
    return ", ".join(requester.name for requester in group.requesters)
