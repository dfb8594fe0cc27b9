"""`Ioas`: an I/O address space, and the commands on it (drivers/iommu/iommufd/ioas.c, 7.3)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from errno import EINVAL, EMSGSIZE, ENOENT, EOPNOTSUPP, EOVERFLOW
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import PAGE_SHIFT, PAGE_SIZE, AddressSpace, Caller
from ioas.soft.iommu import Prot
from ioas.soft.iommufd.area import Slice
from ioas.soft.iommufd.dispatch import Call
from ioas.soft.iommufd.iopt import IoPagetable, Unmapped
from ioas.soft.iommufd.objects import Object
from ioas.soft.iommufd.pages import Pages
from ioas.soft.iommufd.ranges import ULONG_MAX, AllowedRanges, Span
from ioas.soft.iommufd.refusals import Names, end_of_range
from ioas.uapi.iommufd import (
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    iommu_ioas_alloc,
    iommu_ioas_allow_iovas,
    iommu_ioas_copy,
    iommu_ioas_iova_ranges,
    iommu_ioas_map,
    iommu_ioas_unmap,
)

if TYPE_CHECKING:
    from ioas.soft.iommufd.context import Context
    from ioas.soft.iommufd.hwpt import PagingTable

_ACCESS_FLAGS = IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE
MAP_FLAGS = IOMMU_IOAS_MAP_FIXED_IOVA | _ACCESS_FLAGS
_WRITE = int(Prot.WRITE)
PROT: dict[int, int] = {
    flags: (int(Prot.WRITE) if flags & IOMMU_IOAS_MAP_WRITEABLE else 0)
    | (int(Prot.READ) if flags & IOMMU_IOAS_MAP_READABLE else 0)
    | int(Prot.CACHE)
    for flags in range(MAP_FLAGS + 1)
}
"""From the flags of MAP to a set of `Prot`, as plain integers because those are faster.

Always cache coherent: user space has no means to flush caches (conv_iommu_prot).
"""

_COPY_NAMES = Names("length", "dst_iova", "src_iova")
_RANGE = struct.Struct("<QQ")
_RANGES_AT_ONCE = PAGE_SIZE // _RANGE.size


class Ioas(Object):
    """An I/O address space: mappings, and the page tables that carry them."""

    __slots__ = ("iopt", "tables")

    kind = "IOAS"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.iopt = IoPagetable(context.system.failures)
        self.tables: list[PagingTable] = []
        """The page tables filled from this IOAS, oldest first (ioas->hwpt_list)."""

    def destroy(self) -> None:
        """Unmap everything."""
        self.iopt.unmap(0, ULONG_MAX)
        if self.context.vfio_ioas is self:
            self.context.vfio_ioas = None


def ioas_alloc(call: Call[iommu_ioas_alloc]) -> None:
    """IOMMU_IOAS_ALLOC. Follows iommufd_ioas_alloc_ioctl."""
    if call.command.flags:
        raise refuse(EOPNOTSUPP, "IOAS_ALLOC knows no flags", "field", "flags")
    ioas = Ioas(call.context)
    call.command.out_ioas_id = ioas.id
    try:
        call.respond()
    except KernelError:
        call.context.objects.abandon(ioas)
        raise
    call.context.objects.publish(ioas)


def ioas_iova_ranges(call: Call[iommu_ioas_iova_ranges]) -> None:
    """IOMMU_IOAS_IOVA_RANGES. Follows iommufd_ioas_iova_ranges: what fits is written even when not all does."""
    command = call.command
    if command.__reserved:
        raise refuse(EOPNOTSUPP, "a reserved field is not 0", "field", "__reserved")
    ioas = call.context.objects.get(command.ioas_id, Ioas)
    room = command.num_iovas
    holes = list(ioas.iopt.room.reserved.holes())
    for index, hole in enumerate(holes[:room]):
        call.caller.memory.write(command.allowed_iovas + index * _RANGE.size, _RANGE.pack(*hole))
    command.num_iovas = len(holes)
    command.out_iova_alignment = ioas.iopt.alignment
    call.respond()
    if len(holes) > room:
        raise refuse(EMSGSIZE, f"there are {len(holes)} ranges, and room for {room}", "field", "num_iovas")


def ioas_allow_iovas(call: Call[iommu_ioas_allow_iovas]) -> None:
    """IOMMU_IOAS_ALLOW_IOVAS. Follows iommufd_ioas_allow_iovas: the whole list is replaced, or nothing."""
    command = call.command
    if command.__reserved:
        raise refuse(EOPNOTSUPP, "a reserved field is not 0", "field", "__reserved")
    ioas = call.context.objects.get(command.ioas_id, Ioas)
    ioas.iopt.room.allow(_load_ranges(call.caller.memory, command.allowed_iovas, command.num_iovas))


def ioas_map(call: Call[iommu_ioas_map]) -> None:
    """IOMMU_IOAS_MAP. Follows iommufd_ioas_map, iopt_map_user_pages and iopt_map_common."""
    command = call.command
    flags = command.flags
    iova, length = command.iova, command.length
    if flags & ~MAP_FLAGS:
        raise unknown_flags(flags)
    if command.__reserved:
        raise refuse(EOPNOTSUPP, "a reserved field is not 0", "field", "__reserved")
    if iova == ULONG_MAX or length == ULONG_MAX:
        raise too_far(iova=iova, length=length)
    if not flags & _ACCESS_FLAGS:
        raise no_access()
    ioas = call.context.objects.get(command.ioas_id, Ioas)
    prot = PROT[flags]
    address = command.user_va
    pages = pages_of_user(call.context, call.caller, address, length, prot)
    fixed = iova if flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
    command.iova = ioas.iopt.map((Slice(pages, address % PAGE_SIZE, length),), length, fixed, prot, address)
    call.respond()


def pages_of_user(context: Context, caller: Caller, address: int, length: int, prot: int) -> Pages:
    """Pages for user memory of the caller (iopt_alloc_user_pages). Nothing is pinned yet.

    Raises KernelError: EOVERFLOW when the range wraps, EINVAL when it is empty or too long.
    """
    if address + length > ULONG_MAX:
        raise refuse(EOVERFLOW, f"{length:#x} bytes from address {address:#x} wrap around", "address", address)
    check_length(length)
    offset = address % PAGE_SIZE
    memory = caller.memory
    count = offset + length + PAGE_SIZE - 1 >> PAGE_SHIFT
    return Pages(
        context.system, context.owner_for(caller), memory, memory, address - offset, count, bool(prot & _WRITE)
    )


def check_length(length: int) -> None:
    """Follows iopt_alloc_pages. Raises KernelError(EINVAL)."""
    if not 0 < length <= ULONG_MAX - PAGE_SIZE:
        raise refuse(EINVAL, f"length {length:#x} is out of range", "field", "length")


def ioas_copy(call: Call[iommu_ioas_copy]) -> None:
    """IOMMU_IOAS_COPY. Follows iommufd_ioas_copy: source first, then destination."""
    command = call.command
    flags, length = command.flags, command.length
    if flags & ~MAP_FLAGS:
        raise unknown_flags(flags)
    if ULONG_MAX in (length, command.src_iova, command.dst_iova):
        raise too_far(length=length, src_iova=command.src_iova, dst_iova=command.dst_iova)
    if not flags & _ACCESS_FLAGS:
        raise no_access()
    objects = call.context.objects
    slices = objects.get(command.src_ioas_id, Ioas).iopt.slices(command.src_iova, length)
    target = objects.get(command.dst_ioas_id, Ioas)
    where = command.dst_iova if flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
    address = slices[0].pages.start + slices[0].byte
    command.dst_iova = target.iopt.map(slices, length, where, PROT[flags], address, _COPY_NAMES)
    call.respond()


def ioas_unmap(call: Call[iommu_ioas_unmap]) -> None:
    """IOMMU_IOAS_UNMAP. Follows iommufd_ioas_unmap: everything succeeds on an empty IOAS, a range does not."""
    command = call.command
    iova, length = command.iova, command.length
    ioas = call.context.objects.get(command.ioas_id, Ioas)
    if not iova and length == ULONG_MAX:
        removed, error = ioas.iopt.unmap(0, ULONG_MAX)
    else:
        if iova == ULONG_MAX or length == ULONG_MAX:
            raise too_far(iova=iova, length=length)
        removed, error = unmap_range(ioas.iopt, iova, length)
        if error is None and not removed:
            error = refuse(ENOENT, f"nothing is mapped at IOVA {iova:#x}-{iova + length - 1:#x}", "address", iova)
    if error is not None:
        raise error
    command.length = removed
    call.respond()


def unmap_range(iopt: IoPagetable, iova: int, length: int) -> Unmapped:
    """Follows iopt_unmap_iova. EINVAL for no bytes and EOVERFLOW past the end of IOVA are in the result."""
    try:
        last = end_of_range(iova, length)
    except KernelError as error:
        return Unmapped(0, error)
    return iopt.unmap(iova, last)


def _load_ranges(memory: AddressSpace, address: int, count: int) -> AllowedRanges:
    """Read `count` ranges (iommufd_ioas_load_iovas): each is checked before the next is read."""
    allowed = AllowedRanges()
    for start, last in _read_ranges(memory, address, count):
        if start >= last:
            raise refuse(EINVAL, f"range {start:#x}-{last:#x}: start is not below last", "field", "allowed_iovas")
        clash = allowed.first(start, last)
        if clash is not None:
            raise refuse(
                EINVAL, f"range {start:#x}-{last:#x} overlaps {clash[0]:#x}-{clash[1]:#x}", "field", "allowed_iovas"
            )
        allowed.add(start, last)
    return allowed


def _read_ranges(memory: AddressSpace, address: int, count: int) -> Iterator[Span]:
    """The ranges of an array in user memory, read by the page where it is there."""
    index = 0
    while index < count:
        number = min(count - index, _RANGES_AT_ONCE)
        try:
            data = memory.read(address + index * _RANGE.size, number * _RANGE.size)
        except KernelError:
            number = 1
            data = memory.read(address + index * _RANGE.size, _RANGE.size)
        yield from _RANGE.iter_unpack(data)
        index += number


def unknown_flags(flags: int) -> KernelError:
    """The refusal of flags that are not all known."""
    return refuse(EOPNOTSUPP, f"flags {flags:#x} are not all known", "field", "flags")


def too_far(**fields: int) -> KernelError:
    """The refusal of fields one of which is 2**64-1."""
    name = next(name for name, value in fields.items() if value == ULONG_MAX)
    return refuse(EOVERFLOW, f"{name} must be below 2**64-1", "field", name)


def no_access() -> KernelError:
    """The refusal of a mapping for nothing."""
    return refuse(EINVAL, "a mapping must be readable or writeable", "field", "flags")
