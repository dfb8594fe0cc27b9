"""The features of migration and DMA logging (vfio_ioctl_device_feature_mig_* and _logging_*, 7.3).

In a kernel they come with a driver of the device's own; here with a model that declares `Migration`.
"""

from __future__ import annotations

from ctypes import sizeof
from errno import EINVAL
from typing import TYPE_CHECKING

from ioas.soft.vfio import dma_logging
from ioas.soft.vfio.argument import Argument
from ioas.soft.vfio.feature import GET, HEADER, SET, Feature
from ioas.soft.vfio.migration_states import HAS_PRE_COPY, HAS_STOP_COPY
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from ioas.soft.vfio.device_file import DeviceFile
    from ioas.soft.vfio.migration_files import TransferFile


def _get_migration(file: DeviceFile, argument: Argument) -> int:
    argument.write(HEADER, bytes(uapi.vfio_device_feature_migration(flags=file.device.migration.flags)))
    return 0


def _migration_state(file: DeviceFile, argument: Argument) -> int:
    """Follows vfio_ioctl_device_feature_mig_device_state: `data_fd` is written whatever becomes of the change."""
    kind = uapi.vfio_device_feature_mig_state
    wanted = kind.from_buffer_copy(argument.read(HEADER, sizeof(kind)))
    migration = file.device.migration
    if int.from_bytes(argument.read(HEADER - 4, 4), "little") & GET:
        argument.write(HEADER, bytes(kind(device_state=migration.state, data_fd=-1)))
        return 0
    transfer = None
    try:
        transfer = migration.change(wanted.device_state)
    finally:
        if transfer is None:
            argument.write(HEADER, bytes(kind(device_state=wanted.device_state, data_fd=-1)))
    if transfer is not None:
        _give(argument, transfer, wanted)
    return 0


def _give(argument: Argument, transfer: TransferFile, wanted: uapi.vfio_device_feature_mig_state) -> None:
    """Let the program have the transfer's descriptor; where it cannot be told which, the transfer is closed."""
    try:
        argument.write(HEADER, bytes(wanted))
        wanted.data_fd = argument.caller.install(transfer)
    except OSError:
        transfer.close()
        raise
    argument.write(HEADER, bytes(wanted))


def _get_data_size(file: DeviceFile, argument: Argument) -> int:
    size = len(file.device.migration.saved())
    argument.write(HEADER, bytes(uapi.vfio_device_feature_mig_data_size(stop_copy_length=size)))
    return 0


def _set_precopy_info(file: DeviceFile, argument: Argument) -> int:
    file.device.migration.flags_are_output = True
    return 0


def _start_logging(file: DeviceFile, argument: Argument) -> int:
    dma_logging.start(file.device.dma_log, argument, HEADER)
    return 0


def _stop_logging(file: DeviceFile, argument: Argument) -> int:
    file.device.dma_log.stop()
    return 0


def _report_logging(file: DeviceFile, argument: Argument) -> int:
    dma_logging.report(file.device.dma_log, argument, HEADER)
    return 0


MIGRATION_FEATURES = {
    uapi.VFIO_DEVICE_FEATURE_MIGRATION: Feature(
        GET, sizeof(uapi.vfio_device_feature_migration), _get_migration, HAS_STOP_COPY
    ),
    uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: Feature(
        GET | SET, sizeof(uapi.vfio_device_feature_mig_state), _migration_state, HAS_STOP_COPY
    ),
    uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: Feature(
        GET, sizeof(uapi.vfio_device_feature_mig_data_size), _get_data_size, HAS_STOP_COPY
    ),
    uapi.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: Feature(SET, 0, _set_precopy_info, HAS_PRE_COPY, EINVAL),
    uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_START: Feature(
        SET, sizeof(uapi.vfio_device_feature_dma_logging_control), _start_logging, HAS_STOP_COPY
    ),
    uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: Feature(SET, 0, _stop_logging, HAS_STOP_COPY),
    uapi.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: Feature(
        GET, sizeof(uapi.vfio_device_feature_dma_logging_report), _report_logging, HAS_STOP_COPY
    ),
}
