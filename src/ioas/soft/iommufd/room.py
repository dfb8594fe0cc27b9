"""`Room`: which IOVA may be mapped at all, and where automatic placement puts a mapping (io_pagetable.c, 7.3)."""

from __future__ import annotations

from errno import EADDRINUSE, EINVAL, ENOSPC, EOVERFLOW
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SIZE
from ioas.soft.iommufd.area import AreaMap
from ioas.soft.iommufd.gaps import Fit, Found, GapIndex
from ioas.soft.iommufd.ranges import ULONG_MAX, AllowedRanges, Reserved, ReservedRanges

if TYPE_CHECKING:
    from ioas.soft.iommu import Requester
    from ioas.soft.memory import Failures

_HUGE = 2 << 20
"""HPAGE_SIZE: no alignment above this is kept for automatic placement."""
_DEBT = 1024
"""How many areas the gap index may be behind, besides as many as there are."""


class Room:
    """The IOVA of one IOAS: what is reserved, what was promised, and - once it is asked for - what is free."""

    __slots__ = ("_areas", "_fit", "_found", "_gaps", "_given", "_placed", "_taken", "allowed", "failures", "reserved")

    def __init__(self, areas: AreaMap, failures: Failures) -> None:
        self._areas = areas
        self.failures = failures
        self._gaps: GapIndex | None = None
        self._taken: dict[int, int] = {}
        """Areas (start to last) that are there, and that `_gaps` has not been told of."""
        self._given: dict[int, int] = {}
        """Areas that were there when `_gaps` was last told, and are gone."""
        self._placed: tuple[int, int, int] | None = None
        """The area that was placed last (gap, start, last), if `_gaps` has not been told of it."""
        self._fit: Fit | None = None
        """The last question to `_gaps`, and its answer in `_found`, if nothing has changed since."""
        self._found: Found | None = None
        self.reserved = ReservedRanges()
        self.allowed = AllowedRanges()

    def reserve(self, entry: Reserved) -> None:
        """Keep a range free of mappings (iopt_reserve_iova). Raises KernelError(EADDRINUSE) when it is in use."""
        self.failures.point("reserved range")
        area = self._areas.first(entry.start, entry.last)
        if area is not None:
            raise refuse(EADDRINUSE, f"area {area} stands where {entry} must be reserved", "area", area)
        allowed = self.allowed.first(entry.start, entry.last)
        if allowed is not None:
            name = f"{allowed[0]:#x}-{allowed[1]:#x}"
            raise refuse(EADDRINUSE, f"{name} was promised by ALLOW_IOVAS; {entry} must be reserved", "region", name)
        self.reserved.add(entry)
        self.forget_gaps()

    def unreserve(self, owner: object) -> None:
        """Give up everything that `owner` reserved (iopt_remove_reserved_iova)."""
        if self.reserved.remove_owner(owner):
            self.forget_gaps()

    def reserve_for(self, requester: Requester) -> None:
        """Reserve what `requester` cannot use (iopt_table_enforce_dev_resv_regions).

        Raises KernelError(EADDRINUSE), with nothing changed, when a mapping or an allowed range stands there.
        """
        regions = requester.unit.reserved_regions(requester) if requester.unit is not None else []
        try:
            for region in regions:
                if region.kind != "direct-relaxable":
                    why = f"{region.kind} region of {requester.name}"
                    self.reserve(Reserved(region.start, region.last, requester, why))
        except KernelError:
            self.unreserve(requester)
            raise

    def allow(self, allowed: AllowedRanges) -> None:
        """Replace the allowed ranges (iopt_set_allow_iova). Raises KernelError(EADDRINUSE) when one is reserved."""
        for start, last in allowed:
            self.failures.point("allowed range")
            reserved = self.reserved.first(start, last)
            if reserved is not None:
                raise refuse(EADDRINUSE, f"range {start:#x}-{last:#x} meets reserved {reserved}", "region", reserved)
        self.allowed = allowed
        self.forget_gaps()

    def place(self, address: int, length: int, least: int) -> Found:
        """Where `length` bytes (not 0) go that stand at `address`. Follows iopt_alloc_iova.

        `least` is the alignment that the IOAS wants. Raises KernelError: EOVERFLOW for half of all IOVA, EINVAL
        when `address` has less alignment, ENOSPC when no gap fits.
        """
        if length >= ULONG_MAX // 2:
            raise refuse(EOVERFLOW, f"length {length:#x} is too much for automatic placement", "field", "length")
        alignment = min(1 << (length - 1).bit_length(), _HUGE)
        if address:
            alignment = min(alignment, address & -address)
        if alignment < least:
            raise refuse(
                EINVAL, f"{address:#x} is aligned to {alignment}, and the IOAS wants {least}", "address", address
            )
        found = self._first_fit(Fit(length, alignment, address % PAGE_SIZE))
        if found is None:
            where = "the allowed ranges" if self.allowed else "IOVA"
            widest = self._current_gaps().widest()
            raise refuse(
                ENOSPC, f"no gap in {where} takes {length:#x} bytes aligned to {alignment:#x}", "limit", widest
            )
        return found

    def take(self, start: int, last: int, found: Found | None) -> None:
        """There is a new area at `start` to `last`; `found` if that is where `place` has just put it."""
        if self._gaps is None:
            return
        if found is not None:
            self._placed = found.gap, start, last
        elif self._given.get(start) == last:
            del self._given[start]
        else:
            self._taken[start] = last
            self._limit_debt()

    def give(self, start: int, last: int) -> None:
        """The area at `start` to `last` is gone."""
        if self._gaps is None:
            return
        if self._placed is not None and self._placed[1:] == (start, last):
            self._placed = None
        elif self._taken.get(start) == last:
            del self._taken[start]
        else:
            self._given[start] = last
            self._limit_debt()

    def forget_gaps(self) -> None:
        """So much has changed that the gaps are better found again."""
        self._gaps = self._fit = self._placed = None
        self._taken.clear()
        self._given.clear()

    def _limit_debt(self) -> None:
        if len(self._taken) + len(self._given) > _DEBT + len(self._areas):
            self.forget_gaps()

    def _first_fit(self, fit: Fit) -> Found | None:
        """The lowest place. The same question again, with nothing changed, is not worked out again."""
        gaps = self._current_gaps()
        if fit != self._fit:
            self._found = gaps.first_fit(fit)
            self._fit = fit
        return self._found

    def _current_gaps(self) -> GapIndex:
        """The gaps as they are now.

        The index is told of changes only when automatic placement needs it, and never of areas that came and went in
        between. The area placed last first, for its gap is known; then gone areas; then new ones from below, so that
        what stands below each is known to the index.
        """
        gaps = self._gaps
        if gaps is None:
            used = sorted([*self.reserved.spans, *((area.start, area.last) for area in self._areas)])
            gaps = self._gaps = GapIndex(self.allowed.windows(PAGE_SIZE, ULONG_MAX - PAGE_SIZE), used)
            return gaps
        if self._placed is not None:
            gaps.take(*self._placed)
        elif not self._given and not self._taken:
            return gaps
        self._placed = self._fit = None
        for start, last in self._given.items():
            gaps.give(start, last)
        self._given.clear()
        for start, last in sorted(self._taken.items()):
            below = self._areas.below(start - 1)
            before, _ = self.reserved.around(start, last)
            gaps.take_above(before if below is None else max(before, below.last + 1), start, last)
        self._taken.clear()
        return gaps
