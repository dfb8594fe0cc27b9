"""The kernel selftests' own ioctl, from drivers/iommu/iommufd/iommufd_test.h (Linux 7.3).

One request number, IOMMU_TEST_CMD, makes mock devices and looks into page tables and pins; it exists only where
the kernel was built with CONFIG_IOMMUFD_TEST, or under ``ioas run --iommufd-test``. `op` picks the operation and
with it the member of the union in `iommu_test_cmd`; `id` is the object it works on.
"""

from typing import Annotated

from ioas.uapi.base import IO, OVERLAY, Struct, s32, u32, u64
from ioas.uapi.iommufd import IOMMUFD_CMD_BASE, IOMMUFD_TYPE

IOMMU_TEST_OP_ADD_RESERVED = 1
IOMMU_TEST_OP_MOCK_DOMAIN = 2
IOMMU_TEST_OP_MD_CHECK_MAP = 3
IOMMU_TEST_OP_MD_CHECK_REFS = 4
IOMMU_TEST_OP_CREATE_ACCESS = 5
IOMMU_TEST_OP_DESTROY_ACCESS_PAGES = 6
IOMMU_TEST_OP_ACCESS_PAGES = 7
IOMMU_TEST_OP_ACCESS_RW = 8
IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT = 9
IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE = 10
IOMMU_TEST_OP_ACCESS_REPLACE_IOAS = 11
IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS = 12
IOMMU_TEST_OP_DIRTY = 13
IOMMU_TEST_OP_MD_CHECK_IOTLB = 14
IOMMU_TEST_OP_TRIGGER_IOPF = 15
IOMMU_TEST_OP_DEV_CHECK_CACHE = 16
IOMMU_TEST_OP_TRIGGER_VEVENT = 17
IOMMU_TEST_OP_PASID_ATTACH = 18
IOMMU_TEST_OP_PASID_REPLACE = 19
IOMMU_TEST_OP_PASID_DETACH = 20
IOMMU_TEST_OP_PASID_CHECK_HWPT = 21
IOMMU_TEST_OP_DMABUF_GET = 22
IOMMU_TEST_OP_DMABUF_REVOKE = 23

MOCK_IOMMUPT_DEFAULT = 0
MOCK_IOMMUPT_HUGE = 1

# The mock IOMMU with the default page table; sizes in bytes.
MOCK_APERTURE_START = 1 << 24
MOCK_APERTURE_LAST = (1 << 31) - 1
MOCK_PAGE_SIZE = 2048
MOCK_HUGE_PAGE_SIZE = 512 * MOCK_PAGE_SIZE

MOCK_FLAGS_ACCESS_WRITE = 1 << 0
MOCK_FLAGS_ACCESS_SYZ = 1 << 16

MOCK_ACCESS_RW_WRITE = 1 << 0
MOCK_ACCESS_RW_SLOW_PATH = 1 << 2

MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES = 1 << 0

MOCK_FLAGS_DEVICE_NO_DIRTY = 1 << 0
MOCK_FLAGS_DEVICE_PASID = 1 << 2

MOCK_NESTED_DOMAIN_IOTLB_ID_MAX = 3
MOCK_NESTED_DOMAIN_IOTLB_NUM = 4

MOCK_DEV_CACHE_ID_MAX = 3
MOCK_DEV_CACHE_NUM = 4

# The mock device refuses to replace a domain at this PASID, so that the tests see a failing replace.
IOMMU_TEST_PASID_RESERVED = 1024
MOCK_PASID_WIDTH = 20


class iommu_test_cmd_add_reserved(Struct):
    """Reserve IOVA in the IOAS `id`."""

    start: u64
    length: u64


class iommu_test_cmd_mock_domain(Struct):
    """Make a mock device attached to the IOAS or table `id`."""

    out_stdev_id: u32
    out_hwpt_id: u32
    out_idev_id: u32


class iommu_test_cmd_mock_domain_flags(Struct):
    """The same, with MOCK_FLAGS_DEVICE_*."""

    out_stdev_id: u32
    out_hwpt_id: u32
    out_idev_id: u32
    dev_flags: u32


class iommu_test_cmd_mock_domain_replace(Struct):
    """Attach the mock device `id` to another table; `pt_id` returns it."""

    pt_id: u32


class iommu_test_cmd_check_map(Struct):
    """EINVAL unless the table `id` maps the IOVA to the very pages at `uptr`."""

    iova: u64
    length: u64
    uptr: u64


class iommu_test_cmd_check_refs(Struct):
    """EIO unless each page at `uptr` is pinned `refs` times."""

    length: u64
    uptr: u64
    refs: u32


class iommu_test_cmd_create_access(Struct):
    """Make an in-kernel access to the IOAS `id`."""

    out_access_fd: u32
    flags: u32


class iommu_test_cmd_destroy_access_pages(Struct):
    """Let go of one pin of the access `id`."""

    access_pages_id: u32


class iommu_test_cmd_access_pages(Struct):
    """Pin pages through the access `id`, and compare them with those at `uptr` (0: do not)."""

    flags: u32
    out_access_pages_id: u32
    iova: u64
    length: u64
    uptr: u64


class iommu_test_cmd_access_rw(Struct):
    """Copy between `uptr` and IOVA through the access `id`."""

    iova: u64
    length: u64
    uptr: u64
    flags: u32


class iommu_test_cmd_memory_limit(Struct):
    """How many bytes of scratch memory one operation may take: forces the batched paths."""

    limit: u32


class iommu_test_cmd_access_replace_ioas(Struct):
    """Move the access `id` to another IOAS."""

    ioas_id: u32


class iommu_test_cmd_dirty(Struct):
    """Mark pages of the table `id` dirty by the bitmap at `uptr`; `out_nr_dirty` counts them."""

    flags: u32
    iova: u64
    length: u64
    page_size: u64
    uptr: u64
    out_nr_dirty: u64


class iommu_test_cmd_check_iotlb(Struct):
    """EINVAL unless the nested table's mock IOTLB entry `id` holds `iotlb`."""

    id: u32
    iotlb: u32


class iommu_test_cmd_trigger_iopf(Struct):
    """Make the mock device raise a page request."""

    dev_id: u32
    pasid: u32
    grpid: u32
    perm: u32
    addr: u64


class iommu_test_cmd_check_dev_cache(Struct):
    """EINVAL unless the mock device's cache entry `id` holds `cache`."""

    id: u32
    cache: u32


class iommu_test_cmd_trigger_vevent(Struct):
    """Make the mock device raise a virtual event."""

    dev_id: u32


class iommu_test_cmd_pasid_attach(Struct):
    """Attach a PASID of the mock device `id`."""

    pasid: u32
    pt_id: u32


class iommu_test_cmd_pasid_replace(Struct):
    """Replace the table of a PASID of the mock device `id`."""

    pasid: u32
    pt_id: u32


class iommu_test_cmd_pasid_detach(Struct):
    """Detach a PASID of the mock device `id`."""

    pasid: u32


class iommu_test_cmd_pasid_check(Struct):
    """EINVAL unless the PASID of the mock device `id` is attached to `hwpt_id` (0: to none)."""

    pasid: u32
    hwpt_id: u32


class iommu_test_cmd_dmabuf_get(Struct):
    """Make a test dma-buf of `length` bytes; its descriptor is the ioctl's result."""

    length: u32
    open_flags: u32


class iommu_test_cmd_dmabuf_revoke(Struct):
    """Revoke a test dma-buf, or restore it."""

    dmabuf_fd: s32
    revoked: u32


class iommu_test_cmd(Struct):
    """The command of every operation. 72 bytes. EOPNOTSUPP for an unknown `op`."""

    size: u32
    op: u32
    id: u32
    __reserved: u32
    add_reserved: iommu_test_cmd_add_reserved
    mock_domain: Annotated[iommu_test_cmd_mock_domain, OVERLAY]
    mock_domain_flags: Annotated[iommu_test_cmd_mock_domain_flags, OVERLAY]
    mock_domain_replace: Annotated[iommu_test_cmd_mock_domain_replace, OVERLAY]
    check_map: Annotated[iommu_test_cmd_check_map, OVERLAY]
    check_refs: Annotated[iommu_test_cmd_check_refs, OVERLAY]
    create_access: Annotated[iommu_test_cmd_create_access, OVERLAY]
    destroy_access_pages: Annotated[iommu_test_cmd_destroy_access_pages, OVERLAY]
    access_pages: Annotated[iommu_test_cmd_access_pages, OVERLAY]
    access_rw: Annotated[iommu_test_cmd_access_rw, OVERLAY]
    memory_limit: Annotated[iommu_test_cmd_memory_limit, OVERLAY]
    access_replace_ioas: Annotated[iommu_test_cmd_access_replace_ioas, OVERLAY]
    dirty: Annotated[iommu_test_cmd_dirty, OVERLAY]
    check_iotlb: Annotated[iommu_test_cmd_check_iotlb, OVERLAY]
    trigger_iopf: Annotated[iommu_test_cmd_trigger_iopf, OVERLAY]
    check_dev_cache: Annotated[iommu_test_cmd_check_dev_cache, OVERLAY]
    trigger_vevent: Annotated[iommu_test_cmd_trigger_vevent, OVERLAY]
    pasid_attach: Annotated[iommu_test_cmd_pasid_attach, OVERLAY]
    pasid_replace: Annotated[iommu_test_cmd_pasid_replace, OVERLAY]
    pasid_detach: Annotated[iommu_test_cmd_pasid_detach, OVERLAY]
    pasid_check: Annotated[iommu_test_cmd_pasid_check, OVERLAY]
    dmabuf_get: Annotated[iommu_test_cmd_dmabuf_get, OVERLAY]
    dmabuf_revoke: Annotated[iommu_test_cmd_dmabuf_revoke, OVERLAY]
    last: u32


IOMMU_TEST_CMD = IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 32)

IOMMU_HW_INFO_TYPE_SELFTEST = 0xFEEDBEEF
IOMMU_HW_INFO_SELFTEST_REGVAL = 0xDEADBEEF


class iommu_test_hw_info(Struct):
    """The mock IOMMU's answer to IOMMU_GET_HW_INFO. 8 bytes."""

    flags: u32
    test_reg: u32


IOMMU_HWPT_DATA_SELFTEST = 0xDEAD
IOMMU_TEST_IOTLB_DEFAULT = 0xBADBEEF
IOMMU_TEST_DEV_CACHE_DEFAULT = 0xBADDAD


class iommu_hwpt_selftest(Struct):
    """Data for a mock table: the value its mock IOTLB begins with, and MOCK_IOMMUPT_*. 8 bytes."""

    iotlb: u32
    pagetable_type: u32


IOMMU_HWPT_INVALIDATE_DATA_SELFTEST = 0xDEADBEEF
IOMMU_HWPT_INVALIDATE_DATA_SELFTEST_INVALID = 0xDADBEEF
IOMMU_TEST_INVALIDATE_FLAG_ALL = 1 << 0


class iommu_hwpt_invalidate_selftest(Struct):
    """Clear one mock IOTLB entry, or all. 8 bytes."""

    flags: u32
    iotlb_id: u32


IOMMU_VIOMMU_TYPE_SELFTEST = 0xDEADBEEF


class iommu_viommu_selftest(Struct):
    """Data of a mock vIOMMU: `out_data` echoes `in_data`. 24 bytes."""

    in_data: u32
    out_data: u32
    out_mmap_offset: u64
    out_mmap_length: u64


IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST = 0xDEADBEEF
IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST_INVALID = 0xDADBEEF


class iommu_viommu_invalidate_selftest(Struct):
    """Clear one entry of a mock device's cache, or all. 12 bytes."""

    flags: u32
    vdev_id: u32
    cache_id: u32


IOMMU_VEVENTQ_TYPE_SELFTEST = 0xBEEFBEEF


class iommu_viommu_event_selftest(Struct):
    """A mock virtual event. 4 bytes."""

    virt_id: u32


IOMMU_HW_QUEUE_TYPE_SELFTEST = 0xDEADBEEF
IOMMU_TEST_HW_QUEUE_MAX = 2
