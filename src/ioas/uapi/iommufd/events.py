"""Page requests of devices and events of virtual IOMMUs, read from queues (include/uapi/linux/iommufd.h, 7.3)."""

from typing import Annotated

from ioas.uapi.base import IO, Struct, u32, u64, u64_array
from ioas.uapi.iommufd.common import IOMMUFD_CMD_FAULT_QUEUE_ALLOC, IOMMUFD_CMD_VEVENTQ_ALLOC, IOMMUFD_TYPE

IOMMU_PGFAULT_FLAGS_PASID_VALID = 1 << 0
IOMMU_PGFAULT_FLAGS_LAST_PAGE = 1 << 1

IOMMU_PGFAULT_PERM_READ = 1 << 0
IOMMU_PGFAULT_PERM_WRITE = 1 << 1
IOMMU_PGFAULT_PERM_EXEC = 1 << 2
IOMMU_PGFAULT_PERM_PRIV = 1 << 3


class iommu_hwpt_pgfault(Struct):
    """A page request of a device, as read from a fault queue. 40 bytes.

    The response to a group (`grpid`) echoes the `cookie` of its last fault. `length` is a hint in bytes, or 0.
    """

    flags: u32
    dev_id: u32
    pasid: u32
    grpid: u32
    perm: u32
    __reserved: u32
    addr: u64
    length: u32
    cookie: u32


IOMMUFD_PAGE_RESP_SUCCESS = 0
IOMMUFD_PAGE_RESP_INVALID = 1


class iommu_hwpt_page_response(Struct):
    """The answer to a group of page requests, as written to a fault queue. 8 bytes."""

    cookie: u32
    code: u32


class iommu_fault_alloc(Struct):
    """Make a fault queue, which is read and written through `out_fault_fd`. 16 bytes."""

    size: u32
    flags: u32
    out_fault_id: u32
    out_fault_fd: u32


IOMMU_FAULT_QUEUE_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_FAULT_QUEUE_ALLOC)


IOMMU_VEVENTQ_FLAG_LOST_EVENTS = 1 << 0


class iommufd_vevent_header(Struct):
    """Stands before each virtual event. 8 bytes.

    `sequence` counts modulo 2**31; a gap, or a last header with LOST_EVENTS and no data, tells of lost events.
    """

    flags: u32
    sequence: u32


IOMMU_VEVENTQ_TYPE_DEFAULT = 0
IOMMU_VEVENTQ_TYPE_ARM_SMMUV3 = 1
IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV = 2


class iommu_vevent_arm_smmuv3(Struct):
    """An SMMUv3 event record (specification 7.3), little-endian, with virtual stream id. 32 bytes."""

    evt: Annotated[u64_array, 4]


class iommu_vevent_tegra241_cmdqv(Struct):
    """Which logical command queues are in error, one bit each, little-endian. 16 bytes."""

    lvcmdq_err_map: Annotated[u64_array, 2]


class iommu_veventq_alloc(Struct):
    """Make a queue of a vIOMMU's events, read through `out_veventq_fd`. 32 bytes.

    EEXIST: one of this type is there; EINVAL: `veventq_depth` is not in 1 to 2**19.
    """

    size: u32
    flags: u32
    viommu_id: u32
    type: u32
    veventq_depth: u32
    out_veventq_id: u32
    out_veventq_fd: u32
    __reserved: u32


IOMMU_VEVENTQ_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_VEVENTQ_ALLOC)
