"""`PhysicalSpace`: memory for devices without an IOMMU, through a container, which knows no mapping at all.

The kernel has no part in it: pages are locked, and /proc/self/pagemap tells where they are. Huge pages stay there. An
ordinary page that is merely locked can still be moved by the kernel when it makes room for large pages
(vm.compact_unevictable_allowed); through /dev/iommu pages are pinned, and do not move.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ioas.api.checks import U64_LAST, whole
from ioas.api.files import PhysicalMemory
from ioas.api.space import IovaRange, Space, joined, nothing_there
from ioas.errors import UsageError
from ioas.host import PAGE_SIZE

if TYPE_CHECKING:
    from ioas.api.container import Container


class PhysicalSpace(Space):
    """What devices without an IOMMU reach: everything. Mappings are locked memory and where it is."""

    physical = True

    def __init__(self, container: Container) -> None:
        """Raises UsageError on a host whose memory is not physical."""
        super().__init__(container.session)
        if container.session.physical is None:
            raise UsageError(f"{container.session.host!r} has no physical memory")
        self.container = container
        self._memory: PhysicalMemory = container.session.physical
        self._locked: dict[int, tuple[int, Sequence[int]]] = {}

    def __repr__(self) -> str:
        return f"<PhysicalSpace{'' if self._open else ' (closed)'}>"

    def map_address(
        self, address: int, length: int, iova: int | None = None, writable: bool = True, readable: bool = True
    ) -> int:
        """Lock memory by its address in this process; that address, for `unmap`: where it is in physical memory
        only its `Mapping` tells. `writable` and `readable` change nothing: nothing stops the device.

        Raises UsageError when an `iova` is asked for; OutOfMemory: RLIMIT_MEMLOCK; NotPermitted.
        """
        self.check_open()
        if iova is not None:
            raise UsageError(f"iova {iova:#x} cannot be had: without an IOMMU addresses are physical")
        self._memory.lock(whole("address", address), whole("length", length))
        try:
            runs = self._memory.runs(address, length)
        except BaseException:
            self._memory.unlock(address, length)
            raise
        self._locked[address] = length, joined([range(start, start + size, PAGE_SIZE) for start, size in runs])
        return address

    def ranges(self) -> tuple[IovaRange, ...]:
        """Everything."""
        self.check_open()
        return (IovaRange(0, U64_LAST),)

    @property
    def alignment(self) -> int:
        """A page."""
        return PAGE_SIZE

    def close(self) -> None:
        """Unlock everything; the container goes on. Idempotent."""
        self.forget()
        self._open = not self.container.closed

    def forget(self) -> None:
        """Let go of the memory."""
        for address in list(self._locked):
            self._unlock(address)
        super().forget()

    def check_open(self) -> None:
        """Raises UsageError when the container is closed, or its last group has left it."""
        self.container.check_open()
        if not self._open:
            raise UsageError("the container has lost its last group, and this address space with it")

    def physical_pages(self, at: int, length: int) -> Sequence[int]:
        """The physical address of each page of what is mapped at `at`: a range when they follow each other."""
        return self._locked[at][1]

    def unmap(self, iova: int, length: int) -> int:
        """Unlock what lies in a range of this process's addresses; the bytes. Raises NotFound when there is nothing."""
        self.check_open()
        inside = [at for at, (size, _) in self._locked.items() if iova <= at and at + size <= iova + length]
        if not inside:
            raise nothing_there(iova, length)
        removed = sum(map(self._unlock, inside))
        self._forget_unmapped(iova, length, removed)
        return removed

    def _unlock(self, address: int) -> int:
        length, _ = self._locked.pop(address)
        self._memory.unlock(address, length)
        return length
