"""Ways to bytes that stay: how pinned memory of this process is reached, whatever the program does to its mappings.

A `Windows` is memory with an identity (a `Backing`): one shared file, or this process's private memory. Each
`Window` is a stretch of it that is reachable for as long as somebody counts on it, through one of three kinds of
access: a buffer that is kept alive, an address (through /proc/self/mem, for which a bad address is an error and
not a crash), or a file. Files are never reached through a mapping of them: one that another program truncates
would end this process with SIGBUS.
"""

from __future__ import annotations

import ctypes
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Hashable
from contextlib import suppress
from errno import EFAULT
from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

from ioas.errors import refuse

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ioas.host.local_kept import KeptFile

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MREMAP_MAYMOVE = 1
_MAP_FAILED = ctypes.c_void_p(-1).value


class ProcessMemory:
    """/proc/self/mem, shared by everything that reaches memory by address."""

    def __init__(self) -> None:
        """Raises OSError."""
        self.fd = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)

    def close(self) -> None:
        """Close it; addresses lead nowhere from then on (EFAULT). Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Access(Protocol):
    """Bytes from 0 up, however they are reached. Raises KernelError(EFAULT) for those that are gone."""

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes."""
        ...

    def write(self, offset: int, data: Buffer) -> None:
        """All of `data`."""
        ...

    def close(self) -> None:
        """Nobody needs it any more. Called once; cannot fail."""
        ...


class BufferAccess:
    """A buffer of this process, which stays alive with this object."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def read(self, offset: int, length: int) -> bytes:
        """See `Access.read`."""
        return bytes(self._view[offset : offset + length])

    def write(self, offset: int, data: Buffer) -> None:
        """See `Access.write`."""
        self._view[offset : offset + len(memoryview(data))] = data

    def close(self) -> None:
        """See `Access.close`."""
        with suppress(BufferError):  # somebody has a slice of it: then the last slice lets go
            self._view.release()


class AddressAccess:
    """Memory at an address of this process; `keep` is called when it is no longer needed."""

    def __init__(self, memory: ProcessMemory, address: int, keep: Callable[[], None] | None = None) -> None:
        self._memory = memory
        self._address = address
        self._keep = keep

    def read(self, offset: int, length: int) -> bytes:
        """See `Access.read`."""
        try:
            data = os.pread(self._memory.fd, length, self._address + offset)
        except (OSError, OverflowError):
            data = b""
        if len(data) != length:
            raise refuse(EFAULT, "no memory is mapped there", "address", self._address + offset + len(data))
        return data

    def write(self, offset: int, data: Buffer) -> None:
        """See `Access.write`."""
        try:
            written = os.pwrite(self._memory.fd, data, self._address + offset)
        except (OSError, OverflowError):
            written = 0
        if written != len(memoryview(data)):
            raise refuse(EFAULT, "no writable memory is mapped there", "address", self._address + offset + written)

    def close(self) -> None:
        """See `Access.close`."""
        if self._keep is not None:
            self._keep()


class FileAccess:
    """A file from byte `base`."""

    def __init__(self, file: KeptFile, base: int) -> None:
        self._file = file
        self._base = base

    def read(self, offset: int, length: int) -> bytes:
        """See `Access.read`."""
        try:
            data = os.pread(self._file.fd, length, self._base + offset)
        except OSError as error:
            raise refuse(
                EFAULT, f"the file cannot be read: {error.strerror}", "address", self._base + offset
            ) from error
        if len(data) != length:
            raise refuse(EFAULT, "the file has become shorter", "address", self._base + offset + len(data))
        return data

    def write(self, offset: int, data: Buffer) -> None:
        """See `Access.write`."""
        at = self._base + offset
        if at + len(memoryview(data)) > os.fstat(self._file.fd).st_size:  # pwrite would make the file grow
            raise refuse(EFAULT, "the file has become shorter", "address", at)
        try:
            os.pwrite(self._file.fd, data, at)
        except OSError as error:
            raise refuse(EFAULT, f"the file cannot be written: {error.strerror}", "address", at) from error

    def close(self) -> None:
        """See `Access.close`. The file closes itself."""


class Window:
    """Bytes `start` to `end` (exclusive) of a backing, reachable while `take` and `drop` balance above zero."""

    __slots__ = ("access", "end", "start", "users", "where", "writable")

    def __init__(self, where: Windows, start: int, end: int, access: Access, writable: bool) -> None:
        """Begins with one user. `access` counts its bytes from `start`; `writable`: whether it takes writes."""
        self.where = where
        self.start = start
        self.end = end
        self.access = access
        self.writable = writable
        self.users = 1
        """Pins, and accesses under way; guarded by the lock of `where`."""

    def take(self) -> bool:
        """Count one more user; False when the window is closed already."""
        with self.where.lock:
            if self.users == 0:
                return False
            self.users += 1
            return True

    def drop(self) -> None:
        """Count one user less; the last closes it."""
        with self.where.lock:
            self.users -= 1
            if self.users:
                return
            self.where.remove(self)
        self.access.close()


class Windows:
    """A backing made of windows, sorted by where they begin; `beyond` reaches what no window covers.

    An access goes through any window that covers it, so it counts itself in: a pin that gives its window up
    meanwhile leaves the closing to the access.
    """

    def __init__(self, key: Hashable, beyond: Access | None = None) -> None:
        self.key = key
        self.lock = threading.Lock()
        self._beyond = beyond
        self._windows: list[Window] = []
        self._longest = 0

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, start: int, end: int, access: Access, *, writable: bool = True) -> Window:
        """A new window with one user."""
        window = Window(self, start, end, access, writable)
        with self.lock:
            self._windows.insert(bisect_right(self._windows, start, key=_start), window)
            self._longest = max(self._longest, end - start)
        return window

    def remove(self, window: Window) -> None:
        """Forget a window; `lock` is held."""
        self._windows.remove(window)
        if not self._windows:
            self._longest = 0

    def taken(self, start: int, end: int, write: bool) -> Window | None:
        """The window that covers `start` to `end` (exclusive), for writing too with `write`, with one more user."""
        with self.lock:
            window = self._at(start, write)
            if window is None or end > window.end:
                return None
            window.users += 1
            return window

    def read(self, offset: int, length: int) -> bytes:
        """Read `length` bytes, across windows. Raises KernelError(EFAULT)."""
        parts = []
        while length > 0:
            window, access, base, room = self._reach(offset, length, False)
            try:
                parts.append(access.read(offset - base, room))
            finally:
                if window is not None:
                    window.drop()
            offset += room
            length -= room
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: Buffer) -> None:
        """Write `data`, across windows. Raises KernelError(EFAULT)."""
        view = memoryview(data).cast("B")
        while len(view) > 0:
            window, access, base, room = self._reach(offset, len(view), True)
            try:
                access.write(offset - base, view[:room])
            finally:
                if window is not None:
                    window.drop()
            offset += room
            view = view[room:]

    def _reach(self, offset: int, length: int, write: bool) -> tuple[Window | None, Access, int, int]:
        """What reaches `offset`: a window with one more user, or none; where that counts from; how many bytes of it."""
        with self.lock:
            window = self._at(offset, write)
            if window is not None:
                window.users += 1
                return window, window.access, window.start, min(length, window.end - offset)
            if self._beyond is None:
                raise refuse(EFAULT, "the memory is not held, or not for writing", "address", offset)
            after = bisect_right(self._windows, offset, key=_start)
            if after < len(self._windows):
                length = min(length, self._windows[after].start - offset)
            return None, self._beyond, 0, length

    def _at(self, offset: int, write: bool) -> Window | None:
        """The window that contains `offset`: of several the one that begins last. The lock is held."""
        windows = self._windows
        for index in range(bisect_right(windows, offset, key=_start) - 1, -1, -1):
            window = windows[index]
            if offset < window.end and (window.writable or not write):
                return window
            if window.start + self._longest <= offset:
                break
        return None


def duplicate_shared(address: int, length: int) -> int:
    """Map the pages of a shared mapping a second time, so that they outlive the first; its address.

    Raises OSError. `address` is page-aligned, in one area; the copy has the same permissions.
    """
    found = _libc.mremap(address, 0, length, _MREMAP_MAYMOVE)  # an old size of 0 duplicates (mremap(2))
    if found is None or found == _MAP_FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(found)


def unmap(address: int, length: int) -> None:
    """munmap(2), of a mapping that `duplicate_shared` made."""
    _libc.munmap(address, length)


_start = attrgetter("start")
