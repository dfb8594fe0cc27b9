"""The requests of linux/iommufd.h, linux/vfio.h and the selftests' iommufd_test.h (7.3), written out once more.

Written from the headers and not from `ioas.uapi`, so that a mistake there shows.
"""

from __future__ import annotations

from questions.calls import Shape

READABLE, WRITEABLE, FIXED = 4, 2, 1
RW = READABLE | WRITEABLE

DESTROY = Shape("IOMMU_DESTROY", 0x3B80, "I:size I:id")
IOAS_ALLOC = Shape("IOMMU_IOAS_ALLOC", 0x3B81, "I:size I:flags I:out_ioas_id")
ALLOW_IOVAS = Shape("IOMMU_IOAS_ALLOW_IOVAS", 0x3B82, "I:size I:ioas_id I:num_iovas I:__reserved Q:allowed_iovas")
COPY = Shape("IOMMU_IOAS_COPY", 0x3B83, "I:size I:flags I:dst_ioas_id I:src_ioas_id Q:length Q:dst_iova Q:src_iova")
IOVA_RANGES = Shape(
    "IOMMU_IOAS_IOVA_RANGES",
    0x3B84,
    "I:size I:ioas_id I:num_iovas I:__reserved Q:allowed_iovas Q:out_iova_alignment",
)
MAP = Shape("IOMMU_IOAS_MAP", 0x3B85, "I:size I:flags I:ioas_id I:__reserved Q:user_va Q:length Q:iova")
UNMAP = Shape("IOMMU_IOAS_UNMAP", 0x3B86, "I:size I:ioas_id Q:iova Q:length")
OPTION = Shape("IOMMU_OPTION", 0x3B87, "I:size I:option_id H:op H:__reserved I:object_id Q:val64")
VFIO_IOAS = Shape("IOMMU_VFIO_IOAS", 0x3B88, "I:size I:ioas_id H:op H:__reserved")
HWPT_ALLOC = Shape(
    "IOMMU_HWPT_ALLOC",
    0x3B89,
    "I:size I:flags I:dev_id I:pt_id I:out_hwpt_id I:__reserved I:data_type I:data_len Q:data_uptr I:fault_id I:__reserved2",
)
GET_HW_INFO = Shape(
    "IOMMU_GET_HW_INFO",
    0x3B8A,
    "I:size I:flags I:dev_id I:data_len Q:data_uptr I:data_type B:out_max_pasid_log2 B:__reserved0 H:__reserved1 "
    "Q:out_capabilities",
)
SET_DIRTY = Shape("IOMMU_HWPT_SET_DIRTY_TRACKING", 0x3B8B, "I:size I:flags I:hwpt_id I:__reserved")
GET_DIRTY = Shape(
    "IOMMU_HWPT_GET_DIRTY_BITMAP",
    0x3B8C,
    "I:size I:hwpt_id I:flags I:__reserved Q:iova Q:length Q:page_size Q:data",
)
INVALIDATE = Shape(
    "IOMMU_HWPT_INVALIDATE", 0x3B8D, "I:size I:hwpt_id Q:data_uptr I:data_type I:entry_len I:entry_num I:__reserved"
)
FAULT_ALLOC = Shape("IOMMU_FAULT_QUEUE_ALLOC", 0x3B8E, "I:size I:flags I:out_fault_id I:out_fault_fd")
MAP_FILE = Shape("IOMMU_IOAS_MAP_FILE", 0x3B8F, "I:size I:flags I:ioas_id i:fd Q:start Q:length Q:iova")
VIOMMU_ALLOC = Shape(
    "IOMMU_VIOMMU_ALLOC",
    0x3B90,
    "I:size I:flags I:type I:dev_id I:hwpt_id I:out_viommu_id I:data_len I:__reserved Q:data_uptr",
)
VDEVICE_ALLOC = Shape("IOMMU_VDEVICE_ALLOC", 0x3B91, "I:size I:viommu_id I:dev_id I:out_vdevice_id Q:virt_id")
CHANGE_PROCESS = Shape("IOMMU_IOAS_CHANGE_PROCESS", 0x3B92, "I:size I:__reserved")
VEVENTQ_ALLOC = Shape(
    "IOMMU_VEVENTQ_ALLOC",
    0x3B93,
    "I:size I:flags I:viommu_id I:type I:veventq_depth I:out_veventq_id I:out_veventq_fd I:__reserved",
)
HW_QUEUE_ALLOC = Shape(
    "IOMMU_HW_QUEUE_ALLOC",
    0x3B94,
    "I:size I:flags I:viommu_id I:type I:index I:out_hw_queue_id Q:nesting_parent_iova Q:length",
)
GET_PA = Shape("IOMMU_IOAS_NOIOMMU_GET_PA", 0x3B95, "I:size I:flags I:ioas_id I:__reserved Q:iova Q:length Q:out_phys")

MINIMUM = {
    DESTROY: 8,
    IOAS_ALLOC: 12,
    ALLOW_IOVAS: 24,
    COPY: 40,
    IOVA_RANGES: 32,
    MAP: 40,
    UNMAP: 24,
    OPTION: 24,
    VFIO_IOAS: 12,
    HWPT_ALLOC: 24,
    GET_HW_INFO: 32,
    SET_DIRTY: 16,
    GET_DIRTY: 48,
    INVALIDATE: 32,
    FAULT_ALLOC: 16,
    MAP_FILE: 40,
    VIOMMU_ALLOC: 24,
    VDEVICE_ALLOC: 24,
    CHANGE_PROCESS: 8,
    VEVENTQ_ALLOC: 28,
    HW_QUEUE_ALLOC: 40,
    GET_PA: 40,
}
"""Every command of iommufd, and the size of its first version."""

_TEST = 0x3BA0


def _test(name: str, fields: str = "") -> Shape:
    """One arm of the union in struct iommu_test_cmd; a field `last` ends it."""
    return Shape(f"IOMMU_TEST_CMD {name}", _TEST, f"I:size I:op I:id I:__reserved {fields}", size=72)


TEST = _test("any")
RESERVE = _test("ADD_RESERVED", "Q:start Q:length")
MOCK = _test("MOCK_DOMAIN", "I:out_stdev_id I:out_hwpt_id I:out_idev_id I:dev_flags")
REPLACE = _test("MOCK_DOMAIN_REPLACE", "I:pt_id")
CHECK_MAP = _test("MD_CHECK_MAP", "Q:iova Q:length Q:uptr")
CHECK_REFS = _test("MD_CHECK_REFS", "Q:length Q:uptr I:refs")
CREATE_ACCESS = _test("CREATE_ACCESS", "I:out_access_fd I:flags")
DESTROY_PAGES = _test("DESTROY_ACCESS_PAGES", "I:access_pages_id")
ACCESS_PAGES = _test("ACCESS_PAGES", "I:flags I:out_access_pages_id Q:iova Q:length Q:uptr")
ACCESS_RW = _test("ACCESS_RW", "Q:iova Q:length Q:uptr I:flags")
MEMORY_LIMIT = _test("SET_TEMP_MEMORY_LIMIT", "I:limit")
ACCESS_REPLACE = _test("ACCESS_REPLACE_IOAS", "I:ioas_id")
CHECK_IOTLB = _test("MD_CHECK_IOTLB", "I:iotlb_id I:iotlb")
CHECK_CACHE = _test("DEV_CHECK_CACHE", "I:cache_id I:cache")
DIRTY = _test("DIRTY", "I:flags I:__pad Q:iova Q:length Q:page_size Q:uptr Q:out_nr_dirty")
TRIGGER_IOPF = _test("TRIGGER_IOPF", "I:dev_id I:pasid I:grpid I:perm Q:addr")
DMABUF_GET = _test("DMABUF_GET", "I:length I:open_flags")
DMABUF_REVOKE = _test("DMABUF_REVOKE", "i:dmabuf_fd I:revoked")
TRIGGER_VEVENT = _test("TRIGGER_VEVENT", "I:dev_id")
PASID = _test("PASID_*", "I:pasid I:pt_id")
OPS = {
    "ADD_RESERVED": 1,
    "MOCK_DOMAIN": 2,
    "MD_CHECK_MAP": 3,
    "MD_CHECK_REFS": 4,
    "CREATE_ACCESS": 5,
    "DESTROY_ACCESS_PAGES": 6,
    "ACCESS_PAGES": 7,
    "ACCESS_RW": 8,
    "SET_TEMP_MEMORY_LIMIT": 9,
    "MOCK_DOMAIN_REPLACE": 10,
    "ACCESS_REPLACE_IOAS": 11,
    "MOCK_DOMAIN_FLAGS": 12,
    "DIRTY": 13,
    "MD_CHECK_IOTLB": 14,
    "TRIGGER_IOPF": 15,
    "DEV_CHECK_CACHE": 16,
    "TRIGGER_VEVENT": 17,
    "PASID_ATTACH": 18,
    "PASID_REPLACE": 19,
    "PASID_DETACH": 20,
    "PASID_CHECK_HWPT": 21,
}

VFIO_INFO = Shape("VFIO_IOMMU_GET_INFO", 0x3B70, "I:argsz I:flags Q:iova_pgsizes I:cap_offset I:pad")
VFIO_DMA_MAP = Shape("VFIO_IOMMU_MAP_DMA", 0x3B71, "I:argsz I:flags Q:vaddr Q:iova Q:size")
VFIO_DMA_UNMAP = Shape("VFIO_IOMMU_UNMAP_DMA", 0x3B72, "I:argsz I:flags Q:iova Q:size")

CONTAINER_UNMAP_DIRTY = Shape("VFIO_IOMMU_UNMAP_DMA", 0x3B72, "I:argsz I:flags Q:iova Q:size Q:pgsize Q:bytes Q:data")
CONTAINER_DIRTY = Shape("VFIO_IOMMU_DIRTY_PAGES", 0x3B75, "I:argsz I:flags")
CONTAINER_DIRTY_GET = Shape("VFIO_IOMMU_DIRTY_PAGES", 0x3B75, "I:argsz I:flags Q:iova Q:size Q:pgsize Q:bytes Q:data")
GROUP_STATUS = Shape("VFIO_GROUP_GET_STATUS", 0x3B67, "I:argsz I:flags")
BIND = Shape("VFIO_DEVICE_BIND_IOMMUFD", 0x3B76, "I:argsz I:flags i:iommufd I:out_devid Q:token_uuid_ptr")
ATTACH = Shape("VFIO_DEVICE_ATTACH_IOMMUFD_PT", 0x3B77, "I:argsz I:flags I:pt_id I:pasid")
DETACH = Shape("VFIO_DEVICE_DETACH_IOMMUFD_PT", 0x3B78, "I:argsz I:flags I:pasid")
DEVICE_INFO = Shape("VFIO_DEVICE_GET_INFO", 0x3B6B, "I:argsz I:flags I:num_regions I:num_irqs I:cap_offset I:pad")
REGION_INFO = Shape("VFIO_DEVICE_GET_REGION_INFO", 0x3B6C, "I:argsz I:flags I:index I:cap_offset Q:size Q:offset")
IRQ_INFO = Shape("VFIO_DEVICE_GET_IRQ_INFO", 0x3B6D, "I:argsz I:flags I:index I:count")
SET_IRQS = Shape("VFIO_DEVICE_SET_IRQS", 0x3B6E, "I:argsz I:flags I:index I:start I:count")
HOT_RESET_INFO = Shape("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", 0x3B70, "I:argsz I:flags I:count")
HOT_RESET = Shape("VFIO_DEVICE_PCI_HOT_RESET", 0x3B71, "I:argsz I:flags I:count")
IOEVENTFD = Shape("VFIO_DEVICE_IOEVENTFD", 0x3B74, "I:argsz I:flags Q:offset Q:data i:fd I:reserved")
FEATURE = Shape("VFIO_DEVICE_FEATURE", 0x3B75, "I:argsz I:flags")
RESET = 0x3B6F
"""Takes no structure."""
DEVICE = "/dev/vfio/devices/vfio0"
CONFIG = 7 << 40
"""The file offset of configuration space."""
