"""`Type1`: what a container maps with behind an IOMMU, VFIO_TYPE1_IOMMU and VFIO_TYPE1v2_IOMMU.

Follows drivers/vfio/vfio_iommu_type1.c (7.3). Memory is pinned and mapped into every domain when MAP_DMA is called, and
counted as locked memory of the process. The two versions differ in what an unmap may name: version 2 refuses to cut a
mapping in two, version 1 takes all of a mapping whose beginning is in the range, and none otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import sizeof
from errno import EACCES, EBUSY, EINVAL, ENOTTY
from typing import TYPE_CHECKING, ClassVar

from ioas.errors import refuse
from ioas.host import Caller
from ioas.soft.vfio import type1_dirty, type1_info
from ioas.soft.vfio.argument import Argument
from ioas.soft.vfio.type1_mapper import Mapper
from ioas.uapi import vfio as uapi
from ioas.uapi.base import end_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.soft.iommu import System
    from ioas.soft.vfio.group import VfioGroup

_VERSIONS = {uapi.VFIO_TYPE1_IOMMU: False, uapi.VFIO_TYPE1v2_IOMMU: True}
"""Whether it is version 2."""
_MAP_FLAGS = uapi.VFIO_DMA_MAP_FLAG_READ | uapi.VFIO_DMA_MAP_FLAG_WRITE | uapi.VFIO_DMA_MAP_FLAG_VADDR
_MAP_SIZE = end_of(uapi.vfio_iommu_type1_dma_map, "size")
_WITH_BITMAP = uapi.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP
_WHOLE = uapi.VFIO_DMA_UNMAP_FLAG_ALL
_VADDR = uapi.VFIO_DMA_UNMAP_FLAG_VADDR
_UNMAP_SIZE = end_of(uapi.vfio_iommu_type1_dma_unmap, "size")
_START = uapi.VFIO_IOMMU_DIRTY_PAGES_FLAG_START
_STOP = uapi.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP
_GET = uapi.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP
_DIRTY_SIZE = end_of(uapi.vfio_iommu_type1_dirty_bitmap, "flags")


class Type1:
    """A type 1 IOMMU (implements `ioas.soft.vfio.container.IommuDriver`)."""

    serves_noiommu: ClassVar[bool] = False

    def __init__(self, system: System, *, version2: bool) -> None:
        self.version2 = version2
        self.mapper = Mapper(system, version2=version2)
        self._tracking = False

    @classmethod
    def knows(cls, extension: int) -> int:
        """Both versions, and UNMAP_ALL."""
        return int(extension in (*_VERSIONS, uapi.VFIO_UNMAP_ALL))

    @classmethod
    def open(cls, system: System, caller: Caller, kind: int) -> Type1:
        """Of the version that is asked for."""
        return cls(system, version2=_VERSIONS[kind])

    def extension(self, extension: int) -> int:
        """Besides: user addresses can be renewed, and whether all DMA is coherent."""
        if extension == uapi.VFIO_UPDATE_VADDR:
            return 1
        if extension == uapi.VFIO_DMA_CC_IOMMU:
            return int(self.mapper.domains.enforce_coherency)
        return self.knows(extension)

    def attach(self, group: VfioGroup) -> None:
        """Serve `group` too. Raises KernelError: EBUSY while user addresses are lost; and as `Domains.attach`."""
        if self.mapper.lost:
            raise refuse(EBUSY, f"{self.mapper.lost} mappings wait for a new user address", "group", group.name)
        self.mapper.domains.attach(group.group, self.mapper.replay)

    def detach(self, group: VfioGroup) -> None:
        """Serve `group` no more; all mappings go with the last one."""
        self.mapper.domains.detach(group.group, self.mapper.remove_all)

    def release(self) -> None:
        """Nothing is left: the last group has taken it along."""
        self.mapper.remove_all()

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """VFIO_IOMMU_*. Raises KernelError; ENOTTY for a request that is none of these."""
        handler = _COMMANDS.get(request)
        if handler is None:
            raise refuse(ENOTTY, f"{request:#x} is not a request of a container", "request", f"{request:#x}")
        return handler(self, Argument(caller, argument))

    def get_info(self, argument: Argument) -> int:
        """VFIO_IOMMU_GET_INFO. Raises KernelError: EFAULT, EINVAL."""
        return type1_info.get_info(argument, self.mapper)

    def map_dma(self, argument: Argument) -> int:
        """VFIO_IOMMU_MAP_DMA. Raises KernelError: EFAULT, EINVAL, and as `Mapper.map` and `Mapper.renew`."""
        command = uapi.vfio_iommu_type1_dma_map.from_buffer_copy(argument.read(0, _MAP_SIZE))
        if command.argsz < _MAP_SIZE or command.flags & ~_MAP_FLAGS:
            raise refuse(EINVAL, f"argsz {command.argsz} or flags {command.flags:#x} are wrong", "field", "flags")
        self.mapper.map(argument.caller, command)
        return 0

    def unmap_dma(self, argument: Argument) -> int:
        """VFIO_IOMMU_UNMAP_DMA; `size` returns what was removed, if it was not refused.

        Raises KernelError: EFAULT, EINVAL, and as `Mapper.unmap`.
        """
        command = uapi.vfio_iommu_type1_dma_unmap.from_buffer_copy(argument.read(0, _UNMAP_SIZE))
        flags = command.flags
        if command.argsz < _UNMAP_SIZE or flags & ~(_WITH_BITMAP | _WHOLE | _VADDR):
            raise refuse(EINVAL, f"argsz {command.argsz} or flags {flags:#x} are wrong", "field", "flags")
        bitmap = self._bitmap(argument, command) if flags & _WITH_BITMAP else None
        whole, lose = bool(flags & _WHOLE), bool(flags & _VADDR)
        command.size = self.mapper.unmap(
            argument.caller, command.iova, command.size, whole=whole, lose=lose, bitmap=bitmap, tracking=self._tracking
        )
        argument.write(0, bytes(command)[:_UNMAP_SIZE])
        return 0

    def _bitmap(self, argument: Argument, command: uapi.vfio_iommu_type1_dma_unmap) -> uapi.vfio_bitmap:
        """The bitmap behind the structure, after the checks that come before anything else."""
        if command.flags & (_WHOLE | _VADDR):
            raise refuse(EINVAL, "GET_DIRTY_BITMAP does not go with ALL and VADDR", "field", "flags")
        size = sizeof(uapi.vfio_bitmap)
        if command.argsz < _UNMAP_SIZE + size:
            raise refuse(EINVAL, f"argsz {command.argsz} has no room for the bitmap's description", "field", "argsz")
        bitmap = uapi.vfio_bitmap.from_buffer_copy(argument.read(_UNMAP_SIZE, size))
        type1_dirty.check_bitmap(bitmap, command.size)
        return bitmap

    def dirty_pages(self, argument: Argument) -> int:
        """VFIO_IOMMU_DIRTY_PAGES: start, stop, or get the dirty pages of a range.

        Raises KernelError: EACCES for version 1; EFAULT; EINVAL, also for a range whose ends cut a mapping, a page size
        that is not the smallest, and while it is stopped; EOVERFLOW.
        """
        if not self.version2:
            raise refuse(EACCES, "dirty pages are for version 2 (VFIO_TYPE1v2_IOMMU)", "request", "DIRTY_PAGES")
        command = uapi.vfio_iommu_type1_dirty_bitmap.from_buffer_copy(argument.read(0, _DIRTY_SIZE))
        if command.argsz < _DIRTY_SIZE or command.flags not in (_START, _STOP, _GET):
            raise refuse(EINVAL, "argsz is too small, or not one flag of three is given", "field", "flags")
        if command.flags == _GET:
            self._get_dirty(argument, command.argsz - _DIRTY_SIZE)
        else:
            self._tracking = command.flags == _START
        return 0

    def _get_dirty(self, argument: Argument, room: int) -> None:
        size = sizeof(uapi.vfio_iommu_type1_dirty_bitmap_get)
        if room < size:
            raise refuse(EINVAL, f"{room} bytes are no room for the question's {size}", "field", "argsz")
        wanted = uapi.vfio_iommu_type1_dirty_bitmap_get.from_buffer_copy(argument.read(_DIRTY_SIZE, size))
        bitmap, granule = wanted.bitmap, self.mapper.domains.granule
        last = type1_dirty.check_range(wanted.iova, wanted.size)
        type1_dirty.check_bitmap(bitmap, wanted.size)
        if bitmap.pgsize != granule or (wanted.iova | wanted.size) & granule - 1:
            raise refuse(EINVAL, f"pages of the smallest size, {granule:#x}, are counted", "field", "pgsize")
        if not self._tracking:
            raise refuse(EINVAL, "dirty pages are not tracked (FLAG_START)", "field", "flags")
        maps = self.mapper.maps
        if (cut := maps.cut_by(wanted.iova, last)) is not None:
            raise refuse(EINVAL, "the range cuts a mapping in two", "area", cut)
        inside = maps.within(wanted.iova, last)
        type1_dirty.write_bitmap(argument.caller.memory, bitmap.data, wanted.iova, granule, inside)


_COMMANDS: dict[int, Callable[[Type1, Argument], int]] = {
    uapi.VFIO_IOMMU_GET_INFO: Type1.get_info,
    uapi.VFIO_IOMMU_MAP_DMA: Type1.map_dma,
    uapi.VFIO_IOMMU_UNMAP_DMA: Type1.unmap_dma,
    uapi.VFIO_IOMMU_DIRTY_PAGES: Type1.dirty_pages,
}
