"""How a type 1 container pins memory, and counts it as locked (vfio_pin_pages_remote, vfio_lock_acct; 7.3).

Locked pages are counted by process, and shown as VmLck, also where CAP_IPC_LOCK lifts the limit. The kernel pins and
counts from the first page on, so whichever comes first is told: the limit, or memory that is not there.

Where a program has mapped a BAR the container maps the BAR: DMA to it goes to that device, from its own or another one.
Such pages have no memory behind them, and are not counted.
"""

from __future__ import annotations

from errno import EFAULT
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SHIFT
from ioas.soft.iommu import Prot
from ioas.soft.vfio.bar_memory import BarMemory
from ioas.soft.vfio.device_file import DeviceFile
from ioas.soft.vfio.regions import OFFSET_MASK, OFFSET_SHIFT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ioas.host import AddressSpace, Caller, DeviceMapping
    from ioas.soft.iommu import System
    from ioas.soft.vfio.type1_maps import Dma


def pin(system: System, caller: Caller, dma: Dma) -> None:
    """Pin the pages of `dma` and count them.

    Raises KernelError, with nothing held: EFAULT for memory that is not there or not writable, ENOMEM beyond the limit.
    """
    memory = caller.memory
    try:
        _pin_memory(system, memory, dma, dma.vaddr, dma.size)
    except KernelError as error:
        devices = memory.device_memory(dma.vaddr, dma.vaddr + dma.size) if error.errno == EFAULT else ()
        if not devices:
            raise
        _pin_pieces(system, memory, dma, devices)


def unpin(system: System, dma: Dma) -> None:
    """Let go of the pages of `dma`, which no domain maps any more."""
    for held in dma.held:
        held.release()
    system.accounting.unlock(dma.memory, dma.locked)
    dma.held, dma.locked = [], 0


def _pin_pieces(system: System, memory: AddressSpace, dma: Dma, devices: Sequence[DeviceMapping]) -> None:
    """Pin a range in which there is device memory."""
    at, end = dma.vaddr, dma.vaddr + dma.size
    try:
        for mapping in devices:
            if at < mapping.address:
                _pin_memory(system, memory, dma, at, mapping.address - at)
            _pin_device(system, dma, mapping)
            at = mapping.address + mapping.length
        if at < end:
            _pin_memory(system, memory, dma, at, end - at)
    except KernelError:
        unpin(system, dma)
        raise


def _pin_memory(system: System, memory: AddressSpace, dma: Dma, start: int, size: int) -> None:
    count = size >> PAGE_SHIFT
    write = bool(dma.prot & Prot.WRITE)
    try:
        held = system.memory.hold(memory, start, count, write)
    except KernelError as error:
        if error.errno == EFAULT and not dma.bypass and memory.memlock_limit() is not None:
            _check_limit_before_hole(system, memory, start, count, write)
        raise
    try:
        system.accounting.lock(dma.memory, count, bypass=dma.bypass)
    except KernelError:
        held.release()
        raise
    dma.held.append(held)
    dma.locked += count


def _pin_device(system: System, dma: Dma, mapping: DeviceMapping) -> None:
    """Take in a mapped BAR, which has to answer, and to be mapped for writing if the mapping is (follow_fault_pfn)."""
    file = mapping.file
    write = bool(dma.prot & Prot.WRITE)
    if not isinstance(file, DeviceFile) or not file.answers(mapping.offset) or (write and not mapping.writable):
        raise refuse(EFAULT, "the mapped BAR does not answer, or is not writable", "address", mapping.address)
    bar = file.device.function.bars[mapping.offset >> OFFSET_SHIFT]
    if bar is None:
        raise refuse(EFAULT, "the mapped region is no BAR", "address", mapping.address)
    source = BarMemory(file.device.function, bar, mapping.offset & OFFSET_MASK)
    dma.held.append(system.memory.hold(source, 0, mapping.length >> PAGE_SHIFT, write))


def _check_limit_before_hole(system: System, memory: AddressSpace, start: int, count: int, write: bool) -> None:
    """Raise ENOMEM when the pages in front of the first that cannot be pinned are too many already."""
    there, missing = 0, count
    while missing - there > 1:
        middle = (there + missing) // 2
        try:
            system.memory.hold(memory, start, middle, write).release()
            there = middle
        except KernelError:
            missing = middle
    system.accounting.lock(memory, there, bypass=False)
    system.accounting.unlock(memory, there)
