"""How a device feature is used: the table's row, and where its data stand."""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOTTY
from typing import TYPE_CHECKING, NamedTuple

from ioas.uapi import vfio as uapi
from ioas.uapi.base import end_of

if TYPE_CHECKING:
    from ioas.soft.vfio.argument import Argument
    from ioas.soft.vfio.device_file import DeviceFile

HEADER = end_of(uapi.vfio_device_feature, "flags")
"""Where a feature's data begin, in bytes from the argument."""
GET, SET, PROBE = uapi.VFIO_DEVICE_FEATURE_GET, uapi.VFIO_DEVICE_FEATURE_SET, uapi.VFIO_DEVICE_FEATURE_PROBE


class Feature(NamedTuple):
    """The methods that a feature has, bytes of its data, and who carries it out."""

    methods: int
    size: int
    handler: Callable[[DeviceFile, Argument], int]
    """With `System.lock` and the device's held; the ioctl's result."""
    needs: int = 0
    """VFIO_MIGRATION_* flags that the device must have, for its features of migration."""
    lacking: int = ENOTTY
    """The errno where it has not."""
