"""What every VFIO file shares: the ioctl type, extension numbers, capability chains (include/uapi/linux/vfio.h, 7.3).

VFIO structures begin with `argsz`, the caller's sizeof: less than the command's first version is EINVAL, bytes
beyond it are ignored. An INFO call whose answer has capabilities returns in `argsz` the size that would hold them
all, and leaves `cap_offset` 0 when the caller's buffer is smaller.
"""

from ioas.uapi.base import Struct, u16, u32

VFIO_API_VERSION = 0
VFIO_TYPE = ";"
VFIO_BASE = 100

# Extensions, for VFIO_CHECK_EXTENSION; the IOMMU types among them also for VFIO_SET_IOMMU.
VFIO_TYPE1_IOMMU = 1
VFIO_TYPE1v2_IOMMU = 3
VFIO_DMA_CC_IOMMU = 4
VFIO_NOIOMMU_IOMMU = 8
VFIO_UNMAP_ALL = 9
VFIO_UPDATE_VADDR = 10


class vfio_info_cap_header(Struct):
    """Begins each capability of an INFO answer; `next` is an offset from the answer's start, 0 at the end. 8 bytes."""

    id: u16
    version: u16
    next: u32
