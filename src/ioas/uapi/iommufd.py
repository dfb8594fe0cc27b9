"""iommufd: every structure, ioctl number and flag of include/uapi/linux/iommufd.h (Linux 7.3).

One module for the one header, longer than most for that reason. Each ioctl takes a pointer to its structure,
whose first field `size` is the caller's sizeof: a larger one is taken when its unknown tail is zero (else E2BIG),
a shorter one down to the command's first version (else EINVAL). Across all commands:

    ENOTTY      the number is unknown
    EOPNOTSUPP  a flag, type or reserved field has a value that this kernel does not know
    EINVAL      all was understood and a value is wrong
    ENOENT      no such object (or one of another kind), or no such IOVA
    EFAULT      the structure or what it points to is not there
    ENOMEM, EOVERFLOW   out of memory; a range that wraps

Intervals are inclusive (`start`, `last`); lengths are bytes; `*_id` are object ids of this open file, from 1.
"""

from typing import Annotated

from ioas.uapi.base import IO, OVERLAY, Struct, s32, u8, u8_array, u16, u32, u32_array, u64, u64_array

IOMMUFD_TYPE = ";"

IOMMUFD_CMD_BASE = 0x80
IOMMUFD_CMD_DESTROY = 0x80
IOMMUFD_CMD_IOAS_ALLOC = 0x81
IOMMUFD_CMD_IOAS_ALLOW_IOVAS = 0x82
IOMMUFD_CMD_IOAS_COPY = 0x83
IOMMUFD_CMD_IOAS_IOVA_RANGES = 0x84
IOMMUFD_CMD_IOAS_MAP = 0x85
IOMMUFD_CMD_IOAS_UNMAP = 0x86
IOMMUFD_CMD_OPTION = 0x87
IOMMUFD_CMD_VFIO_IOAS = 0x88
IOMMUFD_CMD_HWPT_ALLOC = 0x89
IOMMUFD_CMD_GET_HW_INFO = 0x8A
IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING = 0x8B
IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP = 0x8C
IOMMUFD_CMD_HWPT_INVALIDATE = 0x8D
IOMMUFD_CMD_FAULT_QUEUE_ALLOC = 0x8E
IOMMUFD_CMD_IOAS_MAP_FILE = 0x8F
IOMMUFD_CMD_VIOMMU_ALLOC = 0x90
IOMMUFD_CMD_VDEVICE_ALLOC = 0x91
IOMMUFD_CMD_IOAS_CHANGE_PROCESS = 0x92
IOMMUFD_CMD_VEVENTQ_ALLOC = 0x93
IOMMUFD_CMD_HW_QUEUE_ALLOC = 0x94
IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA = 0x95


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

# The unit forbids read-only mappings in a nesting parent (erratum 772415).
IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17 = 1 << 0


class iommu_hw_info_vtd(Struct):
    """The capability registers of a VT-d unit (specification 11.4.2 and 11.4.3). 24 bytes."""

    flags: u32
    __reserved: u32
    cap_reg: u64
    ecap_reg: u64


# The user has to issue TLBI and CFGI twice.
IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI = 1 << 0


class iommu_hw_info_arm_smmuv3(Struct):
    """The identification registers of an SMMUv3. 40 bytes."""

    flags: u32
    __reserved: u32
    idr: Annotated[u32_array, 6]
    iidr: u32
    aidr: u32


class iommu_hw_info_tegra241_cmdqv(Struct):
    """Sizes of Tegra241's virtual command queues. 8 bytes."""

    flags: u32
    version: u8
    log2vcmdqs: u8
    log2vsids: u8
    __reserved: u8


class iommu_hw_info_amd(Struct):
    """The two extended feature registers of an AMD IOMMU (MMIO 0x30 and 0x1a0). 16 bytes."""

    efr: u64
    efr2: u64


IOMMU_HW_INFO_TYPE_NONE = 0
IOMMU_HW_INFO_TYPE_DEFAULT = 0
IOMMU_HW_INFO_TYPE_INTEL_VTD = 1
IOMMU_HW_INFO_TYPE_ARM_SMMUV3 = 2
IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV = 3
IOMMU_HW_INFO_TYPE_AMD = 4

IOMMU_HW_CAP_DIRTY_TRACKING = 1 << 0
IOMMU_HW_CAP_PCI_PASID_EXEC = 1 << 1
IOMMU_HW_CAP_PCI_PASID_PRIV = 1 << 2
IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED = 1 << 3

# `in_data_type` asks for one type; without it the default type is answered.
IOMMU_HW_INFO_FLAG_INPUT_TYPE = 1 << 0


class iommu_hw_info(Struct):
    """What the IOMMU in front of a device is. 40 bytes.

    Fills up to `data_len` bytes at `data_uptr` and zeroes the rest of the buffer; `data_len` returns what the
    kernel has. `out_max_pasid_log2` 0 means no PASID. EOPNOTSUPP for an unknown type.
    """

    size: u32
    flags: u32
    dev_id: u32
    data_len: u32
    data_uptr: u64
    in_data_type: u32
    out_data_type: Annotated[u32, OVERLAY]
    out_max_pasid_log2: u8
    __reserved: Annotated[u8_array, 3]
    out_capabilities: u64


IOMMU_GET_HW_INFO = IO(IOMMUFD_TYPE, IOMMUFD_CMD_GET_HW_INFO)

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


class iommu_ioas_change_process(Struct):
    """Charge all pinned memory of this file to the calling process from now on. 8 bytes.

    EINVAL unless every mapping came from MAP_FILE; a failure changes nothing.
    """

    size: u32
    __reserved: u32


IOMMU_IOAS_CHANGE_PROCESS = IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_CHANGE_PROCESS)

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
