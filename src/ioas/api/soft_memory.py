"""Where memory of this process is in a software machine, for containers of groups without an IOMMU.

As on the running kernel (`ioas.kernel.pagemap`) memory is locked and then stays where it is. A real kernel tells by
/proc/self/pagemap where that is; the machine in this process is asked itself.
"""

from __future__ import annotations

from errno import EFAULT
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import PAGE_SHIFT
from ioas.kernel import Pagemap

if TYPE_CHECKING:
    from ioas.host import PinSource
    from ioas.soft.memory import Held, Memory


class MachineMemory(Pagemap):
    """The frames of a software machine (implements `ioas.api.files.PhysicalMemory`)."""

    def __init__(self, machine: Memory, own: PinSource) -> None:
        """`machine`: the machine's memory; `own`: that of this process."""
        self._machine = machine
        self._own = own
        self._held: dict[int, Held] = {}

    def lock(self, address: int, length: int) -> None:
        """Keep pages in memory, and give them frames. Raises KernelError as the kernel's mlock(2) does, and EFAULT."""
        super().lock(address, length)
        try:
            self._held[address] = self._machine.hold(self._own, address, length >> PAGE_SHIFT, True)
        except BaseException:
            super().unlock(address, length)
            raise

    def unlock(self, address: int, length: int) -> None:
        """Undo it: when it returns no DMA reaches the pages."""
        held = self._held.pop(address, None)
        if held is not None:
            held.release()
        super().unlock(address, length)

    def runs(self, address: int, length: int) -> list[tuple[int, int]]:
        """The physical addresses of locked memory, in order, and how many bytes follow each.

        Raises KernelError(EFAULT) for memory that is not locked.
        """
        held = self._held.get(address)
        if held is None:
            raise refuse(EFAULT, "the memory is not locked", "address", address)
        runs: list[tuple[int, int]] = []
        for run, first, count in held.part(0, length >> PAGE_SHIFT):
            at, end = first, first + count
            while at < end:
                pages = min(run.block(at), end - at)
                start, size = run.pfn(at) << PAGE_SHIFT, pages << PAGE_SHIFT
                if runs and sum(runs[-1]) == start:
                    runs[-1] = runs[-1][0], runs[-1][1] + size
                else:
                    runs.append((start, size))
                at += pages
        return runs
