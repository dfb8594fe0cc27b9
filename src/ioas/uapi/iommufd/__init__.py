"""iommufd: every structure, ioctl number and flag of include/uapi/linux/iommufd.h (Linux 7.3).

Each ioctl takes a pointer to its structure,
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

from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_BASE as IOMMUFD_CMD_BASE,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_DESTROY as IOMMUFD_CMD_DESTROY,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_FAULT_QUEUE_ALLOC as IOMMUFD_CMD_FAULT_QUEUE_ALLOC,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_GET_HW_INFO as IOMMUFD_CMD_GET_HW_INFO,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_HW_QUEUE_ALLOC as IOMMUFD_CMD_HW_QUEUE_ALLOC,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_HWPT_ALLOC as IOMMUFD_CMD_HWPT_ALLOC,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP as IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_HWPT_INVALIDATE as IOMMUFD_CMD_HWPT_INVALIDATE,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING as IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_IOAS_ALLOC as IOMMUFD_CMD_IOAS_ALLOC,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_IOAS_ALLOW_IOVAS as IOMMUFD_CMD_IOAS_ALLOW_IOVAS,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_IOAS_CHANGE_PROCESS as IOMMUFD_CMD_IOAS_CHANGE_PROCESS,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_IOAS_COPY as IOMMUFD_CMD_IOAS_COPY,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_IOAS_IOVA_RANGES as IOMMUFD_CMD_IOAS_IOVA_RANGES,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_IOAS_MAP as IOMMUFD_CMD_IOAS_MAP,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_IOAS_MAP_FILE as IOMMUFD_CMD_IOAS_MAP_FILE,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA as IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_IOAS_UNMAP as IOMMUFD_CMD_IOAS_UNMAP,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_OPTION as IOMMUFD_CMD_OPTION,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_VDEVICE_ALLOC as IOMMUFD_CMD_VDEVICE_ALLOC,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_VEVENTQ_ALLOC as IOMMUFD_CMD_VEVENTQ_ALLOC,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_VFIO_IOAS as IOMMUFD_CMD_VFIO_IOAS,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_CMD_VIOMMU_ALLOC as IOMMUFD_CMD_VIOMMU_ALLOC,
)
from ioas.uapi.iommufd.common import (
    IOMMUFD_TYPE as IOMMUFD_TYPE,
)
from ioas.uapi.iommufd.device import (
    IOMMU_GET_HW_INFO as IOMMU_GET_HW_INFO,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_CAP_DIRTY_TRACKING as IOMMU_HW_CAP_DIRTY_TRACKING,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED as IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_CAP_PCI_PASID_EXEC as IOMMU_HW_CAP_PCI_PASID_EXEC,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_CAP_PCI_PASID_PRIV as IOMMU_HW_CAP_PCI_PASID_PRIV,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI as IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_INFO_FLAG_INPUT_TYPE as IOMMU_HW_INFO_FLAG_INPUT_TYPE,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_INFO_TYPE_AMD as IOMMU_HW_INFO_TYPE_AMD,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_INFO_TYPE_ARM_SMMUV3 as IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_INFO_TYPE_DEFAULT as IOMMU_HW_INFO_TYPE_DEFAULT,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_INFO_TYPE_INTEL_VTD as IOMMU_HW_INFO_TYPE_INTEL_VTD,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_INFO_TYPE_NONE as IOMMU_HW_INFO_TYPE_NONE,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV as IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV,
)
from ioas.uapi.iommufd.device import (
    IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17 as IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17,
)
from ioas.uapi.iommufd.device import (
    iommu_hw_info as iommu_hw_info,
)
from ioas.uapi.iommufd.device import (
    iommu_hw_info_amd as iommu_hw_info_amd,
)
from ioas.uapi.iommufd.device import (
    iommu_hw_info_arm_smmuv3 as iommu_hw_info_arm_smmuv3,
)
from ioas.uapi.iommufd.device import (
    iommu_hw_info_tegra241_cmdqv as iommu_hw_info_tegra241_cmdqv,
)
from ioas.uapi.iommufd.device import (
    iommu_hw_info_vtd as iommu_hw_info_vtd,
)
from ioas.uapi.iommufd.events import (
    IOMMU_FAULT_QUEUE_ALLOC as IOMMU_FAULT_QUEUE_ALLOC,
)
from ioas.uapi.iommufd.events import (
    IOMMU_PGFAULT_FLAGS_LAST_PAGE as IOMMU_PGFAULT_FLAGS_LAST_PAGE,
)
from ioas.uapi.iommufd.events import (
    IOMMU_PGFAULT_FLAGS_PASID_VALID as IOMMU_PGFAULT_FLAGS_PASID_VALID,
)
from ioas.uapi.iommufd.events import (
    IOMMU_PGFAULT_PERM_EXEC as IOMMU_PGFAULT_PERM_EXEC,
)
from ioas.uapi.iommufd.events import (
    IOMMU_PGFAULT_PERM_PRIV as IOMMU_PGFAULT_PERM_PRIV,
)
from ioas.uapi.iommufd.events import (
    IOMMU_PGFAULT_PERM_READ as IOMMU_PGFAULT_PERM_READ,
)
from ioas.uapi.iommufd.events import (
    IOMMU_PGFAULT_PERM_WRITE as IOMMU_PGFAULT_PERM_WRITE,
)
from ioas.uapi.iommufd.events import (
    IOMMU_VEVENTQ_ALLOC as IOMMU_VEVENTQ_ALLOC,
)
from ioas.uapi.iommufd.events import (
    IOMMU_VEVENTQ_FLAG_LOST_EVENTS as IOMMU_VEVENTQ_FLAG_LOST_EVENTS,
)
from ioas.uapi.iommufd.events import (
    IOMMU_VEVENTQ_TYPE_ARM_SMMUV3 as IOMMU_VEVENTQ_TYPE_ARM_SMMUV3,
)
from ioas.uapi.iommufd.events import (
    IOMMU_VEVENTQ_TYPE_DEFAULT as IOMMU_VEVENTQ_TYPE_DEFAULT,
)
from ioas.uapi.iommufd.events import (
    IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV as IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV,
)
from ioas.uapi.iommufd.events import (
    IOMMUFD_PAGE_RESP_INVALID as IOMMUFD_PAGE_RESP_INVALID,
)
from ioas.uapi.iommufd.events import (
    IOMMUFD_PAGE_RESP_SUCCESS as IOMMUFD_PAGE_RESP_SUCCESS,
)
from ioas.uapi.iommufd.events import (
    iommu_fault_alloc as iommu_fault_alloc,
)
from ioas.uapi.iommufd.events import (
    iommu_hwpt_page_response as iommu_hwpt_page_response,
)
from ioas.uapi.iommufd.events import (
    iommu_hwpt_pgfault as iommu_hwpt_pgfault,
)
from ioas.uapi.iommufd.events import (
    iommu_vevent_arm_smmuv3 as iommu_vevent_arm_smmuv3,
)
from ioas.uapi.iommufd.events import (
    iommu_vevent_tegra241_cmdqv as iommu_vevent_tegra241_cmdqv,
)
from ioas.uapi.iommufd.events import (
    iommu_veventq_alloc as iommu_veventq_alloc,
)
from ioas.uapi.iommufd.events import (
    iommufd_vevent_header as iommufd_vevent_header,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_ALLOC as IOMMU_HWPT_ALLOC,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING as IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_ALLOC_NEST_PARENT as IOMMU_HWPT_ALLOC_NEST_PARENT,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_ALLOC_PASID as IOMMU_HWPT_ALLOC_PASID,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_DATA_AMD_GUEST as IOMMU_HWPT_DATA_AMD_GUEST,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_DATA_ARM_SMMUV3 as IOMMU_HWPT_DATA_ARM_SMMUV3,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_DATA_NONE as IOMMU_HWPT_DATA_NONE,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_DATA_VTD_S1 as IOMMU_HWPT_DATA_VTD_S1,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_DIRTY_TRACKING_ENABLE as IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_FAULT_ID_VALID as IOMMU_HWPT_FAULT_ID_VALID,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_GET_DIRTY_BITMAP as IOMMU_HWPT_GET_DIRTY_BITMAP,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR as IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_INVALIDATE as IOMMU_HWPT_INVALIDATE,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 as IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_HWPT_SET_DIRTY_TRACKING as IOMMU_HWPT_SET_DIRTY_TRACKING,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 as IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_VTD_INV_FLAGS_LEAF as IOMMU_VTD_INV_FLAGS_LEAF,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_VTD_S1_EAFE as IOMMU_VTD_S1_EAFE,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_VTD_S1_SRE as IOMMU_VTD_S1_SRE,
)
from ioas.uapi.iommufd.hwpt import (
    IOMMU_VTD_S1_WPE as IOMMU_VTD_S1_WPE,
)
from ioas.uapi.iommufd.hwpt import (
    iommu_hwpt_alloc as iommu_hwpt_alloc,
)
from ioas.uapi.iommufd.hwpt import (
    iommu_hwpt_amd_guest as iommu_hwpt_amd_guest,
)
from ioas.uapi.iommufd.hwpt import (
    iommu_hwpt_arm_smmuv3 as iommu_hwpt_arm_smmuv3,
)
from ioas.uapi.iommufd.hwpt import (
    iommu_hwpt_get_dirty_bitmap as iommu_hwpt_get_dirty_bitmap,
)
from ioas.uapi.iommufd.hwpt import (
    iommu_hwpt_invalidate as iommu_hwpt_invalidate,
)
from ioas.uapi.iommufd.hwpt import (
    iommu_hwpt_set_dirty_tracking as iommu_hwpt_set_dirty_tracking,
)
from ioas.uapi.iommufd.hwpt import (
    iommu_hwpt_vtd_s1 as iommu_hwpt_vtd_s1,
)
from ioas.uapi.iommufd.hwpt import (
    iommu_hwpt_vtd_s1_invalidate as iommu_hwpt_vtd_s1_invalidate,
)
from ioas.uapi.iommufd.hwpt import (
    iommu_viommu_arm_smmuv3_invalidate as iommu_viommu_arm_smmuv3_invalidate,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_DESTROY as IOMMU_DESTROY,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_ALLOC as IOMMU_IOAS_ALLOC,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_ALLOW_IOVAS as IOMMU_IOAS_ALLOW_IOVAS,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_CHANGE_PROCESS as IOMMU_IOAS_CHANGE_PROCESS,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_COPY as IOMMU_IOAS_COPY,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_IOVA_RANGES as IOMMU_IOAS_IOVA_RANGES,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_MAP as IOMMU_IOAS_MAP,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_MAP_FILE as IOMMU_IOAS_MAP_FILE,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_MAP_FIXED_IOVA as IOMMU_IOAS_MAP_FIXED_IOVA,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_MAP_READABLE as IOMMU_IOAS_MAP_READABLE,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_MAP_WRITEABLE as IOMMU_IOAS_MAP_WRITEABLE,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_NOIOMMU_GET_PA as IOMMU_IOAS_NOIOMMU_GET_PA,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_IOAS_UNMAP as IOMMU_IOAS_UNMAP,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_OPTION as IOMMU_OPTION,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_OPTION_HUGE_PAGES as IOMMU_OPTION_HUGE_PAGES,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_OPTION_OP_GET as IOMMU_OPTION_OP_GET,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_OPTION_OP_SET as IOMMU_OPTION_OP_SET,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_OPTION_RLIMIT_MODE as IOMMU_OPTION_RLIMIT_MODE,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_VFIO_IOAS as IOMMU_VFIO_IOAS,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_VFIO_IOAS_CLEAR as IOMMU_VFIO_IOAS_CLEAR,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_VFIO_IOAS_GET as IOMMU_VFIO_IOAS_GET,
)
from ioas.uapi.iommufd.ioas import (
    IOMMU_VFIO_IOAS_SET as IOMMU_VFIO_IOAS_SET,
)
from ioas.uapi.iommufd.ioas import (
    iommu_destroy as iommu_destroy,
)
from ioas.uapi.iommufd.ioas import (
    iommu_ioas_alloc as iommu_ioas_alloc,
)
from ioas.uapi.iommufd.ioas import (
    iommu_ioas_allow_iovas as iommu_ioas_allow_iovas,
)
from ioas.uapi.iommufd.ioas import (
    iommu_ioas_change_process as iommu_ioas_change_process,
)
from ioas.uapi.iommufd.ioas import (
    iommu_ioas_copy as iommu_ioas_copy,
)
from ioas.uapi.iommufd.ioas import (
    iommu_ioas_iova_ranges as iommu_ioas_iova_ranges,
)
from ioas.uapi.iommufd.ioas import (
    iommu_ioas_map as iommu_ioas_map,
)
from ioas.uapi.iommufd.ioas import (
    iommu_ioas_map_file as iommu_ioas_map_file,
)
from ioas.uapi.iommufd.ioas import (
    iommu_ioas_noiommu_get_pa as iommu_ioas_noiommu_get_pa,
)
from ioas.uapi.iommufd.ioas import (
    iommu_ioas_unmap as iommu_ioas_unmap,
)
from ioas.uapi.iommufd.ioas import (
    iommu_iova_range as iommu_iova_range,
)
from ioas.uapi.iommufd.ioas import (
    iommu_option as iommu_option,
)
from ioas.uapi.iommufd.ioas import (
    iommu_vfio_ioas as iommu_vfio_ioas,
)
from ioas.uapi.iommufd.viommu import (
    IOMMU_HW_QUEUE_ALLOC as IOMMU_HW_QUEUE_ALLOC,
)
from ioas.uapi.iommufd.viommu import (
    IOMMU_HW_QUEUE_TYPE_DEFAULT as IOMMU_HW_QUEUE_TYPE_DEFAULT,
)
from ioas.uapi.iommufd.viommu import (
    IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV as IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV,
)
from ioas.uapi.iommufd.viommu import (
    IOMMU_VDEVICE_ALLOC as IOMMU_VDEVICE_ALLOC,
)
from ioas.uapi.iommufd.viommu import (
    IOMMU_VIOMMU_ALLOC as IOMMU_VIOMMU_ALLOC,
)
from ioas.uapi.iommufd.viommu import (
    IOMMU_VIOMMU_TYPE_ARM_SMMUV3 as IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
)
from ioas.uapi.iommufd.viommu import (
    IOMMU_VIOMMU_TYPE_DEFAULT as IOMMU_VIOMMU_TYPE_DEFAULT,
)
from ioas.uapi.iommufd.viommu import (
    IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV as IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV,
)
from ioas.uapi.iommufd.viommu import (
    iommu_hw_queue_alloc as iommu_hw_queue_alloc,
)
from ioas.uapi.iommufd.viommu import (
    iommu_vdevice_alloc as iommu_vdevice_alloc,
)
from ioas.uapi.iommufd.viommu import (
    iommu_viommu_alloc as iommu_viommu_alloc,
)
from ioas.uapi.iommufd.viommu import (
    iommu_viommu_tegra241_cmdqv as iommu_viommu_tegra241_cmdqv,
)
