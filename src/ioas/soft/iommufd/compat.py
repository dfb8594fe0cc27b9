"""An iommufd file in the place of a VFIO container (drivers/iommu/iommufd/vfio_compat.c, 7.3).

The container's calls work on one IOAS, the *compatibility IOAS*: the one that a VFIO group made when it was set into
this container, or that IOMMU_VFIO_IOAS set. Without one they are ENODEV, after their arguments have been checked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import EINVAL, ENODEV, ENOTTY, EOPNOTSUPP, EPERM
from typing import TYPE_CHECKING

from ioas.errors import UsageError, refuse
from ioas.host import PAGE_SIZE, Caller, Capability
from ioas.soft.iommu import Prot
from ioas.soft.iommufd.area import Slice
from ioas.soft.iommufd.dispatch import Argument, Call, argument_of
from ioas.soft.iommufd.ioas import Ioas, pages_of_user, unmap_range
from ioas.soft.iommufd.iopt import IoPagetable
from ioas.soft.iommufd.ranges import ULONG_MAX
from ioas.soft.iommufd.refusals import Names
from ioas.uapi.base import end_of, offset_of
from ioas.uapi.iommufd import IOMMU_VFIO_IOAS_CLEAR, IOMMU_VFIO_IOAS_GET, IOMMU_VFIO_IOAS_SET, iommu_vfio_ioas
from ioas.uapi.vfio import (
    VFIO_API_VERSION,
    VFIO_CHECK_EXTENSION,
    VFIO_DMA_CC_IOMMU,
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_GET_API_VERSION,
    VFIO_IOMMU_GET_INFO,
    VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_MAP_DMA,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_IOMMU_UNMAP_DMA,
    VFIO_NOIOMMU_IOMMU,
    VFIO_SET_IOMMU,
    VFIO_TYPE1_IOMMU,
    VFIO_UNMAP_ALL,
    VFIO_TYPE1v2_IOMMU,
    vfio_info_cap_header,
    vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap,
    vfio_iommu_type1_info,
    vfio_iommu_type1_info_dma_avail,
    vfio_iova_range,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommufd.context import Context

_EXTENSIONS = {VFIO_TYPE1_IOMMU: 1, VFIO_TYPE1v2_IOMMU: 1, VFIO_UNMAP_ALL: 1}
"""What CHECK_EXTENSION says, no-IOMMU and coherency apart."""
_INFO_MINIMUM = end_of(vfio_iommu_type1_info, "iova_pgsizes")
_INFO_SIZE = 24
_MAP_FLAGS = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE
_MAP_SIZE = end_of(vfio_iommu_type1_dma_map, "size")
_UNMAP_SIZE = end_of(vfio_iommu_type1_dma_unmap, "size")
_NAMES = Names("size", "iova", "vaddr")
_PAGE_MASK = -PAGE_SIZE & ULONG_MAX
_U32_MAX = (1 << 32) - 1
_NEXT = offset_of(vfio_info_cap_header, "next")


def vfio_ioas(call: Call[iommu_vfio_ioas]) -> None:
    """IOMMU_VFIO_IOAS: get, set or clear the compatibility IOAS. Follows iommufd_vfio_ioas."""
    command, context = call.command, call.context
    if command.__reserved:
        raise refuse(EOPNOTSUPP, "a reserved field is not 0", "field", "__reserved")
    if command.op == IOMMU_VFIO_IOAS_GET:
        command.ioas_id = compat_ioas(context).id
        call.respond()
    elif command.op == IOMMU_VFIO_IOAS_SET:
        context.vfio_ioas = context.objects.get(command.ioas_id, Ioas)
    elif command.op == IOMMU_VFIO_IOAS_CLEAR:
        context.vfio_ioas = None
    else:
        raise refuse(EOPNOTSUPP, f"operation {command.op} is none of GET, SET and CLEAR", "field", "op")


def compat_ioas(context: Context) -> Ioas:
    """The compatibility IOAS. Raises KernelError(ENODEV) without one (get_compat_ioas)."""
    if context.vfio_ioas is None:
        raise refuse(ENODEV, "no group is in this container and no IOMMU_VFIO_IOAS was set", "object", "container")
    return context.vfio_ioas


def create_compat_ioas(context: Context) -> None:
    """See that there is one: a VFIO group comes into this container (iommufd_vfio_compat_ioas_create).

    An IOAS is made first and given up if it is not wanted, so that ids go as they go in 7.3. Raises KernelError.
    """
    ioas = Ioas(context)
    if context.no_iommu:
        context.objects.abandon(ioas)
        raise refuse(EINVAL, "the container has a group without an IOMMU, and those do not mix", "object", "container")
    if context.vfio_ioas is not None:
        context.objects.abandon(ioas)
        return
    context.vfio_ioas = ioas
    context.objects.publish(ioas)


def set_no_iommu(context: Context) -> None:
    """A group without an IOMMU comes into this container (iommufd_vfio_compat_set_no_iommu).

    Raises KernelError(EINVAL) when it has a compatibility IOAS.
    """
    if context.vfio_ioas is not None:
        ioas = context.vfio_ioas
        raise refuse(EINVAL, f"the container maps by {ioas}, and the group has no IOMMU to map with", "object", ioas)
    context.no_iommu = True


def check_no_ioas(context: Context) -> None:
    """Whether a device without an IOMMU may be opened by way of this container (vfio_df_group_open).

    Raises KernelError(EPERM) when it has a compatibility IOAS: somebody expects translation.
    """
    if context.vfio_ioas is not None:
        ioas = context.vfio_ioas
        raise refuse(EPERM, f"the container maps by {ioas}, and nothing translates for the device", "object", ioas)


def ioctl(context: Context, caller: Caller, request: int, argument: int | Buffer) -> int:
    """Carry out a container's request (iommufd_vfio_ioctl). Raises KernelError; ENOTTY for a request of nobody."""
    by_value = _BY_VALUE.get(request)
    if by_value is not None:
        if not isinstance(argument, int):
            raise UsageError(f"request {request:#x} takes a number, not a buffer")
        return by_value(context, caller, argument)
    handler = _BY_POINTER.get(request)
    if handler is None:
        raise refuse(ENOTTY, f"{request:#x} is not a request of iommufd or of a container", "request", f"{request:#x}")
    handler(context, caller, argument_of(caller, argument))
    return 0


def _get_api_version(context: Context, caller: Caller, value: int) -> int:
    return VFIO_API_VERSION


def _check_extension(context: Context, caller: Caller, extension: int) -> int:
    """Follows iommufd_vfio_check_extension. Coherency wants a compatibility IOAS: ENODEV without.

    No-IOMMU is 1 where the kernel has it built in, whatever devices there are.
    """
    if extension == VFIO_DMA_CC_IOMMU:
        return int(all(table.enforces_coherency for table in compat_ioas(context).tables))
    if extension == VFIO_NOIOMMU_IOMMU:
        return int(context.system.has_noiommu)
    if context.no_iommu:
        return 0
    return _EXTENSIONS.get(extension, 0)


def _set_iommu(context: Context, caller: Caller, kind: int) -> int:
    """Follows iommufd_vfio_set_iommu: type 1 in its first version may cut mappings, so it wants small pages."""
    if context.no_iommu and kind == VFIO_NOIOMMU_IOMMU:
        if not caller.capable(Capability.SYS_RAWIO):
            raise refuse(EPERM, "a container of type 8 is for CAP_SYS_RAWIO only", "capability", "CAP_SYS_RAWIO")
        return 0
    if context.no_iommu:
        raise refuse(
            EINVAL, f"the container has a group without an IOMMU, which type {kind} is not for", "field", "type"
        )
    if kind not in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU):
        raise refuse(EINVAL, f"IOMMU type {kind} is not one of 1 and 3", "field", "type")
    iopt = compat_ioas(context).iopt
    if kind == VFIO_TYPE1_IOMMU:
        iopt.set_large_pages(False)
    return 0


def _map_dma(context: Context, caller: Caller, argument: Argument) -> None:
    """Follows iommufd_vfio_map_dma. A mapping that is neither readable nor writable is not refused as such."""
    command = vfio_iommu_type1_dma_map.from_buffer_copy(argument.read(0, _MAP_SIZE))
    _check_head(command.argsz, _MAP_SIZE, command.flags, _MAP_FLAGS)
    prot = int(Prot.CACHE)
    if command.flags & VFIO_DMA_MAP_FLAG_READ:
        prot |= int(Prot.READ)
    if command.flags & VFIO_DMA_MAP_FLAG_WRITE:
        prot |= int(Prot.WRITE)
    ioas = compat_ioas(context)
    pages = pages_of_user(context, caller, command.vaddr, command.size, prot)
    parts = (Slice(pages, command.vaddr % PAGE_SIZE, command.size),)
    ioas.iopt.map(parts, command.size, command.iova, prot, names=_NAMES)


def _unmap_dma(context: Context, caller: Caller, argument: Argument) -> None:
    """Follows iommufd_vfio_unmap_dma: what was removed is reported even when something stopped it."""
    command = vfio_iommu_type1_dma_unmap.from_buffer_copy(argument.read(0, _UNMAP_SIZE))
    _check_head(command.argsz, _UNMAP_SIZE, command.flags, VFIO_DMA_UNMAP_FLAG_ALL)
    iopt = compat_ioas(context).iopt
    iova, size = command.iova, command.size
    if command.flags & VFIO_DMA_UNMAP_FLAG_ALL:
        if iova or size:
            raise refuse(EINVAL, "with FLAG_ALL iova and size must be 0", "field", "iova" if iova else "size")
        removed, error = iopt.unmap(0, ULONG_MAX)
    else:
        if not iopt.large_pages:
            _cut(iopt, iova, size)
        removed, error = unmap_range(iopt, iova, size)
    command.size = removed
    argument.write(0, bytes(command)[:_UNMAP_SIZE])
    if error is not None:
        raise error


def _check_head(size: int, least: int, flags: int, known: int) -> None:
    if size < least:
        raise refuse(EINVAL, f"argsz {size} is below {least}", "field", "argsz")
    if flags & ~known:
        raise refuse(EINVAL, f"flags {flags:#x} are not all known", "field", "flags")


def _cut(iopt: IoPagetable, iova: int, size: int) -> None:
    """Cut areas at both ends of a range (iopt_cut_iova)."""
    iopt.cut((iova + size - 1) & ULONG_MAX)
    if iova:
        iopt.cut(iova - 1)


def _get_info(context: Context, caller: Caller, argument: Argument) -> None:
    """Follows iommufd_vfio_iommu_get_info: nothing is written beyond argsz, and argsz returns what all would take."""
    info = vfio_iommu_type1_info.from_buffer_copy(argument.read(0, _INFO_MINIMUM).ljust(_INFO_SIZE, b"\0"))
    room = info.argsz
    if room < _INFO_MINIMUM:
        raise refuse(EINVAL, f"argsz {room} is below {_INFO_MINIMUM}", "field", "argsz")
    iopt = compat_ioas(context).iopt
    info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS
    info.iova_pgsizes = _page_sizes(iopt)
    position, previous = _INFO_SIZE, 0
    for pieces in (_dma_avail(), _iova_ranges(iopt)):
        if previous and room >= position:
            argument.write(previous + _NEXT, position.to_bytes(4, "little"))
        size = _write_pieces(argument, position, pieces, room)
        previous, position = position, position + (size + 7 & -8)
    info.cap_offset = _INFO_SIZE if room >= position else 0
    info.argsz = position
    argument.write(0, bytes(info)[: min(room, _INFO_SIZE)])


def _write_pieces(argument: Argument, start: int, pieces: list[bytes], room: int) -> int:
    """Write a capability's pieces as far as they fit into `room` as a whole; return its size.

    The head is the last to be written, and only when everything fits.
    """
    head, *rest = pieces
    position = start + len(head)
    for piece in rest:
        if position + len(piece) <= room:
            argument.write(position, piece)
        position += len(piece)
    if position <= room:
        argument.write(start, head)
    return position - start


def _dma_avail() -> list[bytes]:
    """How many mappings can be made: any number, where VFIO's own container says 65535."""
    header = vfio_info_cap_header(id=VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, version=1)
    return [bytes(vfio_iommu_type1_info_dma_avail(header=header, avail=_U32_MAX))]


def _iova_ranges(iopt: IoPagetable) -> list[bytes]:
    """What is not reserved: the head, and each range."""
    holes = [bytes(vfio_iova_range(start=start, end=last)) for start, last in iopt.room.reserved.holes()]
    head = struct.pack("<HHIII", VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, 0, len(holes), 0)
    return [head, *holes]


def _page_sizes(iopt: IoPagetable) -> int:
    """What every domain can do; sizes below a page are shown as a page (iommufd_get_pagesizes)."""
    sizes = ULONG_MAX
    for domain in iopt.domains:
        sizes &= domain.page_sizes
    if sizes & ~_PAGE_MASK:
        sizes = sizes & _PAGE_MASK | PAGE_SIZE
    return max(sizes, iopt.alignment)


_BY_VALUE: dict[int, Callable[[Context, Caller, int], int]] = {
    VFIO_GET_API_VERSION: _get_api_version,
    VFIO_CHECK_EXTENSION: _check_extension,
    VFIO_SET_IOMMU: _set_iommu,
}
_BY_POINTER: dict[int, Callable[[Context, Caller, Argument], None]] = {
    VFIO_IOMMU_GET_INFO: _get_info,
    VFIO_IOMMU_MAP_DMA: _map_dma,
    VFIO_IOMMU_UNMAP_DMA: _unmap_dma,
}
