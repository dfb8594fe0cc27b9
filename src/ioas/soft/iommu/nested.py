"""A nested domain: its page table is the user's, and what that translates to is translated again by its parent.

As in hardware, translations of both stages together are cached until somebody asks for the cache to be invalidated: the
user after editing the first stage, the kernel's half (`Domain.flush`) after editing the second.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ioas.soft.iommu.epoch import Epoch
from ioas.soft.iommu.iotlb import CAPACITY
from ioas.soft.iommu.types import Geometry

if TYPE_CHECKING:
    from ioas.soft.iommu.domain import Domain
    from ioas.soft.iommu.requester import Requester

PAGE_LG2 = 12


class NestedTlb:
    """Cached translations of both stages, of pages of 4 KiB (offers what `Iotlb` offers to a transfer)."""

    __slots__ = ("_domain", "entries", "lock", "page_lg2", "written")

    def __init__(self, domain: NestedDomain) -> None:
        self._domain = domain
        self.page_lg2 = PAGE_LG2
        self.lock = threading.Lock()
        self.entries: dict[int, int] = {}
        """By IOVA >> 12: the physical address of the page, with the permissions in its low bits."""
        self.written: set[int] = set()
        """The pages whose first-stage entries are known to be dirty."""

    def miss(self, iova: int) -> int:
        """Walk both stages, and remember; the entry, or 0 when nothing is mapped."""
        with self.lock:
            entry = self._domain.walk(iova)
            if entry:
                if len(self.entries) >= CAPACITY:
                    self.entries.clear()
                self.entries[iova >> PAGE_LG2] = entry
        return entry

    def mark(self, iova: int, length: int) -> None:
        """A transfer writes: say so in the first stage, as far as it is not known there."""
        for page in range(iova >> PAGE_LG2, (iova + length - 1 >> PAGE_LG2) + 1):
            if page not in self.written:
                with self.lock:  # which a flush takes: what it takes out is not put in again behind it
                    if len(self.written) >= CAPACITY:
                        self.written.clear()
                    self._domain.mark(page << PAGE_LG2)
                    self.written.add(page)

    def flush(self, start: int, last: int) -> None:
        """Forget `start` to `last`."""
        first, final = start >> PAGE_LG2, last >> PAGE_LG2
        with self.lock:
            if final - first >= len(self.entries):
                for key in [key for key in self.entries if first <= key <= final]:
                    del self.entries[key]
                self.written = {key for key in self.written if not first <= key <= final}
                return
            for key in range(first, final + 1):
                self.entries.pop(key, None)
                self.written.discard(key)


class NestedDomain:
    """A domain whose first stage is the user's. A unit's own kind says how it is walked (`walk`)."""

    dirty = False
    tracking = False
    nest_parent = False

    def __init__(self, parent: Domain, geometry: Geometry) -> None:
        self.unit = parent.unit
        self.parent = parent
        self.geometry = geometry
        self.reports_faults = False
        """As `Domain.reports_faults`."""
        self.attached = 0
        """As `Domain.attached`."""
        self.epoch = Epoch()
        self.iotlb = NestedTlb(self)
        parent.nested.append(self)

    def walk(self, iova: int) -> int:
        """The physical address of the page under `iova`, with the permissions in its low bits; 0 when there is none."""
        return 0

    def mark(self, iova: int) -> None:
        """A page is written (only where `tracking` is set)."""

    def admit(self, requester: Requester) -> None:
        """Refuse (KernelError) a requester that this very domain cannot serve."""

    def flush(self, start: int, last: int) -> None:
        """Drop the cached translations of `start` to `last`."""
        self.iotlb.flush(start, last)

    def drain(self) -> None:
        """Wait until the transfers that have begun so far are over."""
        self.epoch.drain()

    def free(self) -> None:
        """Forget it: nothing is attached. Idempotent."""
        if self in self.parent.nested:
            self.parent.nested.remove(self)
