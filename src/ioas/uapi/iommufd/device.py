"""What the IOMMU in front of a bound device is (include/uapi/linux/iommufd.h, 7.3)."""

from typing import Annotated

from ioas.uapi.base import IO, OVERLAY, Struct, u8, u8_array, u32, u32_array, u64
from ioas.uapi.iommufd.common import IOMMUFD_CMD_GET_HW_INFO, IOMMUFD_TYPE

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
