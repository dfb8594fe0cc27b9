"""VFIO_DEVICE_FEATURE (follows vfio_ioctl_device_feature and vfio_pci_core_ioctl_feature, 7.3).

A plain vfio-pci device has the low-power features and exports its BARs as dma-bufs; one with SR-IOV takes VF tokens.
Migration and DMA logging come with a model that declares them; without, they are ENOTTY, except that 7.3 answers EINVAL
to MIG_PRECOPY_INFOv2.
"""

from __future__ import annotations

import ctypes
from errno import EINVAL, ENOTTY
from typing import TYPE_CHECKING

from ioas.errors import refuse
from ioas.host import EventFd
from ioas.soft.vfio import dmabuf, vf_token
from ioas.soft.vfio.argument import Argument
from ioas.soft.vfio.feature import GET, HEADER, PROBE, SET, Feature
from ioas.soft.vfio.migration_features import MIGRATION_FEATURES
from ioas.uapi import vfio as uapi
from ioas.uapi.base import end_of

if TYPE_CHECKING:
    from ioas.soft.vfio.device_file import DeviceFile


def feature(file: DeviceFile, argument: Argument, header: uapi.vfio_device_feature) -> int:
    """Get, set or probe a feature. Raises KernelError: EINVAL, ENOTTY for one that the device lacks, EFAULT."""
    flags = header.flags
    if flags & ~(uapi.VFIO_DEVICE_FEATURE_MASK | GET | SET | PROBE):
        raise refuse(EINVAL, "unknown flags", "field", "flags")
    if not flags & PROBE and flags & GET and flags & SET:
        raise refuse(EINVAL, "GET and SET exclude each other except with PROBE", "field", "flags")
    number = flags & uapi.VFIO_DEVICE_FEATURE_MASK
    known = _FEATURES.get(number)
    if known is None or (number == uapi.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN and file.device.vf_token is None):
        raise refuse(ENOTTY, "the device does not have this feature", "request", f"feature {number}")
    if known.needs & ~file.device.migration.flags:
        raise refuse(known.lacking, "the device's model does not migrate in this way", "request", f"feature {number}")
    if _wanted(known, flags, header.argsz - HEADER):
        with file.device.system.lock, file.kept_bound(file.device.lock):
            return known.handler(file, argument)
    return 0


def _wanted(known: Feature, flags: int, size: int) -> bool:
    """Whether to carry it out (not: a probe), after the checks of vfio_check_feature."""
    methods = flags & (GET | SET)
    if methods & ~known.methods:
        raise refuse(EINVAL, "the feature does not have this method", "field", "flags")
    if flags & PROBE:
        return False
    if not methods:
        raise refuse(EINVAL, "GET or SET is needed", "field", "flags")
    if size < known.size:
        raise refuse(EINVAL, f"argsz leaves {size} bytes for the feature's {known.size}", "field", "argsz")
    return True


def _enter_low_power(file: DeviceFile, argument: Argument) -> int:
    return _enter(file, None)


def _enter(file: DeviceFile, wakeup: EventFd | None) -> int:
    file.device.exports.revoke()
    file.device.power.enter(wakeup)
    return 0


def _enter_with_wakeup(file: DeviceFile, argument: Argument) -> int:
    size = end_of(uapi.vfio_device_low_power_entry_with_wakeup, "reserved")
    entry = uapi.vfio_device_low_power_entry_with_wakeup.from_buffer_copy(argument.read(HEADER, size))
    if entry.wakeup_eventfd < 0:
        raise refuse(EINVAL, "the wake-up eventfd is negative", "field", "wakeup_eventfd")
    wakeup = argument.caller.eventfd(entry.wakeup_eventfd)
    try:
        return _enter(file, wakeup)
    except OSError:
        wakeup.close()
        raise


def _leave_low_power(file: DeviceFile, argument: Argument) -> int:
    file.device.power.leave()
    file.device.exports.restore()
    return 0


def _dma_buf(file: DeviceFile, argument: Argument) -> int:
    return dmabuf.export(file.device, argument, HEADER)


def _set_vf_token(file: DeviceFile, argument: Argument) -> int:
    uuid = argument.read(HEADER, vf_token.SIZE)
    if (token := file.device.vf_token) is not None:
        token.uuid = uuid
    return 0


_FEATURES = {
    **MIGRATION_FEATURES,
    uapi.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN: Feature(SET, vf_token.SIZE, _set_vf_token),
    uapi.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: Feature(SET, 0, _enter_low_power),
    uapi.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: Feature(
        SET, end_of(uapi.vfio_device_low_power_entry_with_wakeup, "reserved"), _enter_with_wakeup
    ),
    uapi.VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: Feature(SET, 0, _leave_low_power),
    uapi.VFIO_DEVICE_FEATURE_DMA_BUF: Feature(GET, ctypes.sizeof(uapi.vfio_device_feature_dma_buf), _dma_buf),
}
