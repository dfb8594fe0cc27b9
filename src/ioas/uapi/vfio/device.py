"""VFIO devices (include/uapi/linux/vfio.h, 7.3): information, regions, interrupts, reset, binding to an iommufd.

A device is opened as /dev/vfio/devices/vfioN and bound to an iommufd, or comes out of a group. Before BIND a
cdev answers EINVAL to all else. The structures here are those that PCI devices use.
"""

from typing import Annotated

from ioas.uapi.base import IO, OVERLAY, Struct, s32, s32_array, u8, u8_array, u16, u32, u64
from ioas.uapi.vfio.common import VFIO_BASE, VFIO_TYPE, vfio_info_cap_header

VFIO_DEVICE_FLAGS_RESET = 1 << 0
VFIO_DEVICE_FLAGS_PCI = 1 << 1
VFIO_DEVICE_FLAGS_PLATFORM = 1 << 2
VFIO_DEVICE_FLAGS_AMBA = 1 << 3
VFIO_DEVICE_FLAGS_CCW = 1 << 4
VFIO_DEVICE_FLAGS_AP = 1 << 5
VFIO_DEVICE_FLAGS_FSL_MC = 1 << 6
VFIO_DEVICE_FLAGS_CAPS = 1 << 7
VFIO_DEVICE_FLAGS_CDX = 1 << 8


class vfio_device_info(Struct):
    """What kind of device, and how many regions and interrupt indexes. 24 bytes; 16 in its first version."""

    argsz: u32
    flags: u32
    num_regions: u32
    num_irqs: u32
    cap_offset: u32
    pad: u32


VFIO_DEVICE_GET_INFO = IO(VFIO_TYPE, VFIO_BASE + 7)

VFIO_DEVICE_API_PCI_STRING = "vfio-pci"

VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP = 5
VFIO_PCI_ATOMIC_COMP32 = 1 << 0
VFIO_PCI_ATOMIC_COMP64 = 1 << 1
VFIO_PCI_ATOMIC_COMP128 = 1 << 2


class vfio_device_info_cap_pci_atomic_comp(Struct):
    """Capability: which PCIe atomic operations the way to memory completes. 16 bytes."""

    header: vfio_info_cap_header
    flags: u32
    reserved: u32


VFIO_REGION_INFO_FLAG_READ = 1 << 0
VFIO_REGION_INFO_FLAG_WRITE = 1 << 1
VFIO_REGION_INFO_FLAG_MMAP = 1 << 2
VFIO_REGION_INFO_FLAG_CAPS = 1 << 3


class vfio_region_info(Struct):
    """Where a region lies in the device file, and what it allows. 32 bytes.

    A BAR that is not there has size 0; EINVAL for an `index` beyond `num_regions`.
    """

    argsz: u32
    flags: u32
    index: u32
    cap_offset: u32
    size: u64
    offset: u64


VFIO_DEVICE_GET_REGION_INFO = IO(VFIO_TYPE, VFIO_BASE + 8)

VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1
VFIO_REGION_INFO_CAP_TYPE = 2
VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3


class vfio_region_sparse_mmap_area(Struct):
    """A part of a region that can be mapped. 16 bytes."""

    offset: u64
    size: u64


class vfio_region_info_cap_sparse_mmap(Struct):
    """Capability: only these parts of the region can be mapped. 16 bytes and the areas."""

    header: vfio_info_cap_header
    nr_areas: u32
    reserved: u32
    areas: Annotated[vfio_region_sparse_mmap_area, 0]


VFIO_REGION_TYPE_PCI_VENDOR_TYPE = 1 << 31
VFIO_REGION_TYPE_PCI_VENDOR_MASK = 0xFFFF


class vfio_region_info_cap_type(Struct):
    """Capability: what a device-specific region is. 16 bytes."""

    header: vfio_info_cap_header
    type: u32
    subtype: u32


VFIO_IRQ_INFO_EVENTFD = 1 << 0
VFIO_IRQ_INFO_MASKABLE = 1 << 1
VFIO_IRQ_INFO_AUTOMASKED = 1 << 2
VFIO_IRQ_INFO_NORESIZE = 1 << 3


class vfio_irq_info(Struct):
    """How many interrupts an index has, and how they behave. 16 bytes.

    AUTOMASKED: masked when signalled, until unmasked (a level). NORESIZE: all vectors are set up at once.
    """

    argsz: u32
    flags: u32
    index: u32
    count: u32


VFIO_DEVICE_GET_IRQ_INFO = IO(VFIO_TYPE, VFIO_BASE + 9)

VFIO_IRQ_SET_DATA_NONE = 1 << 0
VFIO_IRQ_SET_DATA_BOOL = 1 << 1
VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2
VFIO_IRQ_SET_ACTION_MASK = 1 << 3
VFIO_IRQ_SET_ACTION_UNMASK = 1 << 4
VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5
VFIO_IRQ_SET_DATA_TYPE_MASK = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD
VFIO_IRQ_SET_ACTION_TYPE_MASK = VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER


class vfio_irq_set(Struct):
    """One action on `count` interrupts from `start` of an index. 20 bytes, then the data.

    The data are nothing, one byte or one s32 eventfd (-1: none) for each. TRIGGER with eventfds enables the
    index; with NONE or BOOL it raises the interrupts; with NONE and `count` 0 it disables the index.
    EINVAL: misfit of sizes, range or flags; ENOTTY: an action that the index does not have.
    """

    argsz: u32
    flags: u32
    index: u32
    start: u32
    count: u32
    data: Annotated[u8_array, 0]


VFIO_DEVICE_SET_IRQS = IO(VFIO_TYPE, VFIO_BASE + 10)
# EINVAL when the device has no way to be reset by itself; EAGAIN when contended.
VFIO_DEVICE_RESET = IO(VFIO_TYPE, VFIO_BASE + 11)

VFIO_PCI_BAR0_REGION_INDEX = 0
VFIO_PCI_BAR1_REGION_INDEX = 1
VFIO_PCI_BAR2_REGION_INDEX = 2
VFIO_PCI_BAR3_REGION_INDEX = 3
VFIO_PCI_BAR4_REGION_INDEX = 4
VFIO_PCI_BAR5_REGION_INDEX = 5
VFIO_PCI_ROM_REGION_INDEX = 6
VFIO_PCI_CONFIG_REGION_INDEX = 7
VFIO_PCI_VGA_REGION_INDEX = 8
VFIO_PCI_NUM_REGIONS = 9

VFIO_PCI_INTX_IRQ_INDEX = 0
VFIO_PCI_MSI_IRQ_INDEX = 1
VFIO_PCI_MSIX_IRQ_INDEX = 2
VFIO_PCI_ERR_IRQ_INDEX = 3
VFIO_PCI_REQ_IRQ_INDEX = 4
VFIO_PCI_NUM_IRQS = 5

VFIO_PCI_DEVID_OWNED = 0
VFIO_PCI_DEVID_NOT_OWNED = -1


class vfio_pci_dependent_device(Struct):
    """A device that a hot reset would also reset. 8 bytes. `devid` with FLAG_DEV_ID, else `group_id`."""

    group_id: u32
    devid: Annotated[u32, OVERLAY]
    segment: u16
    bus: u8
    devfn: u8


VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1 << 0
VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 1 << 1


class vfio_pci_hot_reset_info(Struct):
    """Which devices a hot reset affects. 12 bytes and the devices. ENOSPC: more than fit; ENODEV: impossible."""

    argsz: u32
    flags: u32
    count: u32
    devices: Annotated[vfio_pci_dependent_device, 0]


VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = IO(VFIO_TYPE, VFIO_BASE + 12)


class vfio_pci_hot_reset(Struct):
    """Reset slot or bus. 12 bytes and, for devices out of groups, descriptors of all groups affected."""

    argsz: u32
    flags: u32
    count: u32
    group_fds: Annotated[s32_array, 0]


VFIO_DEVICE_PCI_HOT_RESET = IO(VFIO_TYPE, VFIO_BASE + 13)

VFIO_DEVICE_IOEVENTFD_8 = 1 << 0
VFIO_DEVICE_IOEVENTFD_16 = 1 << 1
VFIO_DEVICE_IOEVENTFD_32 = 1 << 2
VFIO_DEVICE_IOEVENTFD_64 = 1 << 3
VFIO_DEVICE_IOEVENTFD_SIZE_MASK = 0xF


class vfio_device_ioeventfd(Struct):
    """Write `data` to the device whenever an eventfd is signalled; `fd` -1 ends it. 40 bytes.

    EINVAL: not in a BAR, or over the MSI-X table; EEXIST: the same is there; ENODEV: nothing to end; ENOSPC: too many.
    """

    argsz: u32
    flags: u32
    offset: u64
    data: u64
    fd: s32
    reserved: u32


VFIO_DEVICE_IOEVENTFD = IO(VFIO_TYPE, VFIO_BASE + 16)

VFIO_DEVICE_BIND_FLAG_TOKEN = 1 << 0


class vfio_device_bind_iommufd(Struct):
    """Give a cdev to an iommufd, until it is closed. 24 bytes; 16 in its first version.

    `out_devid` is the device's object id there. EINVAL: bound before; EBUSY: the group is open; EBADFD: not
    an iommufd; EACCES: the token (16 bytes at `token_uuid_ptr`) is wrong or missing.
    """

    argsz: u32
    flags: u32
    iommufd: s32
    out_devid: u32
    token_uuid_ptr: u64


VFIO_DEVICE_BIND_IOMMUFD = IO(VFIO_TYPE, VFIO_BASE + 18)

VFIO_DEVICE_ATTACH_PASID = 1 << 0


class vfio_device_attach_iommufd_pt(Struct):
    """Let the device, or one of its PASIDs, use an IOAS or page table; a second attach replaces. 16 bytes; 12 at first.

    `pt_id` returns the page table in use. EINVAL: the devices of the group differ; ENOENT: no such `pt_id`.
    """

    argsz: u32
    flags: u32
    pt_id: u32
    pasid: u32


VFIO_DEVICE_ATTACH_IOMMUFD_PT = IO(VFIO_TYPE, VFIO_BASE + 19)

VFIO_DEVICE_DETACH_PASID = 1 << 0


class vfio_device_detach_iommufd_pt(Struct):
    """Block all DMA of the device, or of one of its PASIDs. 12 bytes; 8 at first."""

    argsz: u32
    flags: u32
    pasid: u32


VFIO_DEVICE_DETACH_IOMMUFD_PT = IO(VFIO_TYPE, VFIO_BASE + 20)
