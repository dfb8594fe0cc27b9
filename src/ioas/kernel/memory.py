"""The memory of this process for the running kernel, which needs no help: buffers only have to stay in place."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Sequence
from errno import EFAULT, EOPNOTSUPP
from pathlib import Path
from typing import TYPE_CHECKING

from ioas.errors import UsageError, refuse
from ioas.host import PAGE_SIZE, DeviceMapping, Pin

if TYPE_CHECKING:
    from typing_extensions import Buffer

_from_buffer = ctypes.c_char.from_buffer
_addressof = ctypes.addressof


class KernelMemory:
    """The address space of this process (implements `ioas.host.AddressSpace`); counts are the kernel's own."""

    def __init__(self) -> None:
        self._held: dict[int, list[object]] = {}

    @property
    def pinned_pages(self) -> int:
        """VmPin, in pages."""
        return _status_bytes("VmPin") // PAGE_SIZE

    @property
    def locked_pages(self) -> int:
        """VmLck, in pages."""
        return _status_bytes("VmLck") // PAGE_SIZE

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK in bytes; None for no limit."""
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        return None if limit == resource.RLIM_INFINITY else limit

    def device_memory(self, start: int, end: int) -> Sequence[DeviceMapping]:
        """Nothing: device memory has no address in a program that calls by itself."""
        return ()

    def read(self, address: int, length: int) -> bytes:
        """Copy in. Raises KernelError(EFAULT) unless all of it is there."""
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            try:
                data = os.pread(memory.fileno(), length, address)
            except (OSError, OverflowError):
                data = b""
        if len(data) != length:
            raise refuse(EFAULT, f"{length} bytes cannot be read there", "address", address)
        return data

    def write(self, address: int, data: Buffer) -> None:
        """Copy out. Raises KernelError(EFAULT)."""
        length = memoryview(data).nbytes
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            try:
                done = os.pwrite(memory.fileno(), data, address)
            except (OSError, OverflowError):
                done = -1
        if done != length:
            raise refuse(EFAULT, f"{length} bytes cannot be written there", "address", address)

    def pin(self, start: int, count: int, write: bool) -> Pin:
        """Refused: the running kernel pins pages by itself."""
        raise refuse(EOPNOTSUPP, "the running kernel pins pages by itself", "address", start)

    def register(self, buffer: Buffer) -> int:
        """Keep `buffer` alive and in place until `unregister`; returns its address.

        Registering counts. Raises UsageError for an empty or scattered buffer.
        """
        try:
            anchor: object = _from_buffer(buffer)
            address = _addressof(anchor)  # type: ignore[arg-type]
        except (TypeError, ValueError):  # read-only, scattered or empty
            anchor, address = _read_only(buffer)
        held = self._held.get(address)
        if held is None:
            self._held[address] = [anchor]
        else:
            held.append(anchor)
        return address

    def register_again(self, address: int) -> None:
        """Count one more `register` of the buffer at `address`. Raises UsageError when none is registered there."""
        held = self._registered_at(address)
        held.append(held[0])

    def unregister(self, address: int) -> None:
        """Undo one `register` of the buffer at `address`. Raises UsageError when it is not registered."""
        held = self._registered_at(address)
        held.pop()
        if not held:
            del self._held[address]

    def registered(self) -> int:
        """How many buffers are registered (for leak checks)."""
        return len(self._held)

    def _registered_at(self, address: int) -> list[object]:
        held = self._held.get(address)
        if held is None:
            raise UsageError(f"no buffer is registered at {address:#x}")
        return held


def _read_only(buffer: Buffer) -> tuple[object, int]:
    """What keeps a read-only buffer in place, and its address."""
    from ioas.host.local_buffers import contiguous  # which needs NumPy

    return contiguous(buffer)


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    return 0
