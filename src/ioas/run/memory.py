"""A program's address space (the kernel's mm): what a system call copies in and out, and what it pins.

A `Space` belongs to an address space, not to a process: threads share it, the child of a vfork shares its parent's
until it executes something, and execve ends it. The descriptors that it keeps on /proc/PID/mem and /proc/PID/maps
stay with the old memory then, and read as nothing.

Pins are explained in `ioas.run.pins`.
"""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Hashable, Sequence
from errno import EFAULT, ESRCH
from typing import TYPE_CHECKING

from ioas.errors import KernelError, refuse
from ioas.host import DeviceMapping, Pin
from ioas.host.maps import Maps
from ioas.run.kernel import Transfer

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.run.pins import Pinner

_AHEAD = 128
"""Bytes read on from where a call's structure begins: most structures are then read at once, size and all."""
_numbers = itertools.count(1)


class AddressBacking:
    """Private memory, reached at its address (implements `ioas.host.Backing`); offsets are user addresses.

    It reads through /proc/PID/mem, which stays with the address space when threads and process ids come and go.
    Permissions were checked when the memory was pinned.
    """

    def __init__(self, number: int, thread: int) -> None:
        """`thread`: one that has it. Raises OSError: that is gone, or may not be looked into."""
        self.key: Hashable = ("mm", number)
        self._fd = os.open(f"/proc/{thread}/mem", os.O_RDWR | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def alive(self) -> bool:
        """Whether the address space still exists."""
        try:
            return bool(os.pread(self._fd, 1, 0))
        except OSError:
            return True  # nothing is mapped at 0, but something answers

    def read(self, offset: int, length: int) -> bytes:
        """Read; raises KernelError(EFAULT) where nothing is mapped, or when the process is gone."""
        parts = []
        while length > 0:
            try:
                part = os.pread(self._fd, length, offset)
            except (OSError, OverflowError):
                raise _hole(offset) from None
            if not part:
                raise refuse(EFAULT, "the process whose memory was mapped for DMA is gone", "address", offset)
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: Buffer) -> None:
        """Write; raises as `read`."""
        view = memoryview(data).cast("B")
        while len(view):
            try:
                count = os.pwrite(self._fd, view, offset)
            except (OSError, OverflowError):
                raise _hole(offset) from None
            if not count:
                raise refuse(EFAULT, "the process whose memory was mapped for DMA is gone", "address", offset)
            view = view[count:]
            offset += count


class Space:
    """One address space (implements `ioas.host.AddressSpace`).

    The kernel is asked about it by the id of a thread that lives, not of the process: the first thread may have ended
    before the others, and then has no memory any more.
    """

    def __init__(self, process: int, thread: int, transfer: Transfer, pinner: Pinner) -> None:
        """`process`, `thread`: ids of one that has it. Raises OSError when that may not be looked into."""
        self.number = next(_numbers)
        self.process = process
        self.thread = thread
        """The thread whose call is being served: copies are made in its name."""
        self.pinned_pages = 0
        self.locked_pages = 0
        self.sharers = 0
        """Processes that have it."""
        self.backing = AddressBacking(self.number, thread)
        self._maps: Maps | None = None
        self._transfer = transfer
        self._pinner = pinner
        self._ahead = b""
        self._ahead_at = 0

    def alive(self) -> bool:
        """Whether some process still has it."""
        return self.backing.alive()

    @property
    def maps(self) -> Maps:
        """Its areas. Raises OSError when the process is gone."""
        if self._maps is None:
            self._maps = Maps(self.thread)
        return self._maps

    def begin(self, thread: int) -> None:
        """A call of `thread` is served from here on: what was read ahead for the last one is void."""
        self.thread = thread
        self._ahead = b""

    def read(self, address: int, length: int) -> bytes:
        """Copy in; raises KernelError: EFAULT unless all of it is there, ESRCH when the process is gone."""
        start = address - self._ahead_at
        if 0 <= start <= len(self._ahead) - length:
            return self._ahead[start : start + length]
        if length <= _AHEAD:
            self._ahead = data = self._copy_in(address, _AHEAD)
            self._ahead_at = address
            if len(data) < length:
                raise _hole(address + len(data))
            return data[:length]
        parts = []
        for at in range(address, address + length, Transfer.ROOM):
            want = min(Transfer.ROOM, address + length - at)
            parts.append(self._copy_in(at, want))
            if len(parts[-1]) < want:
                raise _hole(at + len(parts[-1]))
        return b"".join(parts)

    def write(self, address: int, data: Buffer) -> None:
        """Copy out; raises KernelError as `read`; what stands before a bad address has been written then."""
        self._ahead = b""
        raw = bytes(data)
        start = 0
        while start < len(raw):
            part = raw[start : start + Transfer.ROOM] if len(raw) > Transfer.ROOM else raw
            try:
                count = self._transfer.write(self.thread, address + start, part)
            except OSError as error:
                raise _unreachable(self.thread, address + start, error) from error
            start += count
            if count < len(part):
                raise _hole(address + start)

    def _copy_in(self, address: int, length: int) -> bytes:
        try:
            return self._transfer.read(self.thread, address, length)
        except OSError as error:
            raise _unreachable(self.thread, address, error) from error

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK of the process in bytes; None for no limit (and for a process that is gone)."""
        try:
            limit = resource.prlimit(self.thread, resource.RLIMIT_MEMLOCK)[0]
        except PermissionError:  # another user's process; root in a container may not ask of it
            return _shown_limit(self.thread)
        except OSError:
            return None
        return None if limit == resource.RLIM_INFINITY else limit

    def device_memory(self, start: int, end: int) -> Sequence[DeviceMapping]:
        """The mapped BARs of a range."""
        return self._pinner.device_memory(self, start, end)

    def pin(self, start: int, count: int, write: bool) -> Pin:
        """Pin `count` pages from page-aligned `start`. Raises KernelError(EFAULT) for holes and permissions."""
        return self._pinner.pin(self, start, count, write)


def _shown_limit(thread: int) -> int | None:
    """RLIMIT_MEMLOCK by /proc, which shows it to anyone."""
    try:
        with open(f"/proc/{thread}/limits", encoding="ascii") as file:
            soft = next(line.split()[3] for line in file if line.startswith("Max locked memory"))
    except (OSError, StopIteration):
        return None
    return None if soft == "unlimited" else int(soft)


def _hole(address: int) -> KernelError:
    return refuse(EFAULT, "no memory of the program is there, or not with this access", "address", address)


def _unreachable(thread: int, address: int, error: OSError) -> KernelError:
    return refuse(ESRCH, f"the memory of thread {thread} cannot be reached: {error.strerror}", "address", address)
