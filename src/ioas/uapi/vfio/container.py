"""VFIO groups, containers and their type 1 IOMMU (include/uapi/linux/vfio.h, 7.3): the older way to a device.

A group (/dev/vfio/N) is set into a container (/dev/vfio/vfio), which maps memory for all its devices.
"""

from typing import Annotated

from ioas.uapi.base import IO, Struct, pointer, u8_array, u32, u64
from ioas.uapi.vfio.common import VFIO_BASE, VFIO_TYPE, vfio_info_cap_header

# Of a container; the results are the answer.
VFIO_GET_API_VERSION = IO(VFIO_TYPE, VFIO_BASE + 0)
# Argument: an extension. 0 or positive.
VFIO_CHECK_EXTENSION = IO(VFIO_TYPE, VFIO_BASE + 1)
# Argument: an IOMMU type. EINVAL without a group or when set before; ENODEV when none serves it.
VFIO_SET_IOMMU = IO(VFIO_TYPE, VFIO_BASE + 2)

VFIO_GROUP_FLAGS_VIABLE = 1 << 0
VFIO_GROUP_FLAGS_CONTAINER_SET = 1 << 1


class vfio_group_status(Struct):
    """Whether all devices of the group are free for user space, and whether it has a container. 8 bytes."""

    argsz: u32
    flags: u32


VFIO_GROUP_GET_STATUS = IO(VFIO_TYPE, VFIO_BASE + 3)
# Argument: pointer to the s32 descriptor of a container, or of an iommufd with a compatibility IOAS.
VFIO_GROUP_SET_CONTAINER = IO(VFIO_TYPE, VFIO_BASE + 4)
# EINVAL without a container; EBUSY while a device is open.
VFIO_GROUP_UNSET_CONTAINER = IO(VFIO_TYPE, VFIO_BASE + 5)
# Argument: a NUL-terminated name such as "0000:01:00.0". The result is a descriptor; ENODEV for an unknown name.
VFIO_GROUP_GET_DEVICE_FD = IO(VFIO_TYPE, VFIO_BASE + 6)

VFIO_IOMMU_INFO_PGSIZES = 1 << 0
VFIO_IOMMU_INFO_CAPS = 1 << 1


class vfio_iommu_type1_info(Struct):
    """Page sizes (a bitmap) and, in a chain of capabilities, IOVA ranges and limits. 24 bytes."""

    argsz: u32
    flags: u32
    iova_pgsizes: u64
    cap_offset: u32
    pad: u32


VFIO_IOMMU_GET_INFO = IO(VFIO_TYPE, VFIO_BASE + 12)

VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1
VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2
VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3


class vfio_iova_range(Struct):
    """An interval of usable IOVA; `end` is included, despite its name. 16 bytes."""

    start: u64
    end: u64


class vfio_iommu_type1_info_cap_iova_range(Struct):
    """Capability: the usable IOVA. 16 bytes and the ranges."""

    header: vfio_info_cap_header
    nr_iovas: u32
    reserved: u32
    # struct vfio_iova_range iova_ranges[nr_iovas]
    iova_ranges: Annotated[vfio_iova_range, 0]


class vfio_iommu_type1_info_cap_migration(Struct):
    """Capability: dirty page logging, its page sizes (a bitmap) and the largest bitmap in bytes. 32 bytes."""

    header: vfio_info_cap_header
    flags: u32
    pgsize_bitmap: u64
    max_dirty_bitmap_size: u64


class vfio_iommu_type1_info_dma_avail(Struct):
    """Capability: how many more mappings can be made. 12 bytes."""

    header: vfio_info_cap_header
    avail: u32


VFIO_DMA_MAP_FLAG_READ = 1 << 0
VFIO_DMA_MAP_FLAG_WRITE = 1 << 1
VFIO_DMA_MAP_FLAG_VADDR = 1 << 2


class vfio_iommu_type1_dma_map(Struct):
    """Map user memory at an IOVA. 32 bytes.

    EEXIST: overlaps; EINVAL: misaligned, reserved, empty, neither READ nor WRITE; ENOSPC: too many mappings;
    ENOMEM: beyond the locked-memory limit; EFAULT: no such memory. FLAG_VADDR only renews a lost `vaddr`.
    """

    argsz: u32
    flags: u32
    vaddr: u64
    iova: u64
    size: u64


VFIO_IOMMU_MAP_DMA = IO(VFIO_TYPE, VFIO_BASE + 13)


class vfio_bitmap(Struct):
    """A bitmap in user memory: one bit for each `pgsize` bytes, `size` bytes long. 24 bytes."""

    pgsize: u64
    size: u64
    data: pointer


VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1 << 0
VFIO_DMA_UNMAP_FLAG_ALL = 1 << 1
VFIO_DMA_UNMAP_FLAG_VADDR = 1 << 2


class vfio_iommu_type1_dma_unmap(Struct):
    """Unmap; `size` returns the bytes removed. 24 bytes, then a `vfio_bitmap` with GET_DIRTY_BITMAP.

    FLAG_ALL takes `iova` 0 and `size` 0. EINVAL: a mapping would be cut in two.
    """

    argsz: u32
    flags: u32
    iova: u64
    size: u64
    data: Annotated[u8_array, 0]


VFIO_IOMMU_UNMAP_DMA = IO(VFIO_TYPE, VFIO_BASE + 14)
VFIO_IOMMU_ENABLE = IO(VFIO_TYPE, VFIO_BASE + 15)
VFIO_IOMMU_DISABLE = IO(VFIO_TYPE, VFIO_BASE + 16)

VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 1 << 0
VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 1 << 1
VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 1 << 2


class vfio_iommu_type1_dirty_bitmap(Struct):
    """Start or stop logging of dirty pages, or get them (one flag at a time). 8 bytes, then the question."""

    argsz: u32
    flags: u32
    data: Annotated[u8_array, 0]


class vfio_iommu_type1_dirty_bitmap_get(Struct):
    """The range whose dirty pages are asked for. 40 bytes."""

    iova: u64
    size: u64
    bitmap: vfio_bitmap


VFIO_IOMMU_DIRTY_PAGES = IO(VFIO_TYPE, VFIO_BASE + 17)
