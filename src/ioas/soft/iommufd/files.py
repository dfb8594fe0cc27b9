"""IOMMU_IOAS_MAP_FILE: mappings of a memfd's pages, or of a DMA-BUF's (ioas.c and io_pagetable.c, 7.3)."""

from __future__ import annotations

from errno import EINVAL, EOVERFLOW

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, Caller, Pin, PinSource
from ioas.soft.iommu import Prot
from ioas.soft.iommufd.area import Slice
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.dmabuf import DmaBuf, check_dma_buf, dma_buf_of, dma_buf_pages
from ioas.soft.iommufd.ioas import MAP_FLAGS, PROT, Ioas, check_length, no_access, too_far, unknown_flags
from ioas.soft.iommufd.pages import Pages
from ioas.soft.iommufd.ranges import ULONG_MAX
from ioas.soft.iommufd.refusals import Names
from ioas.uapi.iommufd import (
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    iommu_ioas_map_file,
)

_NAMES = Names("length", "iova", "start")
_WRITE = int(Prot.WRITE)


class _Unpinnable:
    """A file whose pages cannot be pinned: the kernel takes it, and fails once a domain wants the pages."""

    def __init__(self, error: KernelError) -> None:
        self._error = error

    def pin(self, start: int, count: int, write: bool) -> Pin:
        raise self._error


def ioas_map_file(call: Call[iommu_ioas_map_file]) -> None:
    """IOMMU_IOAS_MAP_FILE. Follows iommufd_ioas_map_file and iopt_map_file_pages."""
    command = call.command
    flags, start, length = command.flags, command.start, command.length
    if flags & ~MAP_FLAGS:
        raise unknown_flags(flags)
    if command.iova == ULONG_MAX or length == ULONG_MAX:
        raise too_far(iova=command.iova, length=length)
    if not flags & (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE):
        raise no_access()
    ioas = call.context.objects.get(command.ioas_id, Ioas)
    prot = PROT[flags]
    pages = _pages_of_file(call, start, length, prot)
    fixed = command.iova if flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
    parts = (Slice(pages, start % PAGE_SIZE, length),)
    command.iova = ioas.iopt.map(parts, length, fixed, prot, start, _NAMES)
    call.respond()


def _pages_of_file(call: Call[iommu_ioas_map_file], start: int, length: int, prot: int) -> Pages:
    """Follows iopt_map_file_pages and iopt_alloc_file_pages: nothing is pinned yet."""
    if not length:
        raise refuse(EINVAL, "length is 0", "field", "length")
    if start + length - 1 > ULONG_MAX:
        raise refuse(EOVERFLOW, f"{length:#x} bytes from file offset {start:#x} wrap around", "field", "start")
    source = _source(call.caller, call.command.fd)
    check_length(length)
    context = call.context
    owner = context.owner_for(call.caller)
    if isinstance(source, DmaBuf):
        check_dma_buf(source, call.command.fd, start, length)
        return dma_buf_pages(context, owner, source, start, length, bool(prot & _WRITE))
    offset = start % PAGE_SIZE
    count = offset + length + PAGE_SIZE - 1 >> PAGE_SHIFT
    return Pages(context.system, owner, source, None, start - offset, count, bool(prot & _WRITE))


def _source(caller: Caller, fd: int) -> PinSource | DmaBuf:
    try:
        return caller.memory_file(fd)
    except KernelError as error:
        if error.errno != EINVAL:
            raise
        return dma_buf_of(caller, fd) or _Unpinnable(error)
