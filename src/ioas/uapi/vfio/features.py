"""VFIO device features, migration among them (include/uapi/linux/vfio.h, 7.3).

VFIO_DEVICE_FEATURE gets, sets or probes one numbered feature, whose structure follows the header. ENOTTY: the
device does not have it, which is the ordinary answer to a probe; EINVAL: GET and SET together without PROBE.
"""

from typing import Annotated

from ioas.uapi.base import IO, Struct, s32, u8_array, u32, u64
from ioas.uapi.vfio.common import VFIO_BASE, VFIO_TYPE

VFIO_DEVICE_FEATURE_MASK = 0xFFFF
VFIO_DEVICE_FEATURE_GET = 1 << 16
VFIO_DEVICE_FEATURE_SET = 1 << 17
VFIO_DEVICE_FEATURE_PROBE = 1 << 18


class vfio_device_feature(Struct):
    """The header: feature number and method in `flags`. 8 bytes and the feature's own data."""

    argsz: u32
    flags: u32
    data: Annotated[u8_array, 0]


VFIO_DEVICE_FEATURE = IO(VFIO_TYPE, VFIO_BASE + 17)

# SET: 16 bytes, a secret that drivers of virtual functions must present.
VFIO_DEVICE_FEATURE_PCI_VF_TOKEN = 0
VFIO_DEVICE_FEATURE_MIGRATION = 1
VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE = 2
# SET, without data: the device may sleep until it is used.
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY = 3
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP = 4
VFIO_DEVICE_FEATURE_LOW_POWER_EXIT = 5
VFIO_DEVICE_FEATURE_DMA_LOGGING_START = 6
VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP = 7
VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT = 8
VFIO_DEVICE_FEATURE_MIG_DATA_SIZE = 9
VFIO_DEVICE_FEATURE_BUS_MASTER = 10
VFIO_DEVICE_FEATURE_DMA_BUF = 11
# SET, without data: from now on VFIO_MIG_GET_PRECOPY_INFO fills `flags`.
VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 = 12

VFIO_MIGRATION_STOP_COPY = 1 << 0
VFIO_MIGRATION_P2P = 1 << 1
VFIO_MIGRATION_PRE_COPY = 1 << 2


class vfio_device_feature_migration(Struct):
    """GET: which migration states the device has. 8 bytes."""

    flags: u64


VFIO_DEVICE_STATE_ERROR = 0
VFIO_DEVICE_STATE_STOP = 1
VFIO_DEVICE_STATE_RUNNING = 2
VFIO_DEVICE_STATE_STOP_COPY = 3
VFIO_DEVICE_STATE_RESUMING = 4
VFIO_DEVICE_STATE_RUNNING_P2P = 5
VFIO_DEVICE_STATE_PRE_COPY = 6
VFIO_DEVICE_STATE_PRE_COPY_P2P = 7
VFIO_DEVICE_STATE_NR = 8


class vfio_device_feature_mig_state(Struct):
    """GET, SET: the migration state; a SET that begins a transfer returns its `data_fd`, else -1. 8 bytes.

    EINVAL for an arc that does not exist; after a failure the state may be another one on the way, or ERROR.
    """

    device_state: u32
    data_fd: s32


VFIO_PRECOPY_INFO_REINIT = 1 << 0


class vfio_precopy_info(Struct):
    """On a transfer's descriptor: estimates of what is still to be read before STOP_COPY. 24 bytes.

    EINVAL in any state but the PRE_COPY ones.
    """

    argsz: u32
    flags: u32
    initial_bytes: u64
    dirty_bytes: u64


VFIO_MIG_GET_PRECOPY_INFO = IO(VFIO_TYPE, VFIO_BASE + 21)


class vfio_device_low_power_entry_with_wakeup(Struct):
    """SET: sleep, and signal this eventfd on wake-up. 8 bytes."""

    wakeup_eventfd: s32
    reserved: u32


class vfio_device_feature_dma_logging_control(Struct):
    """SET START: log DMA writes into `num_ranges` ranges at `ranges`; `page_size` returns the granule. 24 bytes."""

    page_size: u64
    num_ranges: u32
    __reserved: u32
    ranges: u64


class vfio_device_feature_dma_logging_range(Struct):
    """A range of IOVA to log. 16 bytes."""

    iova: u64
    length: u64


class vfio_device_feature_dma_logging_report(Struct):
    """GET: set a bit for each page written in a range, and forget them. 32 bytes."""

    iova: u64
    length: u64
    page_size: u64
    bitmap: u64


class vfio_device_feature_mig_data_size(Struct):
    """GET: an estimate, in bytes, of what STOP_COPY will transfer. 8 bytes."""

    stop_copy_length: u64


VFIO_DEVICE_FEATURE_CLEAR_MASTER = 0
VFIO_DEVICE_FEATURE_SET_MASTER = 1


class vfio_device_feature_bus_master(Struct):
    """SET: allow or forbid DMA, for buses other than PCI. 4 bytes."""

    op: u32


class vfio_region_dma_range(Struct):
    """A slice of a region. 16 bytes."""

    offset: u64
    length: u64


class vfio_device_feature_dma_buf(Struct):
    """GET: a dma-buf of slices of a BAR; its descriptor is the ioctl's result. 16 bytes and the ranges.

    EINVAL: no ranges, or flags; ENODEV: not a BAR; EOPNOTSUPP: the kernel has no peer-to-peer DMA.
    """

    region_index: u32
    open_flags: u32
    flags: u32
    nr_ranges: u32
    dma_ranges: Annotated[vfio_region_dma_range, 0]
