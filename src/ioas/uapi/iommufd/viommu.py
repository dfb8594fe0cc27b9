"""Virtual IOMMUs, their devices and hardware queues (include/uapi/linux/iommufd.h, 7.3)."""

from ioas.uapi.base import IO, Struct, u32, u64
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_HW_QUEUE_ALLOC,
    IOMMUFD_CMD_VDEVICE_ALLOC,
    IOMMUFD_CMD_VIOMMU_ALLOC,
    IOMMUFD_TYPE,
)

IOMMU_VIOMMU_TYPE_DEFAULT = 0
IOMMU_VIOMMU_TYPE_ARM_SMMUV3 = 1
IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV = 2


class iommu_viommu_tegra241_cmdqv(Struct):
    """Where to mmap the virtual interface's first page. 16 bytes."""

    out_vintf_mmap_offset: u64
    out_vintf_mmap_length: u64


class iommu_viommu_alloc(Struct):
    """Make a virtual IOMMU: one guest's slice of the IOMMU in front of a device. 40 bytes.

    `hwpt_id` is a nesting parent (else EINVAL); EOPNOTSUPP for a type that the IOMMU does not offer.
    """

    size: u32
    flags: u32
    type: u32
    dev_id: u32
    hwpt_id: u32
    out_viommu_id: u32
    data_len: u32
    __reserved: u32
    data_uptr: u64


IOMMU_VIOMMU_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_VIOMMU_ALLOC)


class iommu_vdevice_alloc(Struct):
    """Give a device its identity (`virt_id`: stream id, requester id) on a virtual IOMMU. 24 bytes.

    EEXIST: the device has one, or the id is taken; EINVAL: the device is behind another IOMMU.
    """

    size: u32
    viommu_id: u32
    dev_id: u32
    out_vdevice_id: u32
    virt_id: u64


IOMMU_VDEVICE_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_VDEVICE_ALLOC)


IOMMU_HW_QUEUE_TYPE_DEFAULT = 0
IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV = 1


class iommu_hw_queue_alloc(Struct):
    """Let the hardware work on a guest's queue in memory; the IOVA stays locked meanwhile. 48 bytes.

    EINVAL: length 0; ENOENT: not mapped; EFAULT: not contiguous in physical memory; EOVERFLOW: wraps.
    """

    size: u32
    flags: u32
    viommu_id: u32
    type: u32
    index: u32
    out_hw_queue_id: u32
    nesting_parent_iova: u64
    length: u64


IOMMU_HW_QUEUE_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_HW_QUEUE_ALLOC)
