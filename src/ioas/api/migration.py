"""`Migration`: taking a device elsewhere, by VFIO_DEVICE_FEATURE_MIGRATION and its relatives.

state = here.migration.save()                 # the device is stopped
there.migration.load(state)                   # stopped, too, and in that state
there.migration.go(MigrationState.RUNNING)
"""

from __future__ import annotations

import ctypes
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, TypeVar

from ioas.api.files import OpenFile, Session
from ioas.errors import UnknownRequest, UsageError
from ioas.uapi import vfio as uapi
from ioas.uapi.base import Struct, end_of

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.api.device import Device

_HEADER = end_of(uapi.vfio_device_feature, "flags")
_PORTION = 1 << 20

S = TypeVar("S", bound=Struct)


class MigrationState(IntEnum):
    """Where a device is (enum vfio_device_mig_state)."""

    ERROR = uapi.VFIO_DEVICE_STATE_ERROR
    STOP = uapi.VFIO_DEVICE_STATE_STOP
    RUNNING = uapi.VFIO_DEVICE_STATE_RUNNING
    STOP_COPY = uapi.VFIO_DEVICE_STATE_STOP_COPY
    RESUMING = uapi.VFIO_DEVICE_STATE_RESUMING
    RUNNING_P2P = uapi.VFIO_DEVICE_STATE_RUNNING_P2P
    PRE_COPY = uapi.VFIO_DEVICE_STATE_PRE_COPY
    PRE_COPY_P2P = uapi.VFIO_DEVICE_STATE_PRE_COPY_P2P


class MigrationFlag(IntFlag):
    """What a device can (VFIO_MIGRATION_*)."""

    STOP_COPY = uapi.VFIO_MIGRATION_STOP_COPY
    P2P = uapi.VFIO_MIGRATION_P2P
    PRE_COPY = uapi.VFIO_MIGRATION_PRE_COPY


class Transfer(OpenFile):
    """A stream of a device's state, to be read or written from its beginning to its end."""

    def __init__(self, session: Session, bdf: str, fd: int) -> None:
        super().__init__(session, f"migration of {bdf}", fd)

    def read_all(self) -> bytes:
        """What is left of it. Raises KernelError: ENOMSG when the device still runs and may have more."""
        return b"".join(iter(lambda: self.read(_PORTION), b""))

    def write_all(self, data: Buffer) -> None:
        """Write all of `data`. Raises KernelError(EINVAL): it is no state of this device."""
        view = memoryview(data).cast("B")
        while len(view):
            view = view[self.write(view[:_PORTION]) :]

    def precopy_info(self) -> tuple[int, int]:
        """VFIO_MIG_GET_PRECOPY_INFO: bytes of the first state that are left, else bytes of what has changed since.

        Raises InvalidArgument in other states than the PRE_COPY ones.
        """
        info = uapi.vfio_precopy_info(argsz=ctypes.sizeof(uapi.vfio_precopy_info))
        self.ioctl(uapi.VFIO_MIG_GET_PRECOPY_INFO, info)
        return info.initial_bytes, info.dirty_bytes


class Migration:
    """The migration of one device (`Device.migration`)."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._device!r}>"

    @property
    def supported(self) -> MigrationFlag:
        """What the device can; nothing for one that cannot be migrated."""
        kind = uapi.vfio_device_feature_migration
        try:
            return MigrationFlag(self._get(uapi.VFIO_DEVICE_FEATURE_MIGRATION, kind).flags)
        except UnknownRequest:
            return MigrationFlag(0)

    @property
    def state(self) -> MigrationState:
        """Where the device is. Raises UnknownRequest (ENOTTY) for one that cannot be migrated."""
        kind = uapi.vfio_device_feature_mig_state
        return MigrationState(self._get(uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, kind).device_state)

    @property
    def data_size(self) -> int:
        """About how many bytes its state has. Raises as `state`."""
        kind = uapi.vfio_device_feature_mig_data_size
        return self._get(uapi.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, kind).stop_copy_length

    def go(self, state: MigrationState) -> Transfer | None:
        """Bring the device to `state`; the transfer that begins there, if one does.

        Raises InvalidArgument for a way that does not exist, and on the way out of RESUMING for a state that is not
        whole; KernelError otherwise. The device is then where it got to, or in ERROR.
        """
        kind = uapi.vfio_device_feature_mig_state
        asked = kind(device_state=state, data_fd=-1)
        answer = self._call(uapi.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | uapi.VFIO_DEVICE_FEATURE_SET, asked)
        if answer.data_fd < 0:
            return None
        return Transfer(self._device.session, self._device.bdf, answer.data_fd)

    def save(self) -> bytes:
        """Stop the device and read its state; it stays stopped. Raises as `go`, UsageError while it is being saved."""
        transfer = self.go(MigrationState.STOP_COPY)
        if transfer is None:
            raise UsageError(f"{self._device.bdf} is being saved already")
        with transfer:
            state = transfer.read_all()
        self.go(MigrationState.STOP)
        return state

    def load(self, state: Buffer) -> None:
        """Put the device into a state that `save` gave elsewhere; it is stopped then.

        Raises as `go`, UsageError while it is resuming.
        """
        transfer = self.go(MigrationState.RESUMING)
        if transfer is None:
            raise UsageError(f"{self._device.bdf} is resuming already")
        with transfer:
            transfer.write_all(state)
        self.go(MigrationState.STOP)

    def _get(self, feature: int, kind: type[S]) -> S:
        return self._call(feature | uapi.VFIO_DEVICE_FEATURE_GET, kind())

    def _call(self, flags: int, data: S) -> S:
        """VFIO_DEVICE_FEATURE with `data` behind the header; the data as they came back."""
        size = _HEADER + ctypes.sizeof(data)
        argument = bytearray(bytes(uapi.vfio_device_feature(argsz=size, flags=flags))[:_HEADER] + bytes(data))
        self._device.ioctl(uapi.VFIO_DEVICE_FEATURE, argument)
        return type(data).from_buffer_copy(argument, _HEADER)
