"""The user's first stage on a VT-d unit: x86 page tables in the user's own memory, walked through the second stage."""

from __future__ import annotations

import threading
from contextlib import suppress
from errno import EINVAL
from typing import TYPE_CHECKING, NamedTuple

from ioas.errors import KernelError, refuse
from ioas.soft.iommu.formats import x86fs
from ioas.soft.iommu.nested import NestedDomain
from ioas.soft.iommu.types import Geometry, Prot

if TYPE_CHECKING:
    from ioas.soft.iommu.domain import Domain
    from ioas.soft.iommu.requester import Requester

READ, WRITE = int(Prot.READ), int(Prot.WRITE)
_ENTRY = 8


class _Leaf(NamedTuple):
    """Where a first-stage walk ended: what it translates to in the second stage, and the entry that said so."""

    address: int
    permissions: int
    place: int
    entry: int


class FirstStage(NestedDomain):
    """A nested domain whose first stage is an x86 page table at guest-physical address `root`.

    The walk sets A in every entry that it uses, and D in the leaf of a page that is written, as hardware does; an
    entry that the second stage does not let it reach translates nothing.

    Hardware sets A and D in one step with looking at the entry. Here the entry is looked at once more just before it
    is written, and left alone if it is another one by then; a program that changes it in the instant between may see
    its change undone.
    """

    tracking = True
    """Writes are marked: by D in the first stage."""

    def __init__(self, parent: Domain, root: int, width: int, unknown: int = 0) -> None:
        """`width`: bits of IOVA, and `unknown`: flags, both as the user said.

        What the unit does not have is refused when a device attaches.
        """
        super().__init__(parent, Geometry(0, (1 << min(width, 64)) - 1 if width else 0, True))
        self.unknown = unknown
        self.root = root & x86fs.ADDRESS
        self.width = width
        self._memory = parent.unit.system.memory
        self._walking = threading.Lock()

    def admit(self, requester: Requester) -> None:
        """Follows intel_pasid_setup_nested. Raises KernelError(EINVAL)."""
        if self.width not in x86fs.LEVELS or self.width > self.unit.first_stage_width:
            known = self.unit.first_stage_width
            raise refuse(
                EINVAL, f"a first stage has {known} bits of IOVA here, not {self.width}", "field", "addr_width"
            )
        if self.unknown:
            raise refuse(EINVAL, f"{self.unit.name} does not have flags {self.unknown:#x}", "field", "flags")

    def walk(self, iova: int) -> int:
        """Both stages; what is cached is the page of 4 KiB around `iova`."""
        with self._walking:
            leaf = self._first(iova)
            if leaf is None:
                return 0
            reached = self._second(leaf.address)
            permissions = leaf.permissions & reached & (READ | WRITE)
            return reached & -1 << x86fs.PAGE_LG2 | permissions if permissions else 0

    def mark(self, iova: int) -> None:
        """Set D in the leaf under `iova`, which is written."""
        with self._walking:
            leaf = self._first(iova)
            if leaf is not None and not leaf.entry & x86fs.D:
                self._store(leaf.place, leaf.entry, x86fs.D)

    def _first(self, iova: int) -> _Leaf | None:
        """Walk the user's tables."""
        level = x86fs.LEVELS[self.width] - 1
        table, permissions = self.root, READ | WRITE
        while True:
            shift = x86fs.PAGE_LG2 + x86fs.LEVEL_BITS * level
            place = table + (iova >> shift & x86fs.INDEX_MASK) * _ENTRY
            entry = self._load(place)
            if not entry & x86fs.P or not entry & x86fs.US:
                return None
            if not entry & x86fs.RW:
                permissions &= ~WRITE
            if not entry & x86fs.A:
                self._store(place, entry, x86fs.A)
                entry |= x86fs.A
            table = entry & x86fs.ADDRESS
            if level == 0 or (entry & x86fs.PS and level <= x86fs.LAST_LEAF_LEVEL):
                page = table >> shift << shift
                return _Leaf(page | iova & (1 << shift) - 1 & -1 << x86fs.PAGE_LG2, permissions, place, entry)
            level -= 1

    def _second(self, address: int) -> int:
        """The physical page under a guest-physical address, with the second stage's permissions; 0 for none."""
        if address > self.parent.geometry.last:
            return 0
        tlb = self.parent.iotlb
        return tlb.entries.get(address >> tlb.page_lg2) or tlb.miss(address)

    def _load(self, address: int) -> int:
        """An entry of the user's; 0 where the second stage lets nobody read."""
        reached = self._second(address)
        if not reached & READ:
            return 0
        try:
            return int.from_bytes(self._memory.read(self._byte(reached, address), _ENTRY), "little")
        except KernelError:
            return 0

    def _store(self, address: int, entry: int, bits: int) -> None:
        """Set bits of an entry, if the second stage allows it and the entry is still the one that was looked at."""
        reached = self._second(address)
        if reached & WRITE and self._load(address) == entry:
            with suppress(KernelError):
                self._memory.write(self._byte(reached, address), (entry | bits).to_bytes(_ENTRY, "little"))

    @staticmethod
    def _byte(reached: int, address: int) -> int:
        page = (1 << x86fs.PAGE_LG2) - 1
        return reached & ~page | address & page
