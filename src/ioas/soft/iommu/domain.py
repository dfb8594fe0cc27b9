"""A domain: an address space of devices, as a page table that a unit walks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ioas.soft.iommu.types import Geometry
from ioas.soft.memory import Segment

if TYPE_CHECKING:
    from ioas.soft.iommu.unit import Unit


class Domain:
    """A paging domain. Made by `Unit.domain`. Safe to use from any thread."""

    unit: Unit
    geometry: Geometry
    page_sizes: int
    """A bitmap of page sizes in bytes; the lowest is the granule."""
    dirty: bool
    nest_parent: bool
    pasid: bool

    def map(
        self,
        iova: int,
        segments: Sequence[Segment],
        offset: int,
        length: int,
        prot: int,
        *,
        large: bool = True,
    ) -> None:
        """Map `length` bytes of `segments`, from byte `offset` of their first page, at `iova`. All or nothing.

        `prot` is a set of `Prot`. `large=False` allows no page above 4 KiB (IOMMU_OPTION_HUGE_PAGES 0).

        Raises KernelError: EINVAL for addresses or lengths that are no multiples of the granule, beyond the segments,
        without READ or WRITE; ERANGE beyond the table's width; EADDRINUSE where something is mapped.
        """
        raise NotImplementedError

    def unmap(self, iova: int, length: int) -> int:
        """Unmap; return the number of bytes that were mapped.

        When it returns, no DMA to the old pages can land: entries are cleared, the IOTLB is flushed, and
        transfers that may have used them are over. Raises KernelError(EINVAL) when the range would cut a page or is
        misaligned; holes are passed over.
        """
        raise NotImplementedError

    def phys(self, iova: int) -> int | None:
        """The physical address under `iova` by the page table, not the IOTLB; None when not mapped."""
        raise NotImplementedError

    def flush(self, start: int, last: int) -> None:
        """Drop the cached translations of `start` to `last`."""
        raise NotImplementedError

    def drain(self) -> None:
        """Wait until the transfers that have begun so far are over. Take no lock that a backing needs."""
        raise NotImplementedError

    def free(self) -> None:
        """Give back all tables. Idempotent. Raises KernelError(EBUSY) while a requester is attached."""
        raise NotImplementedError
