"""`Mapper`: what a type 1 container has mapped, and how that comes and goes.

Follows vfio_dma_do_map, vfio_dma_do_unmap and vfio_iommu_replay (drivers/vfio/vfio_iommu_type1.c, 7.3). Pages are
unpinned only when no domain maps them any more and the DMA that was under way is over.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENOENT, ENOSPC, EOVERFLOW
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import Capability
from ioas.soft.iommu import Prot
from ioas.soft.vfio import type1_dirty
from ioas.soft.vfio.type1_domains import Domains
from ioas.soft.vfio.type1_maps import Dma, DmaMap
from ioas.soft.vfio.type1_pins import pin, unpin
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from ioas.host import Caller
    from ioas.soft.iommu import Domain, System

_ULONG_MAX = (1 << 64) - 1
_PROT = {uapi.VFIO_DMA_MAP_FLAG_READ: Prot.READ, uapi.VFIO_DMA_MAP_FLAG_WRITE: Prot.WRITE}


class Mapper:
    """The mappings of a container and the domains that carry them."""

    def __init__(self, system: System, *, version2: bool) -> None:
        self.maps = DmaMap()
        self.domains = Domains(self.maps)
        self.lost = 0
        """Mappings whose user address was given up."""
        self._system = system
        self._version2 = version2
        self._limit = system.type1.dma_entry_limit

    @property
    def available(self) -> int:
        """How many more mappings can be made."""
        return self._limit - len(self.maps)

    def map(self, caller: Caller, command: uapi.vfio_iommu_type1_dma_map) -> None:
        """Map, or with FLAG_VADDR renew a user address (`_renew`).

        Raises KernelError: EINVAL for nothing to map, no permission, what is not whole pages, or IOVAs that are
        reserved or beyond the aperture; EOVERFLOW; EEXIST where something is mapped; ENOSPC for one mapping too many;
        ENOMEM beyond RLIMIT_MEMLOCK; EFAULT for memory that is not there.
        """
        iova, vaddr, size = command.iova, command.vaddr, command.size
        if not size:
            raise refuse(EINVAL, "a mapping of no bytes", "field", "size")
        if iova + size - 1 > _ULONG_MAX or vaddr + size - 1 > _ULONG_MAX:
            raise refuse(EOVERFLOW, "the range wraps around", "field", "size")
        prot = sum(int(one) for flag, one in _PROT.items() if command.flags & flag)
        renew = bool(command.flags & uapi.VFIO_DMA_MAP_FLAG_VADDR)
        if renew == bool(prot):
            raise refuse(EINVAL, "either READ or WRITE, or VADDR alone", "field", "flags")
        self._check_alignment(iova | vaddr | size, iova, vaddr, size)
        found = self.maps.first(iova, iova + size - 1)
        if renew:
            self._renew(caller, found, command)
            return
        if found is not None:
            raise refuse(EEXIST, f"{found} is mapped already", "area", found)
        self._check_room(iova, iova + size - 1)
        self._add(caller, Dma(iova, vaddr, size, prot, caller.memory, caller.capable(Capability.IPC_LOCK)))

    def _add(self, caller: Caller, dma: Dma) -> None:
        """Pin and map, all or nothing."""
        pin(self._system, caller, dma)
        done = []
        try:
            for domain in self.domains.all:
                self._fill(domain, dma)
                done.append(domain)
        except KernelError:
            for domain in reversed(done):
                domain.unmap(dma.iova, dma.size)
            unpin(self._system, dma)
            raise
        self.maps.add(dma)

    def _renew(self, caller: Caller, dma: Dma | None, command: uapi.vfio_iommu_type1_dma_map) -> None:
        """Give a mapping the user address that it lost; the pages stay those that were pinned.

        Follows vfio_change_dma_owner: what is locked goes over to the process that renews it. Raises KernelError:
        ENOENT where nothing is mapped, EINVAL for another range or a mapping that has its address, ENOMEM.
        """
        if dma is None:
            raise refuse(ENOENT, "nothing is mapped there", "address", command.iova)
        if not dma.lost or (dma.iova, dma.size) != (command.iova, command.size):
            raise refuse(EINVAL, f"{dma} has its address, or is another range", "area", dma)
        if caller.memory is not dma.memory:
            bypass = caller.capable(Capability.IPC_LOCK)
            self._system.accounting.lock(caller.memory, dma.locked, bypass=bypass)
            self._system.accounting.unlock(dma.memory, dma.locked)
            dma.memory, dma.bypass = caller.memory, bypass
        dma.vaddr, dma.lost = command.vaddr, False
        self.lost -= 1

    def unmap(
        self,
        caller: Caller,
        iova: int,
        size: int,
        *,
        whole: bool,
        lose: bool,
        bitmap: uapi.vfio_bitmap | None,
        tracking: bool,
    ) -> int:
        """Unmap a range, or with `whole` everything; with `lose` give user addresses up and unmap nothing.

        Returns the bytes concerned. `bitmap` gets the dirty pages. Raises KernelError: EINVAL for what is not whole
        pages, for mappings that would be cut in two (version 2), addresses that are lost already; EOVERFLOW; EFAULT.
        """
        last = self._check_unmap(iova, size, whole=whole)
        granule = self.domains.granule
        if bitmap is not None and (not tracking or bitmap.pgsize != granule):
            raise refuse(EINVAL, f"dirty pages are not tracked, or not by pages of {granule:#x}", "field", "pgsize")
        if self._version2 and not whole and (cut := self.maps.cut_by(iova, last)) is not None:
            raise refuse(EINVAL, f"the range would cut the mapping {cut} in two", "area", cut)
        inside = self.maps.within(iova, last)
        if not self._version2 and inside and inside[0].iova < iova:
            return 0
        if lose:
            return self._lose(inside)
        done = 0
        for dma in inside:
            if bitmap is not None:
                type1_dirty.write_bitmap(caller.memory, bitmap.data, iova, granule, [dma])
            self._remove(dma)
            done += dma.size
        return done

    def _check_unmap(self, iova: int, size: int, *, whole: bool) -> int:
        """The last IOVA of the range."""
        self._check_alignment(iova, iova)
        if whole:
            if iova or size:
                raise refuse(EINVAL, "with FLAG_ALL iova and size must be 0", "field", "size")
            return _ULONG_MAX
        if not size:
            raise refuse(EINVAL, "an unmap of no bytes", "field", "size")
        self._check_alignment(size, iova, size)
        if iova + size - 1 > _ULONG_MAX:
            raise refuse(EOVERFLOW, "the range wraps around", "field", "size")
        return iova + size - 1

    def _lose(self, inside: list[Dma]) -> int:
        """Give up the user addresses, of all or of none."""
        for dma in inside:
            if dma.lost:
                raise refuse(EINVAL, f"the user address of {dma} is given up already", "area", dma)
        for dma in inside:
            dma.lost = True
        self.lost += len(inside)
        return sum(dma.size for dma in inside)

    def remove_all(self) -> None:
        """Unmap everything."""
        for dma in self.maps:
            self._remove(dma)

    def _remove(self, dma: Dma) -> None:
        for domain in self.domains.all:
            domain.unmap(dma.iova, dma.size)
        unpin(self._system, dma)
        self.maps.remove(dma)
        if dma.lost:
            self.lost -= 1

    def replay(self, domain: Domain) -> None:
        """Map what is mapped into a further domain, all or nothing. Raises KernelError as `Domain.map`."""
        done = []
        try:
            for dma in self.maps:
                self._fill(domain, dma)
                done.append(dma)
        except KernelError:
            for dma in done:
                domain.unmap(dma.iova, dma.size)
            raise

    def _fill(self, domain: Domain, dma: Dma) -> None:
        segments = [segment for held in dma.held for segment in held.segments]
        prot, large = dma.prot | int(Prot.CACHE), not self._system.type1.disable_hugepages
        domain.map(dma.iova, segments, 0, dma.size, prot, large=large)

    def _check_alignment(self, bits: int, *values: int) -> None:
        granule = self.domains.granule
        if bits & granule - 1:
            shown = ", ".join(f"{value:#x}" for value in values)
            raise refuse(EINVAL, f"{shown}: not whole pages of the IOMMU ({granule:#x})", "limit", f"{granule:#x}")

    def _check_room(self, start: int, last: int) -> None:
        """Whether another mapping can be made, and there."""
        if not self.available:
            raise refuse(
                ENOSPC,
                f"the container has {self._limit} mappings, as many as vfio_iommu_type1 allows",
                "limit",
                f"dma_entry_limit={self._limit}",
            )
        if not any(first <= start and last <= end for first, end in self.domains.ranges):
            usable = ", ".join(f"{first:#x}-{end:#x}" for first, end in self.domains.ranges)
            raise refuse(EINVAL, f"{start:#x}-{last:#x} is not in what can be mapped: {usable}", "region", usable)
