"""How a type 1 container pins memory, and counts it as locked (vfio_pin_pages_remote, vfio_lock_acct; 7.3).

Locked pages are counted by process, and shown as VmLck, also where CAP_IPC_LOCK lifts the limit. The kernel pins and
counts from the first page on, so whichever comes first is told: the limit, or memory that is not there.
"""

from __future__ import annotations

from errno import EFAULT
from typing import TYPE_CHECKING

from ioas.errors import KernelError
from ioas.host import PAGE_SHIFT
from ioas.soft.iommu import Prot

if TYPE_CHECKING:
    from ioas.host import AddressSpace, Caller
    from ioas.soft.iommu import System
    from ioas.soft.memory import Held
    from ioas.soft.vfio.type1_maps import Dma


def pin(system: System, caller: Caller, dma: Dma) -> None:
    """Pin the pages of `dma` and count them.

    Raises KernelError, with nothing held: EFAULT for memory that is not there or not writable, ENOMEM beyond the limit.
    """
    count = dma.size >> PAGE_SHIFT
    write = bool(dma.prot & Prot.WRITE)
    try:
        held = system.memory.hold(caller.memory, dma.vaddr, count, write)
    except KernelError as error:
        if error.errno == EFAULT:
            _check_limit_before_hole(system, caller.memory, dma, write)
        raise
    _lock(system, dma, held, count)


def unpin(system: System, dma: Dma) -> None:
    """Let go of the pages of `dma`, which no domain maps any more."""
    held, dma.held = dma.held, None
    if held is not None:
        held.release()
        system.accounting.unlock(dma.memory, dma.locked)
        dma.locked = 0


def _lock(system: System, dma: Dma, held: Held, count: int) -> None:
    try:
        system.accounting.lock(dma.memory, count, bypass=dma.bypass)
    except KernelError:
        held.release()
        raise
    dma.held, dma.locked = held, count


def _check_limit_before_hole(system: System, memory: AddressSpace, dma: Dma, write: bool) -> None:
    """Raise ENOMEM when the pages in front of the first that cannot be pinned are too many already."""
    if dma.bypass or memory.memlock_limit() is None:
        return
    there, missing = 0, dma.size >> PAGE_SHIFT
    while missing - there > 1:
        middle = (there + missing) // 2
        try:
            system.memory.hold(memory, dma.vaddr, middle, write).release()
            there = middle
        except KernelError:
            missing = middle
    system.accounting.lock(memory, there, bypass=False)
    system.accounting.unlock(memory, there)
