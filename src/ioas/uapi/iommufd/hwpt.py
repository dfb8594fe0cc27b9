"""Page tables that devices use: allocation, dirty tracking, invalidation (include/uapi/linux/iommufd.h, 7.3)."""

from typing import Annotated

from ioas.uapi.base import IO, Struct, u32, u64, u64_array
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_HWPT_ALLOC,
    IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP,
    IOMMUFD_CMD_HWPT_INVALIDATE,
    IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING,
    IOMMUFD_TYPE,
)

IOMMU_HWPT_ALLOC_NEST_PARENT = 1 << 0
IOMMU_HWPT_ALLOC_DIRTY_TRACKING = 1 << 1
IOMMU_HWPT_FAULT_ID_VALID = 1 << 2
IOMMU_HWPT_ALLOC_PASID = 1 << 3

IOMMU_VTD_S1_SRE = 1 << 0
IOMMU_VTD_S1_EAFE = 1 << 1
IOMMU_VTD_S1_WPE = 1 << 2


class iommu_hwpt_vtd_s1(Struct):
    """A VT-d first-stage page table kept by the user (IOMMU_HWPT_DATA_VTD_S1). 24 bytes."""

    flags: u64
    pgtbl_addr: u64
    addr_width: u32
    __reserved: u32


class iommu_hwpt_arm_smmuv3(Struct):
    """The first two words of an SMMUv3 stream table entry, little-endian (IOMMU_HWPT_DATA_ARM_SMMUV3). 16 bytes.

    EIO for an entry that is illegal or sets what the user may not.
    """

    ste: Annotated[u64_array, 2]


class iommu_hwpt_amd_guest(Struct):
    """An AMD guest device table entry (IOMMU_HWPT_DATA_AMD_GUEST). 32 bytes."""

    dte: Annotated[u64_array, 4]


IOMMU_HWPT_DATA_NONE = 0
IOMMU_HWPT_DATA_VTD_S1 = 1
IOMMU_HWPT_DATA_ARM_SMMUV3 = 2
IOMMU_HWPT_DATA_AMD_GUEST = 3


class iommu_hwpt_alloc(Struct):
    """Make a page table for a device. 48 bytes.

    `pt_id` is an IOAS for a table that the kernel fills (`data_type` NONE, `data_len` 0), or a parent table or
    vIOMMU for a nested one that the user fills (`data_*` describe it). EOPNOTSUPP for flags that the device's
    IOMMU cannot serve; ENOENT for an unknown `fault_id`; EINVAL for another kind of `pt_id`.
    """

    size: u32
    flags: u32
    dev_id: u32
    pt_id: u32
    out_hwpt_id: u32
    __reserved: u32
    data_type: u32
    data_len: u32
    data_uptr: u64
    fault_id: u32
    __reserved2: u32


IOMMU_HWPT_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_ALLOC)


IOMMU_HWPT_DIRTY_TRACKING_ENABLE = 1


class iommu_hwpt_set_dirty_tracking(Struct):
    """Turn the tracking of written pages on or off. 16 bytes. EOPNOTSUPP when the table was made without."""

    size: u32
    flags: u32
    hwpt_id: u32
    __reserved: u32


IOMMU_HWPT_SET_DIRTY_TRACKING = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING)

# Leave the dirty bits as they are: for a reader that unmaps next.
IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 1


class iommu_hwpt_get_dirty_bitmap(Struct):
    """Which units of `page_size` bytes in a range were written by DMA: one bit each, or'ed into `data`. 48 bytes."""

    size: u32
    hwpt_id: u32
    flags: u32
    __reserved: u32
    iova: u64
    length: u64
    page_size: u64
    data: u64


IOMMU_HWPT_GET_DIRTY_BITMAP = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP)

IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 = 0
IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 = 1

IOMMU_VTD_INV_FLAGS_LEAF = 1 << 0


class iommu_hwpt_vtd_s1_invalidate(Struct):
    """Forget translations of `npages` 4 KiB pages from `addr`; `addr` 0 and `npages` 2**64-1 mean all. 24 bytes."""

    addr: u64
    npages: u64
    flags: u32
    __reserved: u32


class iommu_viommu_arm_smmuv3_invalidate(Struct):
    """One 128-bit SMMUv3 invalidation command, little-endian. 16 bytes. EIO for one that is not allowed."""

    cmd: Annotated[u64_array, 2]


class iommu_hwpt_invalidate(Struct):
    """Forget cached translations of a nested table or a vIOMMU. 32 bytes.

    `entry_num` entries of `entry_len` bytes at `data_uptr`; `entry_num` returns how many were carried out, and
    with 0 the call only asks whether `data_type` is known.
    """

    size: u32
    hwpt_id: u32
    data_uptr: u64
    data_type: u32
    entry_len: u32
    entry_num: u32
    __reserved: u32


IOMMU_HWPT_INVALIDATE = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_INVALIDATE)
