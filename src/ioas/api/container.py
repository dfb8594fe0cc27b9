"""`Container`: an open /dev/vfio/vfio, which maps memory for groups of devices; iommufd's predecessor.

The file is VFIO's own, or iommufd stands behind it (CONFIG_IOMMUFD_VFIO_CONTAINER): the calls are the same. It has one
address space, which is there as soon as a group is.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Literal, NamedTuple

from ioas.api.checks import U32_LAST, whole
from ioas.api.container_space import ContainerSpace
from ioas.api.files import OpenFile, Session
from ioas.api.physical_space import PhysicalSpace
from ioas.api.space import IovaRange
from ioas.errors import KernelError, UsageError
from ioas.uapi.vfio import (
    VFIO_CHECK_EXTENSION,
    VFIO_GET_API_VERSION,
    VFIO_IOMMU_GET_INFO,
    VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_NOIOMMU_IOMMU,
    VFIO_SET_IOMMU,
    VFIO_TYPE1_IOMMU,
    VFIO_TYPE1v2_IOMMU,
    vfio_info_cap_header,
    vfio_iommu_type1_info,
    vfio_iommu_type1_info_cap_iova_range,
    vfio_iommu_type1_info_cap_migration,
    vfio_iommu_type1_info_dma_avail,
    vfio_iova_range,
)

if TYPE_CHECKING:
    from ioas.api.group import Group

IommuKind = Literal["type1v2", "type1", "noiommu"]

_KINDS: dict[IommuKind, int] = {
    "type1v2": VFIO_TYPE1v2_IOMMU,
    "type1": VFIO_TYPE1_IOMMU,
    "noiommu": VFIO_NOIOMMU_IOMMU,
}

_UNKNOWN_RANGES: tuple[IovaRange, ...] = (IovaRange(0, 0xFEDF_FFFF),)
"""For kernels that do not tell (before 5.4): what every x86 IOMMU can, below the window of message interrupts."""


class ContainerInfo(NamedTuple):
    """What a type 1 container can: bitmaps of page sizes, usable IOVA, what it says of dirty pages and of mappings.

    `dirty_page_sizes` is 0 and `largest_bitmap` (bytes) too where it does not track them; `mappings_left` is None where
    it does not tell.
    """

    page_sizes: int
    ranges: tuple[IovaRange, ...]
    dirty_page_sizes: int
    largest_bitmap: int
    mappings_left: int | None


class Container(OpenFile):
    """An open /dev/vfio/vfio. Closing it ends its address space, unless groups are still in it."""

    def __init__(self, session: Session, kind: IommuKind | None = None, path: str = "/dev/vfio/vfio") -> None:
        """`kind`: what its groups have to be served by; None tries. Raises UsageError; KernelError as open(2) does."""
        if kind is not None and kind not in _KINDS:
            raise UsageError(f"{kind!r} is no kind of container; kinds are {', '.join(_KINDS)}")
        self._wanted = kind
        self.kind: IommuKind | None = None
        self._space: ContainerSpace | PhysicalSpace | None = None
        self._groups: set[Group] = set()
        super().__init__(session, path)

    @property
    def api_version(self) -> int:
        """VFIO_GET_API_VERSION: 0."""
        return self.ioctl(VFIO_GET_API_VERSION)

    def extension(self, number: int) -> int:
        """VFIO_CHECK_EXTENSION: 0 when it does not have an extension (VFIO_*_IOMMU and others)."""
        return self.ioctl(VFIO_CHECK_EXTENSION, whole("number", number, U32_LAST))

    def add(self, group: Group) -> None:
        """Take a group in, and choose how to serve it if it is the first. Raises KernelError; UsageError."""
        group.set_container(self)
        self._groups.add(group)
        if self._space is not None:
            return
        try:
            self.kind = self._set_iommu()
        except BaseException:
            group.unset_container()
            raise
        self._space = PhysicalSpace(self) if self.kind == "noiommu" else ContainerSpace(self)

    def ioas(self) -> ContainerSpace | PhysicalSpace:
        """Its address space. Raises UsageError before a device was bound."""
        self.check_open()
        if self._space is None:
            raise UsageError("a container has no address space before a device is bound to it")
        return self._space

    def info(self) -> ContainerInfo:
        """VFIO_IOMMU_GET_INFO, with its capabilities. Raises InvalidArgument before a device was bound."""
        size = ctypes.sizeof(vfio_iommu_type1_info)
        answer = bytearray(size)
        while True:
            answer[:4] = len(answer).to_bytes(4, "little")
            self.ioctl(VFIO_IOMMU_GET_INFO, answer)
            info = vfio_iommu_type1_info.from_buffer_copy(answer)
            if info.argsz <= len(answer):
                return _parse(info, bytes(answer))
            answer = bytearray(info.argsz)

    def left_by(self, group: Group) -> None:
        """A group has gone; the last one takes the address space with it."""
        self._groups.discard(group)
        if not self._groups:
            self._end()

    def close(self) -> None:
        """Close it, and let go of the buffers that were mapped through it. Idempotent."""
        try:
            super().close()
        finally:
            self._end()

    def _end(self) -> None:
        space, self._space, self.kind = self._space, None, None
        if space is not None:
            space.forget()

    def _set_iommu(self) -> IommuKind:
        """Let the kernel say which kind serves the groups: the first that it takes."""
        refused: KernelError | None = None
        for kind in _KINDS if self._wanted is None else (self._wanted,):
            if not self.extension(_KINDS[kind]) and self._wanted is None:
                continue
            try:
                self.ioctl(VFIO_SET_IOMMU, _KINDS[kind])
                return kind
            except KernelError as error:
                refused = refused or error
        raise refused or UsageError(f"{self!r} knows no kind of IOMMU that this library does: {', '.join(_KINDS)}")


def _parse(info: vfio_iommu_type1_info, answer: bytes) -> ContainerInfo:
    ranges, sizes, largest, left = _UNKNOWN_RANGES, 0, 0, None
    at = info.cap_offset if info.flags & VFIO_IOMMU_INFO_CAPS else 0
    while at:
        header = vfio_info_cap_header.from_buffer_copy(answer, at)
        if header.id == VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE:
            ranges = _parse_ranges(answer, at)
        elif header.id == VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION:
            migration = vfio_iommu_type1_info_cap_migration.from_buffer_copy(answer, at)
            sizes, largest = migration.pgsize_bitmap, migration.max_dirty_bitmap_size
        elif header.id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL:
            left = vfio_iommu_type1_info_dma_avail.from_buffer_copy(answer, at).avail
        at = header.next
    return ContainerInfo(info.iova_pgsizes, ranges, sizes, largest, left)


def _parse_ranges(answer: bytes, at: int) -> tuple[IovaRange, ...]:
    size = ctypes.sizeof(vfio_iommu_type1_info_cap_iova_range)
    count = vfio_iommu_type1_info_cap_iova_range.from_buffer_copy(answer, at).nr_iovas
    table = (vfio_iova_range * count).from_buffer_copy(answer, at + size)
    return tuple(IovaRange(one.start, one.end) for one in table)
