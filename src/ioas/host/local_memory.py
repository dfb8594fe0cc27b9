"""The memory of this process as a host sees it: copying in and out, and pinning.

Every page has one identity, however it is pinned: a page of a shared mapping is page N of its file, a page of
private memory is its address. What differs is how it stays within reach until the pin goes:

- registered buffers ("buffer") are kept alive: the cheap way, and the API's;
- shared mappings that nobody registered ("shared file") are mapped a second time for the pin, so that munmap and
  a new mapping at the same address do not matter;
- private memory that nobody registered ("address") is reached at its address, so it follows what is mapped there.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import threading
from collections.abc import Iterable, Sequence
from errno import EFAULT
from typing import TYPE_CHECKING

from ioas.errors import EnvironmentRefusal, KernelError, UsageError, refuse
from ioas.host.local_buffers import BufferTable, RegisteredBuffer, contiguous
from ioas.host.local_kept import KeptFile, KeptFiles
from ioas.host.local_windows import (
    AddressAccess,
    BufferAccess,
    FileAccess,
    ProcessMemory,
    Window,
    Windows,
    duplicate_shared,
    unmap,
)
from ioas.host.maps import Maps, Vma, page_order
from ioas.host.seam import PAGE_SHIFT, DeviceMapping, Extent, Pin

if TYPE_CHECKING:
    from typing_extensions import Buffer

_libc = ctypes.CDLL(None, use_errno=True)
for _call in (_libc.pread, _libc.pwrite):
    _call.restype = ctypes.c_ssize_t
    _call.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
_CHUNK = 1 << 20
_LAST_ADDRESS = (1 << 64) - 1


class LocalPin:
    """Pages held through windows (implements `ioas.host.Pin`)."""

    __slots__ = ("_windows", "extents", "how")

    def __init__(self, extents: tuple[Extent, ...], how: str, windows: tuple[Window, ...]) -> None:
        self.extents = extents
        self.how = how
        self._windows = windows

    def release(self) -> None:
        """Let go. Idempotent."""
        windows, self._windows = self._windows, ()
        for window in windows:
            window.drop()


class LocalMemory:
    """The address space of this process (implements `ioas.host.AddressSpace`). Safe to use from any thread."""

    def __init__(self, *, strict: bool = False) -> None:
        """`strict`: refuse pins that would only follow an address. Raises EnvironmentRefusal without /proc."""
        self.pinned_pages = 0
        self.locked_pages = 0
        self._strict = strict
        self._pid = os.getpid()
        try:
            self._mem = ProcessMemory()
            self._maps = Maps()
        except OSError as error:
            raise EnvironmentRefusal(f"{error.filename} cannot be opened: {error.strerror}") from error
        self._bounce = os.memfd_create("ioas-bounce", os.MFD_CLOEXEC)
        self._bounce_lock = threading.Lock()
        self._lock = threading.Lock()
        self._private = Windows(("mm", self._pid), AddressAccess(self._mem, 0))
        self._shared: dict[tuple[int, int], Windows] = {}
        self._table = BufferTable([], [])
        self.kept_files = KeptFiles()

    def close(self) -> None:
        """Close the descriptors; nothing can be pinned or copied afterwards. Idempotent."""
        self._maps.close()
        self._mem.close()
        with self._bounce_lock:
            bounce, self._bounce = self._bounce, -1
            if bounce >= 0:
                os.close(bounce)

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK in bytes; None for no limit."""
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        return None if limit == resource.RLIM_INFINITY else limit

    def device_memory(self, start: int, end: int) -> Sequence[DeviceMapping]:
        """Nothing: device memory has no address in a program that calls by itself."""
        return ()

    def read(self, address: int, length: int) -> bytes:
        """Copy in. Raises KernelError(EFAULT)."""
        if entry := self._table.find(address, address + length):
            window = entry.window
            return window.access.read(address - entry.start, length)
        parts = []
        for at in range(address, address + length, _CHUNK):
            parts.append(self._copy_in(at, min(_CHUNK, address + length - at)))
        return b"".join(parts)

    def write(self, address: int, data: Buffer) -> None:
        """Copy out. Raises KernelError(EFAULT)."""
        view = memoryview(data).cast("B")
        entry = self._table.find(address, address + len(view))
        if entry and entry.writable:
            entry.window.access.write(address - entry.start, view)
            return
        for at in range(0, len(view), _CHUNK):
            self._copy_out(address + at, view[at : at + _CHUNK])

    def pin(self, start: int, count: int, write: bool) -> Pin:
        """Pin `count` pages from `start` (page-aligned). Raises KernelError(EFAULT) for holes and permissions."""
        end = start + (count << PAGE_SHIFT)
        entry = self._table.find(start, end)
        if entry and (entry.writable or not write) and entry.window.take():
            window = entry.window
            page = (window.start + start - entry.start) >> PAGE_SHIFT
            return LocalPin((Extent(window.where, page, count, entry.order),), "buffer", (window,))
        self.check_process()
        return self._pin_areas(start, end, write)

    def pin_file(self, file: KeptFile, start: int, count: int) -> Pin:
        """Pin `count` pages of a file from byte `start`; see `LocalMemoryFile.pin`."""
        status = os.fstat(file.fd)
        end = start + (count << PAGE_SHIFT)
        with self._lock:
            windows = self._file_windows(status.st_dev, status.st_ino)
            window = windows.taken(start, end, True) or windows.add(start, end, FileAccess(file, start))
        return LocalPin((Extent(windows, start >> PAGE_SHIFT, count, 0),), "shared file", (window,))

    def register(self, buffer: Buffer) -> int:
        """Keep `buffer` alive and in place until `unregister`, and for pins beyond that; returns its address.

        Registering the same memory again counts. Raises UsageError for an empty or scattered buffer, or one that
        overlaps a registered one without lying inside it.
        """
        view, address = contiguous(buffer)
        with self._lock:
            entry = self._table.find(address, address + len(view))
            if entry is None:
                entry = self._register(address, view)
            entry.users += 1
            return address

    def register_again(self, address: int) -> None:
        """Count one more `register` of the buffer at `address`. Raises UsageError when none is registered there."""
        with self._lock:
            self._registered_at(address).users += 1

    def unregister(self, address: int) -> None:
        """Undo one `register` of the memory at `address`. Raises UsageError when it is not registered."""
        with self._lock:
            entry = self._registered_at(address)
            entry.users -= 1
            if entry.users:
                return
            self._table = self._table.without(entry)
        entry.window.drop()

    def registered(self) -> int:
        """How many buffers are registered (for leak checks)."""
        return len(self._table.entries)

    def windows(self) -> int:
        """How many stretches of memory are kept in reach (for leak checks)."""
        return len(self._private) + sum(map(len, self._shared.values()))

    @property
    def forked(self) -> bool:
        """Whether this is a forked child of the process that made this object."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Raises EnvironmentRefusal in a forked child: the machine and its devices stayed in the parent."""
        if os.getpid() != self._pid:
            raise EnvironmentRefusal(
                f"this software machine lives in process {self._pid}; a forked child cannot use it"
                " (`ioas run` serves many processes)"
            )

    def _pin_areas(self, start: int, end: int, write: bool) -> Pin:
        extents: list[Extent] = []
        windows: list[Window] = []
        follows = False
        try:
            with self._lock:
                for vma, first, last in self._areas(start, end, write):
                    if vma.shared and vma.inode:
                        windows.append(self._shared_window(vma, first, last))
                        where, page = windows[-1].where, vma.file_offset(first) >> PAGE_SHIFT
                    else:
                        follows = True
                        where, page = self._private, first >> PAGE_SHIFT
                    extents.append(Extent(where, page, (last - first) >> PAGE_SHIFT, page_order(vma)))
            if follows and self._strict:
                raise refuse(EFAULT, "private memory would follow its address; register it, or map it shared",
                             "address", start)  # fmt: skip
        except KernelError:
            LocalPin((), "", tuple(windows)).release()
            raise
        return LocalPin(tuple(extents), "address" if follows else "shared file", tuple(windows))

    def _areas(self, start: int, end: int, write: bool) -> Iterable[tuple[Vma, int, int]]:
        """The parts of `start` to `end`, each in one area that can be pinned. Raises KernelError(EFAULT)."""
        need = mmap.PROT_WRITE if write else mmap.PROT_READ | mmap.PROT_WRITE  # a page that is writable is readable
        at = start
        for vma in self._maps.covering(start, min(end, _LAST_ADDRESS)):
            if vma.start > at:
                break
            if not vma.protection & need or vma.forbids_pin():
                raise refuse(EFAULT, f"the memory cannot be {'written' if write else 'read'}", "address", at)
            last = min(end, vma.end)
            AddressAccess(self._mem, 0).read(last - 1, 1)  # a file may end before its mapping
            yield vma, at, last
            at = last
        if at < end:
            raise refuse(EFAULT, "no memory is mapped there", "address", at)

    def _shared_window(self, vma: Vma, first: int, last: int) -> Window:
        """A window on a part of a shared mapping, with one user for the caller. The lock is held."""
        windows = self._file_windows(vma.device, vma.inode)
        offset, length = vma.file_offset(first), last - first
        writable = bool(vma.protection & mmap.PROT_WRITE)
        if window := windows.taken(offset, offset + length, writable):
            return window
        try:
            copy = duplicate_shared(first, length)
        except OSError as error:
            raise refuse(EFAULT, f"the mapping cannot be held: {error.strerror}", "address", first) from error
        access = AddressAccess(self._mem, copy, lambda: unmap(copy, length))
        return windows.add(offset, offset + length, access, writable=writable)

    def _file_windows(self, device: int, inode: int) -> Windows:
        """The windows on one file: one object as long as there are any. The lock is held."""
        key = (device, inode)
        windows = self._shared.get(key)
        if windows is None:
            for old in [old for old, one in self._shared.items() if not one]:
                del self._shared[old]
            windows = self._shared[key] = Windows(("file", *key))
        return windows

    def _window(self, address: int, view: memoryview, areas: list[Vma]) -> Window:
        """A window with one user on a buffer: on its file when it is a shared mapping of one. The lock is held."""
        # Of a file that is truncated the pages are gone: touching the buffer would end the process with SIGBUS.
        direct = all(vma.inode == 0 or vma.path == b"/dev/zero (deleted)" for vma in areas)
        access = BufferAccess(view) if direct else AddressAccess(self._mem, address, view.release)
        if len(areas) == 1 and areas[0].shared and areas[0].inode:
            vma = areas[0]
            offset = vma.file_offset(address)
            windows = self._file_windows(vma.device, vma.inode)
            return windows.add(offset, offset + len(view), access, writable=not view.readonly)
        return self._private.add(address, address + len(view), access, writable=not view.readonly)

    def _register(self, address: int, view: memoryview) -> RegisteredBuffer:
        """A new entry of the table. The lock is held."""
        end = address + len(view)
        if other := self._table.overlapping(address, end):
            raise UsageError(
                f"the buffer at {address:#x}-{end - 1:#x} overlaps the registered one at"
                f" {other.start:#x}-{other.end - 1:#x}"
            )
        areas = self._maps.covering(address, end)
        order = min(map(page_order, areas), default=0)
        entry = RegisteredBuffer(address, end, not view.readonly, self._window(address, view, areas), order)
        self._table = self._table.with_entry(entry)
        return entry

    def _registered_at(self, address: int) -> RegisteredBuffer:
        entry = self._table.find(address, address + 1)
        if entry is None:
            raise UsageError(f"no buffer is registered at {address:#x}")
        return entry

    def _copy_in(self, address: int, length: int) -> bytes:
        """Let the kernel copy, for it knows what may be read: a bad pointer is EFAULT and not a crash."""
        self.check_process()
        with self._bounce_lock:
            if not 0 <= address <= _LAST_ADDRESS or _libc.pwrite(self._bounce, address, length, 0) != length:
                raise refuse(EFAULT, f"{length} bytes cannot be read there", "address", address)
            return os.pread(self._bounce, length, 0)

    def _copy_out(self, address: int, data: memoryview) -> None:
        self.check_process()
        with self._bounce_lock:
            os.pwrite(self._bounce, data, 0)
            if not 0 <= address <= _LAST_ADDRESS or _libc.pread(self._bounce, address, len(data), 0) != len(data):
                raise refuse(EFAULT, f"{len(data)} bytes cannot be written there", "address", address)
