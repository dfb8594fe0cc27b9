"""VFIO: include/uapi/linux/vfio.h (Linux 7.3) for PCI devices, cdev and groups, containers, features, migration.

Left out: what belongs to other buses and architectures (platform, CCW, AP, zPCI, sPAPR, EEH), displays (GFX), and
the deprecated first migration protocol and NVLink regions.
"""

from ioas.uapi.vfio.common import (
    VFIO_API_VERSION as VFIO_API_VERSION,
)
from ioas.uapi.vfio.common import (
    VFIO_BASE as VFIO_BASE,
)
from ioas.uapi.vfio.common import (
    VFIO_DMA_CC_IOMMU as VFIO_DMA_CC_IOMMU,
)
from ioas.uapi.vfio.common import (
    VFIO_NOIOMMU_IOMMU as VFIO_NOIOMMU_IOMMU,
)
from ioas.uapi.vfio.common import (
    VFIO_TYPE as VFIO_TYPE,
)
from ioas.uapi.vfio.common import (
    VFIO_TYPE1_IOMMU as VFIO_TYPE1_IOMMU,
)
from ioas.uapi.vfio.common import (
    VFIO_UNMAP_ALL as VFIO_UNMAP_ALL,
)
from ioas.uapi.vfio.common import (
    VFIO_UPDATE_VADDR as VFIO_UPDATE_VADDR,
)
from ioas.uapi.vfio.common import (
    VFIO_TYPE1v2_IOMMU as VFIO_TYPE1v2_IOMMU,
)
from ioas.uapi.vfio.common import (
    vfio_info_cap_header as vfio_info_cap_header,
)
from ioas.uapi.vfio.container import (
    VFIO_CHECK_EXTENSION as VFIO_CHECK_EXTENSION,
)
from ioas.uapi.vfio.container import (
    VFIO_DMA_MAP_FLAG_READ as VFIO_DMA_MAP_FLAG_READ,
)
from ioas.uapi.vfio.container import (
    VFIO_DMA_MAP_FLAG_VADDR as VFIO_DMA_MAP_FLAG_VADDR,
)
from ioas.uapi.vfio.container import (
    VFIO_DMA_MAP_FLAG_WRITE as VFIO_DMA_MAP_FLAG_WRITE,
)
from ioas.uapi.vfio.container import (
    VFIO_DMA_UNMAP_FLAG_ALL as VFIO_DMA_UNMAP_FLAG_ALL,
)
from ioas.uapi.vfio.container import (
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP as VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
)
from ioas.uapi.vfio.container import (
    VFIO_DMA_UNMAP_FLAG_VADDR as VFIO_DMA_UNMAP_FLAG_VADDR,
)
from ioas.uapi.vfio.container import (
    VFIO_GET_API_VERSION as VFIO_GET_API_VERSION,
)
from ioas.uapi.vfio.container import (
    VFIO_GROUP_FLAGS_CONTAINER_SET as VFIO_GROUP_FLAGS_CONTAINER_SET,
)
from ioas.uapi.vfio.container import (
    VFIO_GROUP_FLAGS_VIABLE as VFIO_GROUP_FLAGS_VIABLE,
)
from ioas.uapi.vfio.container import (
    VFIO_GROUP_GET_DEVICE_FD as VFIO_GROUP_GET_DEVICE_FD,
)
from ioas.uapi.vfio.container import (
    VFIO_GROUP_GET_STATUS as VFIO_GROUP_GET_STATUS,
)
from ioas.uapi.vfio.container import (
    VFIO_GROUP_SET_CONTAINER as VFIO_GROUP_SET_CONTAINER,
)
from ioas.uapi.vfio.container import (
    VFIO_GROUP_UNSET_CONTAINER as VFIO_GROUP_UNSET_CONTAINER,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_DIRTY_PAGES as VFIO_IOMMU_DIRTY_PAGES,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP as VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START as VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP as VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_DISABLE as VFIO_IOMMU_DISABLE,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_ENABLE as VFIO_IOMMU_ENABLE,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_GET_INFO as VFIO_IOMMU_GET_INFO,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_INFO_CAPS as VFIO_IOMMU_INFO_CAPS,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_INFO_PGSIZES as VFIO_IOMMU_INFO_PGSIZES,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_MAP_DMA as VFIO_IOMMU_MAP_DMA,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE as VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION as VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL as VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
)
from ioas.uapi.vfio.container import (
    VFIO_IOMMU_UNMAP_DMA as VFIO_IOMMU_UNMAP_DMA,
)
from ioas.uapi.vfio.container import (
    VFIO_SET_IOMMU as VFIO_SET_IOMMU,
)
from ioas.uapi.vfio.container import (
    vfio_bitmap as vfio_bitmap,
)
from ioas.uapi.vfio.container import (
    vfio_group_status as vfio_group_status,
)
from ioas.uapi.vfio.container import (
    vfio_iommu_type1_dirty_bitmap as vfio_iommu_type1_dirty_bitmap,
)
from ioas.uapi.vfio.container import (
    vfio_iommu_type1_dirty_bitmap_get as vfio_iommu_type1_dirty_bitmap_get,
)
from ioas.uapi.vfio.container import (
    vfio_iommu_type1_dma_map as vfio_iommu_type1_dma_map,
)
from ioas.uapi.vfio.container import (
    vfio_iommu_type1_dma_unmap as vfio_iommu_type1_dma_unmap,
)
from ioas.uapi.vfio.container import (
    vfio_iommu_type1_info as vfio_iommu_type1_info,
)
from ioas.uapi.vfio.container import (
    vfio_iommu_type1_info_cap_iova_range as vfio_iommu_type1_info_cap_iova_range,
)
from ioas.uapi.vfio.container import (
    vfio_iommu_type1_info_cap_migration as vfio_iommu_type1_info_cap_migration,
)
from ioas.uapi.vfio.container import (
    vfio_iommu_type1_info_dma_avail as vfio_iommu_type1_info_dma_avail,
)
from ioas.uapi.vfio.container import (
    vfio_iova_range as vfio_iova_range,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_API_PCI_STRING as VFIO_DEVICE_API_PCI_STRING,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_ATTACH_IOMMUFD_PT as VFIO_DEVICE_ATTACH_IOMMUFD_PT,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_ATTACH_PASID as VFIO_DEVICE_ATTACH_PASID,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_BIND_FLAG_TOKEN as VFIO_DEVICE_BIND_FLAG_TOKEN,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_BIND_IOMMUFD as VFIO_DEVICE_BIND_IOMMUFD,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_DETACH_IOMMUFD_PT as VFIO_DEVICE_DETACH_IOMMUFD_PT,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_DETACH_PASID as VFIO_DEVICE_DETACH_PASID,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_FLAGS_AMBA as VFIO_DEVICE_FLAGS_AMBA,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_FLAGS_AP as VFIO_DEVICE_FLAGS_AP,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_FLAGS_CAPS as VFIO_DEVICE_FLAGS_CAPS,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_FLAGS_CCW as VFIO_DEVICE_FLAGS_CCW,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_FLAGS_CDX as VFIO_DEVICE_FLAGS_CDX,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_FLAGS_FSL_MC as VFIO_DEVICE_FLAGS_FSL_MC,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_FLAGS_PCI as VFIO_DEVICE_FLAGS_PCI,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_FLAGS_PLATFORM as VFIO_DEVICE_FLAGS_PLATFORM,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_FLAGS_RESET as VFIO_DEVICE_FLAGS_RESET,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_GET_INFO as VFIO_DEVICE_GET_INFO,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_GET_IRQ_INFO as VFIO_DEVICE_GET_IRQ_INFO,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO as VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_GET_REGION_INFO as VFIO_DEVICE_GET_REGION_INFO,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP as VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_IOEVENTFD as VFIO_DEVICE_IOEVENTFD,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_IOEVENTFD_8 as VFIO_DEVICE_IOEVENTFD_8,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_IOEVENTFD_16 as VFIO_DEVICE_IOEVENTFD_16,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_IOEVENTFD_32 as VFIO_DEVICE_IOEVENTFD_32,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_IOEVENTFD_64 as VFIO_DEVICE_IOEVENTFD_64,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_IOEVENTFD_SIZE_MASK as VFIO_DEVICE_IOEVENTFD_SIZE_MASK,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_PCI_HOT_RESET as VFIO_DEVICE_PCI_HOT_RESET,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_RESET as VFIO_DEVICE_RESET,
)
from ioas.uapi.vfio.device import (
    VFIO_DEVICE_SET_IRQS as VFIO_DEVICE_SET_IRQS,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_INFO_AUTOMASKED as VFIO_IRQ_INFO_AUTOMASKED,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_INFO_EVENTFD as VFIO_IRQ_INFO_EVENTFD,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_INFO_MASKABLE as VFIO_IRQ_INFO_MASKABLE,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_INFO_NORESIZE as VFIO_IRQ_INFO_NORESIZE,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_SET_ACTION_MASK as VFIO_IRQ_SET_ACTION_MASK,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_SET_ACTION_TRIGGER as VFIO_IRQ_SET_ACTION_TRIGGER,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_SET_ACTION_TYPE_MASK as VFIO_IRQ_SET_ACTION_TYPE_MASK,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_SET_ACTION_UNMASK as VFIO_IRQ_SET_ACTION_UNMASK,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_SET_DATA_BOOL as VFIO_IRQ_SET_DATA_BOOL,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_SET_DATA_EVENTFD as VFIO_IRQ_SET_DATA_EVENTFD,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_SET_DATA_NONE as VFIO_IRQ_SET_DATA_NONE,
)
from ioas.uapi.vfio.device import (
    VFIO_IRQ_SET_DATA_TYPE_MASK as VFIO_IRQ_SET_DATA_TYPE_MASK,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_ATOMIC_COMP32 as VFIO_PCI_ATOMIC_COMP32,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_ATOMIC_COMP64 as VFIO_PCI_ATOMIC_COMP64,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_ATOMIC_COMP128 as VFIO_PCI_ATOMIC_COMP128,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_BAR0_REGION_INDEX as VFIO_PCI_BAR0_REGION_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_BAR1_REGION_INDEX as VFIO_PCI_BAR1_REGION_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_BAR2_REGION_INDEX as VFIO_PCI_BAR2_REGION_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_BAR3_REGION_INDEX as VFIO_PCI_BAR3_REGION_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_BAR4_REGION_INDEX as VFIO_PCI_BAR4_REGION_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_BAR5_REGION_INDEX as VFIO_PCI_BAR5_REGION_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_CONFIG_REGION_INDEX as VFIO_PCI_CONFIG_REGION_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_DEVID_NOT_OWNED as VFIO_PCI_DEVID_NOT_OWNED,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_DEVID_OWNED as VFIO_PCI_DEVID_OWNED,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_ERR_IRQ_INDEX as VFIO_PCI_ERR_IRQ_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID as VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED as VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_INTX_IRQ_INDEX as VFIO_PCI_INTX_IRQ_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_MSI_IRQ_INDEX as VFIO_PCI_MSI_IRQ_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_MSIX_IRQ_INDEX as VFIO_PCI_MSIX_IRQ_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_NUM_IRQS as VFIO_PCI_NUM_IRQS,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_NUM_REGIONS as VFIO_PCI_NUM_REGIONS,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_REQ_IRQ_INDEX as VFIO_PCI_REQ_IRQ_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_ROM_REGION_INDEX as VFIO_PCI_ROM_REGION_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_PCI_VGA_REGION_INDEX as VFIO_PCI_VGA_REGION_INDEX,
)
from ioas.uapi.vfio.device import (
    VFIO_REGION_INFO_CAP_MSIX_MAPPABLE as VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
)
from ioas.uapi.vfio.device import (
    VFIO_REGION_INFO_CAP_SPARSE_MMAP as VFIO_REGION_INFO_CAP_SPARSE_MMAP,
)
from ioas.uapi.vfio.device import (
    VFIO_REGION_INFO_CAP_TYPE as VFIO_REGION_INFO_CAP_TYPE,
)
from ioas.uapi.vfio.device import (
    VFIO_REGION_INFO_FLAG_CAPS as VFIO_REGION_INFO_FLAG_CAPS,
)
from ioas.uapi.vfio.device import (
    VFIO_REGION_INFO_FLAG_MMAP as VFIO_REGION_INFO_FLAG_MMAP,
)
from ioas.uapi.vfio.device import (
    VFIO_REGION_INFO_FLAG_READ as VFIO_REGION_INFO_FLAG_READ,
)
from ioas.uapi.vfio.device import (
    VFIO_REGION_INFO_FLAG_WRITE as VFIO_REGION_INFO_FLAG_WRITE,
)
from ioas.uapi.vfio.device import (
    VFIO_REGION_TYPE_PCI_VENDOR_MASK as VFIO_REGION_TYPE_PCI_VENDOR_MASK,
)
from ioas.uapi.vfio.device import (
    VFIO_REGION_TYPE_PCI_VENDOR_TYPE as VFIO_REGION_TYPE_PCI_VENDOR_TYPE,
)
from ioas.uapi.vfio.device import (
    vfio_device_attach_iommufd_pt as vfio_device_attach_iommufd_pt,
)
from ioas.uapi.vfio.device import (
    vfio_device_bind_iommufd as vfio_device_bind_iommufd,
)
from ioas.uapi.vfio.device import (
    vfio_device_detach_iommufd_pt as vfio_device_detach_iommufd_pt,
)
from ioas.uapi.vfio.device import (
    vfio_device_info as vfio_device_info,
)
from ioas.uapi.vfio.device import (
    vfio_device_info_cap_pci_atomic_comp as vfio_device_info_cap_pci_atomic_comp,
)
from ioas.uapi.vfio.device import (
    vfio_device_ioeventfd as vfio_device_ioeventfd,
)
from ioas.uapi.vfio.device import (
    vfio_irq_info as vfio_irq_info,
)
from ioas.uapi.vfio.device import (
    vfio_irq_set as vfio_irq_set,
)
from ioas.uapi.vfio.device import (
    vfio_pci_dependent_device as vfio_pci_dependent_device,
)
from ioas.uapi.vfio.device import (
    vfio_pci_hot_reset as vfio_pci_hot_reset,
)
from ioas.uapi.vfio.device import (
    vfio_pci_hot_reset_info as vfio_pci_hot_reset_info,
)
from ioas.uapi.vfio.device import (
    vfio_region_info as vfio_region_info,
)
from ioas.uapi.vfio.device import (
    vfio_region_info_cap_sparse_mmap as vfio_region_info_cap_sparse_mmap,
)
from ioas.uapi.vfio.device import (
    vfio_region_info_cap_type as vfio_region_info_cap_type,
)
from ioas.uapi.vfio.device import (
    vfio_region_sparse_mmap_area as vfio_region_sparse_mmap_area,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE as VFIO_DEVICE_FEATURE,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_BUS_MASTER as VFIO_DEVICE_FEATURE_BUS_MASTER,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_CLEAR_MASTER as VFIO_DEVICE_FEATURE_CLEAR_MASTER,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_DMA_BUF as VFIO_DEVICE_FEATURE_DMA_BUF,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT as VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_DMA_LOGGING_START as VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP as VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_GET as VFIO_DEVICE_FEATURE_GET,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY as VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP as VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_LOW_POWER_EXIT as VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_MASK as VFIO_DEVICE_FEATURE_MASK,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_MIG_DATA_SIZE as VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE as VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_MIGRATION as VFIO_DEVICE_FEATURE_MIGRATION,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_PCI_VF_TOKEN as VFIO_DEVICE_FEATURE_PCI_VF_TOKEN,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_PROBE as VFIO_DEVICE_FEATURE_PROBE,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_SET as VFIO_DEVICE_FEATURE_SET,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_SET_MASTER as VFIO_DEVICE_FEATURE_SET_MASTER,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_STATE_ERROR as VFIO_DEVICE_STATE_ERROR,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_STATE_NR as VFIO_DEVICE_STATE_NR,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_STATE_PRE_COPY as VFIO_DEVICE_STATE_PRE_COPY,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_STATE_PRE_COPY_P2P as VFIO_DEVICE_STATE_PRE_COPY_P2P,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_STATE_RESUMING as VFIO_DEVICE_STATE_RESUMING,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_STATE_RUNNING as VFIO_DEVICE_STATE_RUNNING,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_STATE_RUNNING_P2P as VFIO_DEVICE_STATE_RUNNING_P2P,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_STATE_STOP as VFIO_DEVICE_STATE_STOP,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_STATE_STOP_COPY as VFIO_DEVICE_STATE_STOP_COPY,
)
from ioas.uapi.vfio.features import (
    VFIO_MIG_GET_PRECOPY_INFO as VFIO_MIG_GET_PRECOPY_INFO,
)
from ioas.uapi.vfio.features import (
    VFIO_MIGRATION_P2P as VFIO_MIGRATION_P2P,
)
from ioas.uapi.vfio.features import (
    VFIO_MIGRATION_PRE_COPY as VFIO_MIGRATION_PRE_COPY,
)
from ioas.uapi.vfio.features import (
    VFIO_MIGRATION_STOP_COPY as VFIO_MIGRATION_STOP_COPY,
)
from ioas.uapi.vfio.features import (
    VFIO_PRECOPY_INFO_REINIT as VFIO_PRECOPY_INFO_REINIT,
)
from ioas.uapi.vfio.features import (
    VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 as VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2,
)
from ioas.uapi.vfio.features import (
    vfio_device_feature as vfio_device_feature,
)
from ioas.uapi.vfio.features import (
    vfio_device_feature_bus_master as vfio_device_feature_bus_master,
)
from ioas.uapi.vfio.features import (
    vfio_device_feature_dma_buf as vfio_device_feature_dma_buf,
)
from ioas.uapi.vfio.features import (
    vfio_device_feature_dma_logging_control as vfio_device_feature_dma_logging_control,
)
from ioas.uapi.vfio.features import (
    vfio_device_feature_dma_logging_range as vfio_device_feature_dma_logging_range,
)
from ioas.uapi.vfio.features import (
    vfio_device_feature_dma_logging_report as vfio_device_feature_dma_logging_report,
)
from ioas.uapi.vfio.features import (
    vfio_device_feature_mig_data_size as vfio_device_feature_mig_data_size,
)
from ioas.uapi.vfio.features import (
    vfio_device_feature_mig_state as vfio_device_feature_mig_state,
)
from ioas.uapi.vfio.features import (
    vfio_device_feature_migration as vfio_device_feature_migration,
)
from ioas.uapi.vfio.features import (
    vfio_device_low_power_entry_with_wakeup as vfio_device_low_power_entry_with_wakeup,
)
from ioas.uapi.vfio.features import (
    vfio_precopy_info as vfio_precopy_info,
)
from ioas.uapi.vfio.features import (
    vfio_region_dma_range as vfio_region_dma_range,
)
