"""The files that carry a device's state: one to read while it is saved, one to write while it is resumed.

Each is a stream of whole states of which the last one counts (`ioas.soft.pci.migration`). What a read or write is
answered with follows the kernel's drivers (samples/vfio-mdev/mtty.c and vfio/pci/mlx5/main.c, 7.3): ENOMSG where a
device that still runs has nothing more to say, ENODEV once the transfer is over.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from errno import EBADF, EINVAL, ENODEV, ENOMEM, ENOMSG, ENOTTY, ESPIPE
from typing import TYPE_CHECKING, ClassVar

from ioas.errors import refuse
from ioas.soft.pci import migration as states
from ioas.soft.vfio.argument import Argument, copy_in
from ioas.uapi import vfio as uapi

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.host import Caller
    from ioas.soft.vfio.migration import DeviceMigration

_READABLE = select.POLLIN | select.POLLRDNORM
_WRITABLE = select.POLLOUT | select.POLLWRNORM
_ROOM = 64 << 20
"""Bytes that a device's state may have besides its memory."""


class TransferFile:
    """An open transfer (implements `ioas.host.File`). The function's lock guards it."""

    device_number: ClassVar[tuple[int, int]] = (0, 0)

    def __init__(self, migration: DeviceMigration) -> None:
        self._migration = migration
        self._function = migration.function
        self._lock = self._function.lock
        self._over = False

    def finish(self) -> None:
        """The transfer is over, though the program may keep the file."""
        with self._lock:
            self._over = True

    def _check(self, offset: int | None) -> None:
        if offset is not None:
            raise refuse(ESPIPE, "a migration stream has no positions", "file", "migration")
        if self._over:
            raise refuse(
                ENODEV, "the transfer is over: the device has left the state that it belongs to", "file", str(self)
            )

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """ENOTTY: there are none."""
        raise refuse(ENOTTY, "no such request on this migration stream", "request", f"{request:#x}")

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """EBADF: it is open for writing alone."""
        raise refuse(EBADF, "the migration stream is open for writing", "file", str(self))

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """EBADF: it is open for reading alone."""
        raise refuse(EBADF, "the migration stream is open for reading", "file", str(self))

    def mmap(self, caller: Caller, length: int, protection: int, flags: int, offset: int) -> int:
        """ENODEV."""
        raise refuse(ENODEV, "a migration stream cannot be mapped", "file", str(self))

    def poll(self, caller: Caller) -> int:
        """Always ready, as a file without a poll operation is."""
        return _READABLE | _WRITABLE

    def __str__(self) -> str:
        return f"migration of {self._function}"

    def close(self) -> None:
        """The program has let go of it."""
        self.finish()


class SavingFile(TransferFile):
    """What PRE_COPY, PRE_COPY_P2P and STOP_COPY give to be read. Readiness is that of an event queue."""

    def __init__(self, migration: DeviceMigration) -> None:
        super().__init__(migration)
        self._data = bytearray()
        """What has not been read, and before it what the last read gave."""
        self._taken = 0
        """Bytes that the last read gave."""
        self._initial = 0
        """How many of `_data` count as initial."""
        self._last = b""
        self._complete = False
        self._changed: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Have the state as it is now to be read first. Raises StateError."""
        self._append(states.save(self._function))
        self._initial = len(self._data)

    def complete(self) -> None:
        """Have the last state; then comes the end of the stream. Raises StateError."""
        self._append(states.save(self._function))
        self._complete = True

    def _append(self, state: bytes) -> None:
        with self._lock:
            self._last = states.signature(state)
            self._data += state
            for callback in self._changed:
                callback()

    @property
    def _left(self) -> int:
        return len(self._data) - self._taken

    def read(self, caller: Caller, length: int, offset: int | None) -> bytes:
        """The next bytes; none at the end. Raises KernelError: ESPIPE, ENODEV; ENOMSG when it is no end for good."""
        with self._lock:
            self._check(offset)
            if not self._left and not self._complete and length:
                raise refuse(ENOMSG, "the device runs, and has nothing more to tell now", "file", str(self))
            del self._data[: self._taken]
            self._initial = max(0, self._initial - self._taken)
            data = bytes(self._data[:length])
            self._taken = len(data)
            return data

    def restore(self) -> None:
        """Put back what the last read took."""
        with self._lock:
            self._taken = 0

    def ioctl(self, caller: Caller, request: int, argument: int | Buffer) -> int:
        """VFIO_MIG_GET_PRECOPY_INFO. Raises KernelError: EINVAL in other states than the PRE_COPY ones, ENODEV."""
        if request != uapi.VFIO_MIG_GET_PRECOPY_INFO:
            return super().ioctl(caller, request, argument)
        place = Argument(caller, argument)
        info = copy_in(place, uapi.vfio_precopy_info, "dirty_bytes")
        with self._lock:
            if self._migration.state not in (uapi.VFIO_DEVICE_STATE_PRE_COPY, uapi.VFIO_DEVICE_STATE_PRE_COPY_P2P):
                raise refuse(EINVAL, "the device is in no PRE_COPY state", "device", str(self._function))
            self._check(None)
            if self._migration.flags_are_output:
                info.flags = 0
            info.initial_bytes, info.dirty_bytes = self._sizes()
        place.write(0, bytes(info))
        return 0

    def _sizes(self) -> tuple[int, int]:
        """What is left of the initial bytes; else what has changed since, which can be read from now on."""
        if self._taken < self._initial:
            return self._initial - self._taken, 0
        if not self._left:
            state = self._migration.saved()
            if states.signature(state) != self._last:
                self._append(state)
        return 0, self._left

    def poll(self, caller: Caller) -> int:
        """Readable where a read does not end in ENOMSG."""
        with self._lock:
            return _READABLE if self._over or self._complete or self._left else 0

    def watch(self, ready: Callable[[], None]) -> None:
        """Let `ready` be called whenever something can be read."""
        with self._lock:
            self._changed.append(ready)
            if self._left or self._complete:
                ready()

    def finish(self) -> None:
        """The transfer is over: reads end in ENODEV."""
        with self._lock:
            super().finish()
            self._data.clear()
            self._taken = 0
            for callback in self._changed:
                callback()


class ResumingFile(TransferFile):
    """What RESUMING takes: states, in pieces of any size."""

    def __init__(self, migration: DeviceMigration) -> None:
        super().__init__(migration)
        self._data = bytearray()
        self._most = _ROOM + sum(ram.size for ram in self._function.rams)
        self.state: states.State | None = None
        """The last whole state that has come."""

    @property
    def broken_off(self) -> bool:
        """Whether there is a piece of a state that is not whole."""
        return bool(self._data)

    def write(self, caller: Caller, data: bytes, offset: int | None) -> int:
        """Take a piece. Raises KernelError: ESPIPE, ENODEV; ENOMEM beyond all measure; EINVAL for what is no state."""
        with self._lock:
            self._check(offset)
            if len(self._data) + len(data) > self._most:
                raise refuse(ENOMEM, f"a state of this device has at most {self._most:#x} bytes", "limit", self._most)
            self._data += data
            try:
                self._parse()
            except states.StateError as error:
                self._data.clear()
                self.state = None
                raise refuse(EINVAL, str(error), "device", str(self._function)) from error
            return len(data)

    def _parse(self) -> None:
        while self._data:
            state, length = states.parse(self._function, self._data)
            if state is None:
                return
            self.state = state
            del self._data[:length]
