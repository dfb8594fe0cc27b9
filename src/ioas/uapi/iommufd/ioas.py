"""I/O address spaces: what is mapped where, for whom (include/uapi/linux/iommufd.h, 7.3)."""

from ioas.uapi.base import IO, Struct, s32, u16, u32, u64
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_DESTROY,
    IOMMUFD_CMD_IOAS_ALLOC,
    IOMMUFD_CMD_IOAS_ALLOW_IOVAS,
    IOMMUFD_CMD_IOAS_CHANGE_PROCESS,
    IOMMUFD_CMD_IOAS_COPY,
    IOMMUFD_CMD_IOAS_IOVA_RANGES,
    IOMMUFD_CMD_IOAS_MAP,
    IOMMUFD_CMD_IOAS_MAP_FILE,
    IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA,
    IOMMUFD_CMD_IOAS_UNMAP,
    IOMMUFD_CMD_OPTION,
    IOMMUFD_CMD_VFIO_IOAS,
    IOMMUFD_TYPE,
)


class iommu_destroy(Struct):
    """Destroy an object by id. EBUSY while another object uses it. 8 bytes."""

    size: u32
    id: u32


IOMMU_DESTROY = IO(IOMMUFD_TYPE, IOMMUFD_CMD_DESTROY)


class iommu_ioas_alloc(Struct):
    """Make an empty I/O address space. `flags` 0. 12 bytes."""

    size: u32
    flags: u32
    out_ioas_id: u32


IOMMU_IOAS_ALLOC = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOC)


class iommu_iova_range(Struct):
    """An interval of IOVA, both ends included. 16 bytes."""

    start: u64
    last: u64


class iommu_ioas_iova_ranges(Struct):
    """Ask which IOVA can be mapped now: it narrows with every attached device. 32 bytes.

    `allowed_iovas` points to an array of `num_iovas` `iommu_iova_range`; `num_iovas` comes back as the number
    there are, with EMSGSIZE when the array was too short. Start and end of every mapping must be multiples of
    `out_iova_alignment` (1 to 4096).
    """

    size: u32
    ioas_id: u32
    num_iovas: u32
    __reserved: u32
    allowed_iovas: u64
    out_iova_alignment: u64


IOMMU_IOAS_IOVA_RANGES = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_IOVA_RANGES)


class iommu_ioas_allow_iovas(Struct):
    """Promise ranges to the user: nothing may narrow them, and automatic IOVA comes from them alone. 24 bytes.

    Replaces the whole list; `num_iovas` 0 clears it. EADDRINUSE when a range clashes with a reservation,
    EINVAL when ranges overlap or `start` is not below `last`.
    """

    size: u32
    ioas_id: u32
    num_iovas: u32
    __reserved: u32
    allowed_iovas: u64


IOMMU_IOAS_ALLOW_IOVAS = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOW_IOVAS)

# Flags of MAP, MAP_FILE and COPY. Without FIXED_IOVA the kernel picks the IOVA.
IOMMU_IOAS_MAP_FIXED_IOVA = 1 << 0
IOMMU_IOAS_MAP_WRITEABLE = 1 << 1
IOMMU_IOAS_MAP_READABLE = 1 << 2


class iommu_ioas_map(Struct):
    """Map user memory for DMA. 40 bytes.

    EEXIST: the IOVA is taken; ENOSPC: none is free; EINVAL: misaligned, reserved, or neither readable nor
    writeable; EFAULT: no such memory; ENOMEM: beyond the locked-memory limit; EOVERFLOW: wraps around.
    """

    size: u32
    flags: u32
    ioas_id: u32
    __reserved: u32
    user_va: u64
    length: u64
    iova: u64


IOMMU_IOAS_MAP = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP)


class iommu_ioas_noiommu_get_pa(Struct):
    """Physical address behind a mapped IOVA of a no-IOMMU device, and how far it is contiguous. 40 bytes.

    `length` limits the question (not 0) and returns the contiguous bytes from `out_phys`. EPERM without
    CAP_SYS_RAWIO; EOPNOTSUPP when the IOAS serves no such device.
    """

    size: u32
    flags: u32
    ioas_id: u32
    __reserved: u32
    iova: u64
    length: u64
    out_phys: u64


IOMMU_IOAS_NOIOMMU_GET_PA = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA)


class iommu_ioas_map_file(Struct):
    """Map pages of a memfd, or of a dma-buf that VFIO exported, from byte `start` of the file. 40 bytes.

    Errors of MAP, and EBADF for `fd`, EINVAL beyond the end of the file, ENODEV for a revoked dma-buf.
    """

    size: u32
    flags: u32
    ioas_id: u32
    fd: s32
    start: u64
    length: u64
    iova: u64


IOMMU_IOAS_MAP_FILE = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP_FILE)


class iommu_ioas_copy(Struct):
    """Map in one IOAS what is mapped in another (or the same): the pages are shared, not pinned again. 40 bytes.

    ENOENT for a hole in the source; else the errors of MAP.
    """

    size: u32
    flags: u32
    dst_ioas_id: u32
    src_ioas_id: u32
    length: u64
    dst_iova: u64
    src_iova: u64


IOMMU_IOAS_COPY = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_COPY)


class iommu_ioas_unmap(Struct):
    """Remove every mapping inside a range; `length` returns the bytes removed. 24 bytes.

    Mappings go whole: ENOENT when one is cut by the range or none is there. `iova` 0 with `length` 2**64-1
    removes all. EBUSY while a hardware queue uses the memory.
    """

    size: u32
    ioas_id: u32
    iova: u64
    length: u64


IOMMU_IOAS_UNMAP = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_UNMAP)

# Whom pinned memory is charged to: 0 the user, 1 the process. For the whole file (object_id 0), CAP_SYS_RESOURCE.
IOMMU_OPTION_RLIMIT_MODE = 0
# Whether an IOAS joins contiguous pages into large table entries: 1 yes, 0 no.
IOMMU_OPTION_HUGE_PAGES = 1

IOMMU_OPTION_OP_SET = 0
IOMMU_OPTION_OP_GET = 1


class iommu_option(Struct):
    """Set or get an option of the file or of one object. 24 bytes.

    EPERM: RLIMIT_MODE without privilege; EBUSY: RLIMIT_MODE once objects exist; EINVAL: a value that is none.
    """

    size: u32
    option_id: u32
    op: u16
    __reserved: u16
    object_id: u32
    val64: u64


IOMMU_OPTION = IO(IOMMUFD_TYPE, IOMMUFD_CMD_OPTION)

IOMMU_VFIO_IOAS_GET = 0
IOMMU_VFIO_IOAS_SET = 1
IOMMU_VFIO_IOAS_CLEAR = 2


class iommu_vfio_ioas(Struct):
    """Which IOAS stands for the container when this file is used as a VFIO container. 12 bytes.

    ENODEV: GET while there is none.
    """

    size: u32
    ioas_id: u32
    op: u16
    __reserved: u16


IOMMU_VFIO_IOAS = IO(IOMMUFD_TYPE, IOMMUFD_CMD_VFIO_IOAS)


class iommu_ioas_change_process(Struct):
    """Charge all pinned memory of this file to the calling process from now on. 8 bytes.

    EINVAL unless every mapping came from MAP_FILE; a failure changes nothing.
    """

    size: u32
    __reserved: u32


IOMMU_IOAS_CHANGE_PROCESS = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_CHANGE_PROCESS)
